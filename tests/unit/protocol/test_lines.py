from __future__ import annotations

import json

import pytest
from hypothesis import given
from hypothesis import strategies as st

from vbatch_jupyter.errors import BadRequestError, EngineError
from vbatch_jupyter.protocol.batch import Usage
from vbatch_jupyter.protocol.lines import (
    decode_response,
    encode_request_line,
    error_body,
    output_line,
    parse_output_line,
    parse_request_line,
    unexecuted_line,
)
from vbatch_jupyter.protocol.reading import usage_of

# Every Unicode text that UTF-8 can carry, the line breaks of `str.splitlines` made likely.
TEXT = st.text(st.one_of(st.characters(exclude_categories=["Cs"]), st.sampled_from("\n\r\x0b\x0c\x1c\x85\u2028\u2029")))
JSON = st.recursive(
    st.one_of(st.none(), st.booleans(), st.integers(-(2**63), 2**63), TEXT),
    lambda inner: st.one_of(st.lists(inner, max_size=4), st.dictionaries(TEXT, inner, max_size=4)),
    max_leaves=12,
)
BODIES = st.dictionaries(TEXT, JSON, max_size=4)


@given(custom_id=TEXT, body=BODIES)
def test_a_request_line_gives_back_what_was_put_in_and_is_one_line(custom_id, body):
    line = encode_request_line(custom_id, "/v1/chat/completions", body)

    assert line.decode().splitlines() == [line.decode()]
    parsed = parse_request_line(line)
    assert (parsed.custom_id, parsed.method, parsed.url) == (custom_id, "POST", "/v1/chat/completions")
    assert json.loads(bytes(parsed.body)) == body


@given(custom_id=TEXT, body=BODIES, indent=st.sampled_from([None, 2]), ascii_only=st.booleans())
def test_an_output_line_gives_back_what_was_put_in_and_is_one_line(custom_id, body, indent, ascii_only):
    answer = json.dumps(body, indent=indent, ensure_ascii=ascii_only).encode()

    line = output_line(id="batch_req_0", custom_id=custom_id, status_code=200, request_id="req_1", body=answer)

    assert line.decode().splitlines() == [line.decode()]
    assert json.loads(line) == {
        "id": "batch_req_0",
        "custom_id": custom_id,
        "response": {"status_code": 200, "request_id": "req_1", "body": body},
        "error": None,
    }
    parsed = parse_output_line(line + b"\n")
    assert (parsed.id, parsed.custom_id, parsed.error) == ("batch_req_0", custom_id, None)
    assert parsed.response is not None
    assert json.loads(bytes(parsed.response.body)) == body


@given(custom_id=TEXT, message=TEXT)
def test_a_line_that_never_ran_has_no_response_and_is_one_line(custom_id, message):
    line = unexecuted_line(id="batch_req_0", custom_id=custom_id, code="batch_expired", message=message)

    assert line.decode().splitlines() == [line.decode()]
    assert json.loads(line) == {
        "id": "batch_req_0",
        "custom_id": custom_id,
        "response": None,
        "error": {"code": "batch_expired", "message": message},
    }
    parsed = parse_output_line(line)
    assert parsed.response is None
    assert parsed.code == "batch_expired"
    assert parsed.reason == (message if message.strip() else "batch_expired")


def test_a_body_given_as_json_is_kept_digit_for_digit():
    line = encode_request_line("a", "/v1/completions", b'{"temperature": 0.10,\n "seed": 12345678901234567890123}')

    assert bytes(parse_request_line(line).body) == b'{"temperature":0.10,"seed":12345678901234567890123}'


def test_an_http_error_is_a_response_and_not_an_error():
    body = error_body("Too long.", param="messages", code="context_length_exceeded")

    line = json.loads(output_line(id="i", custom_id="a", status_code=400, request_id="r", body=body))

    assert line["error"] is None
    assert line["response"]["status_code"] == 400
    assert line["response"]["body"] == {
        "error": {
            "message": "Too long.",
            "type": "invalid_request_error",
            "param": "messages",
            "code": "context_length_exceeded",
        }
    }


def test_an_error_body_has_all_four_keys_when_only_a_message_is_given():
    assert json.loads(error_body("No.", type="server_error")) == {
        "error": {"message": "No.", "type": "server_error", "param": None, "code": None}
    }


