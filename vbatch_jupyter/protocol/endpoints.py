"""OpenAI's endpoints: one object has everything about one endpoint.

A new endpoint is one more object in `ENDPOINTS`, with its keys in ``endpoint_keys.toml`` and its shape in `shapes`.
"""

from __future__ import annotations

import dataclasses
import tomllib
from collections.abc import Iterator, Mapping
from pathlib import Path
from types import MappingProxyType
from typing import Any

import msgspec

from vbatch_jupyter.errors import BadRequestError
from vbatch_jupyter.protocol.reading import Reading, read_line
from vbatch_jupyter.protocol.shapes import (
    ChatBody,
    CompletionBody,
    OutputBody,
    Parse,
    ResponseBody,
)
from vbatch_jupyter.protocol.vectors import EmbeddingBody

_COUNTED = ("add_generation_prompt", "add_special_tokens", "chat_template_kwargs", "continue_final_message")
_MOST_TOKENS = 1 << 16


@dataclasses.dataclass(frozen=True, slots=True, kw_only=True)
class Endpoint:
    """One endpoint of OpenAI's API.

    Parameters
    ----------
    path
        Such as ``"/v1/chat/completions"``.
    name
        The short one, such as ``"chat"``.
    title
        Its name in OpenAI's messages.
    prompt_key
        The key of the body that holds the prompt: ``"messages"``, or one that takes a text.
    system_key
        The key that holds the system prompt; None if there is none.
    schema_key
        The key that holds the JSON schema of the answer; None if there is none.
    vllm_inputs
        The keys that vLLM also takes a prompt from.
    openai_keys, vllm_keys, known_keys
        The keys that a body may have: those of OpenAI's API, those that vLLM adds, and both; see `keys`.
    newer_keys
        The keys that a newer vLLM adds, each with its version.
    limits
        The keys that limit how many tokens an answer may have.
    response
        The shape of its responses.
    takes_messages
        Whether its prompt may be a list of messages.
    generates
        Whether its answers are generated token by token; a vector is not.
    """

    path: str
    name: str
    title: str
    prompt_key: str
    system_key: str | None = None
    schema_key: str | None = None
    vllm_inputs: tuple[str, ...] = ()
    openai_keys: frozenset[str]
    vllm_keys: frozenset[str] = frozenset()
    known_keys: frozenset[str] = dataclasses.field(init=False)
    newer_keys: Mapping[str, str] = dataclasses.field(default_factory=dict)
    limits: tuple[str, ...] = ()
    response: type[ResponseBody]
    takes_messages: bool = False
    generates: bool = True

    def __post_init__(self) -> None:
        """Join the keys once: each request asks for them."""
        object.__setattr__(self, "known_keys", self.openai_keys | self.vllm_keys)

    @property
    def takes_system(self) -> bool:
        """Whether a request may have a system prompt."""
        return self.system_key is not None

    @property
    def takes_schema(self) -> bool:
        """Whether a request may have a JSON schema for its answer."""
        return self.schema_key is not None

    # ------------------------------------------------------------------------------------------------------ requests

    def body(
        self,
        prompt: str | list[dict[str, Any]],
        *,
        model: str,
        system: str | None = None,
        response_format: Mapping[str, Any] | None = None,
        rest: Mapping[str, Any] = MappingProxyType({}),
    ) -> dict[str, Any]:
        """Make the body of a request.

        Parameters
        ----------
        prompt
            A text or, where the endpoint takes them, a list of messages.
        model
            The model's name.
        system
            The system prompt.
        response_format
            OpenAI's ``json_schema`` object, as the chat endpoint takes it.
        rest
            Other parameters of the body; a mapping, because it may have any key.

        Raises
        ------
        BadRequestError
            The endpoint takes no system prompt, no messages or no schema, or ``rest`` has it too.

        Examples
        --------
        >>> CHAT.body("Hello", model="m", system="Be brief.", rest={"temperature": 0})["messages"][0]
        {'role': 'system', 'content': 'Be brief.'}
        >>> RESPONSES.body("Hello", model="m", system="Be brief.")
        {'model': 'm', 'input': 'Hello', 'instructions': 'Be brief.'}
        """
        if isinstance(prompt, list) and not self.takes_messages:
            taking = " and ".join(endpoint.name for endpoint in ENDPOINTS.values() if endpoint.takes_messages)
            raise BadRequestError(f"A list of messages works with {taking}; give one text.", param="template")
        if self.prompt_key == "messages":
            opening = [] if system is None else [{"role": "system", "content": system}]
            messages = prompt if isinstance(prompt, list) else [{"role": "user", "content": prompt}]
            body = {"model": model, "messages": [*opening, *messages], **rest}
        else:
            body = {"model": model, self.prompt_key: prompt, **rest}
        if system is not None and self.system_key != self.prompt_key:
            if self.system_key is None:
                taking = " and ".join(endpoint.name for endpoint in ENDPOINTS.values() if endpoint.takes_system)
                message = f"system= works with {taking}; put the text into the template."
                raise BadRequestError(message, param="system")
            if body.setdefault(self.system_key, system) != system:
                raise _said_twice("system", self.system_key)
        if response_format is not None:
            self._add_schema(body, response_format)
        return body

    def _add_schema(self, body: dict[str, Any], response_format: Mapping[str, Any]) -> None:
        if self.schema_key is None:
            raise BadRequestError("schema= needs an endpoint that generates text.", param="schema")
        if self.schema_key == "text":
            # The same schema, one level flatter.
            text = body["text"] = dict(body.get("text") or {})
            if text.setdefault("format", sent := {"type": "json_schema", **response_format["json_schema"]}) is not sent:
                raise _said_twice("schema", "text.format")
        elif body.setdefault(self.schema_key, sent := dict(response_format)) is not sent:
            raise _said_twice("schema", self.schema_key)

    def schema(self, body: Mapping[str, Any]) -> Mapping[str, Any] | None:
        """Find the JSON schema that a request asks its answer to fit; None if it has none.

        Examples
        --------
        >>> of_schema = {"type": "json_schema", "json_schema": {"name": "mood", "schema": {"type": "object"}}}
        >>> [one.schema(one.body("a", model="m", response_format=of_schema)) for one in (CHAT, RESPONSES)]
        [{'type': 'object'}, {'type': 'object'}]
        """
        found: Any = body
        for key in (self.schema_key, "format" if self.schema_key == "text" else "json_schema", "schema"):
            found = found.get(key) if isinstance(found, Mapping) else None
        return found if isinstance(found, Mapping) else None

    def turns(self, body: Mapping[str, Any]) -> Iterator[tuple[str, str]]:
        """Yield the texts of a prompt in the order in which chat templates put them.

        Parameters
        ----------
        body
            The body of a request, whatever is in it.

        Yields
        ------
        str, str
            Who says it, or else the key that it is under, and the text.

        Examples
        --------
        >>> list(CHAT.turns({"messages": [{"role": "user", "content": [{"type": "text", "text": "Hello"}]}]}))
        [('user', 'Hello')]
        >>> list(RESPONSES.turns({"instructions": "Be brief.", "input": "Hello"}))
        [('instructions', 'Be brief.'), ('input', 'Hello')]
        """
        if self.system_key is not None and isinstance(text := body.get(self.system_key), str):
            yield self.system_key, text
        for key in (self.prompt_key, *self.vllm_inputs):
            value = body.get(key)
            for item in value if isinstance(value, list) else (value,):
                if isinstance(item, str):
                    yield key, item
                elif isinstance(item, dict):
                    yield str(item.get("role", key)), _text_of(item.get("content"))
                elif isinstance(item, list):
                    yield key, " ".join(map(str, item[:_MOST_TOKENS]))
                elif isinstance(item, int):
                    # One token of a prompt given as tokens; the space keeps 1, 23 and 12, 3 apart.
                    yield key, f"{item} "

    def countable(self, body: Mapping[str, Any]) -> bytes:
        """Make the request that counts the prompt tokens of another: a chat or a completion, as vLLM tokenizes it.

        Parameters
        ----------
        body
            The body of a request. Its model is left out: a batch service's is not the engine's.

        Examples
        --------
        >>> EMBEDDINGS.countable({"model": "m", "input": "Hello"})
        b'{"prompt":"Hello"}'
        >>> RESPONSES.countable({"model": "m", "input": "Hello", "instructions": "Be brief."})
        b'{"messages":[{"role":"system","content":"Be brief."},{"role":"user","content":"Hello"}]}'
        """
        counted = {key: body[key] for key in _COUNTED if key in body}
        if body.get("messages") is not None:
            counted |= {key: body[key] for key in ("messages", "tools") if key in body}
        elif self.system_key is None:
            counted["prompt"] = body.get(self.prompt_key)
        else:
            prompt = body.get(self.prompt_key)
            opening = [{"role": "system", "content": body[self.system_key]}] if body.get(self.system_key) else []
            asked = prompt if isinstance(prompt, list) else [{"role": "user", "content": prompt}]
            counted["messages"] = [*opening, *asked]
            given = body.get("tools")
            functions = (tool for tool in (given if isinstance(given, list) else ()) if isinstance(tool, dict))
            if tools := [tool for tool in functions if tool.get("type") == "function"]:
                # A chat's tools are one level deeper.
                counted["tools"] = [
                    {"type": "function", "function": {key: tool[key] for key in tool if key != "type"}}
                    for tool in tools
                ]
        return msgspec.json.encode(counted)

    def output_limit(self, body: Mapping[str, Any]) -> int | None:
        """Return the most tokens that an answer may have; None if the request does not say.

        Examples
        --------
        >>> CHAT.output_limit({"max_tokens": 16}), CHAT.output_limit({"max_tokens": None})
        (16, None)
        """
        for key in self.limits:
            value = body.get(key)
            if isinstance(value, int) and value >= 0:
                return int(value)
        return None

    # ----------------------------------------------------------------------------------------------------- responses

    def read(self, line: bytes, parse: Parse | None = None) -> Reading:
        """Read one line of an output or error file, with one decode.

        Parameters
        ----------
        line
            The line's bytes, with or without its end. In a batch whose requests go to several endpoints, it may be the
            line of another one.
        parse
            Reads the text of an answer by a schema; None if the answer is text.

        Raises
        ------
        BadRequestError
            The line is not one of an output file.

        Examples
        --------
        >>> body = b'{"choices":[{"message":{"content":"yes"}}],"usage":{"prompt_tokens":5}}'
        >>> reading = CHAT.read(b'{"custom_id":"a","response":{"status_code":200,"body":%b}}' % body)
        >>> reading.answer.value, reading.usage.read
        ('yes', 5)
        """
        return read_line(line, self.shapes(), parse)

    def shapes(self) -> list[type[ResponseBody]]:
        """Return the shapes that a response may have, the likeliest first; a batch may go to several endpoints."""
        return [self.response, *(other.response for other in ENDPOINTS.values() if other is not self)]


