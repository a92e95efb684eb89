from __future__ import annotations

import base64
import codecs
import copy
import json
import random

import numpy as np
import pandas as pd
import pydantic
import pytest
from hypothesis import given
from hypothesis import strategies as st

from vbatch_jupyter.errors import FrameError
from vbatch_jupyter.frames.ask import Ask
from vbatch_jupyter.frames.frame import FrameDescription, describe
from vbatch_jupyter.frames.render import custom_ids
from vbatch_jupyter.frames.results import results as results_of
from vbatch_jupyter.frames.schema import json_schema
from vbatch_jupyter.protocol.shapes import must_call

CHAT, COMPLETIONS, EMBEDDINGS, RESPONSES = (
    "/v1/chat/completions",
    "/v1/completions",
    "/v1/embeddings",
    "/v1/responses",
)


TEXT = str(pd.Series([""]).dtype)
"""pandas' own dtype of text: ``str`` in pandas 3, ``object`` before."""


def described(**kept):
    return FrameDescription(**{"fingerprint": "", "endpoint": CHAT, **kept})


def results(lines, *, df=None, custom_ids=None, schema=None, full=False, **kept):
    return results_of(lines, described(**kept), df=df, custom_ids=custom_ids, schema=schema, full=full)


class Review(pydantic.BaseModel):
    good: bool
    stars: int | None
    score: float | None = None
    why: str = ""
    author: dict[str, str] | None = None


def answered(custom_id, body, status_code=200):
    response = {"status_code": status_code, "request_id": "r", "body": body}
    return json.dumps({"id": "batch_req_0", "custom_id": custom_id, "response": response, "error": None}).encode()


def said(position, content, *, finish_reason="stop", usage=None, **message):
    choice = {
        "index": 0,
        "message": {"role": "assistant", "content": content, **message},
        "finish_reason": finish_reason,
    }
    return answered(f"row-{position}", {"object": "chat.completion", "choices": [choice], "usage": usage})


def unexecuted(position, message="The batch was cancelled."):
    error = {"code": "batch_cancelled", "message": message}
    return json.dumps({"id": "i", "custom_id": f"row-{position}", "response": None, "error": error}).encode()


def only(line, **options):
    out = results([line], rows=1, **options)
    assert len(out) == 1
    return out.iloc[0]


@given(st.permutations(range(12)), st.sets(st.integers(0, 11)))
def test_results_stand_beside_their_rows_in_whatever_order_the_lines_come(order, failed):
    df = pd.DataFrame({"text": [f"t{number}" for number in range(12)]}, index=["same"] * 12)
    lines = [unexecuted(at, f"no {at}") if at in failed else said(at, f"yes {at}") for at in order]
    out = results(lines, rows=12, df=df)
    assert out["response"].fillna("-").tolist() == ["-" if at in failed else f"yes {at}" for at in range(12)]
    assert out["error"].fillna("-").tolist() == [f"no {at}" if at in failed else "-" for at in range(12)]
    assert out["text"].tolist() == df["text"].tolist()


@given(st.lists(st.text(), max_size=5))
def test_any_text_survives_the_way_back(texts):
    out = results([said(at, text) for at, text in enumerate(texts)], rows=len(texts))
    assert out["response"].tolist() == texts


FRAMES = {
    "empty": pd.DataFrame({"text": []}),
    "no columns": pd.DataFrame(index=range(2)),
    "one row": pd.DataFrame({"text": ["a"]}),
    "duplicate index": pd.DataFrame({"text": ["a", "b"]}, index=["x", "x"]),
    "MultiIndex": pd.DataFrame({"text": ["a", "b"]}, index=pd.MultiIndex.from_tuples([(1, "p"), (1, "p")])),
    "named index": pd.DataFrame({"text": ["a", "b"]}, index=pd.Index([5, 3], name="n")),
    "duplicate columns": pd.DataFrame([[1, 2]], columns=["a", "a"]),
    "columns that are numbers": pd.DataFrame([[1, 2]]),
    "columns that are dates": pd.DataFrame([[1]], columns=pd.date_range("2024", periods=1)),
    "columns that are categories": pd.DataFrame([[1]], columns=pd.CategoricalIndex(["a"])),
    "every dtype": pd.DataFrame(
        {
            "c": pd.Categorical(["x", None]),
            "d": pd.to_datetime(["2024", "NaT"]),
            "i": pd.array([1, None], dtype="Int64"),
            "o": [["list"], {"d": 1}],
        }
    ),
}


