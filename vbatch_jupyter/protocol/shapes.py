"""The shapes of responses: what holds the answer at each endpoint.

A subclass of `ResponseBody` is one shape. `reading` decodes a line of an output file into it.
"""

from __future__ import annotations

from collections.abc import Callable, Iterable
from typing import Any

import msgspec

from vbatch_jupyter.protocol.batch import Usage
from vbatch_jupyter.protocol.ending import Cut, Stop, goes_on

_QUOTED = 200

Parse = Callable[[str], Any]
"""Reads an answer as its request asks: a text by a schema, or an encoded vector; ValueError if it does not fit."""


class Answer(msgspec.Struct, frozen=True):
    """The answer to one request.

    Parameters
    ----------
    value
        Text, a list of texts if ``n`` is over 1 (None for one that never began), a vector (an `array` of floats), a
        list of vectors if the input was a list, or with a schema a dict of its fields. None only if there is an error,
        or the model called a tool instead.
    error
        Why there is no answer; None if there is one. What the response has in spite of it is in the other fields.
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

    def _written(self) -> int | None:
        return None if self.usage is None else self.usage.written

    @classmethod
    def echo(cls, text: str) -> dict[str, Any]:
        """Make the body of a response with a text; the echo engine answers with it."""
        raise NotImplementedError


class Function(msgspec.Struct):
    """What was called, and with what: JSON as a text, or decoded."""

    name: str | None = None
    arguments: Any = None


class _Custom(msgspec.Struct):
    name: str | None = None
    input: str | None = None


class _ToolCall(msgspec.Struct):
    id: str | None = None
    function: Function | None = None
    custom: _Custom | None = None

    def called(self) -> Function | None:
        """Return what was called; a custom tool gets a text."""
        return self.function if self.custom is None else Function(self.custom.name, self.custom.input)


class _Message(msgspec.Struct):
    content: str | None = None
    refusal: str | None = None
    reasoning: str | None = None
    reasoning_content: str | None = None
    tool_calls: list[_ToolCall] | None = None
    function_call: Function | None = None

    def calls(self) -> list[dict[str, Any]] | None:
        """Return the calls of tools, and of a function as OpenAI had them before tools."""
        if not self.tool_calls and self.function_call is None:
            return None
        made = [(call.id, call.called()) for call in self.tool_calls or ()]
        return calls_of(made or [(None, self.function_call)])


class _Choice(msgspec.Struct):
    index: int = 0
    message: _Message | None = None
    text: str | None = None
    finish_reason: str | None = None
    stop_reason: Any = None  # vLLM's: the text of stop=, or the token of stop_token_ids=
    logprobs: Any = None

    @property
    def is_cut(self) -> bool:
        """Whether it reached the limit of its tokens."""
        return self.finish_reason == "length"

    def said(self) -> str | None:
        """Return the text; None if the model did not begin one."""
        if self.message is None:
            return self.text
        # vLLM writes "" next to a call that had to be made, and was cut off.
        return self.message.content or (None if self.is_cut else self.message.content)

    def told(self) -> dict[str, Any]:
        """Return what an `Answer` has besides its value."""
        message = self.message
        return {
            "reasoning": message and (message.reasoning or message.reasoning_content),
            "tool_calls": message and message.calls(),
            "logprobs": self.logprobs,
            "finish_reason": self.finish_reason,
        }


class CompletionBody(ResponseBody):
    """A response whose answers are ``choices``: texts, or a chat's messages."""

    choices: list[_Choice] | None = None

    def answer(self, parse: Parse | None) -> Answer | None:
        """Return the answer of all choices."""
        if not self.choices:
            return None
        if len(self.choices) == 1:
            choices, told = self.choices, self.choices[0].told()
        else:
            choices = sorted(self.choices, key=lambda choice: choice.index)
            all_told = [choice.told() for choice in choices]
            told = {name: _some([one[name] for one in all_told]) for name in all_told[0]}
            told["finish_reason"] = ", ".join(dict.fromkeys(filter(None, told["finish_reason"] or ()))) or None
        contents = [choice.said() for choice in choices]
        refusals = (choice.message.refusal for choice in choices if choice.message and choice.message.refusal)
        refusal = None if any(contents) else next(refusals, None)
        # schema= and n= together are refused before a batch is made.
        content = contents[0] if len(contents) == 1 or parse is not None else contents
        cut: Cut | Stop | None = None
        if any(choice.is_cut for choice in choices):
            cut = Cut("max_tokens", self._written())
        elif choices[0].stop_reason is not None:
            cut = Stop(choices[0].stop_reason)
        return answer_of(content, refusal, parse, cut=cut, told=told)

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
    input: Any = None

    def called(self) -> tuple[str | None, Function | None]:
        """Return the call's id and what was called, if this is the call of a tool."""
        if self.type == "custom_tool_call":
            return self.call_id, Function(self.name, self.input)
        return self.call_id, Function(self.name, self.arguments) if self.type == "function_call" else None


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
        if self.error is not None and self.error.message:
            return Answer(error=self.error.message)
        thoughts = [item for item in self.output if item.type == "reasoning"]
        thought = [part.text for item in thoughts for part in item.content or item.summary or () if part.text]
        reason = self.incomplete_details and self.incomplete_details.reason
        told: dict[str, Any] = {
            "reasoning": "".join(thought) or None,
            "tool_calls": calls_of(item.called() for item in self.output),
            "logprobs": [logprob for part in parts for logprob in part.logprobs or ()] or None,
            "finish_reason": reason or self.status,
        }
        content = "".join(texts) if texts else None
        refusal = refusal if content is None else None
        cut = Cut("max_output_tokens", self._written()) if reason == "max_output_tokens" else None
        return answer_of(content, refusal, parse, cut=cut, told=told)

    @classmethod
    def echo(cls, text: str) -> dict[str, Any]:
        """Make a response with a text."""
        message = {"type": "message", "role": "assistant", "content": [{"type": "output_text", "text": text}]}
        return {"object": "response", "status": "completed", "output": [message]}


