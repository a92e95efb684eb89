"""What one line of an output or error file says: an answer, or why there is none.

The bodies of all four endpoints are read with one type, told apart by the keys they have.
"""

from __future__ import annotations

import base64
import dataclasses
import json
from collections.abc import Callable
from typing import TYPE_CHECKING, Any

import fastjsonschema
import msgspec
import numpy as np

from vbatch_jupyter.errors import FrameError
from vbatch_jupyter.frames.schema import Schema, is_model, json_schema
from vbatch_jupyter.protocol.lines import OutputLine

if TYPE_CHECKING:
    from pydantic import BaseModel

_QUOTED = 200
_SUCCESS = 2


@dataclasses.dataclass(frozen=True, slots=True)
class Answer:
    """One row's answer.

    Parameters
    ----------
    value
        Text, a list of texts where ``n`` is over 1, a vector, or with a schema a dict of its fields; None where the
        model said nothing.
    error
        Why there is no answer; None where there is one.
    tool_calls
        ``[{"id": …, "name": …, "arguments": {…}}, …]``; a list of such lists where ``n`` is over 1.
    logprobs
        As the endpoint gives them; a list where ``n`` is over 1.
    """

    value: Any = None
    error: str | None = None
    tool_calls: list[Any] | None = None
    logprobs: Any = None


class _Function(msgspec.Struct):
    name: str | None = None
    arguments: Any = None


class _ToolCall(msgspec.Struct):
    id: str | None = None
    function: _Function | None = None


class _Message(msgspec.Struct):
    content: str | None = None
    refusal: str | None = None
    tool_calls: list[_ToolCall] | None = None


class _Choice(msgspec.Struct):
    index: int = 0
    message: _Message | None = None
    text: str | None = None
    finish_reason: str | None = None
    logprobs: Any = None


class _Embedding(msgspec.Struct):
    embedding: list[float] | str | None = None


class _Part(msgspec.Struct):
    type: str | None = None
    text: str | None = None
    refusal: str | None = None
    logprobs: Any = None


class _Item(msgspec.Struct):
    type: str | None = None
    content: list[_Part] | None = None
    call_id: str | None = None
    name: str | None = None
    arguments: Any = None


class _Incomplete(msgspec.Struct):
    reason: str | None = None


class _ResponseError(msgspec.Struct):
    message: str | None = None


class _Body(msgspec.Struct):
    choices: list[_Choice] | None = None
    data: list[_Embedding] | None = None
    output: list[_Item] | None = None
    incomplete_details: _Incomplete | None = None
    error: _ResponseError | None = None


_BODY_DECODER = msgspec.json.Decoder(_Body)

Parse = Callable[[str], dict[str, Any]]
"""Reads the text of an answer by a schema; raises ValueError where it does not fit."""


def answer_of(line: OutputLine, parse: Parse | None = None) -> Answer:
    """Read one line of an output or error file.

    Parameters
    ----------
    line
        The line.
    parse
        As `parser` makes it; None where the answer is text.

    Examples
    --------
    >>> from vbatch_jupyter.protocol.lines import parse_output_line
    >>> line = b'{"custom_id":"a","response":{"status_code":200,"body":{"choices":[{"message":{"content":"yes"}}]}}}'
    >>> answer_of(parse_output_line(line)).value
    'yes'
    """
    response = line.response
    if response is None:
        reason = line.error and (line.error.message or line.error.code)
        return Answer(error=reason or "The request was not run, and no reason is given.")
    raw = bytes(response.body)
    if response.status_code // 100 != _SUCCESS:
        return Answer(error=_http_error(response.status_code, raw))
    return _of_body(raw, parse)


def _of_body(raw: bytes, parse: Parse | None) -> Answer:
    try:
        body = _BODY_DECODER.decode(raw)
    except (ValueError, RecursionError) as error:
        return Answer(error=f"The response is not one that OpenAI's API gives ({error}): {_quote(raw.decode())}.")
    if body.choices:
        return _of_choices(sorted(body.choices, key=lambda choice: choice.index), parse)
    if body.data:
        return _of_embedding(body.data[0])
    if body.output is not None:
        return _of_output(body, body.output, parse)
    reason = body.error and body.error.message
    return Answer(error=reason or f"The response holds no answer: {_quote(raw.decode())}.")


def parser(schema: Schema) -> Parse:
    """Make the function that reads an answer's text by a schema.

    Parameters
    ----------
    schema
        A pydantic model class, whose own validators run, or a JSON schema.

    Raises
    ------
    FrameError
        The schema cannot be used to check anything.

    Examples
    --------
    >>> parse = parser({"type": "object", "properties": {"stars": {"type": "integer"}}})
    >>> parse('{"stars": 4}')
    {'stars': 4}
    >>> parse('{"stars": "four"}')
    Traceback (most recent call last):
        ...
    ValueError: does not fit the schema (stars must be integer)
    """
    plain = json_schema(schema)
    if is_model(schema):
        return lambda text: _by_model(schema, text)
    try:
        # Formats are notes to the model, not promises; defaults would be values that no model has given.
        check = fastjsonschema.compile(plain, use_default=False, use_formats=False)
    # A schema that is none fails in the compiler in many ways.
    except Exception as error:
        raise FrameError(f"schema= is no JSON schema: {error}.", param="schema") from error
    return lambda text: _by_schema(check, text)


def _by_schema(check: Callable[[Any], Any], text: str) -> dict[str, Any]:
    value = _json_object(text)
    try:
        check(value)
    except fastjsonschema.JsonSchemaValueException as error:
        reason = str(error.message).replace("data.", "", 1)
        raise ValueError(f"does not fit the schema ({reason})") from error
    return value