@pytest.mark.parametrize("name", FRAMES)
def test_the_frame_comes_back_as_it_was_with_two_columns_more(name):
    df = FRAMES[name]
    before = copy.deepcopy(df)
    out = results([said(at, f"r{at}") for at in reversed(range(len(df)))], rows=len(df), df=df)
    assert list(out.columns) == [*df.columns, "response", "error"]
    pd.testing.assert_index_equal(out.index, before.index)
    assert out["response"].tolist() == [f"r{at}" for at in range(len(df))]
    assert out["error"].isna().all()
    assert [str(out[name].dtype) for name in ("response", "error")] == [TEXT, TEXT]
    for place in range(df.shape[1]):
        pd.testing.assert_series_equal(out.iloc[:, place], before.iloc[:, place])
    out["response"] = "changed"
    pd.testing.assert_frame_equal(df, before)


def test_what_is_done_to_the_result_does_not_reach_the_frame():
    df = pd.DataFrame({"n": [1, 2]})
    out = results([], rows=2, df=df)
    out.iloc[0, 0] = 9
    assert df["n"].tolist() == [1, 2]


def test_columns_of_a_multiindex_are_padded():
    df = pd.DataFrame([["a"]], columns=pd.MultiIndex.from_tuples([("review", "text")]))
    out = results([said(0, "r")], rows=1, df=df)
    expected = pd.MultiIndex.from_tuples([("review", "text"), ("response", ""), ("error", "")])
    pd.testing.assert_index_equal(out.columns, expected)
    clash = pd.DataFrame([["a"]], columns=pd.MultiIndex.from_tuples([("response", "text")]))
    with pytest.raises(FrameError, match="already has a column 'response'"):
        results([], rows=1, df=clash)


def test_without_the_frame_the_rows_are_numbered_and_have_their_custom_ids():
    out = results([said(1, "b")], rows=2)
    assert list(out.columns) == ["custom_id", "response", "error"]
    assert out["custom_id"].tolist() == ["row-0", "row-1"]
    pd.testing.assert_index_equal(out.index, pd.RangeIndex(2))
    assert out["response"].fillna("-").tolist() == ["-", "b"]


def test_a_row_without_a_line_says_so():
    assert only(b"\n")["error"] == ("No line for this row in the output file or the error file (custom_id 'row-0').")


def test_a_column_of_custom_ids_joins_the_lines():
    df = pd.DataFrame({"ticket": [17, 4]})
    lines = [
        answered("4", {"choices": [{"message": {"content": "four"}}]}),
        answered("17", {"choices": [{"text": "x"}]}),
    ]
    out = results(lines, rows=2, df=df, custom_ids=custom_ids(df, "ticket"))
    assert out["response"].tolist() == ["x", "four"]


