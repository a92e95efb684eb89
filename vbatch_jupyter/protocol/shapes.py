"""The shapes of responses: what holds the answer at each endpoint.

A subclass of `ResponseBody` is one shape. `reading` decodes a line of an output file into it.
"""

from __future__ import annotations

import base64
import sys
from array import array
from collections.abc import Callable, Iterable
from typing import Any

import msgspec

from vbatch_jupyter.protocol.batch import Usage

_QUOTED = 200

Parse = Callable[[str], dict[str, Any]]
"""Reads the text of an answer by a schema; raises ValueError if it does not fit."""


class Answer(msgspec.Struct, frozen=True):
    """The answer to one request.

    Parameters
    ----------
    value
        Text, a list of texts if ``n`` is over 1, a vector (an `array` of floats), or with a schema a dict of its
        fields; None if the model wrote nothing.
    error
        Why there is no answer; None if there is one.
    reasoning
        What the model thought before it answered; a list if ``n`` is over 1.
    tool_calls
        ``[{"id": …, "name": …, "arguments": {…}}, …]``; a list of such lists if ``n`` is over 1.
    logprobs
        As in the response; a list if ``n`` is over 1.
    finish_reason
        Why the model stopped; if ``n`` is over 1 and they differ, all of them, with commas.
    """

    value: Any = None
    error: str | None = None
    reasoning: Any = None
    tool_calls: list[Any] | None = None
    logprobs: Any = None
    finish_reason: str | None = None


class _UsageDetails(msgspec.Struct):
    cached_tokens: int | None = None
    reasoning_tokens: int | None = None


class ResponseUsage(msgspec.Struct):
    """The ``usage`` of a response of any endpoint; None for what it does not have."""

    prompt_tokens: int | None = None
    completion_tokens: int | None = None
    input_tokens: int | None = None
    output_tokens: int | None = None
    prompt_tokens_details: _UsageDetails | None = None
    completion_tokens_details: _UsageDetails | None = None
    input_tokens_details: _UsageDetails | None = None
    output_tokens_details: _UsageDetails | None = None

    @property
    def read(self) -> int | None:
        """Tokens of the prompt."""
        return self.prompt_tokens if self.input_tokens is None else self.input_tokens

    @property
    def written(self) -> int | None:
        """Tokens of the answer."""
        return self.completion_tokens if self.output_tokens is None else self.output_tokens

    @property
    def cached(self) -> int | None:
        """Tokens of the prompt that came from the prefix cache."""
        details = self.input_tokens_details or self.prompt_tokens_details
        return details.cached_tokens if details else None

    def as_of_batch(self) -> Usage:
        """Return it as a batch's usage.

        Examples
        --------
        >>> ResponseUsage(prompt_tokens=5, completion_tokens=2).as_of_batch()
        Usage(input_tokens=5, cached_tokens=0, output_tokens=2, reasoning_tokens=0)
        """
        details = self.output_tokens_details or self.completion_tokens_details
        reasoning = details.reasoning_tokens if details else None
        return Usage(self.read or 0, self.cached or 0, self.written or 0, reasoning or 0)


class _Error(msgspec.Struct):
    message: str | None = None


class ResponseBody(msgspec.Struct):
    """What the responses of all endpoints have; a subclass adds the answer of its endpoint."""

    usage: ResponseUsage | None = None
    error: _Error | None = None

    def answer(self, parse: Parse | None) -> Answer | None:
        """Return the answer, read by a schema if there is one; None if this shape has no answer in it."""
        del parse
        return None

    @classmethod
    def echo(cls, text: str) -> dict[str, Any]:
        """Make the body of a response with a text; the echo engine answers with it."""
        raise NotImplementedError


class _Function(msgspec.Struct):
    name: str | None = None
    arguments: Any = None


class _ToolCall(msgspec.Struct):
    id: str | None = None
    function: _Function | None = None


class _Message(msgspec.Struct):
    content: str | None = None
    refusal: str | None = None
    reasoning: str | None = None
    reasoning_content: str | None = None
    tool_calls: list[_ToolCall] | None = None


class _Choice(msgspec.Struct):
    index: int = 0
    message: _Message | None = None
    text: str | None = None
    finish_reason: str | None = None
    logprobs: Any = None


class CompletionBody(ResponseBody):
    """A response whose answers are ``choices``: texts, or a chat's messages."""

    choices: list[_Choice] | None = None

    def answer(self, parse: Parse | None) -> Answer | None:
        """Return the answer of all choices."""
        if not self.choices:
            return None
        choices = sorted(self.choices, key=lambda choice: choice.index)
        messages = [choice.message or _Message(content=choice.text) for choice in choices]
        calls = [_calls((call.id, call.function) for call in m.tool_calls or () if call.function) for m in messages]
        told = {
            "reasoning": _one_or_all([message.reasoning or message.reasoning_content for message in messages]),
            "tool_calls": _one_or_all(calls),
            "logprobs": _one_or_all([choice.logprobs for choice in choices]),
            "finish_reason": ", ".join(dict.fromkeys(c.finish_reason for c in choices if c.finish_reason)) or None,
        }
        contents = [message.content for message in messages]
        refusal = next((m.refusal for m in messages if m.refusal and m.content is None), None)
        # schema= and n= together are refused before a batch is made.
        content = contents[0] if len(contents) == 1 or parse is not None else contents
        return _answer(content, refusal, parse, cut=choices[0].finish_reason == "length", told=told)

    @classmethod
    def echo(cls, text: str) -> dict[str, Any]:
        """Make a completion with a text."""
        choice = {"index": 0, "text": text, "finish_reason": "stop", "logprobs": None}
        return {"object": "text_completion", "choices": [choice]}


