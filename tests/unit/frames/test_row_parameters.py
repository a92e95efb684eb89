"""Parameters that each row says for itself: ``max_tokens=vb.col("limit")``."""

from __future__ import annotations

import decimal
import json

import pandas as pd
import pytest

import vbatch_jupyter as vb
from vbatch_jupyter.errors import FrameError
from vbatch_jupyter.frames.ask import Ask
from vbatch_jupyter.frames.render import requests_of
from vbatch_jupyter.protocol.endpoints import ENDPOINTS
from vbatch_jupyter.protocol.policy import Answering

MOOD = {"type": "object", "properties": {"mood": {"type": "string"}}}


def bodies(df, **options):
    requests = requests_of(df, Ask.of("Say {{ text }}", model="m", **options))
    return [json.loads(line)["body"] for line in requests.lines]


def frame(**columns):
    (values, *_) = columns.values()
    return pd.DataFrame({"text": list("abcdefgh")[: len(values)], **columns})


def parameters(df, *names, **options):
    return [{name: body[name] for name in names if name in body} for body in bodies(df, **options)]


def test_each_row_has_the_value_of_its_cell_and_none_where_the_cell_is_missing():
    df = frame(limit=[8, None, 16], heat=[0.5, 0.0, float("nan")], note=["x", "y", "z"])

    seen = parameters(
        df, "max_tokens", "temperature", "top_p", max_tokens=vb.col("limit"), temperature=vb.col("heat"), top_p=0.5
    )

    assert seen == [
        {"max_tokens": 8, "temperature": 0.5, "top_p": 0.5},
        {"temperature": 0, "top_p": 0.5},
        {"max_tokens": 16, "top_p": 0.5},
    ]


@pytest.mark.parametrize("endpoint", [one.name for one in ENDPOINTS.values()])
def test_every_endpoint_takes_parameters_from_columns(endpoint):
    df = frame(who=["ann", None])

    assert parameters(df, "user", endpoint=endpoint, user=vb.col("who")) == [{"user": "ann"}, {}]


def test_cells_may_be_lists_and_objects():
    tool = {"type": "function", "function": {"name": "f", "parameters": {"type": "object", "properties": {}}}}
    of_row = {"type": "json_schema", "json_schema": {"name": "mood", "schema": {"type": "object"}}}
    df = frame(ends=[["."], ("a", "b")], bias=[{"5": 1}, None], tools=[[tool], None], form=[None, of_row])

    columns = {"stop": "ends", "logit_bias": "bias", "tools": "tools", "response_format": "form"}
    seen = parameters(df, *columns, **{name: vb.col(label) for name, label in columns.items()})

    assert seen == [
        {"stop": ["."], "logit_bias": {"5": 1}, "tools": [tool]},
        {"stop": ["a", "b"], "response_format": of_row},
    ]


@pytest.mark.parametrize(
    "values",
    [
        pd.Series([3, None], dtype="Int64"),
        pd.Series([3.0, None]),
        pd.Series([decimal.Decimal(3), None], dtype=object),
        pd.Series([3, None], dtype=pd.CategoricalDtype([3])),
        pytest.param("int8[pyarrow]", id="arrow"),
    ],
)
def test_a_number_is_the_same_in_every_dtype(values):
    if isinstance(values, str):
        pytest.importorskip("pyarrow")
        values = pd.Series([3, None], dtype=values)

    assert parameters(frame(limit=values), "max_tokens", max_tokens=vb.col("limit")) == [{"max_tokens": 3}, {}]


@pytest.mark.parametrize(
    ("value", "message"),
    [
        ("many", "What the column 'limit' of row 1 says cannot be sent: Invalid 'max_tokens': "),
        (-3, "What the column 'limit' of row 1 says cannot be sent: Invalid 'max_tokens': "),
        (
            float("inf"),
            "What the column 'limit' of row 1 says cannot be sent: max_tokens has a number that is not finite",
        ),
        (2.5, "What the column 'limit' of row 1 says cannot be sent: Invalid 'max_tokens': "),
        (object(), "What the row 1 says cannot be sent: A body parameter cannot be written as JSON: "),
    ],
)
def test_a_value_that_no_request_can_be_sent_with_is_an_error_before_anything_runs(value, message):
    with pytest.raises(FrameError) as caught:
        bodies(frame(limit=pd.Series([8, value], dtype=object)), max_tokens=vb.col("limit"))

    assert caught.value.message.startswith(message)


def test_values_that_do_not_go_together_are_found_with_their_row():
    df = frame(heat=[1.0, 0.0])

    with pytest.raises(FrameError, match=r"^What the row 1 says cannot be sent: Invalid 'n': ") as caught:
        bodies(df, n=3, temperature=vb.col("heat"))

    assert caught.value.param == "n"


@pytest.mark.parametrize(
    ("options", "message"),
    [
        ({"max_tokens": vb.col("limti")}, "Unknown column 'limti' in col(max_tokens)=. Did you mean 'limit'?"),
        ({"max_tokns": vb.col("limit")}, "Neither OpenAI nor vLLM knows the key 'max_tokns'"),
        ({"stream": vb.col("limit")}, "'stream' cannot be set in the body: a batch does not stream."),
        ({"n": vb.col("limit"), "schema": MOOD}, "schema= makes one column per field, so n= must be 1."),
        (
            {"max_tokens": 5, "col": {"max_tokens": "limit"}},
            "'max_tokens' is both a parameter and taken from a column.",
        ),
    ],
)
def test_a_column_or_a_parameter_that_does_not_exist_is_an_error(options, message):
    with pytest.raises(FrameError) as caught:
        bodies(frame(limit=[8, 9]), **options)

    assert caught.value.message.startswith(message)


def test_a_hundred_thousand_rows_with_a_seed_each_are_checked_one_by_one():
    df = pd.DataFrame({"text": "a", "seed": pd.Series([*range(99_999), 2**70], dtype=object)})

    with pytest.raises(FrameError, match="column 'seed' of row 99999"):
        bodies(df, seed=vb.col("seed"))


def test_the_model_may_come_from_a_column_where_the_service_takes_several():
    df, several = frame(asks=["a/large", "a/small"]), Answering("compatible")
    requests = requests_of(df, Ask.of("Say {{ text }}", model=vb.col("asks")), several)

    assert [json.loads(line)["body"]["model"] for line in requests.lines] == ["a/large", "a/small"]
    with pytest.raises(
        FrameError, match=r"What the column 'asks' of row 1 says cannot be sent: the model must be a name"
    ):
        requests_of(frame(asks=["a/large", None]), Ask.of("Say {{ text }}", model=vb.col("asks")), several)
    with pytest.raises(FrameError, match="All requests of a batch must have the same model here and at OpenAI"):
        requests_of(df, Ask.of("Say {{ text }}", model=vb.col("asks")))


def test_a_parameter_that_needs_another_finds_it_in_a_column():
    df = frame(limit=[3, None])

    assert parameters(df[:1], "max_tokens", max_tokens=vb.col("limit"), ignore_eos=True) == [{"max_tokens": 3}]
    with pytest.raises(FrameError, match=r"^What the row 1 says cannot be sent: Invalid 'ignore_eos': set max_tokens"):
        bodies(df, max_tokens=vb.col("limit"), ignore_eos=True)