@pytest.mark.parametrize(
    ("line", "message"),
    [
        (unexecuted(0, "Out of time."), "Out of time."),
        (
            answered("row-0", {"error": {"message": "Too long.", "type": "t", "param": None, "code": None}}, 400),
            "Too long.",
        ),
        (answered("row-0", {"error": "plain text"}, 500), "plain text"),
        (answered("row-0", {"detail": "Not Found"}, 404), "Not Found"),
        (answered("row-0", {"object": "error", "message": "older vLLM"}, 400), "older vLLM"),
        (
            answered("row-0", {"error": {"message": ""}}, 502),
            'The request ended with status 502: \'{"error": {"message": ""}}\'.',
        ),
        (answered("row-0", "gateway", 599), "The request ended with status 599: '\"gateway\"'."),
        (answered("row-0", {"choices": []}), "The response has no answer: '{\"choices\": []}'."),
        (answered("row-0", {"status": "failed", "error": {"message": "engine"}}), "engine"),
        (said(0, None, refusal="I will not."), "The model refused: 'I will not.'."),
        (b'{"custom_id": "row-0", "response": null, "error": {"code": "batch_expired"}}', "batch_expired"),
        (b'{"custom_id": "row-0"}', "The request was not run, for an unknown reason."),
        *(
            (json.dumps({"custom_id": "row-0", "response": response, "error": error}).encode(), message)
            for response in (None, {"status_code": 400, "request_id": "r", "body": None})
            for error, message in (
                ("Unknown model.", "Unknown model."),
                (
                    {"error": {"message": "Too long.", "type": "BadRequestError", "param": None, "code": 400}},
                    "Too long.",
                ),
                ({"code": 400, "message": "Too long."}, "Too long."),
            )
        ),
    ],
)
def test_every_kind_of_error_line_gives_its_message(line, message):
    """The last six are as run-batch of vLLM 0.32.0 writes them (vllm/entrypoints/openai/run_batch.py)."""
    row = only(line)
    assert row["error"] == message
    assert pd.isna(row["response"])


def test_a_byte_order_mark_is_taken_from_the_first_line():
    assert only(codecs.BOM_UTF8 + said(0, "a"))["response"] == "a"
    assert only(codecs.BOM_UTF8 + unexecuted(0, "Late."))["error"] == "Late."


def test_a_response_of_another_shape_is_an_error_of_its_row_only():
    out = results([answered("row-0", {"choices": "none"}), said(1, "ok")], rows=2)
    assert out["error"][0].startswith("The response is not valid in OpenAI's API (Expected `array | null`")
    assert out["response"][1] == "ok"


RAISE = "Raise max_tokens, or the engine's max_model_len if max_tokens is not set."


@pytest.mark.parametrize(
    ("line", "message"),
    [
        (
            said(0, None, reasoning="hmm", finish_reason="length", usage={"completion_tokens": 64}),
            f"There is no answer: the model was still reasoning and was cut off after 64 tokens. {RAISE}",
        ),
        (said(0, "", finish_reason="length"), f"There is no answer: the model was cut off. {RAISE}"),
        (said(0, None, reasoning="hmm"), "There is no answer: the model reasoned, and wrote nothing after it."),
        (said(0, None), "There is no answer: the model wrote nothing."),
        (
            said(0, None, finish_reason="content_filter"),
            "There is no answer: the model wrote nothing (finish_reason 'content_filter').",
        ),
        (
            said(
                0, None, tool_calls=[{"id": "c", "function": {"name": "f", "arguments": '{"n'}}], finish_reason="length"
            ),
            f"The tool call was cut off. {RAISE}",
        ),
        (
            answered(
                "row-0",
                {
                    "output": [{"type": "reasoning", "content": [{"type": "reasoning_text", "text": "hmm"}]}],
                    "status": "incomplete",
                    "incomplete_details": {"reason": "max_output_tokens"},
                },
            ),
            "There is no answer: the model was still reasoning and was cut off. "
            + RAISE.replace("max_tokens", "max_output_tokens"),
        ),
        (
            answered("row-0", {"output": [], "status": "failed", "error": {"message": "No memory."}}),
            "No memory.",
        ),
        (
            answered("row-0", {"output": [], "status": "in_progress"}),
            "There is no answer: the model wrote nothing (finish_reason 'in_progress').",
        ),
    ],
)
def test_a_response_without_text_or_call_is_an_error_that_says_what_to_raise(line, message):
    """In vLLM 0.32.0 with a reasoning parser: content null, finish_reason length; /v1/responses: status incomplete."""
    row = only(line)
    assert row["error"] == message
    assert pd.isna(row["response"])