@pytest.mark.parametrize(
    "body", [b"<html>502 Bad Gateway</html>", b"", b'{"x": NaN}', b'{"x": "\xff"}', b"[" * 100_000]
)
def test_an_answer_that_is_not_json_is_refused_with_its_beginning(body):
    with pytest.raises(EngineError) as caught:
        decode_response("row-3", 502, body)

    assert str(caught.value).startswith("The answer to request 'row-3' (status 502) is not JSON: ")
    assert repr(body[:200].decode(errors="replace")) in str(caught.value)


def test_text_with_a_lone_surrogate_cannot_be_written_and_the_request_is_named():
    with pytest.raises(BadRequestError, match=r"The request 'row-7' cannot .*surrogates not allowed"):
        encode_request_line("row-7", "/v1/completions", {"prompt": "a\ud800"})


def test_a_value_that_is_not_json_cannot_be_written_and_the_request_is_named():
    with pytest.raises(BadRequestError, match=r"The request 'row-7' cannot be written as JSON: .*object"):
        encode_request_line("row-7", "/v1/completions", {"prompt": object()})


@pytest.mark.parametrize(
    ("line", "why"),
    [
        (b'{"custom_id": "a"', "truncated"),
        (b'{"custom_id": 3, "method": "POST", "url": "/", "body": {}}', "Expected `str`, got `int`"),
        (b'{"custom_id": "a", "method": "POST", "url": "/"}', "missing required field `body`"),
        (b'{"body": ' + b"[" * 100_000, "recursion"),
    ],
)
def test_what_is_not_a_request_line_is_refused_with_the_reason(line, why):
    with pytest.raises(BadRequestError, match="This line is not a request: ") as caught:
        parse_request_line(line)

    assert why in str(caught.value)
    assert caught.value.code == "invalid_json_line"


def test_of_a_key_that_stands_twice_in_a_request_the_last_one_counts_whatever_the_first_one_is():
    first, last = b'"custom_id": 7, "url": [], "body": 1', b'"method": "POST", "url": "/", "custom_id": "a", "body": 2'

    line = parse_request_line(b"{%b, %b}" % (first, last))

    assert (line.custom_id, line.method, line.url, bytes(line.body)) == ("a", "POST", "/", b"2")


def test_an_output_line_of_another_service_needs_nothing_but_a_custom_id():
    line = parse_output_line(b'{"response": {"body": {"a": 1}, "status_code": 200}, "custom_id": "a"}')

    assert (line.custom_id, line.id, line.error) == ("a", None, None)
    assert line.response is not None
    assert (line.response.status_code, line.response.request_id) == (200, None)


def test_what_is_not_an_output_line_is_refused():
    with pytest.raises(BadRequestError, match=r"This line is not a line of an output file: .*custom_id"):
        parse_output_line(b'{"response": null}')


@pytest.mark.parametrize(
    ("usage", "expected"),
    [
        (
            {
                "prompt_tokens": 10,
                "completion_tokens": 7,
                "total_tokens": 17,
                "prompt_tokens_details": {"cached_tokens": 4},
                "completion_tokens_details": {"reasoning_tokens": 3},
            },
            Usage(10, 4, 7, 3),
        ),
        ({"prompt_tokens": 10, "completion_tokens": 7, "prompt_tokens_details": None}, Usage(10, 0, 7, 0)),
        ({"prompt_tokens": 10, "total_tokens": 10}, Usage(10, 0, 0, 0)),
        (
            {
                "input_tokens": 10,
                "output_tokens": 7,
                "input_tokens_details": {"cached_tokens": 4, "cache_write_tokens": 0},
                "output_tokens_details": {"reasoning_tokens": 3},
            },
            Usage(10, 4, 7, 3),
        ),
        (None, Usage()),
        ("many", Usage()),
    ],
    ids=["chat", "completions", "embeddings", "responses", "none", "another shape"],
)
def test_usage_is_read_from_every_endpoint(usage, expected):
    body = json.dumps({"choices": [{"text": "usage"}], "usage": usage}).encode()

    assert usage_of(output_line(id="i", custom_id="a", status_code=200, request_id="r", body=body)) == expected


def test_a_line_that_never_ran_used_nothing():
    assert usage_of(unexecuted_line(id="i", custom_id="a", code="batch_expired", message="m")) == Usage()