def _said_twice(argument: str, key: str) -> BadRequestError:
    return BadRequestError(f"{argument}= and {key}= are the same thing; leave one out.", param=argument)


def _text_of(content: object) -> str:
    if isinstance(content, str):
        return content
    parts = content if isinstance(content, list) else ()
    return "".join(
        part if isinstance(part, str) else part["text"]
        for part in parts
        if isinstance(part, str) or (isinstance(part, dict) and isinstance(part.get("text"), str))
    )


_KEYS = tomllib.loads(Path(__file__).with_name("endpoint_keys.toml").read_text(encoding="utf-8"))


def _keys(name: str) -> dict[str, Any]:
    newer = {key: version for version, keys in _KEYS["newer"].items() for key in keys.get(name, "").split()}
    known = {f"{whose}_keys": frozenset(_KEYS[whose][name].split()) for whose in ("openai", "vllm")}
    return {**known, "newer_keys": newer}


CHAT = Endpoint(
    path="/v1/chat/completions",
    name="chat",
    title="Chat Completions",
    prompt_key="messages",
    system_key="messages",
    takes_messages=True,
    schema_key="response_format",
    limits=("max_completion_tokens", "max_tokens"),
    response=ChatBody,
    **_keys("chat"),
)
COMPLETIONS = Endpoint(
    path="/v1/completions",
    name="completions",
    title="Completions",
    prompt_key="prompt",
    schema_key="response_format",
    vllm_inputs=("prompt_embeds",),
    limits=("max_tokens",),
    response=CompletionBody,
    **_keys("completions"),
)
EMBEDDINGS = Endpoint(
    path="/v1/embeddings",
    name="embeddings",
    title="Embeddings",
    prompt_key="input",
    vllm_inputs=("messages",),
    response=EmbeddingBody,
    generates=False,
    **_keys("embeddings"),
)
RESPONSES = Endpoint(
    path="/v1/responses",
    name="responses",
    title="Responses",
    prompt_key="input",
    system_key="instructions",
    takes_messages=True,
    schema_key="text",
    limits=("max_output_tokens",),
    response=OutputBody,
    **_keys("responses"),
)

ENDPOINTS: dict[str, Endpoint] = {endpoint.path: endpoint for endpoint in (CHAT, COMPLETIONS, EMBEDDINGS, RESPONSES)}
"""The endpoints that an engine in the kernel answers, by their paths."""


def endpoint_of(name_or_path: str) -> Endpoint:
    """Find an endpoint by its name or its path.

    Raises
    ------
    BadRequestError
        There is no such endpoint.

    Examples
    --------
    >>> endpoint_of("chat").path, endpoint_of("/v1/embeddings").name
    ('/v1/chat/completions', 'embeddings')
    """
    for endpoint in ENDPOINTS.values():
        if name_or_path in (endpoint.path, endpoint.name):
            return endpoint
    names = [*(endpoint.name for endpoint in ENDPOINTS.values()), *ENDPOINTS]
    message = f"Invalid value: '{name_or_path}'. Supported values are: {', '.join(map(repr, names))}."
    raise BadRequestError(message, param="endpoint", code="invalid_value")
