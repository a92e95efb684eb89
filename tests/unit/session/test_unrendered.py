"""Rows that cannot be rendered are rows with an error, and everything else of their frame runs."""

from __future__ import annotations

from typing import Any

import pandas as pd
import pytest

from tests.unit.session_surface import open_session
from vbatch_jupyter.display import drawing
from vbatch_jupyter.display.listing import BatchList
from vbatch_jupyter.display.progress import Progress
from vbatch_jupyter.errors import ConflictError, TemplateError
from vbatch_jupyter.frames.ask import Ask
from vbatch_jupyter.session.dry_run import dry_run

TEMPLATE = "{{ 10 / (n | int) }} {{ m.a.b }} {{ l[0] }} {{ text }}"
GOOD: dict[str, Any] = {"n": "5", "m": {"a": {"b": 1}}, "l": ["x"], "text": "good"}
REASONS: dict[str, dict[str, Any]] = {
    "division by zero": {"n": "two"},
    "'None' has no attribute 'b'": {"m": {"a": None}},
    "list object has no element 0": {"l": []},
    "surrogates not allowed": {"text": "\ud800"},
}


@pytest.fixture
def said():
    return []


@pytest.fixture
def session(tmp_path, said):
    session = open_session(tmp_path, said=said)
    yield session
    session.close()


def frame():
    rows = [GOOD, *({**GOOD, **bad} for bad in REASONS.values()), GOOD]
    # Arrow's text cannot hold a lone surrogate.
    columns = {name: pd.Series([row[name] for row in rows], dtype=object) for name in GOOD}
    return pd.DataFrame(columns).set_axis(list("abcdef"))


def test_each_bad_row_has_its_error_and_the_others_their_answers(session, said):
    df = frame()
    batch = session.submit(df, Ask.of(TEMPLATE))
    out = batch.wait().results()
    assert out.index.tolist() == df.index.tolist()
    assert out["response"].notna().tolist() == [True, False, False, False, False, True]
    assert out["response"]["f"] == "2.0 1 x good"
    assert out["error"].isna().tolist() == [True, False, False, False, False, True]
    for error, reason in zip(out["error"].iloc[1:5], REASONS, strict=True):
        assert reason in error
    assert batch.request_counts.total == 2
    assert batch.errors()["custom_id"].tolist() == ["row-1", "row-2", "row-3", "row-4"]
    assert batch.errors()["status_code"].isna().all()
    (note,) = [sentence for sentence in said if "rendered" in sentence]
    assert note.startswith("4 rows cannot be rendered and will not be sent. The first is row 1 (index 'b'): ")
    said_of_it = "completed 2/2 completed, 4 rows could not be rendered"
    assert repr(session.attach(batch.id)).startswith(f"{batch.id} {said_of_it}")
    record = session.manager.batches.retrieve(batch.id)
    assert "2/2 completed, 4 rows could not be rendered" in repr(BatchList([record], [None]))
    assert said_of_it in Progress(batch.snapshot()).line()
    assert "completed, 4 rows could not be rendered" in drawing.heading(record, None)
    assert "division by zero" in batch.summary()["text/html"]
    with pytest.raises(ConflictError, match="nothing to retry"):
        batch.retry()


def test_the_errors_of_rows_are_there_after_a_restart_with_the_frame_and_without(session):
    df = frame().assign(ticket=list("uvwxyz"))
    batch = session.attach(session.submit(df, Ask.of(TEMPLATE, custom_id="ticket")).wait().id)
    alone, with_frame = batch.results(), batch.results(df, full=True)
    assert alone["error"].isna().tolist() == [True, False, False, False, False, True]
    assert alone["error"].tolist()[1:5] == with_frame["error"].tolist()[1:5]
    assert with_frame["status_code"].tolist()[0] == 200
    assert with_frame["status_code"].isna().tolist() == [False, True, True, True, True, False]
    assert batch.errors()["custom_id"].tolist() == list("vwxy")


def test_equal_reasons_are_one_text_so_that_they_can_be_counted(session):
    out = session.submit(pd.DataFrame({"n": [1, 0, 0, 2]}), Ask.of("{{ 1 / n }}")).wait().results()
    assert out["error"].value_counts().tolist() == [2]
    assert out["error"][1] == "The template cannot be rendered for this row, line 1 of the template: division by zero."


def test_with_raise_nothing_runs_and_the_row_is_named(session):
    with pytest.raises(TemplateError, match=r"for row 1 \(index 'b'\), line 1 of the template: division by zero\.$"):
        session.submit(frame(), Ask.of(TEMPLATE, on_error="raise"))
    assert list(session.batches()) == []
    assert list(session.manager.files.list().data) == []


def test_a_frame_of_which_no_row_can_be_rendered_is_an_error_before_anything_runs(session):
    with pytest.raises(
        TemplateError, match="for row 0, nor for any other row, line 1 of the template: division by zero"
    ):
        session.submit(pd.DataFrame({"n": [0, 0]}), Ask.of("{{ 1 / n }}"))
    assert list(session.batches()) == []


def test_a_dry_run_counts_the_requests_that_would_be_sent_and_says_which_rows_would_not(session):
    found = dry_run(session, frame(), Ask.of(TEMPLATE))
    assert found.total == 2
    (note,) = [sentence for sentence in found.notes if "rendered" in sentence]
    assert note.startswith("4 rows cannot be rendered and will not be sent. The first is row 1 (index 'b'): ")
    assert note in repr(found)
