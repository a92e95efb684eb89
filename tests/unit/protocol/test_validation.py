from __future__ import annotations

import dataclasses
import gzip
import io
import json
import zipfile
from collections.abc import Sequence

import pytest
from hypothesis import given
from hypothesis import strategies as st

from vbatch_jupyter.protocol.batch import BatchError
from vbatch_jupyter.protocol.index import UNLIMITED, LineIndex
from vbatch_jupyter.protocol.lines import encode_request_line, parse_request_line
from vbatch_jupyter.protocol.profiles import PROFILES
from vbatch_jupyter.protocol.validation import MAX_ERRORS, Validation, duplicates, missing_input_file, validate

CHAT = "/v1/chat/completions"
MESSAGES = [{"role": "user", "content": "Hi."}]
NOT_JSON = "This line is not parseable as valid JSON."
SURROGATE = f"{NOT_JSON} It has a lone surrogate, which is not valid in UTF-8."
TOO_DEEP = f"{NOT_JSON} It nests more than 200 levels deep."
OUT_OF_RANGE = f"{NOT_JSON} It has a number that is out of range."


def request(name: str = "a", **body: object) -> dict[str, object]:
    """Make a chat request that validates; a key given as None is left out of its body."""
    whole = {"model": "m", "messages": MESSAGES, **body}
    kept = {key: value for key, value in whole.items() if value is not None}
    return {"custom_id": name, "method": "POST", "url": CHAT, "body": kept}


def line(name: str = "a", **body: object) -> bytes:
    return json.dumps(request(name, **body)).encode()


def check(data: bytes, *, endpoint: str = CHAT, profile: str = "openai", **limits: int) -> Validation:
    changed = dataclasses.replace(PROFILES[profile], **limits)  # type: ignore[arg-type]
    return validate(io.BytesIO(data), endpoint=endpoint, profile=changed)


def raw(value: bytes) -> bytes:
    """Make a request whose body has one more key, with a value that json.dumps would not write."""
    return line("bad")[:-2] + b', "user": ' + value + b"}}"


# --- What passes ------------------------------------------------------------------------------------------------------


def test_a_good_file_has_no_errors_and_its_index_finds_every_request():
    lines = [line(f"row-{i}", temperature=0) for i in range(5)]
    data = b"\n".join(lines) + b"\n"

    validation = check(data)

    assert validation.errors == ()
    assert validation.model == "m"
    assert not validation.stopped
    index = validation.index
    found = [data[offset : offset + length] for offset, length in zip(index.offsets, index.lengths, strict=True)]
    assert found == lines
    assert list(index.numbers) == [1, 2, 3, 4, 5]


@pytest.mark.parametrize("end", [b"\n", b"\r\n", b" \t\r\n"])
@pytest.mark.parametrize("mark", [b"", b"\xef\xbb\xbf"])
@pytest.mark.parametrize("last", [b"", b"\n", b"\n\n \n"])
def test_byte_order_marks_line_ends_and_blank_lines_are_part_of_no_request(mark, end, last):
    lines = [line("a"), line("b"), line("c")]
    data = mark + lines[0] + end + b"  \t" + end + end + lines[1] + end + lines[2] + last

    validation = check(data)

    assert validation.errors == ()
    index = validation.index
    found = [data[offset : offset + length] for offset, length in zip(index.offsets, index.lengths, strict=True)]
    assert found == lines
    assert list(index.numbers) == [1, 4, 5]


def test_unicode_line_breaks_and_escapes_do_not_end_a_line():
    text = "a\u2028b\u2029c\x85d\x0be\x0cf\x1cg\r\nh\U0001f600"
    lines = [
        json.dumps(request(f"row-{ascii_only}", messages=[{"role": "user", "content": text}]), ensure_ascii=ascii_only)
        for ascii_only in (True, False)
    ]

    validation = check("\n".join(lines).encode())

    assert validation.errors == ()
    assert list(validation.index.numbers) == [1, 2]


def test_the_last_of_two_equal_keys_counts():
    data = b'{"custom_id": 7, "method": "POST", "url": "/v1/x", "body": {}, ' + line("kept")[1:]

    validation = check(data)

    assert validation.errors == ()
    index = validation.index
    assert parse_request_line(data[index.offsets[0] : index.offsets[0] + index.lengths[0]]).custom_id == "kept"


