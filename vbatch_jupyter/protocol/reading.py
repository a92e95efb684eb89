"""Reads a line of an output or error file: an answer, or the reason why there is no answer.

The line and the body in it are decoded once, into the shape of the endpoint's responses. `endpoints.Endpoint.read` is
the way in.
"""

from __future__ import annotations

import codecs
import functools
from collections.abc import Iterable
from typing import Any

import msgspec

from vbatch_jupyter.protocol.batch import Usage
from vbatch_jupyter.protocol.lines import OutputLine, parse_output_line, sentence_in
from vbatch_jupyter.protocol.shapes import Answer, Parse, ResponseBody, ResponseUsage, quote

_SUCCESS = 2


class Reading(msgspec.Struct, frozen=True):
    """One line of an output or error file, read.

    Parameters
    ----------
    custom_id, id
        The line's.
    status_code
        The response's; None if the request was not run.
    answer
        The answer, or why there is none.
    usage
        The response's.
    """

    custom_id: str
    id: str | None
    status_code: int | None
    answer: Answer
    usage: ResponseUsage


def read_line(line: bytes, shapes: Iterable[type[ResponseBody]], parse: Parse | None = None) -> Reading:
    """Read one line of an output or error file.

    Parameters
    ----------
    line
        The line's bytes, with or without its end.
    shapes
        The shapes that the response may have, the likeliest first: the first one that holds an answer counts.
    parse
        Reads the text of an answer by a schema; None if the answer is text.

    Raises
    ------
    BadRequestError
        The line is not one of an output file.
    """
    line = line.removeprefix(codecs.BOM_UTF8)
    problem: Exception | None = None
    usage = ResponseUsage()
    for shape in shapes:
        try:
            decoded = _decoder(shape).decode(line)
        except (ValueError, RecursionError) as error:
            problem = problem or error
            continue
        response = decoded.response
        if response is None:
            answer = Answer(error=decoded.reason or "The request was not run, for an unknown reason.")
            return Reading(decoded.custom_id, decoded.id, None, answer, ResponseUsage())
        usage = response.body.usage or usage
        found: Answer | None
        if response.status_code // 100 == _SUCCESS:
            found = response.body.answer(parse)
        else:
            message = response.body.error and response.body.error.message
            found = Answer(error=message) if message and message.strip() else None
        if found is not None:
            return Reading(decoded.custom_id, decoded.id, response.status_code, found, usage)
    return _unread(parse_output_line(line), usage, problem)


def usage_in(body: Any) -> Usage:
    """Return the usage of a decoded response as a batch's usage; zeros if it has none.

    Examples
    --------
    >>> usage_in({"usage": {"prompt_tokens": 5, "completion_tokens": 2}})
    Usage(input_tokens=5, cached_tokens=0, output_tokens=2, reasoning_tokens=0)
    """
    usage = body.get("usage") if isinstance(body, dict) else None
    try:
        return Usage() if usage is None else msgspec.convert(usage, ResponseUsage).as_of_batch()
    except msgspec.ValidationError:
        # An endpoint whose usage is shaped otherwise (images, audio) must not keep a batch from finalising.
        return Usage()


def usage_of(line: bytes) -> Usage:
    """Return the usage of one line of an output or error file, as `usage_in` does.

    Examples
    --------
    >>> usage_of(b'{"custom_id":"a","response":{"status_code":200,"body":{"usage":{"prompt_tokens":5}}}}')
    Usage(input_tokens=5, cached_tokens=0, output_tokens=0, reasoning_tokens=0)
    """
    response = parse_output_line(line).response
    return Usage() if response is None else usage_in(msgspec.json.decode(response.body))


@functools.cache
def _decoder(shape: type[ResponseBody]) -> Any:
    return msgspec.json.Decoder(OutputLine[shape])  # type: ignore[valid-type]  # a class, chosen at run time


def _unread(line: OutputLine[msgspec.Raw], usage: ResponseUsage, problem: Exception | None) -> Reading:
    """Return what is known about a response that has none of the shapes."""
    response = line.response
    assert response is not None  # else its shape would not matter
    raw = bytes(response.body)
    start = quote(raw.decode(errors="replace"))
    if line.reason is not None:
        error = _said(raw) or line.reason
    elif response.status_code // 100 != _SUCCESS:
        error = _said(raw) or f"The request ended with status {response.status_code}: {start}."
    elif problem is not None:
        error = f"The response is not valid in OpenAI's API ({problem}): {start}."
    else:
        error = _said(raw) or f"The response has no answer: {start}."
    return Reading(line.custom_id, line.id, response.status_code, Answer(error=error), usage)


def _said(raw: bytes) -> str | None:
    try:
        return sentence_in(msgspec.json.decode(raw))
    except (ValueError, RecursionError):
        return None