def _some(values: list[Any]) -> list[Any] | None:
    return values if any(values) else None


def answer_of(
    content: Any, refusal: str | None, parse: Parse | None, *, cut: Cut | Stop | None, told: dict[str, Any]
) -> Answer:
    """Make an answer of what a response has.

    Parameters
    ----------
    content
        Its text; a list if ``n`` is over 1. None, also in the list, if there is none.
    refusal
        Why the model refused.
    parse
        Reads the text by a schema; None if the answer is text.
    cut
        What has ended it before its own end, if anything did.
    told
        Reasoning, tool calls, logprobs and finish_reason.
    """
    if refusal:
        return Answer(error=f"The model refused: {quote(refusal)}.", finish_reason=told["finish_reason"])
    if told["tool_calls"]:
        if cut and _is_broken(told["tool_calls"]):
            return Answer(error=f"The tool call {cut}.", **told)
        if not content or not any(content):
            return Answer(**told)
        parse = None if parse is must_call else parse
    elif content is None or (isinstance(content, list) and not any(text is not None for text in content)):
        return Answer(error=_nothing(cut, told), **told)
    try:
        return Answer(content if parse is None else parse(content), **told)
    except ValueError as error:
        # With a schema only ignore_eos= has a model write on, until a limit.
        cause = "goes on after its JSON, as ignore_eos= has it. Leave that out" if goes_on(content) else cut
        begin = f"The answer {cause}. It" if cut else "The answer"
        return Answer(error=f"{begin} {error}: {quote(content)}.", **told)


def must_call(text: str) -> Any:
    """Refuse the text of an answer that had to be the call of a tool, such as the beginning of a call."""
    del text
    raise ValueError("is not the tool call that tool_choice asks for")


def _is_broken(calls: list[Any]) -> bool:
    """Return whether the arguments of a call are not JSON; if ``n`` is over 1 there are lists of calls."""
    return any(isinstance(call, dict) and isinstance(call["arguments"], str) for call in calls)


def _nothing(cut: Cut | Stop | None, told: dict[str, Any]) -> str:
    """Return why a response has neither text nor a call."""
    if cut:
        return f"There is no answer: the model {'was still reasoning and ' if told['reasoning'] else ''}{cut}."
    if told["reasoning"]:
        return "There is no answer: the model reasoned, and wrote nothing after it."
    reason = told["finish_reason"]
    ended = f" (finish_reason {reason!r})" if reason not in (None, "stop", "completed") else ""
    return f"There is no answer: the model wrote nothing{ended}."


def calls_of(made: Iterable[tuple[str | None, Function | None]]) -> list[dict[str, Any]] | None:
    """List the calls of tools, given their ids and what was called; None if there are none."""
    return [
        {"id": name, "name": function.name, "arguments": _arguments(function.arguments)}
        for name, function in made
        if function is not None
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