@pytest.mark.parametrize("stream", [False, None])
def test_a_stream_that_is_off_is_no_error(stream):
    data = json.dumps({**request(), "body": {"model": "m", "messages": MESSAGES, "stream": stream}}).encode()

    assert check(data).errors == ()


@given(st.lists(st.text(min_size=1, max_size=20), unique=True, min_size=1), st.text())
def test_any_lines_that_are_written_here_pass_here(custom_ids, text):
    data = b"\n".join(
        encode_request_line(name, "/v1/completions", {"model": "m", "prompt": text}) for name in custom_ids
    )

    validation = check(data, endpoint="/v1/completions")

    assert validation.errors == ()
    assert len(validation.index) == len(custom_ids)
    assert len(set(validation.index.request_hashes)) == 1


# --- Every row of OpenAI's table --------------------------------------------------------------------------------------


def test_a_line_that_is_not_json():
    assert check(line("a") + b"\nnot json\n" + line("b")).errors == (
        BatchError("invalid_json_line", NOT_JSON, None, 2),
    )


@pytest.mark.parametrize("key", ["custom_id", "method", "url", "body"])
@pytest.mark.parametrize("absent", [True, False])
def test_a_required_key_that_is_absent_or_null(key, absent):
    bad = request()
    if absent:
        del bad[key]
    else:
        bad[key] = None

    assert check(line("b") + b"\n" + json.dumps(bad).encode()).errors == (
        BatchError("missing_required_parameter", f"Missing required parameter: '{key}'.", key, 2),
    )


@pytest.mark.parametrize("model", [None, ""])
def test_a_request_without_a_model(model):
    assert check(line(model=model)).errors == (
        BatchError("invalid_request", "Model parameter is required.", "body.model", 1),
    )


@pytest.mark.parametrize(
    ("endpoint", "key"),
    [(CHAT, "messages"), ("/v1/completions", "prompt"), ("/v1/embeddings", "input"), ("/v1/responses", "input")],
)
def test_a_request_without_what_its_endpoint_works_on(endpoint, key):
    data = json.dumps({"custom_id": "a", "method": "POST", "url": endpoint, "body": {"model": "m"}}).encode()

    assert check(data, endpoint=endpoint).errors == (
        BatchError("invalid_request", f"{key.capitalize()} parameter is required.", f"body.{key}", 1),
    )


@pytest.mark.parametrize(
    "url",
    [
        "/v1/embeddings",
        "/v1/chat/completions/",
        "http://127.0.0.1/v1/chat/completions",
        "/v1/../invocations",
        "v1/chat/completions",
        "/V1/chat/completions",
        "",
    ],
)
def test_a_url_that_is_not_exactly_the_batchs_endpoint(url):
    data = json.dumps({**request(), "url": url, "body": {"model": "m", "messages": MESSAGES, "input": "a"}}).encode()

    assert check(data).errors == (
        BatchError("invalid_url", "The URL provided for this request does not match the batch endpoint.", "url", 1),
    )


@pytest.mark.parametrize(
    ("endpoint", "title"),
    [
        (CHAT, "Chat Completions"),
        ("/v1/completions", "Completions"),
        ("/v1/embeddings", "Embeddings"),
        ("/v1/responses", "Responses"),
    ],
)
@pytest.mark.parametrize("stream", [True, "true", 1])
def test_a_request_for_a_stream(endpoint, title, stream):
    body = {"model": "m", "messages": MESSAGES, "prompt": "a", "input": "a", "stream": stream}
    data = json.dumps({"custom_id": "a", "method": "POST", "url": endpoint, "body": body}).encode()

    assert check(data, endpoint=endpoint).errors == (
        BatchError("streaming_unsupported", f"{title}: Streaming is not supported in the Batch API.", "body.stream", 1),
    )


def test_a_model_that_is_none_of_those_asked_about():
    data = line("a", model="x") + b"\n" + line("b", model="x")

    validation = validate(io.BytesIO(data), endpoint=CHAT, profile=PROFILES["openai"], models={"y", "z"})

    message = "The provided model 'x' is not supported by the Batch API."
    assert validation.errors == tuple(BatchError("model_not_found", message, "body.model", n) for n in (1, 2))
    assert validate(io.BytesIO(data), endpoint=CHAT, profile=PROFILES["openai"], models={"x"}).errors == ()