def test_a_text_that_had_to_be_a_call_is_an_error():
    """In vLLM 0.32.0 with tool_choice required, cut off: the beginning of the call as content, and no call."""
    cut, whole, called = (
        said(0, "<tool_call>", finish_reason="length"),
        said(1, "No."),
        said(2, "", tool_calls=[{"id": "c", "function": {"name": "f", "arguments": "{}"}}]),
    )
    out = results_of([cut, whole, called], described(rows=3), parser_of=lambda _: must_call)
    assert out["error"].isna().tolist() == [False, False, True]
    assert out["error"][0] == (
        f"The answer was cut off. {RAISE} It is not the tool call that tool_choice asks for: '<tool_call>'."
    )
    assert out["error"][1] == "The answer is not the tool call that tool_choice asks for: 'No.'."
    assert out["tool_calls"][2] == [{"id": "c", "name": "f", "arguments": {}}]
    assert out["response"].isna().all()


def test_one_answer_of_several_that_never_began_does_not_take_the_others():
    choices = [
        {"index": 0, "message": {"content": None, "reasoning": "hm"}, "finish_reason": "length"},
        {"index": 1, "message": {"content": "b", "reasoning": "so"}, "finish_reason": "stop"},
    ]
    out = results([answered("row-0", {"choices": choices})], rows=1, full=True)
    assert out["response"][0] == [None, "b"]
    assert out["reasoning"][0] == ["hm", "so"]
    assert out["error"].isna().all()


def test_the_reasoning_is_there_in_full_and_where_the_engine_had_a_parser_whatever_the_answers_are():
    lines = [said(0, "a", reasoning="because"), said(1, "b")]
    assert list(results(lines, rows=2).columns) == ["custom_id", "response", "error"]
    df = pd.DataFrame({"text": ["x", "y"]})
    described_there = describe(df, Ask(template="", output="m"), CHAT, reasons=True)
    assert list(results_of([], described_there, df=df).columns) == ["text", "m", "m_reasoning", "m_error"]
    full = results(lines, rows=2, full=True)
    assert list(full.columns)[:4] == ["custom_id", "response", "reasoning", "error"]
    assert full["reasoning"].fillna("-").tolist() == ["because", "-"]
    assert str(full["reasoning"].dtype) == TEXT


def test_a_schema_or_a_frame_may_have_a_column_called_reasoning_of_its_own():
    schema = {"type": "object", "properties": {"reasoning": {"type": "string"}, "latency": {"type": "integer"}}}
    df = pd.DataFrame({"custom_id": ["p"]})
    line = said(0, '{"reasoning": "written", "latency": 3}', reasoning="thought")
    out = results([line], rows=1, df=df, schema=schema, full=True)
    assert out["reasoning"].tolist() == ["written"]
    assert out["reasoning_"].tolist() == ["thought"]
    assert out["latency"].tolist() == [3]
    assert out["latency_"].isna().tolist() == [True]
    assert out["custom_id"].tolist() == ["p"]
    assert out["custom_id_"].tolist() == ["row-0"]


def test_a_full_result_has_the_custom_id_once():
    df = pd.DataFrame({"text": ["a"], "custom_id": ["p"]})
    line = answered("p", {"choices": [{"message": {"content": "x"}}]})
    out = results([line], rows=1, df=df, custom_ids=["p"], custom_id=1, full=True)
    assert [name for name in out.columns if "custom_id" in name] == ["custom_id"]
    out = results([line], rows=1, df=df[["text"]], custom_ids=["p"], output="m", full=True)
    assert out["m_custom_id"].tolist() == ["p"]


def test_completions_and_responses_give_their_text():
    assert only(answered("row-0", {"choices": [{"text": "done"}]}), endpoint=COMPLETIONS)["response"] == "done"
    output = [
        {"type": "reasoning", "content": None},
        {"type": "message", "content": [{"type": "output_text", "text": "a"}, {"type": "output_text", "text": "b"}]},
        {"type": "function_call", "call_id": "c1", "name": "f", "arguments": "{}"},
    ]
    row = only(answered("row-0", {"object": "response", "output": output, "error": None}), endpoint=RESPONSES)
    assert row["response"] == "ab"
    assert row["tool_calls"] == [{"id": "c1", "name": "f", "arguments": {}}]


