"""What a service would make of a file, and the command line that says so."""

from __future__ import annotations

import collections
import io
import json
import tracemalloc
from pathlib import Path
from typing import TYPE_CHECKING

from vbatch_jupyter.cli import main
from vbatch_jupyter.protocol.check import Finding, Summary, check
from vbatch_jupyter.protocol.profiles import PROFILES
from vbatch_jupyter.protocol.validation import validate

if TYPE_CHECKING:
    import pytest

CHAT = "/v1/chat/completions"


def line(custom_id: str, url: str = CHAT, **body) -> bytes:
    body = {"model": "m", "messages": [{"role": "user", "content": "hi"}], **body}
    return json.dumps({"custom_id": custom_id, "method": "POST", "url": url, "body": body}).encode() + b"\n"


def found(content: bytes, profile: str) -> list[tuple[int | None, str | None, str, str, str | None]]:
    return [
        (finding.line, finding.custom_id, finding.severity, finding.code, finding.param)
        for finding in check(io.BytesIO(content), PROFILES[profile])
    ]


def test_findings_come_line_by_line_with_their_kind_custom_id_and_param():
    content = b"".join(
        (line("a", top_k=1), b"\n", line("b", model="n", nonsense=1), b"no JSON\n", line("a", stream=True))
    )
    assert found(content, "openai") == [
        (1, "a", "error", "unknown_parameter", "body.top_k"),
        (3, "b", "refused", "mismatched_model", "body.model"),
        (3, "b", "error", "unknown_parameter", "body.nonsense"),
        (4, None, "refused", "invalid_json_line", None),
        (5, "a", "refused", "streaming_unsupported", "body.stream"),
        (5, "a", "refused", "duplicate_custom_id", "custom_id"),
    ]


def test_parasail_takes_mixed_models_and_urls_that_openai_refuses():
    content = line("a") + line("b", url="/v1/embeddings", model="n", input="x", messages=None) + line("c", "/v1/score")
    assert found(content, "openai") == [
        (2, "b", "refused", "invalid_url", "url"),
        (2, "b", "refused", "mismatched_model", "body.model"),
        (2, "b", "error", "unknown_parameter", "body.messages"),
        (3, "c", "refused", "invalid_url", "url"),
    ]
    assert found(content, "parasail") == [(2, "b", "vllm_only", "unknown_parameter", "body.messages")]


def test_what_concerns_the_whole_file_comes_first():
    assert found(b"\n", "openai") == [(None, None, "refused", "empty_file", None)]
    content = b"".join(line(f"row-{number}") for number in range(50_001))
    assert found(content, "openai") == [(None, None, "refused", "too_many_tasks", None)]
    assert found(content, "local") == []


def test_an_embeddings_file_is_judged_by_its_own_endpoint_unless_another_is_named():
    content = line("a", "/v1/embeddings", input="x", messages=None).replace(b', "messages": null', b"")
    assert found(content, "openai") == []
    findings = list(check(io.BytesIO(content), PROFILES["openai"], endpoint=CHAT))
    assert [(finding.code, finding.line) for finding in findings] == [("invalid_url", 1)]


def test_memory_stays_small_however_many_findings_there_are():
    content = io.BytesIO(b"".join(line(f"row-{number}", top_k=1, stream=True) for number in range(20_000)))
    tracemalloc.start()
    summary = Summary("parasail")
    (last,) = collections.deque(summary.counted(check(content, PROFILES["parasail"])), maxlen=1)
    peak = tracemalloc.get_traced_memory()[1]
    tracemalloc.stop()
    assert summary.counts == {"refused": 1001, "error": 0, "vllm_only": 20_000, "ignored": 0}
    assert last.message == "19,000 more errors were found; only the first 1,000 are listed."
    assert peak < 8 * 1024 * 1024


def test_a_finding_says_where_and_what():
    finding = Finding("refused", "invalid_url", "Wrong.", "url", 3, "a" * 100)
    assert str(finding) == f"line 3 ('{'a' * 64}…'): refused: invalid_url: Wrong."


