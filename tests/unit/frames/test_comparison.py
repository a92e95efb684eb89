"""Two batches of the same rows, side by side."""

from __future__ import annotations

import numpy as np
import pandas as pd
import pytest

import vbatch_jupyter as vb
from vbatch_jupyter.errors import FrameError, NotFoundError
from vbatch_jupyter.frames.ask import Ask
from vbatch_jupyter.frames.comparison import compare


def test_two_prompts_stand_side_by_side_on_the_frames_index(session):
    df = pd.DataFrame({"text": ["A", "b", "c"]}, index=["x", "y", "z"])
    one, two = session.submit(df, Ask.of("{{ text }}")), session.submit(df, Ask.of("{{ text | lower }}"))
    out = vb.compare(one, two)
    assert list(out.columns) == ["text", "a", "b", "changed"]
    assert list(out.index) == ["x", "y", "z"]
    assert out["a"].tolist() == ["A", "b", "c"]
    assert out["b"].tolist() == ["a", "b", "c"]
    assert out["changed"].tolist() == [True, False, False]
    assert list(df.columns) == ["text"]


def test_batches_are_named_by_id_and_have_their_rows_by_custom_id_then(session):
    df = pd.DataFrame({"text": ["A", "b"]})
    one, two = session.submit(df, Ask.of("{{ text }}")), session.submit(df, Ask.of("{{ text | lower }}"))
    out = vb.compare(one.id, two.id, names=("plain", "lower"))
    assert list(out.columns) == ["custom_id", "plain", "lower", "changed"]
    assert out["custom_id"].tolist() == ["row-0", "row-1"]
    with pytest.raises(NotFoundError):
        vb.compare(one, "batch_0")


def test_an_error_on_one_side_is_a_change_and_has_its_column(session):
    df = pd.DataFrame({"text": ["me", "you"]})
    out = vb.compare(session.submit(df, Ask.of("{{ text }}")), session.submit(df, Ask.of("refuse {{ text }}")))
    assert list(out.columns) == ["text", "a", "b", "b_error", "changed"]
    assert out["changed"].tolist() == [True, True]
    assert out["b_error"].isna().tolist() == [False, True]


def test_a_schemas_fields_have_two_columns_each(session):
    schema = {"type": "object", "properties": {"stars": {"type": "integer"}, "why": {"type": "string"}}}
    df = pd.DataFrame({"given": [1, 2]})
    one = session.submit(df, Ask.of('{"stars": {{ given }}, "why": "x"}', schema=schema, output="mood"))
    two = session.submit(df, Ask.of('{"stars": 2, "why": "x"}', schema=schema))
    out = vb.compare(one, two)
    assert list(out.columns) == ["given", "stars_a", "stars_b", "why_a", "why_b", "changed"]
    assert out["changed"].tolist() == [True, False]
    assert str(out["stars_a"].dtype) == "Int64"
    text = session.submit(df, Ask.of("{{ given }}"))
    with pytest.raises(FrameError, match="no column of answers in common: 'stars', 'why' against 'response'"):
        vb.compare(one, text)


def test_a_sample_is_compared_with_the_whole_and_other_frames_are_refused(session):
    df = pd.DataFrame({"text": ["a", "b", "c"], "id": ["p", "q", "r"]})
    whole = session.submit(df, Ask.of("{{ text }}"))
    assert vb.compare(whole, session.submit(df, Ask.of("{{ text }}", sample=2)))["text"].tolist() == ["a", "b"]
    other = session.submit(df[::-1], Ask.of("{{ text }}"))
    with pytest.raises(FrameError, match=r"different DataFrames.*custom_id="):
        vb.compare(whole, other)
    named, reversed_ = (session.submit(frame, Ask.of("{{ text }}", custom_id="id")) for frame in (df, df[::-1]))
    assert vb.compare(named, reversed_)["changed"].tolist() == [False, False, False]
    with pytest.raises(FrameError, match="no row in common"):
        vb.compare(whole, named)


def test_a_column_that_is_there_already_is_not_overwritten(session):
    df = pd.DataFrame({"a": ["x"]})
    batch = session.submit(df, Ask.of("{{ a }}"))
    with pytest.raises(FrameError, match=r"already has a column 'a'.*names="):
        vb.compare(batch, batch)
    assert list(vb.compare(batch, batch, names=("one", "two")).columns) == ["a", "one", "two", "changed"]


def test_vectors_lists_and_missing_values_are_compared_by_what_they_hold():
    def frame(values: list[object]) -> pd.DataFrame:
        return pd.DataFrame({"response": pd.Series(values, dtype=object), "error": pd.NA})

    ids = [str(number) for number in range(5)]
    one = frame([np.array([1.0, 2.0]), np.array([1.0]), ["x"], None, "y"])
    two = frame([np.array([1.0, 2.0]), np.array([1.5]), ["x"], None, None])
    assert compare(one, two, custom_ids=(ids, ids))["changed"].tolist() == [False, True, False, False, True]