class ChatBody(CompletionBody):
    """A response whose choices are messages."""

    @classmethod
    def echo(cls, text: str) -> dict[str, Any]:
        """Make a chat completion with a text."""
        message = {"role": "assistant", "content": text}
        choice = {"index": 0, "message": message, "finish_reason": "stop", "logprobs": None}
        return {"object": "chat.completion", "choices": [choice]}


class _Embedding(msgspec.Struct):
    embedding: list[float] | str | None = None


class EmbeddingBody(ResponseBody):
    """A response whose answer is a vector."""

    data: list[_Embedding] | None = None

    def answer(self, parse: Parse | None) -> Answer | None:
        """Return the first vector."""
        del parse
        if not self.data:
            return None
        embedding = self.data[0].embedding
        if embedding is None:
            return Answer(error="The response has no embedding.")
        if isinstance(embedding, list):
            return Answer(array("f", embedding))
        vector = array("f")
        try:
            vector.frombytes(base64.b64decode(embedding, validate=True))
        except ValueError as error:
            return Answer(error=f"The embedding cannot be read as base64 of float32 ({error}): {quote(embedding)}.")
        if sys.byteorder == "big":
            vector.byteswap()  # OpenAI's base64 is little-endian, whatever this machine is
        return Answer(vector)

    @classmethod
    def echo(cls, text: str) -> dict[str, Any]:
        """Make a vector of a text's length."""
        return {
            "object": "list",
            "data": [{"object": "embedding", "index": 0, "embedding": [float(len(text)), 0.0]}],
        }


class _Part(msgspec.Struct):
    type: str | None = None
    text: str | None = None
    refusal: str | None = None
    logprobs: Any = None


class _Item(msgspec.Struct):
    type: str | None = None
    content: list[_Part] | None = None
    summary: list[_Part] | None = None
    call_id: str | None = None
    name: str | None = None
    arguments: Any = None


class _Incomplete(msgspec.Struct):
    reason: str | None = None


class OutputBody(ResponseBody):
    """A response whose answer is a list of items, ``output``."""

    output: list[_Item] | None = None
    status: str | None = None
    incomplete_details: _Incomplete | None = None

    def answer(self, parse: Parse | None) -> Answer | None:
        """Return the answer of all items together."""
        if self.output is None:
            return None
        parts = [part for item in self.output if item.type == "message" for part in item.content or ()]
        texts = [part.text for part in parts if part.type == "output_text" and part.text is not None]
        refusal = next((part.refusal for part in parts if part.refusal), None)
        thoughts = [item for item in self.output if item.type == "reasoning"]
        thought = [part.text for item in thoughts for part in item.content or item.summary or () if part.text]
        reason = self.incomplete_details and self.incomplete_details.reason
        told: dict[str, Any] = {
            "reasoning": "".join(thought) or None,
            "tool_calls": _calls(
                (item.call_id, _Function(item.name, item.arguments))
                for item in self.output
                if item.type == "function_call"
            ),
            "logprobs": [logprob for part in parts for logprob in part.logprobs or ()] or None,
            "finish_reason": reason or self.status,
        }
        content = "".join(texts) if texts else None
        refusal = refusal if content is None else None
        return _answer(content, refusal, parse, cut=reason == "max_output_tokens", told=told)

    @classmethod
    def echo(cls, text: str) -> dict[str, Any]:
        """Make a response with a text."""
        message = {"type": "message", "role": "assistant", "content": [{"type": "output_text", "text": text}]}
        return {"object": "response", "status": "completed", "output": [message]}


def _one_or_all(values: list[Any]) -> Any:
    if len(values) == 1:
        return values[0]
    return values if any(values) else None


def _answer(content: Any, refusal: str | None, parse: Parse | None, *, cut: bool, told: dict[str, Any]) -> Answer:
    if refusal:
        return Answer(error=f"The model refused: {quote(refusal)}.", finish_reason=told["finish_reason"])
    if parse is None or (content is None and told["tool_calls"]):
        return Answer(content, **told)
    if content is None:
        reason = "max_tokens was reached before the answer began; raise it" if cut else "the model wrote nothing"
        return Answer(error=f"There is no answer for the schema: {reason}.", **told)
    try:
        return Answer(parse(content), **told)
    except ValueError as error:
        begin = "max_tokens cut the answer off; raise it. The answer" if cut else "The answer"
        return Answer(error=f"{begin} {error}: {quote(content)}.", **told)


def _calls(made: Iterable[tuple[str | None, _Function]]) -> list[dict[str, Any]] | None:
    return [
        {"id": name, "name": function.name, "arguments": _arguments(function.arguments)} for name, function in made
    ] or None


def _arguments(arguments: Any) -> Any:
    if not isinstance(arguments, str):
        return arguments
    try:
        return msgspec.json.decode(arguments)
    except ValueError:
        # What a model wrote in place of JSON is still what it wrote.
        return arguments


def quote(text: str) -> str:
    """Quote a text, shortened, so that messages stay short whatever a model writes."""
    return repr(text if len(text) <= _QUOTED else f"{text[:_QUOTED]}…")
