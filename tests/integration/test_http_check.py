"""``/vbatch/check``: what a service would make of a file in the store, or in the body."""

from __future__ import annotations

import json

import pytest

from tests.servers import assert_envelope
from vbatch_jupyter.protocol.endpoints import ENDPOINTS

GOOD = {
    "custom_id": "a",
    "method": "POST",
    "url": "/v1/chat/completions",
    "body": {"model": "m", "messages": [{"role": "user", "content": "hi"}], "top_k": 3},
}
OTHER = {**GOOD, "custom_id": "b", "body": {**GOOD["body"], "model": "n", "nonsense": 1}}  # type: ignore[dict-item]
LINES = "\n".join(map(json.dumps, (GOOD, OTHER))).encode()


@pytest.mark.parametrize("way", ["file_id", "body"])
def test_the_findings_of_a_file_of_the_store_and_of_a_body_are_the_same(server, way):
    with server.http() as http:
        for target, would_run, found in (
            (
                "openai",
                False,
                [("a", "error"), ("b", "refused"), ("b", "error"), ("b", "error")],
            ),
            ("parasail", True, [("a", "vllm_only"), ("b", "vllm_only"), ("b", "ignored")]),
        ):
            if way == "file_id":
                file = server.client().files.create(file=("in.jsonl", LINES), purpose="batch")
                response = http.post("vbatch/check", json={"file_id": file.id, "target": target})
            else:
                headers = {"Content-Type": "application/x-ndjson"}
                response = http.post("vbatch/check", params={"target": target}, content=LINES, headers=headers)
            assert response.status_code == 200, response.text
            report = response.json()
            assert [(each["custom_id"], each["severity"]) for each in report["findings"]] == found
            assert (report["object"], report["target"], report["would_run"]) == ("vbatch.check", target, would_run)
            assert sum(report["counts"].values()) == len(found)
            assert (report["endpoint"], report["endpoints"][:4]) == ("/v1/chat/completions", list(ENDPOINTS))
            assert ("/v1/score" in report["endpoints"]) == (target == "parasail")
            assert report["left_out"] == 0
            assert report["findings"][-1:] == [
                {
                    "severity": found[-1][1],
                    "code": "unknown_parameter",
                    "message": report["findings"][-1]["message"],
                    "param": "body.nonsense",
                    "line": 2,
                    "custom_id": "b",
                }
            ]


def test_a_long_answer_is_cut_and_says_so(server):
    lines = b"\n".join(json.dumps({**GOOD, "custom_id": f"r{number}"}).encode() for number in range(1500))
    with server.http() as http:
        report = http.post("vbatch/check", content=lines, headers={"Content-Type": "application/jsonl"}).json()
    assert (len(report["findings"]), report["left_out"], report["counts"]["error"]) == (1000, 500, 1500)
    assert report["summary"] == "openai takes the file; 1,500 lines would be answered with errors: 1,500 error."


def test_mistakes_have_openais_envelope(server):
    with server.http() as http:
        unknown = http.post("vbatch/check", json={"file_id": "file-" + "0" * 22})
        assert "No such File object" in assert_envelope(unknown, 404, param="id")
        target = http.post("vbatch/check", json={"file_id": "file-" + "0" * 22, "target": "none"})
        assert_envelope(target, 400, param="target", code="invalid_value")
        assert_envelope(http.post("vbatch/check", json={}), 400, code="invalid_type")
        assert_envelope(http.get("vbatch/check"), 405)
    with server.http(headers={"Authorization": "Bearer wrong"}) as http:
        assert_envelope(http.post("vbatch/check", content=LINES), 401, code="invalid_api_key")