def test_the_command_line_prints_findings_and_a_summary_and_its_status_says_whether_it_would_run(
    tmp_path: Path, capsys: pytest.CaptureFixture[str]
):
    path = tmp_path / "in.jsonl"
    path.write_bytes(line("a", top_k=1) + line("b", model="n"))
    assert main(["check", str(path), "--target", "openai"]) == 1
    error, refused, summary = capsys.readouterr().out.splitlines()
    assert error == (
        "line 1 ('a'): error: unknown_parameter: Unknown parameter: 'top_k'. Only vLLM knows the key 'top_k'."
    )
    assert refused.startswith("line 2 ('b'): refused: mismatched_model: The model 'n' for this request does not match")
    assert summary == "openai would refuse it: 1 refused, 1 error."
    assert main(["check", str(path), "--target", "parasail"]) == 0
    assert capsys.readouterr().out.splitlines()[-1] == "parasail takes the file: 1 vllm_only."
    assert main(["check", str(tmp_path / "none.jsonl")]) == 1
    assert capsys.readouterr().err == f"{tmp_path / 'none.jsonl'} cannot be read: No such file or directory.\n"


def test_values_are_checked_as_well_as_keys_and_the_sum_says_how_many_lines_would_fail():
    content = b"".join(
        (
            line("a", temperature="hot"),
            line("b", messages=[{"role": "user", "content": None}]),
            line("c", max_tokens=-3, n=0),
            line("d"),
        )
    )
    for profile in ("openai", "parasail", "local"):
        summary = Summary(profile)
        findings = list(summary.counted(check(io.BytesIO(content), PROFILES[profile])))
        assert [(finding.custom_id, finding.severity, finding.param) for finding in findings] == [
            ("a", "error", "body.temperature"),
            ("b", "error", "body.messages"),
            ("c", "error", "body.max_tokens"),
            ("c", "error", "body.n"),
        ]
        assert str(summary) == f"{profile} takes the file; 3 lines would be answered with errors: 4 error."


def test_what_the_policy_refuses_is_an_error_here_and_no_finding_at_openai():
    content = line("a", priority=1) + line("b", chat_template="x") + line("c", guided_json={})
    content += line("d", n=2, temperature=0)
    assert [finding[1:] for finding in found(content, "local")] == [
        ("a", "error", "invalid_value", "body.priority"),
        ("b", "error", "invalid_value", "body.chat_template"),
        ("c", "error", "invalid_value", "body.guided_json"),
        ("d", "error", "invalid_value", "body.n"),
    ]
    assert found(line("d", n=2, temperature=0), "openai") == []


def test_a_key_that_nobody_knows_is_ignored_here_and_an_error_at_openai():
    content = line("a", temprature=0) + line("b", functions=[{"name": "f"}]) + line("c", top_k=3)
    assert [finding[1:3] for finding in found(content, "local")] == [("a", "ignored"), ("b", "ignored")]
    assert [finding[1:3] for finding in found(content, "openai")] == [("a", "error"), ("c", "error")]
    assert [finding[1:3] for finding in found(content, "parasail")] == [("a", "ignored"), ("c", "vllm_only")]
    first, *_ = check(io.BytesIO(content), PROFILES["openai"])
    assert first.message.startswith("Unknown parameter: 'temprature'. Neither OpenAI nor vLLM knows")
    # A batch that is made on this server with OpenAI's limits is answered by an engine, and unknown keys as at OpenAI.
    here = PROFILES["openai"].answered_here()
    severities = [(finding.custom_id, finding.severity) for finding in check(io.BytesIO(content), here)]
    assert severities == [("a", "error"), ("b", "ignored")]


def test_models_that_a_service_cannot_have_are_refused():
    assert found(line("a", model="demo"), "parasail") == [(1, "a", "refused", "model_not_found", "body.model")]
    assert found(line("a", model="demo"), "openai") == [(1, "a", "refused", "model_not_found", "body.model")]
    assert found(line("a", model="meta-llama/Llama-3"), "openai") == [
        (1, "a", "refused", "model_not_found", "body.model")
    ]
    assert found(line("a", model="meta-llama/Llama-3"), "parasail") == []
    assert found(line("a", model="gpt-6-luna"), "openai") == []


