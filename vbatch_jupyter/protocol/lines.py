r"""The lines of input, output and error files (contract §1.5).

What is written here is one line to every reader: neither ``\n`` nor any of the characters at which
`str.splitlines` breaks a text (U+0085, U+2028, U+2029) is in it unescaped, and what those characters mean inside a
string is kept by escaping them.

What is read here may begin with a byte order mark, as files from Windows do.
"""

from __future__ import annotations

import codecs
import re
from collections.abc import Iterable, Iterator, Mapping
from typing import Any, Generic, TypeVar

import msgspec

from vbatch_jupyter.errors import BadRequestError, EngineError

_encode = msgspec.json.encode

Body = TypeVar("Body")


class RequestLine(msgspec.Struct, Generic[Body], frozen=True):
    """One line of an input file.

    Parameters
    ----------
    custom_id
        Names the request within its batch.
    method
        ``"POST"``.
    url
        The endpoint's path, such as ``"/v1/chat/completions"``.
    body
        The request: decoded, or its JSON byte for byte as the file has it.
    """

    custom_id: str
    method: str
    url: str
    body: Body


class OutputResponse(msgspec.Struct, Generic[Body], frozen=True):
    """What a model answered to one request: a success or an HTTP error."""

    status_code: int
    body: Body
    request_id: str | None = None


class OutputLine(msgspec.Struct, Generic[Body], frozen=True):
    """One line of an output file or an error file.

    Only ``custom_id`` is required: batch services leave out some of the other keys.

    Parameters
    ----------
    custom_id, id, response
        As in OpenAI's line.
    error
        OpenAI's ``{"code": …, "message": …}``. vLLM's run-batch writes a text, or the body of an HTTP error with the
        status as its code, next to a response whose body is null.
    """

    custom_id: str
    id: str | None = None
    response: OutputResponse[Body] | None = None
    error: Any = None

    @property
    def reason(self) -> str | None:
        """What the error says; None if it says nothing."""
        if isinstance(self.error, str):
            return self.error.strip() or None
        code = self.error.get("code") if isinstance(self.error, dict) else None
        return sentence_in(self.error) or (None if code is None else str(code))

    @property
    def code(self) -> str | None:
        """The code of the error, such as ``"batch_expired"``."""
        code = self.error.get("code") if isinstance(self.error, dict) else None
        return code if isinstance(code, str) else None


_REQUEST_DECODER = msgspec.json.Decoder(RequestLine[msgspec.Raw])
_DECODED_REQUEST_DECODER = msgspec.json.Decoder(RequestLine[dict[str, Any]])
_KEYS_DECODER = msgspec.json.Decoder(dict[str, msgspec.Raw])
_OUTPUT_DECODER = msgspec.json.Decoder(OutputLine[msgspec.Raw])


def parse_request_line(line: bytes) -> RequestLine[msgspec.Raw]:
    """Read one line of an input file that has passed validation, and leave its body as it is.

    Parameters
    ----------
    line
        The line's bytes, with or without its end.

    Raises
    ------
    BadRequestError
        The line is not a request; in a validated file this means that the file was changed since.

    Examples
    --------
    >>> line = parse_request_line(b'{"custom_id": "a", "method": "POST", "url": "/v1/embeddings", "body": {"n": 1}}')
    >>> line.custom_id, bytes(line.body)
    ('a', b'{"n": 1}')
    """
    return _request_of(line, _REQUEST_DECODER)


def decode_request_line(line: bytes) -> RequestLine[dict[str, Any]]:
    """Read one line of an input file that has passed validation, with its body decoded.

    Parameters
    ----------
    line
        The line's bytes, with or without its end.

    Raises
    ------
    BadRequestError
        As for `parse_request_line`.

    Examples
    --------
    >>> decode_request_line(b'{"custom_id": "a", "method": "POST", "url": "/v1/embeddings", "body": {"n": 1}}').body
    {'n': 1}
    """
    return _request_of(line, _DECODED_REQUEST_DECODER)


def _request_of(line: bytes, decoder: msgspec.json.Decoder[RequestLine[Body]]) -> RequestLine[Body]:
    line = without_mark(line)
    try:
        try:
            return decoder.decode(line)
        except msgspec.ValidationError:
            # If a key repeats, the last one counts, but the typed decoder fails on the first.
            keys = _KEYS_DECODER.decode(line)
            line = b"{%b}" % b",".join(b"%b:%b" % (_encode(key), bytes(value)) for key, value in keys.items())
            return decoder.decode(line)
    except (ValueError, RecursionError) as error:
        raise BadRequestError(_unreadable("a request", line, error), code="invalid_json_line") from error


