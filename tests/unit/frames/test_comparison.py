"""Two batches of the same rows, side by side."""

from __future__ import annotations

import numpy as np
import pandas as pd
import pytest

import vbatch_jupyter as vb
from vbatch_jupyter.errors import EngineNotLoadedError, FrameError, NotFoundError
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
    two = session.submit(df, Ask.of('{"stars": 2, "why": "x"}{# no columns #}', schema=schema))
    out = vb.compare(one, two)
    assert list(out.columns) == ["given", "stars_a", "stars_b", "why_a", "why_b", "changed"]
    assert out["changed"].tolist() == [True, False]
    assert str(out["stars_a"].dtype) == "Int64"
    text = session.submit(df, Ask.of("{{ given }}"))
    with pytest.raises(FrameError, match="no column of answers in common: 'stars', 'why' against 'response'"):
        vb.compare(one, text)


def test_a_column_of_objects_stays_one_if_it_holds_only_texts():
    """Pandas 3.1.1 makes ``str`` of an array of objects that holds only texts."""
    one = pd.DataFrame({"any": pd.Series(["x", "y"], dtype=object), "error": pd.NA})
    out = compare(one, one, custom_ids=(["r", "s"], ["r", "s"]), df=pd.DataFrame({"n": [1, 2]}, index=["p", "q"]))
    assert out.dtypes[["any_a", "any_b"]].tolist() == [object, object]
    assert out.loc["q", "any_b"] == "y"


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


def test_a_second_run_of_the_rows_that_changed_tells_noise_from_the_prompts_difference(session):
    df = pd.DataFrame({"text": ["A", "b", "C", "d"]})
    # One after the other: the second takes the answers to two rows from the first.
    one, two = (session.submit(df, Ask.of(text)).wait() for text in ("{{ text }}", "{{ text | lower }}"))
    before = {one.id, two.id}
    out = vb.compare(one, two, noise=True)
    assert list(out.columns) == ["text", "a", "b", "changed", "noise"]
    assert out["changed"].tolist() == [True, False, True, False]
    assert out["noise"].tolist() == [False, pd.NA, False, pd.NA]
    assert session.engine.requests == 4 + 2 + 4
    # Nothing is left of the second runs that a later batch could take its answers from.
    files = session.manager.files
    for record in session.batches():
        if record.id not in before:
            assert record.request_counts.completed == 2
            for file_id in (record.input_file_id, record.output_file_id):
                with pytest.raises(NotFoundError):
                    files.retrieve(file_id)
    session.run(df, Ask.of("{{ text }}"))
    assert session.engine.requests == 10


def test_at_most_32_of_the_rows_that_changed_run_again_from_all_over_the_frame(session):
    df = pd.DataFrame({"n": range(100), "name": [f"r{n}" for n in range(100)]})
    one, two = (session.submit(df, Ask.of(text, custom_id="name")) for text in ("{{ n }}", "{{ n }}!"))
    noise = vb.compare(one, two, noise=True)["noise"]
    assert noise.notna().sum() == 32
    assert noise.dropna().index.tolist() == [n * 100 // 32 for n in range(32)]
    assert vb.compare(one, one, names=("one", "two"), noise=True)["noise"].isna().all()


def test_a_row_that_could_not_be_rendered_is_no_noise_in_a_second_run(session):
    df = pd.DataFrame({"text": ["A", "B", "C"], "n": ["1", "two", "3"]})
    one, two = (session.submit(df, Ask.of(text)) for text in ("{{ text }}", "{{ text }} {{ 10 // (n | int) }}"))
    out = vb.compare(one, two, noise=True)
    assert out["b_error"].isna().tolist() == [True, False, True]
    assert (out["changed"].tolist(), out["noise"].tolist()) == ([True] * 3, [False] * 3)


def test_a_second_run_without_an_engine_is_refused_before_anything_runs(session):
    df = pd.DataFrame({"text": ["A"]})
    one, two = session.submit(df, Ask.of("{{ text }}")), session.submit(df, Ask.of("{{ text | lower }}"))
    two.wait(), one.wait()
    session.unload()
    count = len(list(session.batches()))
    with pytest.raises(EngineNotLoadedError, match=r"no engine serves 'echo'\. Load that model first"):
        vb.compare(one, two, noise=True)
    assert len(list(session.batches())) == count


def test_vectors_lists_and_missing_values_are_compared_by_what_they_hold():
    def frame(values: list[object]) -> pd.DataFrame:
        return pd.DataFrame({"response": pd.Series(values, dtype=object), "error": pd.NA})

    ids = [str(number) for number in range(5)]
    one = frame([np.array([1.0, 2.0]), np.array([1.0]), ["x"], None, "y"])
    two = frame([np.array([1.0, 2.0]), np.array([1.5]), ["x"], None, None])
    assert compare(one, two, custom_ids=(ids, ids))["changed"].tolist() == [False, True, False, False, True]
