"""What is said of a batch's counts, alike by every face."""

from __future__ import annotations

import pytest

from vbatch_jupyter.display import drawing
from vbatch_jupyter.display.listing import BatchList
from vbatch_jupyter.display.progress import Progress, Snapshot
from vbatch_jupyter.display.summary import Summary
from vbatch_jupyter.manager.waiting import counts_text, retry_label
from vbatch_jupyter.protocol.batch import BatchRecord, RequestCounts, Status


def batch(status: Status, total: int, completed: int, failed: int) -> BatchRecord:
    return BatchRecord(
        id="batch_0",
        endpoint="/v1/embeddings",
        input_file_id="",
        created_at=0,
        completed_at=1 if status == "completed" else None,
        status=status,
        request_counts=RequestCounts(total, completed, failed),
    )


def test_a_completed_batch_whose_requests_all_failed_says_so_wherever_its_status_is():
    """In OpenAI's Batch API (openai 3.57.0) it is ``completed``, and ``failed`` is a file that is not valid."""
    record = batch("completed", 20, 0, 20)
    summary = Summary(batch=record)
    faces = {
        "heading": drawing.heading(record, None),
        "summary": repr(summary),
        "summary, HTML": summary._repr_html_(),
        "line": Progress(Snapshot(time=0.0, batch=record)).line(),
        "list": repr(BatchList([record], [None])),
        "list, HTML": BatchList([record], [None])._repr_html_(),
    }
    assert [face for face, said in faces.items() if "20 failed" not in said] == []
    assert '<b style="color:var(--jp-error-color1, #d32f2f)">completed, 20 failed</b>' in faces["heading"]


@pytest.mark.parametrize(
    ("record", "said", "label"),
    [
        (batch("in_progress", 10, 3, 1), "3 completed, 1 failed, 6 left", "Retry failed"),
        (batch("completed", 10, 10, 0), "10 completed, 0 failed", "Retry failed"),
        (batch("completed", 10, 9, 1), "9 completed, 1 failed", "Retry failed"),
        (batch("cancelled", 10, 3, 0), "3 completed, 0 failed, 7 not run", "Run the rest"),
        (batch("expired", 10, 3, 1), "3 completed, 1 failed, 6 not run", "Retry failed"),
        (batch("failed", 10, 0, 0), "0 completed, 0 failed, 10 not run", "Run the rest"),
    ],
)
def test_what_an_ended_batch_has_not_run_is_not_left_and_only_what_failed_is_retried(record, said, label):
    assert counts_text(record) == said
    assert retry_label(record) == label
    drawn = Summary(batch=record, has_unanswered=True)._repr_html_()
    assert said in drawn
    assert f'data-vbatch-label="{label}"' in drawn
    assert "data-vbatch-label" not in Summary(batch=record)._repr_html_()
