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
        (1, "a", "vllm_only", "unknown_parameter", "body.top_k"),
        (3, "b", "refused", "mismatched_model", "body.model"),
        (3, "b", "ignored", "unknown_parameter", "body.nonsense"),
        (4, None, "refused", "invalid_json_line", None),
        (5, "a", "refused", "streaming_unsupported", "body.stream"),
        (5, "a", "refused", "duplicate_custom_id", "custom_id"),
    ]


def test_parasail_takes_mixed_models_and_urls_that_openai_refuses():
    content = line("a") + line("b", url="/v1/embeddings", model="n", input="x", messages=None) + line("c", "/v1/score")
    assert found(content, "openai") == [
        (2, "b", "refused", "invalid_url", "url"),
        (2, "b", "refused", "mismatched_model", "body.model"),
        (2, "b", "vllm_only", "unknown_parameter", "body.messages"),
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
    assert summary.counts == {"refused": 1001, "vllm_only": 20_000, "ignored": 0}
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
    vllm_only, refused, summary = capsys.readouterr().out.splitlines()
    assert vllm_only == (
        "line 1 ('a'): vllm_only: unknown_parameter: Only vLLM knows the key 'top_k'; OpenAI answers such a request "
        "with an error."
    )
    assert refused.startswith("line 2 ('b'): refused: mismatched_model: The model 'n' for this request does not match")
    assert summary == "openai would refuse it: 1 refused, 1 vllm_only."
    assert main(["check", str(path), "--target", "parasail"]) == 0
    assert capsys.readouterr().out.splitlines()[-1] == "parasail would run it: 1 vllm_only."
    assert main(["check", str(tmp_path / "none.jsonl")]) == 1
    assert capsys.readouterr().err == f"{tmp_path / 'none.jsonl'} cannot be read: No such file or directory.\n"