def test_all_eight_of_openais_endpoints_are_known_with_their_inputs_and_keys():
    """Openai 3.57.0, types/batch_create_params.py and the types of the bodies."""
    for url, body in (
        ("/v1/moderations", {"input": "x"}),
        ("/v1/images/generations", {"prompt": "x", "background": "transparent"}),
        ("/v1/images/edits", {"prompt": "x", "images": []}),
        ("/v1/videos", {"prompt": "x", "seconds": "4"}),
    ):
        line = {"custom_id": "a", "method": "POST", "url": url}
        content = json.dumps({**line, "body": body}).encode()
        assert found(content, "openai") == []
        (empty,) = found(json.dumps({**line, "body": {"model": "m"}}).encode(), "openai")
        assert empty[2:4] == ("refused", "invalid_request")
        # An engine here answers none of them.
        assert found(content, "local")[0][3] == "invalid_url"
    request = {"custom_id": "a", "method": "POST", "url": "/v1/moderations", "body": {"input": "x", "inputs": "y"}}
    content = json.dumps(request).encode()
    assert found(content, "openai") == [(1, "a", "error", "unknown_parameter", "body.inputs")]


def test_an_empty_text_to_embed_is_an_error_here_and_at_openai():
    content = line("a", "/v1/embeddings", input="", messages=None).replace(b', "messages": null', b"")
    for profile in ("openai", "local"):
        assert found(content, profile) == [(1, "a", "error", "invalid_value", "body.input")]


def test_a_file_that_is_one_json_document_says_so_once():
    requests = [json.loads(line("a")), json.loads(line("b"))]
    array = "The file is one JSON array. Write each of its elements on a line of its own."
    returns = "The file's lines end with a carriage return alone. End them with a line feed."
    document = "The file is one JSON document over several lines. Write each request on one line."
    for content, hint in (
        (json.dumps(requests), array),
        (json.dumps(requests, indent=2), array),
        (json.dumps(requests[0], indent=2), document),
        (
            "\r".join(map(json.dumps, requests)),
            returns,
        ),
    ):
        (finding,) = check(io.BytesIO(content.encode()), PROFILES["openai"])
        assert finding.message == f"This line is not parseable as valid JSON. {hint}"
        assert (finding.severity, finding.code, finding.line) == ("refused", "invalid_json_line", 1)


def test_a_key_of_the_body_that_is_next_to_it_is_found_and_a_key_of_ones_own_is_not():
    request = json.loads(line("a")) | {"temperature": 0, "note": "mine"}
    content = json.dumps(request).encode()
    for profile in PROFILES:
        assert found(content, profile) == [(1, "a", "ignored", "unknown_parameter", "temperature")]
    (note,) = validate(io.BytesIO(content), endpoint="/v1/chat/completions", profile=PROFILES["local"]).notes
    assert note == (
        "The request has a key that is ignored: 'temperature' is next to the body, where nobody reads it. "
        "Put it into the body."
    )


def test_what_a_grammar_does_not_hold_of_a_schema_is_said():
    tags = {"type": "object", "properties": {"tags": {"type": "array", "uniqueItems": True}}}
    for more in (
        {"response_format": {"type": "json_schema", "json_schema": {"name": "s", "schema": tags}}},
        {"structured_outputs": {"json": tags}},
        {"tools": [{"type": "function", "function": {"name": "f", "parameters": tags}}], "tool_choice": "required"},
    ):
        (finding,) = check(io.BytesIO(line("a", **more)), PROFILES["local"])
        assert (finding.severity, finding.param) == ("ignored", f"body.{next(iter(more))}")
        assert finding.message == (
            "No answer is held to all of the schema, and a server may refuse it: tags: uniqueItems."
        )
    named = {"name": "s", "schema": tags, "strict": True}
    strict = line("a", response_format={"type": "json_schema", "json_schema": named})
    (finding,) = check(io.BytesIO(strict), PROFILES["openai"])
    assert (finding.severity, finding.param) == ("error", "body.response_format")
    assert finding.message == "Invalid 'response_format': OpenAI refuses a strict schema with tags: uniqueItems."
    held = {"type": "object", "properties": {"tags": {"type": "array"}}, "additionalProperties": False}
    format_of_it = {"type": "json_schema", "json_schema": {"name": "s", "schema": held}}
    assert found(line("a", response_format=format_of_it), "local") == []