def test_a_second_model():
    data = b"\n".join([line("a"), line("b", model="x"), line("c")])

    validation = check(data)

    assert validation.errors == (
        BatchError(
            "mismatched_model",
            "The model 'x' for this request does not match the rest of the batch. "
            "Each batch must contain requests for a single model.",
            "body.model",
            2,
        ),
    )
    assert validation.model is None


def test_a_custom_id_that_stands_twice_is_reported_at_the_later_line():
    data = b"\n".join([line("a"), b"", line("b"), line("a"), line("c"), line("a"), line("b")])

    assert check(data).errors == tuple(
        BatchError(
            "duplicate_custom_id",
            f"The custom_id '{name}' for this request is a duplicate of another request. "
            "The custom_id parameter must be unique for each request in a batch.",
            "custom_id",
            number,
        )
        for name, number in [("a", 4), ("a", 6), ("b", 7)]
    )


def test_custom_ids_that_differ_only_in_their_escapes_are_the_same():
    data = line("\u00e9") + b"\n" + json.dumps(request("\u00e9"), ensure_ascii=False).encode()

    assert [(error.code, error.line) for error in check(data).errors] == [("duplicate_custom_id", 2)]


@pytest.mark.parametrize("data", [b"", b"\n", b"\r\n \n\n", b"\xef\xbb\xbf"])
def test_a_file_without_any_request(data):
    message = "The input file is empty. Please ensure that the batch contains at least one request."

    assert check(data).errors == (BatchError("empty_file", message, None, None),)


def test_a_file_whose_only_line_is_bad_is_not_called_empty():
    assert [error.code for error in check(b"{").errors] == ["invalid_json_line"]


def test_too_many_requests_end_the_pass_after_the_errors_so_far():
    data = b"\n".join([line("a"), b"", b"{", line("b"), b"{", line("c")])

    validation = check(data, max_lines=3)

    assert validation.errors == (
        BatchError("too_many_tasks", "The input file has more than 3 requests. Split it into several batches."),
        BatchError("invalid_json_line", NOT_JSON, None, 3),
    )
    assert check(b"\n".join([line("a"), b"", line("b"), line("c")]), max_lines=3).errors == ()


def test_an_input_file_that_is_not_there():
    assert missing_input_file("file-0") == BatchError(
        "invalid_request", "Cannot find file file-0, or organization does not have access to it.", "file_id"
    )


def test_no_quota_of_tokens_is_kept():
    data = b"\n".join(line(f"row-{i}", max_tokens=10**9) for i in range(100))

    assert check(data).errors == ()


@pytest.mark.parametrize("method", ["GET", "post", "", 7])
def test_a_method_that_is_not_post(method):
    shown = {7: "an integer"}.get(method, f"'{method}'")

    assert check(json.dumps({**request(), "method": method}).encode()).errors == (
        BatchError("invalid_request", f"Invalid value for 'method': expected 'POST', but got {shown}.", "method", 1),
    )


@pytest.mark.parametrize(
    ("body", "got"), [("{}", "a string"), ([], "an array"), (1, "an integer"), (True, "a boolean"), (0.5, "a number")]
)
def test_a_body_that_is_not_an_object(body, got):
    assert check(json.dumps({**request(), "body": body}).encode()).errors == (
        BatchError(
            "invalid_request", f"Invalid type for 'body': expected an object, but got {got} instead.", "body", 1
        ),
    )


@pytest.mark.parametrize("text", [b"[]", b'"a"', b"1", b"null", b"true"])
def test_a_line_that_is_not_an_object(text):
    assert check(line("a") + b"\n" + text).errors == (
        BatchError("invalid_request", "This line is not a JSON object.", None, 2),
    )


# --- What JSON parsers differ about -----------------------------------------------------------------------------------


