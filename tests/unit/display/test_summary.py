"""What a batch leaves in a notebook: text, and HTML in which everything foreign is text."""

from __future__ import annotations

import dataclasses
import html.parser
from collections.abc import Mapping
from typing import Any

import pandas as pd
import pydantic
import pytest

from tests.unit.session_surface import open_session
from vbatch_jupyter.display import summary
from vbatch_jupyter.display.summary import Summary, count_errors
from vbatch_jupyter.frames.ask import Ask
from vbatch_jupyter.manager.time_left import Work
from vbatch_jupyter.protocol.batch import BatchError, BatchRecord, RequestCounts, Usage
from vbatch_jupyter.protocol.lines import error_body, output_line, unexecuted_line

HOSTILE = "<img src=x onerror=alert(1)>"

RECORD = BatchRecord(
    id="batch_1a2b",
    endpoint="/v1/chat/completions",
    input_file_id="file-0",
    created_at=100,
    in_progress_at=110,
    completed_at=170,
    status="completed",
    model="m",
    request_counts=RequestCounts(total=1_000, completed=988, failed=12),
    usage=Usage(input_tokens=30_000, output_tokens=12_000),
)
WORK = Work(asked=1_000, reused=0, seconds=60.0, concurrency=8.0)


class Page(html.parser.HTMLParser):
    """The tags, the text and the scripts of some HTML."""

    def __init__(self, source: str) -> None:
        super().__init__()
        self.tags: list[str] = []
        self.text = ""
        self.script = ""
        self._in_script = False
        self.feed(source)

    def handle_starttag(self, tag, attrs):  # noqa: ARG002 - the parser's
        self.tags.append(tag)
        self._in_script = tag == "script"

    def handle_endtag(self, tag):  # noqa: ARG002 - the parser's
        self._in_script = False

    def handle_data(self, data):
        if self._in_script:
            self.script += data
        else:
            self.text += data + " "


def html_of(batch: BatchRecord, errors: Mapping[str, int] = {}, **fields: Any) -> str:
    return Summary(batch=batch, errors=errors, work=WORK, **fields)._repr_html_()


def test_the_text_has_the_whole_id_the_counts_and_the_figures():
    assert repr(Summary(batch=RECORD, work=WORK)) == (
        "batch_1a2b completed 988/1,000 completed, 12 failed · 200 generation tokens/s · 1 min 0 s · 30,000 "
        "prompt tokens · 12,000 generation tokens"
    )


def test_the_html_says_the_same_draws_the_bar_and_groups_the_errors():
    page = Page(html_of(RECORD, {"no such model": 9, "too long": 3}, has_unanswered=True))
    said = " ".join(page.text.split())
    for part in ("completed, 12 failed m batch_1a2b", "988 completed, 12 failed", "200 generation tokens/s", "1 min"):
        assert part in said
    assert said.index("9 no such model") < said.index("3 too long")
    assert "%vbatch retry batch_1a2b" in said
    assert "width:98.80%" in html_of(RECORD)
    assert "width:1.20%" in html_of(RECORD)


def test_a_batch_without_failures_offers_no_retry_and_runs_no_script():
    counts = RequestCounts(total=2, completed=2)
    page = Page(html_of(dataclasses.replace(RECORD, request_counts=counts)))
    assert "retry" not in page.text
    assert page.script == ""


@pytest.mark.parametrize("field", ["id", "model", "waiting"])
def test_what_others_wrote_is_shown_as_text(field):
    fields: dict[str, Any] = {field: HOSTILE}
    batch = dataclasses.replace(RECORD, **fields) if field != "waiting" else RECORD
    page = Page(html_of(batch, waiting=HOSTILE, errors={HOSTILE: 1}, has_unanswered=True))
    assert "img" not in page.tags
    assert page.text.count(HOSTILE) >= 2
    assert HOSTILE not in page.script


def test_a_batch_that_failed_validation_shows_its_reasons():
    errors = tuple(BatchError("invalid_url", f"Bad {HOSTILE}", line=line) for line in (1, 2))
    record = dataclasses.replace(RECORD, status="failed", errors=errors, usage=None, request_counts=RequestCounts())
    page = Page(html_of(record))
    assert f"2 Bad {HOSTILE}" in " ".join(page.text.split())
    assert "img" not in page.tags


def test_a_batch_that_still_runs_has_no_duration():
    record = dataclasses.replace(RECORD, status="in_progress", completed_at=None, usage=None)
    assert repr(Summary(batch=record)) == "batch_1a2b in_progress 988/1,000 completed, 12 failed"


def refused(message: str) -> bytes:
    return output_line(id="i", custom_id="a", status_code=400, request_id="r", body=error_body(message))


def test_errors_are_counted_by_message_and_a_long_file_is_read_in_part(monkeypatch):
    monkeypatch.setattr(summary, "_LINES_READ", 3)
    late = unexecuted_line(id="i", custom_id="c", code="batch_expired", message="Too late.")
    counted, looked_at = count_errors([refused("no"), refused("no"), late])
    assert (sorted(counted.values()), counted["Too late."], looked_at) == ([1, 2], 1, "")
    counted, looked_at = count_errors([refused("no"), refused("no"), late, refused("no")])
    assert (sum(counted.values()), looked_at) == (3, " (the first 3)")


def test_both_mimetypes_come_together():
    summary = Summary(batch=RECORD, work=WORK)
    assert summary.bundle() == {"text/plain": repr(summary), "text/html": html_of(RECORD)}


def test_a_batch_draws_itself(tmp_path):
    session = open_session(tmp_path, refusing="refuse")
    batch = session.submit(pd.DataFrame({"text": ["a", f"refuse {HOSTILE}"]}), Ask.of("{{ text }}")).wait(60)
    drawn = batch._repr_mimebundle_()
    assert drawn["text/plain"].startswith(f"{batch.id} completed 1/2 completed, 1 failed · ")
    assert "This request is refused, as it asked to be." in Page(drawn["text/html"]).text
    session.manager.files.delete(batch.to_openai().error_file_id)
    assert "1 failed" in batch._repr_mimebundle_()["text/html"]
    session.close()


class Stars(pydantic.BaseModel):
    stars: int

    @pydantic.field_validator("stars")
    @classmethod
    def known(cls, value: int) -> int:
        assert value != 5, "nobody gives five"
        return value


@pytest.mark.parametrize(
    "schema", [Stars, {"type": "object", "properties": {"stars": {"type": "integer", "maximum": 4}}}]
)
def test_completed_answers_that_cannot_be_used_are_said_and_their_reasons_counted(tmp_path, schema):
    session = open_session(tmp_path)
    session.progress = "none"
    df = pd.DataFrame({"text": ['{"stars": 5}', "four", '{"stars": 4}', '{"stars": 5}']})
    try:
        batch = session.submit(df, Ask.of("{{ text }}", schema=schema)).wait()
        left = batch.summary()
        assert "completed 4/4 completed · 3 answers cannot be used" in left["text/plain"]
        page = Page(left["text/html"])
        assert "4 completed, 0 failed 3 answers cannot be used" in " ".join(page.text.split())
        assert "2 The answer does not fit the schema" in " ".join(page.text.split())
        assert 'data-vbatch-label="Retry failed"' in left["text/html"]
        assert batch.results()["error"].notna().sum() == 3
        # Also where the class is not known.
        assert "3 answers cannot be used" in repr(session.attach(batch.id))
    finally:
        session.close()