def sentence_in(body: Any) -> str | None:
    """Find the message in the decoded body of an error of any server; None if there is none.

    Examples
    --------
    >>> sentence_in({"error": {"message": "No such model."}}), sentence_in({"detail": "Not Found"}), sentence_in([])
    ('No such model.', 'Not Found', None)
    """
    error = body.get("error", body) if isinstance(body, dict) else None
    message = (error.get("message") or error.get("detail")) if isinstance(error, dict) else error
    return message if isinstance(message, str) and message.strip() else None


def lines_in(content: Iterable[bytes]) -> Iterator[bytes]:
    r"""Return the lines of a file without their ends, blank lines, and a byte order mark.

    Examples
    --------
    >>> list(lines_in([b"\xef\xbb\xbf{}\r\n", b"\n", b"[]"]))
    [b'{}', b'[]']
    """
    mark = codecs.BOM_UTF8
    for line in content:
        text, mark = line.removeprefix(mark), b""
        if text.strip():
            yield text.rstrip(b"\r\n")


def without_mark(line: bytes) -> bytes:
    """Return a line without a byte order mark."""
    return line.removeprefix(codecs.BOM_UTF8)


def parse_output_line(line: bytes) -> OutputLine[msgspec.Raw]:
    """Read one line of an output file or an error file.

    Parameters
    ----------
    line
        The line's bytes, with or without its end.

    Raises
    ------
    BadRequestError
        The line is not one of an output file.

    Examples
    --------
    >>> line = parse_output_line(b'{"custom_id": "a", "response": {"status_code": 200, "body": {}}, "error": null}')
    >>> line.response.status_code
    200
    """
    try:
        return _OUTPUT_DECODER.decode(without_mark(line))
    except (ValueError, RecursionError) as error:
        raise BadRequestError(_unreadable("a line of an output file", line, error), code="invalid_json_line") from error


def encode_request_line(custom_id: str, url: str, body: Mapping[str, Any] | bytes) -> bytes:
    r"""Write one line of an input file, without its end.

    Parameters
    ----------
    custom_id
        Names the request within its batch.
    url
        The endpoint's path.
    body
        The request, as a mapping or as JSON.

    Raises
    ------
    BadRequestError
        The body holds something that JSON cannot carry.

    Examples
    --------
    >>> encode_request_line("row-0", "/v1/completions", {"model": "m", "prompt": "a\u2028b"})
    b'{"custom_id":"row-0","method":"POST","url":"/v1/completions","body":{"model":"m","prompt":"a\\u2028b"}}'
    """
    try:
        raw = _one_line(body if isinstance(body, bytes) else _encode(body))
        name, path = _one_line(_encode(custom_id)), _encode(url)
    except (ValueError, TypeError, RecursionError, OverflowError) as error:
        # Lone surrogates (UnicodeEncodeError is a ValueError) come out of files that were decoded with surrogateescape.
        message = f"The request {custom_id!r} cannot be written as JSON: {error}. Change that value."
        raise BadRequestError(message, param="body") from error
    return b'{"custom_id":%b,"method":"POST","url":%b,"body":%b}' % (name, path, raw)


def decode_response(custom_id: str, status_code: int, body: bytes) -> Any:
    """Decode the response to a request, before it becomes a line.

    Raises
    ------
    EngineError
        It is not JSON, so the engine (or a proxy before it) did not answer as OpenAI would.
    """
    try:
        return msgspec.json.decode(body)
    except (ValueError, RecursionError) as error:
        start = body[:200].decode(errors="replace")
        message = (
            f"The answer to request {custom_id!r} (status {status_code}) is not JSON: {error}. It begins {start!r}."
        )
        raise EngineError(message) from error


def count_all(body: bytes) -> bytes:
    r"""Return a response with whole numbers in its ``usage``, as OpenAI's have, where vLLM writes null.

    Details that are null become zeros if tokens were generated, also where those of the completion are missing, and
    other nulls are left out: a client adds the counts of many responses.

    Parameters
    ----------
    body
        The JSON of a response, or an event of a stream.

    Examples
    --------
    >>> count_all(b'{"usage":{"completion_tokens":2,"completion_tokens_details":null,"prompt_tokens":1}}')
    b'{"usage":{"completion_tokens":2,"completion_tokens_details":{"reasoning_tokens":0},"prompt_tokens":1}}'
    """
    # Inside a text of the response the quotes would be escaped.
    at = body.rfind(b'"usage"')
    found = _USAGE.match(body, at) if at >= 0 else None
    if found is None or (b"null" not in (usage := found[1]) and b"completion_tokens_details" in usage):
        return body
    # As text: to decode it would take longer, for each response.
    if _GENERATED.search(usage):
        usage = _NULL_DETAILS.sub(_zeros, usage)
        if b"completion_tokens_details" not in usage:
            usage = b'%b,"completion_tokens_details":{"reasoning_tokens":0}}' % usage[:-1]
    usage = _LATER_NULL.sub(b"", usage)
    if b"null" in usage:
        usage = _FIRST_NULL.sub(b"", usage)
    return b"%b%b%b" % (body[: found.start(1)], usage, body[found.end(1) :])