@pytest.mark.parametrize(
    ("value", "message"),
    [
        (b"NaN", f"{NOT_JSON} JSON has no NaN and no Infinity."),
        (b"[1, Infinity]", f"{NOT_JSON} JSON has no NaN and no Infinity."),
        (b"-Infinity", f"{NOT_JSON} JSON has no NaN and no Infinity."),
        (b"1e999", OUT_OF_RANGE),
        (b"9" * 5_000, OUT_OF_RANGE),
        (rb'"\ud800 and more text"', SURROGATE),
        (rb'"\udc00 and more text"', SURROGATE),
        (rb'"\ud800\ud800 and more"', SURROGATE),
        (b'"\xff"', f"{NOT_JSON} It is not UTF-8."),
        (b'"\xed\xa0\x80"', f"{NOT_JSON} It is not UTF-8."),
        (b'"\x00"', NOT_JSON),
        (b'"\t"', NOT_JSON),
        (b"'a'", NOT_JSON),
        (b"01", NOT_JSON),
        (b"[1,]", NOT_JSON),
        (b"[" * 201 + b"]" * 201, TOO_DEEP),
        (b"[" * 1_000_000 + b"]" * 1_000_000, TOO_DEEP),
        (b'{"a":' * 300_000 + b"1" + b"}" * 300_000, TOO_DEEP),
    ],
    ids=lambda value: str(value[:24]),
)
def test_what_some_parsers_take_and_others_do_not_is_refused_in_any_key(value, message):
    whole = line("unknown")[:-1] + b', "comment": ' + value + b"}"

    validation = check(b"\n".join([line("a"), raw(value), whole]))

    assert validation.errors == tuple(BatchError("invalid_json_line", message, None, number) for number in (2, 3))


@pytest.mark.parametrize(
    "value",
    [
        b"[" * 190 + b"]" * 190,
        b"[" + b"[]," * 5_000 + b"{}]",
        json.dumps('[{"\\[[' * 5_000).encode(),
        b"9" * 4_000,
        rb'"\ud83d\ude00"',
        rb'"\u0000"',
    ],
    ids=lambda value: str(value[:12]),
)
def test_what_only_looks_dangerous_passes(value):
    assert check(raw(value)).errors == ()


@pytest.mark.parametrize("encoding", ["utf-16", "utf-16-be", "utf-16-le"])
def test_a_file_in_utf_16_does_not_pass(encoding):
    data = "\n".join([line("a").decode(), line("b").decode()]).encode(encoding)

    errors = check(data).errors

    assert {error.code for error in errors} == {"invalid_json_line"}
    assert all(error.message.startswith(NOT_JSON) for error in errors)


def archived() -> bytes:
    archive = io.BytesIO()
    with zipfile.ZipFile(archive, "w") as file:
        file.writestr("a.jsonl", line())
    return archive.getvalue()


@pytest.mark.parametrize(
    "data", [gzip.compress(line()), archived(), line().decode().encode("utf-16")], ids=["gzip", "zip", "utf-16"]
)
def test_a_file_that_is_no_text_is_one_error_that_says_so(data):
    message = f"{NOT_JSON} The file is compressed or in UTF-16. Upload it as plain JSON lines in UTF-8."

    assert check(data).errors == (BatchError("invalid_json_line", message, None, 1),)


def test_a_byte_order_mark_is_only_allowed_at_the_beginning():
    assert check(line("a") + b"\n\xef\xbb\xbf" + line("b")).errors == (
        BatchError("invalid_json_line", NOT_JSON, None, 2),
    )


# --- Limits -----------------------------------------------------------------------------------------------------------


def test_a_line_of_20_mb_is_refused_and_the_lines_around_it_are_still_checked():
    huge = line("huge", user="x" * 20_000_000)

    validation = check(b"\n".join([line("a"), huge, b"{", line("b")]))

    size = len(huge) + 1
    assert validation.errors == (
        BatchError("invalid_request", f"This line has {size:,} bytes; at most 16,777,216 are allowed.", None, 2),
        BatchError("invalid_json_line", NOT_JSON, None, 3),
    )
    assert list(validation.index.numbers) == [1, 4]


@pytest.mark.parametrize("end", [b"\n", b"\r\n", b""])
@pytest.mark.parametrize("over", [0, 1, 2, 3, 100])
def test_the_longest_line_allowed_is_counted_without_its_end(end, over):
    data = line("a", user="x" * 100)

    validation = check(data + end, max_line_bytes=len(data) - over)

    assert [error.line for error in validation.errors] == ([1] if over else [])
    assert len(validation.index) == (0 if over else 1)


class OneLongLine(io.RawIOBase):
    """A file of one line, made up as it is read; remembers the largest piece that was asked of it."""

    def __init__(self, size: int) -> None:
        self.size, self.at, self.largest = size, 0, 0

    def seekable(self) -> bool:
        return True

    def seek(self, offset: int, whence: int = 0) -> int:
        self.at = (0, self.at, self.size)[whence] + offset
        return self.at

    def read(self, size: int = -1) -> bytes:
        return self.readline(size)

    def readline(self, size: int | None = -1) -> bytes:
        assert size is not None
        assert size >= 0, "asked for a whole line"
        self.largest = max(self.largest, size)
        piece = b"x" * min(size, self.size - self.at)
        self.at += len(piece)
        return piece


