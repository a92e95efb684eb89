"""Checks one line of an input file; `validation` checks the whole file."""

from __future__ import annotations

import codecs
import re
from collections.abc import Iterator, Mapping
from typing import Any, NamedTuple

import msgspec

from vbatch_jupyter.errors import BadRequestError
from vbatch_jupyter.protocol.endpoints import ENDPOINTS, Endpoint
from vbatch_jupyter.protocol.keys import OTHER_ENDPOINTS
from vbatch_jupyter.protocol.profiles import Profile

MAX_DEPTH = 200
"""The most levels of nesting in a line. Parsers fail above it, some depending on the depth of their caller's stack."""

NOT_JSON = "This line is not parseable as valid JSON."
"""OpenAI's message; a hint may follow it."""

_TOO_DEEP = f"{NOT_JSON} It nests more than {MAX_DEPTH} levels deep."
_TYPES = {str: "a string", dict: "an object", list: "an array", bool: "a boolean", int: "an integer", float: "a number"}

NO_SEED = -1
"""The seed that vLLM takes for none (vllm/sampling_params.py)."""

_OF_LINE = ("custom_id", "method", "url", "body")
_QUOTED = 64
# Characters of a custom_id that are within the limit of bytes of every profile.
_SHORT = 64

_STRING = re.compile(rb'"(?:[^"\\]++|\\.)*+"', re.DOTALL)
_NO_BRACKETS = bytes(set(range(256)) - set(b"[]{}"))
_NOT_FINITE = re.compile(rb"NaN|Infinity")
# UTF-16 in either order, gzip, zip.
_NOT_TEXT = (codecs.BOM_UTF16_LE, codecs.BOM_UTF16_BE, b"\x1f\x8b", b"PK\x03\x04")
_LONE_SURROGATE = re.compile(rb"\\u[dD][89abAB][0-9a-fA-F]{2}(?!\\u)")
_BYTE = re.compile(r"\(byte (\d+)\)$")


class Problem(NamedTuple):
    """One thing that is wrong with a request, in the words of `batch.BatchError`."""

    code: str
    message: str
    param: str | None = None


def decode_strictly(line: bytes) -> dict[str, Any]:
    """Decode one line as JSON that every later parser will read too.

    Also refused: text that is not UTF-8, lone surrogates, NaN and Infinity, numbers beyond any
    parser's range, more than `MAX_DEPTH` levels. If a key repeats in an object, the last one counts.

    Parameters
    ----------
    line
        The line without its end.

    Raises
    ------
    BadRequestError
        With OpenAI's message, and a hint if the reason is not obvious.

    Examples
    --------
    >>> decode_strictly(b'{"temperature": NaN}')
    Traceback (most recent call last):
    vbatch_jupyter.errors.BadRequestError: This line is not parseable as valid JSON. JSON has no NaN and no Infinity.
    """
    try:
        value = msgspec.json.decode(line)
    except RecursionError as error:
        raise BadRequestError(_TOO_DEEP, code="invalid_json_line") from error
    except ValueError as error:
        raise BadRequestError(f"{NOT_JSON} {line_hint(line, error)}".rstrip(), code="invalid_json_line") from error
    if _is_deep(line):
        raise BadRequestError(_TOO_DEEP, code="invalid_json_line")
    if not isinstance(value, dict):
        raise BadRequestError("This line is not a JSON object.", code="invalid_request")
    return value


def document_hint(head: bytes) -> str:
    r"""Return what to do with a file whose beginning shows that it does not hold one request on each line.

    Parameters
    ----------
    head
        The file's beginning.

    Examples
    --------
    >>> document_hint(b'[\n  {"custom_id": "a"}')
    'The file is one JSON array. Write each of its elements on a line of its own.'
    >>> document_hint(b'{"custom_id": "a"}\n')
    ''
    """
    if head.startswith(_NOT_TEXT):
        return "The file is compressed or in UTF-16. Upload it as plain JSON lines in UTF-8."
    text = head.removeprefix(b"\xef\xbb\xbf").lstrip()
    first, end, rest = text.partition(b"\n")
    before, _, after = text.partition(b"\r")
    if not end and after.strip() and _is_json(before):
        return "The file's lines end with a carriage return alone. End them with a line feed."
    if text.startswith(b"[") and text[1:].lstrip().startswith(b"{") and not (_is_json(first) and rest.strip()):
        return "The file is one JSON array. Write each of its elements on a line of its own."
    if first.rstrip() == b"{" and rest.lstrip().startswith(b'"'):
        return "The file is one JSON document over several lines. Write each request on one line."
    return ""


def _is_json(line: bytes) -> bool:
    try:
        msgspec.json.decode(line)
    except (ValueError, RecursionError):
        return False
    return True


