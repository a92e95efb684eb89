"""What is known before row 1 is said before row 1: nothing is written, and nothing runs."""

from __future__ import annotations

import errno
import json
import os
from typing import Any

import numpy as np
import pandas as pd
import pytest

import vbatch_jupyter as vb
from tests.unit.session_surface import open_session
from vbatch_jupyter.errors import BadRequestError, FrameError, StoreError
from vbatch_jupyter.frames.ask import Ask
from vbatch_jupyter.protocol.endpoints import CHAT
from vbatch_jupyter.records import EngineLimits
from vbatch_jupyter.session.input_file import submit_file

DF = pd.DataFrame({"text": ["a", "b", "c"]})
EMPTY = "a text in it is empty. vLLM would embed only its special tokens, a vector that means nothing."
TOOLS = [{"type": "function", "function": {"name": "f"}}]


@pytest.fixture
def said():
    return []


@pytest.fixture
def session(tmp_path, monkeypatch, said):
    session = open_session(tmp_path, said=said)
    monkeypatch.setattr("vbatch_jupyter.session.session.current", lambda: session)
    yield session
    session.close()


@pytest.mark.parametrize(
    ("body", "sentence"),
    [
        ({"temperature": 5}, "Invalid 'temperature': it must be a number from 0 to 2."),
        ({"temperature": float("nan")}, "temperature has a number that is not finite"),
        ({"temperature": float("inf")}, "temperature has a number that is not finite"),
        ({"temperature": np.float64("nan")}, "temperature has a number that is not finite"),
        ({"logit_bias": {"1": float("inf")}}, "logit_bias has a number that is not finite"),
        ({"max_tokens": "limit"}, "Invalid 'max_tokens': it must be an integer, at least 1."),
        ({"max_tokens": -3}, "Invalid 'max_tokens': it must be an integer, at least 1."),
        (
            {"structured_outputs": {"choice": list(map(str, range(5001)))}},
            "it has 5,001 values of enum and choice, and",
        ),
        ({"n": 3, "temperature": 0}, "Invalid 'n': with temperature 0 all answers would be the same"),
        ({"guided_json": {"type": "object"}}, "Invalid 'guided_json': vLLM removed it .* Use structured_outputs"),
        ({"extra_body": {"top_k": 1}}, "the key 'extra_body' .* Write the keys that are in it into the body itself"),
    ],
)
def test_values_that_no_row_could_be_answered_with_are_an_error_before_anything_is_written(session, body, sentence):
    """NaN and inf were sent as null (msgspec 0.22.0), so that the default applied; vLLM 0.32.0 has the rest."""
    for call in (vb.run, vb.submit, vb.dry_run):
        with pytest.raises(BadRequestError, match=sentence):
            call(DF, "{{ text }}", **body)
    assert (list(session.batches()), session.engine.requests) == ([], 0)


def test_a_character_that_is_no_unicode_in_a_schema_is_an_error_before_anything_is_written(session):
    properties: dict[str, Any]
    for properties in ({"a": {"enum": ["\ud800"]}}, {"a\ud800": {}}, {"a": {"description": "\ud800"}}):
        with pytest.raises(FrameError, match=r"schema= is not a valid JSON schema: .* surrogates not allowed"):
            vb.run(DF, "{{ text }}", schema={"type": "object", "properties": properties})
    assert (list(session.batches()), session.engine.requests) == ([], 0)


def test_a_key_that_the_installed_vllm_is_too_old_for_is_known_to_a_newer_one(session, monkeypatch):
    # The wheel's tests run without vLLM, where no version is too old.
    monkeypatch.setattr("vbatch_jupyter.protocol.keys.installed_vllm", lambda: (0, 32))
    with pytest.raises(BadRequestError, match=r"needs vLLM 0\.33 or newer"):
        vb.run(DF, "{{ text }}", return_weight_versions=True)
    monkeypatch.setattr("vbatch_jupyter.protocol.keys.installed_vllm", lambda: (0, 33))
    assert vb.run(DF, "{{ text }}", return_weight_versions=True)["response"].tolist() == ["a", "b", "c"]