def _by_model(model: type[BaseModel], text: str) -> dict[str, Any]:
    _json_object(text)
    try:
        instance = model.model_validate_json(text)
    except ValueError as error:
        problems = error.errors() if hasattr(error, "errors") else []
        reasons = [f"{'.'.join(map(str, problem['loc'])) or 'answer'}: {problem['msg']}" for problem in problems]
        raise ValueError(f"does not fit the schema ({'; '.join(reasons) or error})") from error
    dumped: dict[str, Any] = instance.model_dump(mode="json", by_alias=True)
    return dumped


def _json_object(text: str) -> dict[str, Any]:
    try:
        value = msgspec.json.decode(text)
    except (ValueError, RecursionError) as error:
        raise ValueError(f"is not JSON ({error})") from error
    if not isinstance(value, dict):
        raise ValueError("is not a JSON object")  # noqa: TRY004 - to the caller it is an answer that does not fit
    return value


def _of_choices(choices: list[_Choice], parse: Parse | None) -> Answer:
    messages = [choice.message or _Message(content=choice.text) for choice in choices]
    calls = [_calls([call.function and (call.id, call.function) for call in m.tool_calls or ()]) for m in messages]
    logprobs = [choice.logprobs for choice in choices]
    if parse is not None:
        # schema= and n= together are refused before a batch is made.
        return _parsed(messages[0], calls[0], logprobs[0], parse, cut=choices[0].finish_reason == "length")
    refusal = next((m.refusal for m in messages if m.refusal and m.content is None), None)
    if refusal is not None:
        return Answer(error=f"The model refused: {_quote(refusal)}.")
    if len(choices) == 1:
        return Answer(messages[0].content, tool_calls=calls[0], logprobs=logprobs[0])
    return Answer(
        [message.content for message in messages],
        tool_calls=calls if any(calls) else None,
        logprobs=logprobs if any(logprobs) else None,
    )


def _of_output(body: _Body, items: list[_Item], parse: Parse | None) -> Answer:
    parts = [part for item in items if item.type == "message" for part in item.content or ()]
    texts = [part.text for part in parts if part.type == "output_text" and part.text is not None]
    message = _Message(
        content="".join(texts) if texts else None,
        refusal=next((part.refusal for part in parts if part.refusal), None),
    )
    made = [(item.call_id, _Function(item.name, item.arguments)) for item in items if item.type == "function_call"]
    calls = _calls(made)
    logprobs = [logprob for part in parts for logprob in part.logprobs or ()] or None
    cut = body.incomplete_details is not None and body.incomplete_details.reason == "max_output_tokens"
    if parse is not None:
        return _parsed(message, calls, logprobs, parse, cut=cut)
    if message.content is None and message.refusal:
        return Answer(error=f"The model refused: {_quote(message.refusal)}.")
    return Answer(message.content, tool_calls=calls, logprobs=logprobs)


def _of_embedding(data: _Embedding) -> Answer:
    if data.embedding is None:
        return Answer(error="The response holds no embedding.")
    if isinstance(data.embedding, list):
        return Answer(np.array(data.embedding, dtype=np.float32))
    try:
        # OpenAI's base64 is little-endian float32, whatever this machine is.
        vector = np.frombuffer(base64.b64decode(data.embedding, validate=True), dtype="<f4").astype(np.float32)
    except ValueError as error:
        return Answer(error=f"The embedding cannot be read as base64 of float32 ({error}): {_quote(data.embedding)}.")
    return Answer(vector)


def _parsed(message: _Message, calls: list[Any] | None, logprobs: Any, parse: Parse, *, cut: bool) -> Answer:
    text = message.content
    if text is None:
        if message.refusal:
            return Answer(error=f"The model refused: {_quote(message.refusal)}.", logprobs=logprobs)
        if calls:
            return Answer(tool_calls=calls, logprobs=logprobs)
        reason = "max_tokens ended it before the answer began; raise it" if cut else "the model wrote nothing"
        return Answer(error=f"There is no answer to read by the schema: {reason}.", logprobs=logprobs)
    try:
        return Answer(parse(text), tool_calls=calls, logprobs=logprobs)
    except ValueError as error:
        if cut:
            message_ = f"max_tokens cut the answer short; raise it. It {error}: {_quote(text)}."
        else:
            message_ = f"The answer {error}: {_quote(text)}."
        return Answer(error=message_, tool_calls=calls, logprobs=logprobs)


def _calls(made: list[Any]) -> list[dict[str, Any]] | None:
    calls = [{"id": call[0], "name": call[1].name, "arguments": _arguments(call[1].arguments)} for call in made if call]
    return calls or None


def _arguments(arguments: Any) -> Any:
    if not isinstance(arguments, str):
        return arguments
    try:
        return msgspec.json.decode(arguments)
    except ValueError:
        # What a model wrote in place of JSON is still what it wrote.
        return arguments


def _http_error(status_code: int, raw: bytes) -> str:
    try:
        body = json.loads(raw)
    except (ValueError, RecursionError):
        body = None
    error = body.get("error", body) if isinstance(body, dict) else None
    message = (error.get("message") or error.get("detail")) if isinstance(error, dict) else error
    if isinstance(message, str) and message.strip():
        return message
    return f"The request ended with status {status_code}: {_quote(raw.decode(errors='replace'))}."


def _quote(text: str) -> str:
    return repr(text if len(text) <= _QUOTED else f"{text[:_QUOTED]}…")