def check_request(request: Mapping[str, Any], *, endpoint: str, profile: Profile) -> Iterator[Problem]:
    """Yield everything that is wrong with a single request.

    Parameters
    ----------
    request
        A line of the input file, decoded.
    endpoint
        The batch's endpoint.
    profile
        Whose limits apply.

    Examples
    --------
    >>> from vbatch_jupyter.protocol.profiles import PROFILES
    >>> request = {"method": "POST", "url": "/v1/embeddings", "body": {"model": "m", "input": "a"}}
    >>> [problem.message for problem in check_request(request, endpoint="/v1/embeddings", profile=PROFILES["openai"])]
    ["Missing required parameter: 'custom_id'."]
    """
    for key in _OF_LINE:
        if request.get(key) is None:
            yield Problem("missing_required_parameter", f"Missing required parameter: '{key}'.", key)
    yield from _check_custom_id(request.get("custom_id"), profile)
    method, url, body = request.get("method"), request.get("url"), request.get("body")
    if method is not None and method != "POST":
        yield Problem(
            "invalid_request", f"Invalid value for 'method': expected 'POST', but got {quoted(method)}.", "method"
        )
    if url is not None:
        yield from _check_url(url, endpoint, profile)
    if isinstance(body, dict):
        yield from _check_body(body, url if isinstance(url, str) else endpoint, profile)
    elif body is not None:
        yield _wrong_type("body", "an object", body)


def is_faultless(request: Mapping[str, Any], *, endpoint: str) -> bool:
    """Return whether `check_request` certainly finds nothing; most requests need no closer look.

    Examples
    --------
    >>> request = {"custom_id": "a", "method": "POST", "url": "/v1/embeddings", "body": {"model": "m", "input": "a"}}
    >>> is_faultless(request, endpoint="/v1/embeddings"), is_faultless(request, endpoint="/v1/completions")
    (True, False)
    """
    custom_id, body = request.get("custom_id"), request.get("body")
    if type(custom_id) is not str or type(body) is not dict or request.get("method") != "POST":
        return False
    model, known = body.get("model"), ENDPOINTS.get(endpoint)
    return (
        0 < len(custom_id) <= _SHORT
        and request.get("url") == endpoint
        and known is not None
        and type(model) is str
        and model != ""
        and body.get(known.prompt_key) is not None
        and "stream" not in body
        and "background" not in body
    )


def embedding_inputs(body: Mapping[str, Any]) -> int:
    """Count the texts that one embedding request embeds.

    Examples
    --------
    >>> [embedding_inputs({"input": value}) for value in ("a", ["a", "b"], [1, 2, 3], [[1, 2], [3]])]
    [1, 2, 1, 2]
    """
    value = body.get("input")
    # A list of integers is one text, given as tokens.
    return len(value) if isinstance(value, list) and value and not isinstance(value[0], int) else 1


def keys_next_to_body(request: Mapping[str, Any]) -> list[str]:
    """Return the keys of a body that are next to it, where nobody reads them.

    Examples
    --------
    >>> keys_next_to_body({"custom_id": "a", "method": "POST", "url": "/v1/completions", "seed": 7, "note": "mine"})
    ['seed']
    """
    if len(request) <= len(_OF_LINE):
        return []
    url = request.get("url")
    endpoint = ENDPOINTS.get(url) if isinstance(url, str) else None
    return [] if endpoint is None else [key for key in request if key not in _OF_LINE and key in endpoint.known_keys]


def is_deterministic(body: Mapping[str, Any], endpoint: Endpoint | None) -> bool:
    """Return whether equal requests share one answer: those that are greedy or seeded, and those for a vector.

    The engine's sampling gives all of them the same answer. Its arithmetic need not: in bfloat16 the sums depend on
    what else runs at the same time, and a close decision may go the other way. Of 64 greedy answers 28 differed between
    alone and together, of 8 seeded ones 7; in float32 none did (vLLM 0.32 on a CPU).

    Examples
    --------
    >>> from vbatch_jupyter.protocol.endpoints import CHAT
    >>> [is_deterministic(body, CHAT) for body in ({"temperature": 0}, {"seed": 7}, {"temperature": 0.1}, {})]
    [True, True, False, False]
    >>> is_deterministic({"seed": -1}, CHAT)
    False
    """
    if endpoint is not None and not endpoint.generates:
        return True
    temperature, seed = body.get("temperature"), body.get("seed")
    # False is an int to Python, but neither a temperature nor a seed to the engine.
    greedy = isinstance(temperature, int | float) and not isinstance(temperature, bool) and temperature == 0
    return greedy or (isinstance(seed, int) and not isinstance(seed, bool) and seed != NO_SEED)