_ANSWER_ID = re.compile(rb'"response":\{"status_code":\d+,"request_id":"([^"]*)"')  # no text has a bare quote in it
_USAGE = re.compile(rb'"usage"\s*:\s*(\{[^{}]*(?:\{[^{}]*(?:\{[^{}]*\}[^{}]*)*\}[^{}]*)*\})')
_GENERATED = re.compile(rb'"completion_tokens"\s*:\s*[1-9]')
_NULL_DETAILS = re.compile(rb'"(prompt|completion)_tokens_details"\s*:\s*null')
_LATER_NULL = re.compile(rb',\s*"\w+"\s*:\s*null')
_FIRST_NULL = re.compile(rb'"\w+"\s*:\s*null\s*,?')


def _zeros(details: re.Match[bytes]) -> bytes:
    counted = b"cached" if details[1] == b"prompt" else b"reasoning"
    return b'"%b_tokens_details":{"%b_tokens":0}' % (details[1], counted)


# `id` is the key's name in the line.
def output_line(*, id: str, custom_id: str, status_code: int, request_id: str, body: bytes) -> bytes:  # noqa: A002
    r"""Write the line of a request that was answered, without its end.

    HTTP errors have the same shape, and go to the error file with ``error`` null (contract §1.5).

    Parameters
    ----------
    id
        ``batch_req_…``.
    custom_id
        The request's.
    status_code, request_id
        The response's.
    body
        The response's JSON, which `decode_response` has seen; numbers are kept digit for digit.

    Examples
    --------
    >>> output_line(id="i", custom_id="a", status_code=200, request_id="r", body=b'{"n":\n1.50}')
    b'{"id":"i","custom_id":"a","response":{"status_code":200,"request_id":"r","body":{"n":1.50}},"error":null}'
    """
    return b'{"id":%b,"custom_id":%b,"response":{"status_code":%d,"request_id":%b,"body":%b},"error":null}' % (
        _encode(id),
        _one_line(_encode(custom_id)),
        status_code,
        _encode(request_id),
        _one_line(count_all(body)),
    )


def answer_id(line: bytes) -> bytes:
    """Return the id of an answer, which it keeps in each batch that reuses it; read without decoding the body.

    Parameters
    ----------
    line
        As `output_line` writes it.

    Examples
    --------
    >>> answer_id(output_line(id="i", custom_id="a", status_code=200, request_id="req_1", body=b"{}"))
    b'req_1'
    """
    found = _ANSWER_ID.search(line)
    return b"" if found is None else found[1]


def unexecuted_line(*, id: str, custom_id: str, code: str, message: str) -> bytes:  # noqa: A002
    """Write the line of a request that was never run, without its end.

    Parameters
    ----------
    id
        ``batch_req_…``.
    custom_id
        The request's.
    code, message
        Such as ``"batch_expired"`` and OpenAI's sentence for it.

    Examples
    --------
    >>> unexecuted_line(id="batch_req_0", custom_id="a", code="batch_cancelled", message="Cancelled.")
    b'{"id":"batch_req_0","custom_id":"a","response":null,"error":{"code":"batch_cancelled","message":"Cancelled."}}'
    """
    error = _encode({"code": code, "message": message})
    return _one_line(b'{"id":%b,"custom_id":%b,"response":null,"error":%b}' % (_encode(id), _encode(custom_id), error))


def error_body(
    message: str,
    *,
    type: str = "invalid_request_error",  # noqa: A002
    param: str | None = None,
    code: str | None = None,
) -> bytes:
    """Write OpenAI's error envelope, all four keys present (contract §1.6).

    Parameters
    ----------
    message
        What is wrong and what to do next.
    type, param, code
        As in OpenAI's envelope.

    Examples
    --------
    >>> error_body("No such model.", param="model", code="model_not_found")
    b'{"error":{"message":"No such model.","type":"invalid_request_error","param":"model","code":"model_not_found"}}'
    """
    return _one_line(_encode({"error": {"message": message, "type": type, "param": param, "code": code}}))


_LINE_BREAKS = {text.encode(): b"\\u%04x" % ord(text) for text in "\u0085\u2028\u2029"}


def _one_line(text: bytes) -> bytes:
    """Rewrite JSON so that no reader, however it splits, sees more than one line."""
    if b"\n" in text or b"\r" in text:
        # Between tokens is the only place where JSON allows them; `format` keeps numbers digit for digit.
        text = msgspec.json.format(text, indent=-1)
    if text.isascii():
        return text
    for bare, escaped in _LINE_BREAKS.items():
        # In valid JSON these can only be inside a string, where the escape means the same.
        if bare in text:
            text = text.replace(bare, escaped)
    return text


def _unreadable(what: str, line: bytes, error: Exception) -> str:
    return f"This line is not {what}: {error}. It begins {line[:80].decode(errors='replace')!r}."