def test_a_line_of_2_gb_is_never_held():
    file = OneLongLine(2_000_000_000)

    validation = validate(file, endpoint=CHAT, profile=PROFILES["local"])  # type: ignore[arg-type]

    assert [error.message for error in validation.errors] == [
        "This line has 2,000,000,000 bytes; at most 16,777,216 are allowed."
    ]
    assert file.largest <= 16 * 1024 * 1024 + 2


def test_a_file_over_the_profiles_size_is_refused_unread():
    data = line("a") + b"\nnot json"

    assert check(data, max_bytes=len(data) - 1).errors == (
        BatchError(
            "invalid_request",
            f"The input file has {len(data)} bytes; at most {len(data) - 1} are allowed. "
            "Split it into several batches.",
            "input_file_id",
        ),
    )
    assert [error.code for error in check(data, max_bytes=len(data)).errors] == ["invalid_json_line"]


def test_embedding_inputs_are_counted_over_the_whole_file():
    bodies = [["a", "b"], "c", [1, 2, 3], [[1], [2], [3]]]
    data = b"\n".join(
        encode_request_line(f"row-{i}", "/v1/embeddings", {"model": "m", "input": value})
        for i, value in enumerate(bodies)
    )

    assert check(data, endpoint="/v1/embeddings", max_embedding_inputs=7).errors == ()
    assert check(data, endpoint="/v1/embeddings", max_embedding_inputs=6).errors == (
        BatchError(
            "invalid_request",
            "The input file has 7 embedding inputs; at most 6 are allowed. Split it into several batches.",
            "body.input",
        ),
    )
    assert check(data, endpoint="/v1/embeddings", profile="local").errors == ()


@pytest.mark.parametrize(
    ("custom_id", "message"),
    [
        ("", "The custom_id of this request is empty."),
        (7, "Invalid type for 'custom_id': expected a string, but got an integer instead."),
        (["a"], "Invalid type for 'custom_id': expected a string, but got an array instead."),
        (
            "é" * 257,
            f"The custom_id '{'é' * 64}…' of this request has 514 bytes; at most 512 are allowed.",
        ),
    ],
)
def test_a_custom_id_that_cannot_be_one_is_refused_each_time_and_is_no_duplicate(custom_id, message):
    bad = json.dumps({**request(), "custom_id": custom_id}).encode()

    assert check(bad + b"\n" + bad).errors == tuple(
        BatchError("invalid_request", message, "custom_id", number) for number in (1, 2)
    )


def test_a_custom_id_may_have_512_bytes_of_anything():
    names = ["é" * 256, 'quote" and \n newline', "\U0001f600", "\x00", "../../etc/passwd", "<script>"]

    validation = check(b"\n".join(line(name) for name in names))

    assert validation.errors == ()
    assert len(validation.index) == len(names)


@pytest.mark.parametrize(("key", "param"), [("url", "url"), ("model", "body.model")])
def test_a_url_or_a_model_that_is_not_a_string(key, param):
    whole = request(model=["m"]) if key == "model" else {**request(), "url": ["m"]}

    assert check(json.dumps(whole).encode()).errors == (
        BatchError(
            "invalid_request", f"Invalid type for '{param}': expected a string, but got an array instead.", param, 1
        ),
    )


def test_a_response_in_the_background_is_refused():
    data = encode_request_line("a", "/v1/responses", {"model": "m", "input": "a", "background": True})

    assert check(data, endpoint="/v1/responses").errors == (
        BatchError(
            "invalid_request",
            "Responses: Running in the background is not supported in the Batch API.",
            "body.background",
            1,
        ),
    )


def test_everything_that_is_wrong_with_one_line_is_reported():
    data = json.dumps({"method": "GET", "url": "/v1/embeddings", "body": {"stream": True}}).encode()

    assert [(error.code, error.param) for error in check(data).errors] == [
        ("missing_required_parameter", "custom_id"),
        ("invalid_request", "method"),
        ("invalid_url", "url"),
        ("invalid_request", "body.model"),
        ("invalid_request", "body.input"),
        ("streaming_unsupported", "body.stream"),
    ]