def quoted(value: object) -> str:
    """Quote a value of the file, shortened, so that messages stay short whatever the file holds.

    Examples
    --------
    >>> quoted("a"), len(quoted("a" * 1000)), quoted([1])
    ("'a'", 67, 'an array')
    """
    if not isinstance(value, str):
        return _TYPES.get(type(value), "null")
    return f"'{value}'" if len(value) <= _QUOTED else f"'{value[:_QUOTED]}…'"


def _check_custom_id(custom_id: object, profile: Profile) -> Iterator[Problem]:
    if custom_id is None:
        return
    if not isinstance(custom_id, str):
        yield _wrong_type("custom_id", "a string", custom_id)
    elif not custom_id:
        yield Problem("invalid_request", "The custom_id of this request is empty.", "custom_id")
    elif (size := len(custom_id.encode())) > profile.max_custom_id_bytes:
        message = (
            f"The custom_id {quoted(custom_id)} of this request has {size:,} bytes; at most "
            f"{profile.max_custom_id_bytes:,} are allowed."
        )
        yield Problem("invalid_request", message, "custom_id")


def _check_url(url: object, endpoint: str, profile: Profile) -> Iterator[Problem]:
    if not isinstance(url, str):
        yield _wrong_type("url", "a string", url)
    elif profile.match_endpoint:
        if url != endpoint:
            message = "The URL provided for this request does not match the batch endpoint."
            yield Problem("invalid_url", message, "url")
    elif url not in profile.endpoints:
        supported = ", ".join(f"'{path}'" for path in profile.endpoints)
        message = f"The URL {quoted(url)} of this request is not supported. Supported values are: {supported}."
        yield Problem("invalid_url", message, "url")


def _check_body(body: Mapping[str, Any], url: str, profile: Profile) -> Iterator[Problem]:
    model, other = body.get("model"), OTHER_ENDPOINTS.get(url)
    if other is not None:
        if body.get(other.required) is None:
            message = f"{other.required.capitalize()} parameter is required."
            yield Problem("invalid_request", message, f"body.{other.required}")
    elif model is None or model == "":
        yield Problem("invalid_request", "Model parameter is required.", "body.model")
    if model is not None and not isinstance(model, str):
        yield _wrong_type("body.model", "a string", model)
    endpoint = ENDPOINTS.get(url)
    title = "Requests" if endpoint is None else endpoint.title
    if endpoint is not None:
        key = endpoint.prompt_key
        accepted = (key, *endpoint.vllm_inputs) if profile.extra_inputs else (key,)
        if all(body.get(key) is None for key in accepted):
            yield Problem("invalid_request", f"{key.capitalize()} parameter is required.", f"body.{key}")
    if body.get("stream") not in (None, False):
        message = f"{title}: Streaming is not supported in the Batch API."
        yield Problem("streaming_unsupported", message, "body.stream")
    # A picture's background is something else.
    if other is None and body.get("background") not in (None, False):
        # Its answer would only be a receipt for a response that nobody fetches.
        message = f"{title}: Running in the background is not supported in the Batch API."
        yield Problem("invalid_request", message, "body.background")


def _wrong_type(param: str, expected: str, value: object) -> Problem:
    got = _TYPES.get(type(value), "null")
    return Problem("invalid_request", f"Invalid type for '{param}': expected {expected}, but got {got} instead.", param)


def line_hint(line: bytes, error: Exception) -> str:
    """Return why a line that looks like JSON is not valid, if we know.

    Parameters
    ----------
    line
        The line.
    error
        The decoder's.
    """
    if isinstance(error, UnicodeDecodeError):
        return "It is not UTF-8."
    reason = str(error)
    # Near the end of a line msgspec calls it truncated.
    if "surrogate" in reason or ("truncated" in reason and _LONE_SURROGATE.search(line)):
        return "It has a lone surrogate, which is not valid in UTF-8."
    if "out of range" in reason:
        return "It has a number that is out of range."
    place = _BYTE.search(reason)
    if place and _NOT_FINITE.match(line, int(place[1])):
        return "JSON has no NaN and no Infinity."
    return ""


def _is_deep(line: bytes) -> bool:
    """Return whether valid JSON nests deeper than `MAX_DEPTH`."""
    if line.count(b"{") + line.count(b"[") <= MAX_DEPTH:
        return False
    brackets = _STRING.sub(b"", line).translate(None, _NO_BRACKETS)
    # Each round removes the innermost level; a loop over the bytes would take seconds on a long line.
    for _ in range(MAX_DEPTH):
        if not brackets:
            return False
        brackets = brackets.replace(b"[]", b"").replace(b"{}", b"")
    return bool(brackets)
