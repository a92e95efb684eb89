"""The counts in ``usage``: whole numbers, as a client that adds them expects."""

from __future__ import annotations

import json

import pytest

from vbatch_jupyter.protocol.lines import count_all, output_line

OF_VLLM = {
    "prompt_tokens": 36,
    "total_tokens": 40,
    "completion_tokens": 4,
    "prompt_tokens_details": {"cached_tokens": 32, "created_cache_tokens": None, "multimodal_tokens": None},
    "completion_tokens_details": None,
}
COUNTED = {
    "prompt_tokens": 36,
    "total_tokens": 40,
    "completion_tokens": 4,
    "prompt_tokens_details": {"cached_tokens": 32},
    "completion_tokens_details": {"reasoning_tokens": 0},
}


@pytest.mark.parametrize(
    ("usage", "counted"),
    [
        (OF_VLLM, COUNTED),
        (COUNTED, COUNTED),
        ({**OF_VLLM, "prompt_tokens_details": None}, {**COUNTED, "prompt_tokens_details": {"cached_tokens": 0}}),
        (
            {"prompt_tokens": 1, "total_tokens": 3, "completion_tokens": 2},
            {"prompt_tokens": 1, "total_tokens": 3, "completion_tokens": 2}
            | {"completion_tokens_details": {"reasoning_tokens": 0}},
        ),
        ({"input_tokens": 1, "output_tokens": 2}, {"input_tokens": 1, "output_tokens": 2}),
        (
            {"prompt_tokens": 7, "total_tokens": 7, "completion_tokens": 0, "prompt_tokens_details": None},
            {"prompt_tokens": 7, "total_tokens": 7, "completion_tokens": 0},
        ),
        (
            {"prompt_tokens": 7, "prompt_tokens_details": {"multimodal_tokens": {"image": 3, "audio": None}}},
            {"prompt_tokens": 7, "prompt_tokens_details": {"multimodal_tokens": {"image": 3}}},
        ),
        (None, None),
    ],
)
@pytest.mark.parametrize("separators", [(",", ":"), (", ", ": ")])
def test_nulls_in_usage_become_whole_numbers_and_the_rest_stays_byte_for_byte(
    usage: object, counted: object, separators: tuple[str, str]
) -> None:
    """In vLLM 0.32.0 (vllm/entrypoints/serve/engine/protocol.py) details without a reasoning parser are null."""
    text = '{"usage":{"completion_tokens":1,"completion_tokens_details":null}}'
    body = {"choices": [{"message": {"content": text}, "logprobs": None}], "usage": usage, "metrics": None}
    written = json.dumps(body, separators=separators).encode()
    mended = count_all(written)
    assert json.loads(mended) == {**body, "usage": counted}
    begin = written.rindex(b'"usage"')
    assert mended[:begin] == written[:begin]
    assert count_all(b"data: " + written + b"\n\n") == b"data: " + mended + b"\n\n"
    line = output_line(id="i", custom_id="a", status_code=200, request_id="r", body=written)
    assert json.loads(line)["response"]["body"]["usage"] == counted
