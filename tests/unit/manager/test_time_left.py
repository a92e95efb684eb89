"""The speed of a batch is that of its engine: neither known answers nor times without an engine count."""

from __future__ import annotations

from vbatch_jupyter.display.summary import Summary
from vbatch_jupyter.manager.time_left import Pace, work_of
from vbatch_jupyter.protocol.batch import BatchRecord, RequestCounts, Usage
from vbatch_jupyter.records import Timing


def batch(completed: int) -> BatchRecord:
    return BatchRecord(
        id="batch_0",
        endpoint="/v1/chat/completions",
        input_file_id="",
        created_at=0,
        in_progress_at=0,
        completed_at=3_600,
        status="completed" if completed == 20 else "in_progress",
        request_counts=RequestCounts(20, completed, 0),
        usage=Usage(input_tokens=400, output_tokens=200),
    )


def test_an_hour_without_an_engine_is_no_time_of_the_batch():
    """OpenAI's Batch API (openai 3.57.0) has ``in_progress_at`` and ``completed_at``, and waiting is between them."""
    # Ten at once, an hour's pause, ten at once again.
    timings = [Timing(12.0, 2.0)] * 10 + [Timing(3_600.0, 3.0)] * 10
    work = work_of(timings)
    assert (work.asked, work.reused, work.seconds, work.concurrency) == (20, 0, 5.0, 10.0)
    assert "· 40 generation tokens/s · 5 s ·" in repr(Summary(batch=batch(20), work=work))


def test_reused_answers_are_no_speed():
    some = work_of([Timing(12.0, 2.0)] * 4 + [Timing(10.0, None)] * 16)
    said = repr(Summary(batch=batch(20), work=some))
    assert "tokens/s" not in said
    assert "· 2.0 requests/s · 16 answers reused · 2 s ·" in said
    every = repr(Summary(batch=batch(20), work=work_of([Timing(10.0, None)] * 20)))
    assert "/s" not in every
    assert "· 20 answers reused ·" in every


def test_a_request_that_was_not_run_is_neither_asked_nor_reused():
    assert work_of([Timing(None, None)] * 3) == (0, 0, 0.0, 0.0)


def test_known_answers_do_not_shorten_the_time_that_is_left():
    pace = Pace()
    pace.see(batch(0), time=0.0, running=0)
    pace.see(batch(10), time=0.5, running=4)  # ten known answers, at once
    assert pace.requests_per_second is None
    pace.see(batch(12), time=2.5, running=4)
    assert pace.requests_per_second == 1.0