def test_n_over_one_is_a_list_of_texts_in_the_order_of_the_choices():
    choices = [{"index": 1, "message": {"content": "b"}}, {"index": 0, "message": {"content": "a"}}]
    out = results([answered("row-0", {"choices": choices}), unexecuted(1)], rows=2)
    assert out["response"].dtype == object
    assert out["response"][0] == ["a", "b"]
    assert pd.isna(out["response"][1])


def test_tool_calls_have_a_column_of_their_own():
    call = {"id": "c", "type": "function", "function": {"name": "weather", "arguments": '{"city": "Graz"}'}}
    broken = {"id": "d", "function": {"name": "weather", "arguments": '{"city'}}
    out = results([said(0, None, tool_calls=[call, broken]), said(1, "no need", tool_calls=[])], rows=2)
    assert list(out.columns) == ["custom_id", "response", "tool_calls", "error"]
    assert out["tool_calls"][0] == [
        {"id": "c", "name": "weather", "arguments": {"city": "Graz"}},
        {"id": "d", "name": "weather", "arguments": '{"city'},
    ]
    assert pd.isna(out["tool_calls"][1])
    assert out["response"].fillna("-").tolist() == ["-", "no need"]
    assert out["error"].isna().all()


def test_logprobs_have_a_column_of_their_own():
    logprobs = {"content": [{"token": "a", "logprob": -0.5}]}
    body = {"choices": [{"message": {"content": "a"}, "logprobs": logprobs}]}
    assert only(answered("row-0", body))["logprobs"] == logprobs


def test_columns_that_were_asked_for_are_there_even_if_empty():
    out = results([said(0, "a")], rows=1, output="x", extras=("tool_calls", "logprobs"))
    assert list(out.columns) == ["custom_id", "x", "x_tool_calls", "x_logprobs", "x_error"]
    assert out["x_logprobs"].isna().all()


def test_embeddings_are_vectors_in_floats_or_base64():
    vector = [0.5, -1.25, 3.0]
    coded = base64.b64encode(np.array(vector, dtype="<f4").tobytes()).decode()
    lines = [
        answered("row-0", {"object": "list", "data": [{"embedding": vector}]}),
        answered("row-1", {"data": [{"embedding": coded}]}),
        answered("row-2", {"data": [{"embedding": "AAAA!"}]}),
    ]
    out = results(lines, rows=3, endpoint=EMBEDDINGS)
    assert out["response"].dtype == object
    assert [row.tolist() for row in out["response"][:2]] == [vector, vector]
    assert {row.dtype for row in out["response"][:2]} == {np.dtype("float32")}
    assert out["error"][2].startswith("The embedding cannot be read as base64 of float32")


def test_a_column_of_equal_vectors_stays_one_vector_a_row():
    out = results([answered("row-0", {"data": [{"embedding": [1.0, 2.0]}]})], rows=1, endpoint=EMBEDDINGS)
    assert out["response"][0].shape == (2,)
    assert results([unexecuted(0)], rows=1, endpoint=EMBEDDINGS)["response"].dtype == object


@pytest.mark.parametrize("schema", [Review, Review.model_json_schema()], ids=["pydantic", "JSON schema"])
def test_a_schema_gives_one_typed_column_per_field(schema):
    lines = [
        said(0, '{"good": true, "stars": 5, "score": 1, "why": "ok", "author": {"name": "Ada"}}'),
        said(1, '{"good": false, "stars": null}'),
        unexecuted(2),
    ]
    out = results(lines, rows=3, schema=schema)
    assert {name: str(dtype) for name, dtype in out.drop(columns="custom_id").dtypes.items()} == {
        "good": "boolean",
        "stars": "Int64",
        "score": "Float64",
        "why": TEXT,
        "author": "object",
        "error": TEXT,
    }
    assert out["good"].fillna(False).tolist() == [True, False, False]
    assert out["stars"].isna().tolist() == [False, True, True]
    assert (out["stars"][0], out["score"][0], out["author"][0]) == (5, 1.0, {"name": "Ada"})
    assert out["error"].isna().tolist() == [True, True, False]