@pytest.mark.parametrize(
    ("asked", "sentence"),
    [
        ({"max_tokens": 65}, "Invalid 'max_tokens': the model takes at most 64 tokens, prompt and answer together."),
        ({"endpoint": "embeddings"}, "this model does not serve /v1/embeddings"),
        ({"tools": TOOLS}, "the engine has no tool parser. Load the model with"),
    ],
)
def test_what_the_loaded_engine_cannot_do_is_an_error_before_anything_is_written(session, asked, sentence):
    session.engine.limits = EngineLimits(max_model_len=64, paths=frozenset({"/v1/chat/completions"}), takes_tools=False)
    with pytest.raises(BadRequestError, match=sentence):
        vb.run(DF, "{{ text }}", **asked)
    assert list(session.batches()) == []


def test_what_only_vllm_refuses_is_sent_to_another_service_and_what_openai_does_not_know_is_not(session):
    requests = session.requests_of
    assert requests(DF, Ask.of("{{ text }}", n=3, temperature=0, model="gpt-6", target="openai")).df is not None
    with pytest.raises(BadRequestError, match="OpenAI does not know 'top_k' and answers each such request"):
        requests(DF, Ask.of("{{ text }}", top_k=3, model="gpt-6", target="openai"))
    assert requests(DF, Ask.of("{{ text }}", top_k=3, model="a/b", target="parasail")).df is not None


def test_keys_that_do_nothing_are_said_once_in_the_cell_and_kept_apart_from_openais_object(session, said):
    out = vb.run(DF, "{{ text }}", functions=[{"name": "f"}])
    assert out["response"].tolist() == ["a", "b", "c"]
    (record,) = session.batches()
    assert said == [f"{record.id}: All 3 requests have a key that is ignored: 'functions': use tools and tool_choice."]
    assert session.manager.batches.notes(record) == [said[0].removeprefix(f"{record.id}: ")]
    assert "functions" not in record.to_openai().to_json()


def test_rows_without_a_text_to_embed_are_rows_with_an_error_and_named_before(session, said):
    """VLLM 0.32.0 embeds an empty text as a vector of length 1; OpenAI refuses it."""
    df = pd.DataFrame({"text": ["a", None, "", "b"]})
    out = vb.run(df, "{{ text }}", endpoint="embeddings")
    assert out["error"].isna().tolist() == [True, False, False, True]
    assert "Invalid 'input': a text in it is empty." in out["error"][1]
    (record,) = session.batches()
    assert said == [
        f"{record.id}: 2 of 4 requests ('row-1', 'row-2') would be answered with an error: Invalid 'input': {EMPTY}"
    ]


def test_a_file_says_how_many_of_its_requests_fail_or_ask_in_vain_before_they_run(session, said, tmp_path):
    path = tmp_path / "in.jsonl"
    bodies: list[dict[str, Any]] = [{"temperature": 5}, {"temprature": 0}, {}, {"guided_choice": ["yes"]}]
    with path.open("w") as file:
        for number, rest in enumerate(bodies):
            body = {"model": "echo", "messages": [{"role": "user", "content": "hi"}], **rest}
            line = {"custom_id": f"r{number}", "method": "POST", "url": "/v1/chat/completions", "body": body}
            file.write(json.dumps(line) + "\n")
    batch = session.follow(submit_file(session, path))
    temperature, guided, unknown = (note.partition(": ")[2] for note in said)
    error = "of 4 requests ('{}') would be answered with an error: Invalid '{}': {}"
    assert temperature == "1 " + error.format("r0", "temperature", "it must be a number from 0 to 2.")
    assert guided.startswith("1 " + error.format("r3", "guided_choice", "vLLM removed it and would answer without"))
    assert unknown == (
        "1 of 4 requests ('r1') has a key that is ignored: Neither OpenAI nor vLLM knows the key 'temprature' for "
        "/v1/chat/completions. Did you mean 'temperature'?"
    )
    # The echo engine takes any temperature; what vLLM removed is refused before every engine.
    assert (batch.request_counts.completed, batch.request_counts.failed) == (3, 1)


def test_a_batch_over_http_answers_an_unknown_key_as_openai_does(session):
    body = {"model": "echo", "messages": [{"role": "user", "content": "hi"}], "temprature": 0}
    line = {"custom_id": "a", "method": "POST", "url": "/v1/chat/completions", "body": body}
    file = session.manager.files.create([json.dumps(line).encode()], filename="in.jsonl", purpose="batch")
    record = session.manager.batches.create(input_file_id=file.id, endpoint="/v1/chat/completions", profile="openai")
    batch = session.attach(record.id).wait(60)
    with session.manager.files.content(batch.to_openai().error_file_id) as content:
        answer = json.loads(content.read())
    assert answer["response"]["status_code"] == 400
    assert answer["response"]["body"]["error"] == {
        "message": "Unknown parameter: 'temprature'.",
        "type": "invalid_request_error",
        "param": "temprature",
        "code": "unknown_parameter",
    }