def test_errors_are_listed_up_to_a_thousand_and_the_rest_is_counted():
    data = b"\n".join([b"{"] * 1_500 + [line("a")] * 20)

    errors = check(data).errors

    assert [error.line for error in errors[:-1]] == list(range(1, MAX_ERRORS + 1))
    assert errors[-1] == BatchError(
        "invalid_request", "519 more errors were found; only the first 1,000 are listed.", None, None
    )


def test_duplicates_are_listed_among_the_other_errors_by_line():
    data = b"\n".join([line("a"), line("a"), b"{", line("b"), line("a")])

    assert [(error.code, error.line) for error in check(data).errors] == [
        ("duplicate_custom_id", 2),
        ("invalid_json_line", 3),
        ("duplicate_custom_id", 5),
    ]


def test_equal_hashes_of_different_custom_ids_are_no_duplicates():
    index = LineIndex()
    for hashed in (7, 7, 8, 7):
        index.append(
            offset=0, length=0, number=0, custom_id_hash=hashed, request_hash=0, deterministic=False, prefix_key=0
        )

    assert list(duplicates(index, ["a", "b", "c", "a"].__getitem__)) == [(3, "a")]


def test_a_pass_that_is_stopped_says_so_and_ends_early():
    data = b"\n".join(line(f"row-{i}", user="x" * 1_000_000) for i in range(20))
    asked: list[None] = []

    def should_stop() -> bool:
        asked.append(None)
        return len(asked) == 2

    validation = validate(io.BytesIO(data), endpoint=CHAT, profile=PROFILES["local"], should_stop=should_stop)

    assert validation.stopped
    assert 0 < len(validation.index) < 20


# --- Profiles ---------------------------------------------------------------------------------------------------------


def test_parasail_takes_several_models_and_any_of_its_urls():
    lines = [
        encode_request_line("a", CHAT, {"model": "m", "messages": MESSAGES}),
        encode_request_line("b", "/v1/score", {"model": "n", "text_1": "a", "text_2": "b"}),
    ]

    validation = check(b"\n".join(lines), profile="parasail")

    assert validation.errors == ()
    assert validation.model is None


def test_parasail_refuses_a_url_that_it_does_not_have():
    data = encode_request_line("a", "/v1/../invocations", {"model": "m"})

    (error,) = check(data, profile="parasail").errors

    assert (error.code, error.param, error.line) == ("invalid_url", "url", 1)
    assert error.message.startswith(
        "The URL '/v1/../invocations' of this request is not supported. Supported values are: '/v1/chat/completions', "
    )


@pytest.mark.parametrize(
    ("endpoint", "body"),
    [("/v1/completions", {"prompt_embeds": "AAAA"}), ("/v1/embeddings", {"messages": MESSAGES})],
)
def test_inputs_that_only_vllm_knows_pass_locally_and_not_as_openai(endpoint, body):
    data = encode_request_line("a", endpoint, {"model": "m", **body})

    assert check(data, endpoint=endpoint, profile="local").errors == ()
    assert [error.code for error in check(data, endpoint=endpoint).errors] == ["invalid_request"]


# --- What planning is told --------------------------------------------------------------------------------------------


@pytest.mark.parametrize(
    ("body", "expected"),
    [
        ({"temperature": 0}, 1),
        ({"temperature": 0.0}, 1),
        ({"temperature": 0.7, "seed": 0}, 1),
        ({"temperature": 0.7}, 0),
        ({}, 0),
        ({"temperature": False}, 0),
        ({"seed": True}, 0),
        ({"seed": "7"}, 0),
        ({"temperature": "0"}, 0),
    ],
)
def test_greedy_and_seeded_requests_are_deterministic(body, expected):
    assert list(check(line(**body)).index.deterministic) == [expected]


def test_embeddings_are_deterministic():
    data = encode_request_line("a", "/v1/embeddings", {"model": "m", "input": "a"})

    assert list(check(data, endpoint="/v1/embeddings").index.deterministic) == [1]


def test_requests_have_equal_hashes_when_their_bytes_after_the_custom_id_are_equal():
    data = b"\n".join([line("row-9"), line("row-10"), line("c", temperature=0)])

    first, second, third = check(data).index.request_hashes

    assert first == second != third


def keys(index: LineIndex) -> list[int]:
    return [upper << 64 | lower for upper, lower in zip(index.prefix_keys, index.prefix_keys_below, strict=True)]