@pytest.mark.parametrize(
    ("reason", "cause"),
    [("}", "was ended by '}' of stop. Leave that out."), (92, "was ended by 92 of stop_token_ids. Leave that out.")],
)
def test_an_answer_that_a_stop_text_has_cut_names_it(reason, cause):
    """In vLLM 0.32.0 a stop text is obeyed inside of the JSON that a grammar holds; the choice has its stop_reason."""

    def stopped(content):
        choice = {"message": {"content": content}, "finish_reason": "stop", "stop_reason": reason}
        return answered("row-0", {"choices": [choice]})

    out = results([stopped('{"good": true')], rows=1, schema=Review)
    assert out["error"][0].startswith(f"The answer {cause} It is not JSON (")
    whole = results([stopped('{"good": true, "stars": 1}')], rows=1, schema=Review)
    assert whole["error"].isna().all()


@pytest.mark.parametrize("schema", [Review, Review.model_json_schema()], ids=["pydantic", "JSON schema"])
@pytest.mark.parametrize(
    ("text", "finish_reason", "start", "quoted"),
    [
        ('{"good": tru', "stop", "The answer is not JSON (", "'{\"good\": tru'"),
        (
            '{"good": tru',
            "length",
            f"The answer was cut off. {RAISE} It is not JSON (",
            "'{\"good\": tru'",
        ),
        (
            '{"good": true}\nuser',
            "length",
            "The answer goes on after its JSON, as ignore_eos= has it. Leave that out. It is not JSON (",
            "user",
        ),
        ("[1]", "stop", "The answer is not a JSON object: '[1]'.", "'[1]'"),
        (
            '{"good": [], "stars": 1}',
            "stop",
            "The answer does not fit the schema (good",
            '\'{"good": [], "stars": 1}\'',
        ),
        ('{"stars": 1}', "stop", "The answer does not fit the schema (", "good"),
        ('{"good": NaN}', "stop", "The answer is not JSON (", "NaN"),
        ("x" * 5000, "stop", "The answer is not JSON (", "x" * 200 + "…'"),
        (
            '{"good": true, "stars": 99999999999999999999}',
            "stop",
            "The answer does not fit the schema (stars: 999",
            "Int64",
        ),
        (None, "length", "There is no answer: the model was cut off. ", RAISE),
        (None, "stop", "There is no answer: the model wrote nothing.", ""),
    ],
)
def test_an_answer_that_does_not_fit_is_an_error_of_its_row(schema, text, finish_reason, start, quoted):
    out = results(
        [said(0, text, finish_reason=finish_reason), said(1, '{"good": true, "stars": 2}')], rows=2, schema=schema
    )
    error = out["error"][0]
    assert error.startswith(start)
    assert quoted in error
    assert len(error) < 500
    assert out.drop(columns=["custom_id", "error"]).iloc[0].isna().all()
    assert out["stars"][1] == 2
    assert pd.isna(out["error"][1])


def test_validators_of_a_model_run():
    class Even(pydantic.BaseModel):
        n: int

        @pydantic.field_validator("n")
        @classmethod
        def even(cls, n: int) -> int:
            if n % 2:
                raise ValueError("n is odd")
            return n

    out = results([said(0, '{"n": 3}'), said(1, '{"n": 4}')], rows=2, schema=Even)
    assert out["error"][0] == "The answer does not fit the schema (n: Value error, n is odd): '{\"n\": 3}'."
    assert out["n"].fillna(0).tolist() == [0, 4]


def test_a_date_stays_text_and_must_be_in_the_calendar():
    schema = {"type": "object", "properties": {"day": {"type": "string", "format": "date"}}}
    assert only(said(0, '{"day": "2024-02-29"}'), schema=schema)["day"] == "2024-02-29"
    assert (
        "does not fit the schema (day must be date)" in only(said(0, '{"day": "2023-02-29"}'), schema=schema)["error"]
    )


