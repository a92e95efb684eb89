"""The dtypes of a result, so that comparisons keep the rows that have failed."""

from __future__ import annotations

import importlib.util
import json
from collections.abc import Iterator, Mapping
from typing import Any

import numpy as np
import pandas as pd
import pytest

from vbatch_jupyter.frames.ask import Ask
from vbatch_jupyter.frames.frame import FrameDescription, describe
from vbatch_jupyter.frames.results import results
from vbatch_jupyter.protocol.endpoints import CHAT

HAS_PYARROW = importlib.util.find_spec("pyarrow") is not None
IS_PANDAS_2 = pd.Series([""]).dtype == object


@pytest.fixture(params=["python", "pyarrow"])
def storage(request: pytest.FixtureRequest) -> Iterator[str]:
    """Let pandas hold text as it does without and with pyarrow."""
    if request.param == "pyarrow" and not HAS_PYARROW:
        pytest.skip("pyarrow is not installed")
    with pd.option_context("mode.string_storage", request.param):
        yield request.param


def said(position: int, content: str | None, *, n: int = 1) -> bytes:
    choices = [{"index": index, "message": {"content": content}} for index in range(n)]
    body = {"custom_id": f"row-{position}", "response": {"status_code": 200, "body": {"choices": choices}}}
    return json.dumps(body).encode()


def refused(position: int) -> bytes:
    body = {"error": {"message": "Too long."}}
    return json.dumps({"custom_id": f"row-{position}", "response": {"status_code": 400, "body": body}}).encode()


def result(lines: list[bytes], df: pd.DataFrame, schema: Mapping[str, object] | None = None) -> pd.DataFrame:
    description = FrameDescription(fingerprint="", rows=len(df), endpoint="/v1/chat/completions")
    return results(lines, description, df=df, schema=schema)


LINES = [said(0, "a"), said(1, "b"), refused(2), refused(3)]


def test_failed_rows_count_in_a_comparison(storage: str) -> None:
    """In pandas 3.1.1 a text is ``str``, whose missing values are unequal; compared to ``string`` they are missing."""
    df = pd.DataFrame({"gold": ["a", "b", "c", "d"]})
    r = result(LINES, df)
    assert (r.response == r.gold).mean() == 0.5
    assert r[r.response != r.gold].index.tolist() == [2, 3]
    assert np.where(r.response == r.gold, "right", "wrong").tolist() == ["right", "right", "wrong", "wrong"]
    assert r["response"].dtype == r["error"].dtype == df["gold"].dtype
    merged = r.merge(df.rename(columns={"gold": "response"}), on="response")
    assert merged["response"].dtype == df["gold"].dtype
    if not IS_PANDAS_2:
        assert getattr(r["response"].dtype, "storage", None) == storage


def test_the_text_of_a_schema_counts_too_and_numbers_stay_nullable(storage: str) -> None:
    schema = {"type": "object", "properties": {"mood": {"enum": ["good", "bad"]}, "stars": {"type": "integer"}}}
    df = pd.DataFrame({"gold": ["good", "bad"], "n": [1, 2]})
    r = result([said(0, '{"mood": "good", "stars": 1}'), refused(1)], df, schema)
    assert (r.mood == r.gold).mean() == 0.5
    assert r["mood"].dtype == df["gold"].dtype
    assert str(r["stars"].dtype) == "Int64"
    # What the docstring says about failed rows.
    assert (r.stars == r.n).mean() == 1.0
    assert (r.stars == r.n).fillna(False).mean() == 0.5
    assert r[r.error.isna()].index.tolist() == [0]


@pytest.mark.parametrize("dtype", ["string[python]", "string[pyarrow]", "arrow"])
def test_a_frame_of_another_text_dtype_keeps_it(dtype: str) -> None:
    if dtype != "string[python]" and not HAS_PYARROW:
        pytest.skip("pyarrow is not installed")
    text: Any = dtype
    if dtype == "arrow":
        text = pd.ArrowDtype(pytest.importorskip("pyarrow").string())
    df = pd.DataFrame({"n": [1, 2, 3, 4], "text": pd.array(["a", "b", "c", "d"], dtype=text)})
    r = result(LINES, df)
    assert r["response"].dtype == r["error"].dtype == df["text"].dtype
    assert r["response"].isna().tolist() == [False, False, True, True]
    assert r.merge(df, left_on="response", right_on="text")["n_x"].tolist() == [1, 2]
    if not IS_PANDAS_2:
        assert result(LINES, df.assign(more=["x"] * 4))["response"].dtype == pd.Series([""]).dtype


@pytest.mark.parametrize(
    "field",
    [{"type": ["integer", "string"]}, {}, {"anyOf": [{"type": "number"}, {"type": "string"}]}, {"type": "array"}],
    ids=["several types", "Any", "Decimal", "list"],
)
@pytest.mark.parametrize("value", ["text", 1, ["x"], None])
def test_a_field_of_several_types_has_one_dtype_whatever_the_answers_are(
    field: dict[str, object], value: object
) -> None:
    """In pandas 3.1.1 an array of objects that holds only texts becomes ``str`` in a frame, and a Series stays."""
    schema = {"type": "object", "properties": {"a": field}}
    df = pd.DataFrame({"x": [0, 1]}, index=["same", "same"])
    r = result([said(0, json.dumps({"a": value})), refused(1)], df, schema)
    assert r["a"].dtype == object
    assert pd.isna(r["a"].iloc[1])
    if r["error"].isna().iloc[0]:
        assert r["a"].iloc[0] == value or value is None


@pytest.mark.parametrize("lines", [[said(0, "a", n=2), refused(1)], [refused(0), refused(1)]])
def test_a_column_of_lists_has_one_dtype_whatever_the_answers_are(lines: list[bytes]) -> None:
    df = pd.DataFrame({"x": ["p", "q"]})
    description = describe(df, Ask.of("{{ x }}", n=2), CHAT.path)
    assert results(lines, description, df=df)["response"].dtype == object
    kept = FrameDescription.from_json(description.to_json())
    assert results(lines, kept)["response"].dtype == object


def test_lists_of_texts_are_objects() -> None:
    r = result([said(0, "a", n=2), refused(1)], pd.DataFrame({"x": [0, 1]}))
    assert r["response"].dtype == object
    assert r["response"][0] == ["a", "a"]


@pytest.mark.parametrize("kind", ["string_view", "list_view"])
def test_a_column_of_arrow_that_pandas_cannot_name_does_not_keep_a_result_from_being_read(kind):
    """In pandas 3.1.1, ``dtype.type`` of these raises NotImplementedError."""
    pa = pytest.importorskip("pyarrow", reason="the wheel is tested without pyarrow, the repository with it")
    column = pa.array(["x"], pa.string_view()) if kind == "string_view" else pa.array([[1]], pa.list_view(pa.int64()))
    df = pa.table({"a": column}).to_pandas(types_mapper=pd.ArrowDtype)
    r = result([said(0, "a")], df)
    assert (r["response"].tolist(), r["response"].dtype) == (["a"], pd.Series([""]).dtype)