def chat_prefixes(*prompts: Sequence[object]) -> list[int]:
    """Return the keys of chats of one file; each prompt is the contents of its messages."""
    messages = ([{"role": "user", "content": content} for content in contents] for contents in prompts)
    return keys(check(b"\n".join(line(f"row-{i}", messages=each) for i, each in enumerate(messages))).index)


def chat_prefix(*contents: object) -> int:
    (key,) = chat_prefixes(contents)
    return key


def test_prompts_share_the_upper_bits_of_their_keys_as_far_as_they_share_text():
    document = "".join(f"word{i} " for i in range(2_000))
    for level, shared in enumerate((64, 128, 256, 512, 1024, 2048, 4096, 8192), start=1):
        # The third one shares nothing, so lengths are counted from the beginning.
        prompts = (document[:shared] + question + document for question in ("Who?", "Where?"))
        one, other, _ = chat_prefixes(*([prompt] for prompt in prompts), ["Nothing."])
        kept = 128 - 16 * level
        assert one >> kept == other >> kept, level
        assert one != other or level == 8, level


def test_documents_are_told_apart_and_kept_together_behind_instructions_of_any_length():
    for instructions in ("", "Be brief. ", "Think. " * 200, "Think. " * 3_000):
        texts = [f"{name} {'is a town. ' * 7}" for name in ("Rome", "Paris", "Oslo")]
        questions = [[instructions + text + ask] for ask in ("Who?", "Where?") for text in texts]
        found = chat_prefixes(*questions)
        assert len(set(found)) == 6
        beginnings = [[key >> shift for key in found] for shift in range(0, 128, 16)]
        assert any(each[:3] == each[3:] and len(set(each)) == 3 for each in beginnings), len(instructions)


def test_lines_that_are_no_requests_do_not_keep_the_first_ones_from_being_compared():
    good = [line(f"row-{i}", messages=[{"role": "user", "content": "x" * 3_000 + end}]) for i, end in enumerate("ab")]
    one, other = keys(check(b"\n".join([b"no json", b"[]", b'{"body": 7}', *good])).index)

    assert one != other


def test_the_index_has_the_most_tokens_that_each_answer_may_have():
    lines = [
        line("a", max_tokens=5),
        line("b", max_completion_tokens=6, max_tokens=5),
        line("c"),
        line("d", max_tokens="7"),
    ]
    index = check(b"\n".join(lines)).index

    assert list(index.output_limits) == [5, 6, UNLIMITED, UNLIMITED]


def test_a_prompt_has_the_same_key_however_its_text_is_cut_into_messages_and_parts():
    whole = chat_prefix("one two three")

    assert chat_prefix("one ", "two three") == whole
    image = {"type": "image_url", "image_url": {"url": "data:,"}}
    assert chat_prefix([{"type": "text", "text": "one "}, image, {"type": "text", "text": "two three"}]) == whole
    assert chat_prefix("one two four") != whole


@pytest.mark.parametrize(
    ("endpoint", "one", "other"),
    [
        ("/v1/completions", {"prompt": "a"}, {"prompt": "b"}),
        ("/v1/completions", {"prompt": ["a"]}, {"prompt": ["b"]}),
        ("/v1/completions", {"prompt": [1, 23]}, {"prompt": [12, 3]}),
        ("/v1/completions", {"prompt": [[1, 23]]}, {"prompt": [[12, 3]]}),
        ("/v1/embeddings", {"input": "a"}, {"input": "b"}),
        ("/v1/responses", {"input": "a"}, {"input": "b"}),
        ("/v1/responses", {"input": "a", "instructions": "x"}, {"input": "a", "instructions": "y"}),
        (
            "/v1/responses",
            {"input": [{"role": "user", "content": [{"type": "input_text", "text": "a"}]}]},
            {"input": [{"role": "user", "content": [{"type": "input_text", "text": "b"}]}]},
        ),
    ],
)
def test_different_prompts_have_different_keys_on_every_endpoint(endpoint, one, other):
    bodies = [one, other, one]
    data = b"\n".join(encode_request_line(f"{i}", endpoint, {"model": "m", **body}) for i, body in enumerate(bodies))

    validation = check(data, endpoint=endpoint)

    assert validation.errors == ()
    first, second, third = keys(validation.index)
    assert first == third != second


@pytest.mark.parametrize("messages", ["text", [7], [None], [{"content": 7}], [{"content": [{"text": 7}, None]}], {}])
def test_a_prompt_of_an_odd_shape_is_left_to_the_engine(messages):
    assert check(line(messages=messages)).errors == ()