LONG = "more tokens than the model takes (8) and would be answered with an error"


def written(folder, bodies):
    path = folder / "in.jsonl"
    with path.open("w") as file:
        for number, rest in enumerate(bodies):
            line = {"custom_id": f"r{number}", "method": "POST", "url": CHAT.path, "body": {"model": "echo", **rest}}
            file.write(json.dumps(line) + "\n")
    return path


def chat(content: str, **rest: Any) -> dict[str, Any]:
    return {"messages": [{"role": "user", "content": content}], **rest}


@pytest.mark.parametrize("call", [vb.run, vb.submit])
def test_rows_that_are_too_long_are_counted_and_named_before_the_first_is_asked(session, said, call):
    session.engine.limits = EngineLimits(max_model_len=8)
    create, before = session.manager.batches.create, []

    def created(**fields):
        before.extend(said)
        return create(**fields)

    session.manager.batches.create = created
    call(pd.DataFrame({"text": ["a", "b " * 8, "c " * 9, "d " * 7, *["e " * 20] * 3]}), "{{ text }}")
    assert before == said == [f"5 requests have {LONG}: 'row-1', 'row-2', 'row-4', …"]


def test_a_file_says_which_requests_the_loaded_engine_cannot_answer_before_the_first_is_asked(session, said, tmp_path):
    session.engine.limits = EngineLimits(max_model_len=8, takes_tools=False)
    bodies = [chat("a"), chat("b", max_tokens=9), chat("c " * 9), chat("d", tools=TOOLS), chat("e", max_tokens=8)]
    submit_file(session, written(tmp_path, bodies))
    tokens, tools, long = said
    assert tools.startswith(
        "1 of 5 requests ('r3') would be answered with an error: Invalid 'tools': the engine has no"
    )
    assert tokens == (
        "1 of 5 requests ('r1') would be answered with an error: Invalid 'max_tokens': the model takes at most 8 "
        "tokens, prompt and answer together."
    )
    assert long == f"1 request has {LONG}: 'r2'"


def test_what_the_store_cannot_write_is_no_fault_of_the_file_that_is_sent(session, tmp_path, monkeypatch):
    path = written(tmp_path, [chat("a")])
    with pytest.raises(BadRequestError, match=r"The file .*none.jsonl cannot be read: No such file or directory."):
        submit_file(session, tmp_path / "none.jsonl")

    def write(descriptor, data):
        raise OSError(errno.EIO, "Input/output error")

    monkeypatch.setattr(os, "write", write)
    with pytest.raises(StoreError, match="Input/output error"):
        submit_file(session, path)


def test_only_rows_that_may_be_too_long_are_counted_and_of_very_many_the_longest(session, said):
    count, counted = session.engine.tokenize, []

    async def tokenize(body):
        counted.append(body)
        return await count(body)

    session.engine.tokenize = tokenize
    session.engine.limits = EngineLimits(max_model_len=1_000)
    df = pd.DataFrame({"text": ["a " * 300] * 400})
    vb.submit(df, "{{ text }}")
    assert (counted, said) == ([], [])
    # They have more bytes than the model takes tokens, and 300 tokens: so far from the limit that 32 are enough.
    vb.submit(df, "{{ text }}" + "." * 600)
    assert (len(counted), said) == (32, [])
    vb.submit(df, "{{ text }}" + "a " * 701)
    assert len(counted) == 32 + 256
    # A line with a longer name is longer.
    long = f"{LONG.replace('8', '1,000')}: 'row-100', 'row-101', 'row-102', …"
    assert said == [f"At least 256 requests have {long}"]


def test_a_batch_that_is_not_waited_for_says_its_notes_in_the_same_cell(session, said, tmp_path, monkeypatch):
    monkeypatch.setattr("vbatch_jupyter.session.session._NOTES_SECONDS", 3600)
    batch = vb.submit(DF, "{{ text }}", functions=[{"name": "f"}])
    note = "have a key that is ignored: 'functions': use tools and tool_choice."
    assert said == [f"{batch.id}: All 3 requests {note}"]
    of_file = submit_file(session, written(tmp_path, [chat("a", functions=[{"name": "f"}])] * 2))
    assert said[1:] == [f"{of_file.id}: All 2 requests {note}"]
    session.follow(of_file)
    assert len(said) == 2