@pytest.mark.parametrize("seed", range(5))
def test_an_answer_stands_above_an_error_and_the_last_answer_above_the_first(seed):
    retried = [said(0, "first"), unexecuted(1), said(2, "kept"), unexecuted(3, "old")]
    random.Random(seed).shuffle(retried)
    out = results([*retried, said(0, "second"), said(1, "at last"), unexecuted(2), unexecuted(3, "new")], rows=4)
    assert out["response"].fillna("-").tolist() == ["second", "at last", "kept", "-"]
    assert out["error"].fillna("-").tolist() == ["-", "-", "-", "new"]


def test_columns_that_are_there_already_are_named_with_the_way_out():
    df = pd.DataFrame({"response": [1], "x_good": [2]})
    with pytest.raises(FrameError) as caught:
        describe(df, Ask(template=""), CHAT)
    assert caught.value.message == "The DataFrame already has a column 'response'; choose other names with output=."
    with pytest.raises(FrameError, match="already has a column 'x_good'"):
        describe(df, Ask(template="", output="x", schema=Review), CHAT)
    out = results([said(0, '{"good": true, "stars": 1}')], rows=1, df=df, output="y", schema=Review)
    assert list(out.columns) == ["response", "x_good", "y_good", "y_stars", "y_score", "y_why", "y_author", "y_error"]


def test_a_field_that_is_called_error_is_refused():
    schema = {"type": "object", "properties": {"error": {"type": "string"}}}
    for output in ("response", "x"):
        with pytest.raises(FrameError) as caught:
            describe(pd.DataFrame({"a": [1]}), Ask(template="", output=output, schema=schema), CHAT)
        assert caught.value.message == "The schema's field 'error' is also a column of the result; rename it."


def test_lines_of_another_batch_are_refused():
    with pytest.raises(FrameError, match=r"^Line 2 of the output has the custom_id 'row-7', which no row has\."):
        results([said(0, "a"), said(7, "b")], rows=1)
    with pytest.raises(FrameError, match=r"^Line 1 of the output cannot be read: "):
        results([b"{"], rows=1)
    with pytest.raises(FrameError, match=r"made from a DataFrame of 2 rows; this one has 1\.$"):
        results([], rows=2, df=pd.DataFrame({"a": [1]}))
    with pytest.raises(FrameError, match=r"^There are 1 custom_ids for 2 rows\.$"):
        results([], rows=2, custom_ids=["a"])


def test_a_description_survives_the_kernel():
    df = pd.DataFrame({"text": ["a", "b"], "ticket": [1, 2]}, index=["p", "q"])
    body = {"tools": [{}], "logprobs": True}
    made = describe(df, Ask(template="", output="x", schema=Review, custom_id="ticket", body=body), CHAT)
    read = FrameDescription.from_json(made.to_json())
    assert read == made
    assert (read.rows, read.output, read.custom_id, read.extras) == (2, "x", 1, ("tool_calls", "logprobs"))
    assert read.schema == json_schema(Review)
    read.check(df.copy())
    with pytest.raises(FrameError, match="made from another DataFrame: values, index, columns or their order differ"):
        read.check(df.iloc[::-1])
    with pytest.raises(FrameError, match="made from a DataFrame of 2 rows; this one has 1"):
        read.check(df.head(1))


def test_schema_and_n_are_refused_together():
    with pytest.raises(FrameError, match=r"^schema= makes one column per field, so n= must be 1\.$"):
        describe(pd.DataFrame({"a": [1]}), Ask(template="", schema=Review, body={"n": 2}), CHAT)
    assert describe(pd.DataFrame({"a": [1]}), Ask(template="", schema=Review, body={"n": 1}), CHAT).extras == ()


def test_pandas_lets_dollar_signs_be_drawn_as_a_formula_unless_it_is_told_not_to():
    """Pandas 3.1.1; MathJax 3 in JupyterLab leaves out what has the class ``mathjax_ignore``."""
    out = results([said(0, "$5 or $6")], rows=1)
    assert "mathjax_ignore" not in out._repr_html_()
    with pd.option_context("display.html.use_mathjax", False):
        assert 'class="dataframe tex2jax_ignore mathjax_ignore"' in out._repr_html_()
