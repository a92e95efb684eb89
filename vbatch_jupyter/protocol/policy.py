"""What a request's body may not ask for: fields that would harm the engine, other requests, or this machine.

vLLM accepts far more than OpenAI does, and trusts its callers. Here anyone with the server's key can send requests, and
batches run unattended. So every request is checked against these rules before it reaches an engine, both lines of a
batch and chats. What vLLM's own checks refuse is left to them. Values are read as leniently as vLLM reads them:
``"n": "999"`` is a number.
"""

from __future__ import annotations

import dataclasses
from collections.abc import Callable, Iterator, Mapping
from typing import Any

import msgspec

from vbatch_jupyter.errors import BadRequestError
from vbatch_jupyter.protocol.endpoints import ENDPOINTS, RESPONSES

MAX_SEQUENCES = 128
"""The most answers to one prompt; OpenAI's own limit."""

MAX_PROMPTS = 2048
"""The most sequences of one request, prompts times answers; OpenAI's limit for the inputs of embeddings."""

MAX_TOKENS = 1 << 20
"""The most output tokens that a request may ask for; more than the context of any model."""

_LIMITS = tuple(dict.fromkeys(key for endpoint in ENDPOINTS.values() for key in endpoint.limits))
_PROMPTS = ("messages", "input", "prompt", "previous_input_messages")
_PLAIN_KEYS = frozenset({"content", "name", "role"})
_FALSE = frozenset({"", "0", "f", "false", "n", "no", "off"})
_TEMPLATE_ARGUMENTS = frozenset(
    {
        "add_generation_prompt",
        "chat_template",
        "continue_final_message",
        "conversation",
        "documents",
        "max_length",
        "messages",
        "padding",
        "return_assistant_tokens_mask",
        "return_dict",
        "return_tensors",
        "tokenize",
        "tokenizer_kwargs",
        "tools",
        "truncation",
    }
)


@dataclasses.dataclass(frozen=True, slots=True)
class Rule:
    """One rule.

    Parameters
    ----------
    fields
        The keys of the body that the rule is about.
    sentence
        What is refused, and why. It is used as the error message and in the documentation.
    broken
        Called with the body and the endpoint's path. Returns the offending field, or None if the rule is kept.
    inside
        Whether to look for the fields anywhere inside the messages, and not only among the keys of the body.
    """

    fields: tuple[str, ...]
    sentence: str
    broken: Callable[[Mapping[str, Any], str], str | None]
    inside: bool = False


def decode(body: bytes) -> dict[str, Any]:
    """Decode the body of a request.

    Raises
    ------
    BadRequestError
        It is not a JSON object.

    Examples
    --------
    >>> decode(b'{"model": "m"}')
    {'model': 'm'}
    """
    try:
        content = msgspec.json.decode(body)
    except (ValueError, RecursionError) as error:
        # We must read the same as vLLM does, which would also accept UTF-16, NaN and lone surrogates.
        message = f"We could not parse the JSON body of your request: {error}."
        raise BadRequestError(message, code="invalid_json") from error
    if not isinstance(content, dict):
        raise BadRequestError("The body of a request must be a JSON object.", code="invalid_json")
    return content


def check(path: str, body: Mapping[str, Any]) -> None:
    """Raise an error if a request breaks a rule.

    Parameters
    ----------
    path
        The endpoint's, such as ``"/v1/chat/completions"``.
    body
        The request's body, as `decode` reads it.

    Raises
    ------
    BadRequestError
        Names the field and the rule.

    Examples
    --------
    >>> check("/v1/completions", {"model": "m", "prompt": "a", "n": 2})
    >>> check("/v1/completions", {"model": "m", "prompt": "a", "n": 129})  # doctest: +ELLIPSIS
    Traceback (most recent call last):
    vbatch_jupyter.errors.BadRequestError: Invalid 'n': ...
    """
    # Fast path: most bodies have none of these fields and only plain texts, and a batch may have a million bodies.
    rules = [rule for field in body if (rule := _BY_FIELD.get(field)) is not None]
    if not _is_plain(body):
        rules += _INSIDE
    for rule in rules:
        if (field := rule.broken(body, path)) is not None:
            raise BadRequestError(f"Invalid '{field}': {rule.sentence}", param=field, code="unsupported_value")


# ----------------------------------------------------------------------------------------------------- the checks


def _given(*fields: str) -> Callable[[Mapping[str, Any], str], str | None]:
    def broken(body: Mapping[str, Any], path: str) -> str | None:
        del path
        return next((field for field in fields if body.get(field) is not None), None)

    return broken


def _switched_on(field: str, *, only: str | None = None) -> Callable[[Mapping[str, Any], str], str | None]:
    def broken(body: Mapping[str, Any], path: str) -> str | None:
        return field if only in (None, path) and _is_on(body.get(field)) else None

    return broken


def _is_on(value: Any) -> bool:
    return value.strip().lower() not in _FALSE if isinstance(value, str) else bool(value)


def _number(value: Any) -> float | None:
    """Read a number as vLLM's models do: a string with a number is accepted too."""
    if value is None:
        return None
    try:
        return float(value)
    except (TypeError, ValueError):
        return None


def _out_of(least: float, most: float, *fields: str) -> Callable[[Mapping[str, Any], str], str | None]:
    def broken(body: Mapping[str, Any], path: str) -> str | None:
        del path
        for field in fields:
            number = _number(body.get(field))
            if number is not None and not least <= number <= most:
                return field
        return None

    return broken


def _too_many(body: Mapping[str, Any], path: str) -> str | None:
    del path
    field = next((name for name in ("prompt", "input") if isinstance(body.get(name), list)), None)
    if field is None or all(isinstance(value, int) for value in body[field]):
        return None  # one text, or one prompt as its tokens
    answers = max(_number(body.get("n")) or 1, _number(body.get("best_of")) or 1)
    return field if len(body[field]) * answers > MAX_PROMPTS else None


def _endless(body: Mapping[str, Any], path: str) -> str | None:
    # Of the limits of another endpoint vLLM knows nothing.
    limits = ENDPOINTS[path].limits if path in ENDPOINTS else ()
    return "ignore_eos" if _is_on(body.get("ignore_eos")) and not any(body.get(name) for name in limits) else None


def _template_arguments(body: Mapping[str, Any], path: str) -> str | None:
    del path
    arguments = body.get("chat_template_kwargs")
    if not isinstance(arguments, dict):
        return None
    plain = all(isinstance(value, str | int | float | bool | None) for value in arguments.values())
    return None if plain and not arguments.keys() & _TEMPLATE_ARGUMENTS else "chat_template_kwargs"


def _members(body: Mapping[str, Any]) -> Iterator[tuple[str, Any]]:
    """Yield every key inside ``messages``, ``input`` and ``prompt``, with its value."""
    left = [body.get(name) for name in _PROMPTS]
    while left:
        value = left.pop()
        if isinstance(value, dict):
            yield from value.items()
            left.extend(value.values())
        elif isinstance(value, list):
            left.extend(value)


def _is_plain(body: Mapping[str, Any]) -> bool:
    """Return whether the prompt is only texts, so that nothing can be inside it."""
    for name in _PROMPTS:
        value = body.get(name)
        if value is None or isinstance(value, str):
            continue
        for item in value if isinstance(value, list) else (value,):
            texts = item.items() if isinstance(item, dict) else (("content", item),)
            if any(key not in _PLAIN_KEYS or not isinstance(text, str | int) for key, text in texts):
                return False
    return True


def _foreign_media(body: Mapping[str, Any], path: str) -> str | None:
    del path
    for key, value in _members(body):
        if key.endswith("_url"):
            url = value.get("url") if isinstance(value, dict) else value
            if url is not None and not (isinstance(url, str) and url.startswith("data:")):
                return key
    return None


def _embedded(body: Mapping[str, Any], path: str) -> str | None:
    del path
    for key, value in _members(body):
        kind = value if key == "type" else key
        if isinstance(kind, str) and kind.endswith(("_embeds", "_pil")) and value is not None:
            return kind
    return None


RULES: tuple[Rule, ...] = (
    Rule(
        ("image_url", "video_url", "audio_url", "file_url"),
        "send media inside the request, as data: URLs. Nothing is fetched from the network or read from the disk.",
        _foreign_media,
        inside=True,
    ),
    Rule(
        ("image_embeds", "audio_embeds", "video_embeds", "image_pil"),
        "send media files as data: URLs. Tensors are refused, because reading one can run code.",
        _embedded,
        inside=True,
    ),
    Rule(("prompt_embeds",), "tensors are refused, because reading one can run code.", _given("prompt_embeds")),
    Rule(
        ("n", "best_of"),
        f"the maximum is {MAX_SEQUENCES}, because each answer takes a slot of the engine.",
        _out_of(-1, MAX_SEQUENCES, "n", "best_of"),
    ),
    Rule(
        ("prompt", "input"),
        f"a request can have at most {MAX_PROMPTS:,} sequences (prompts times n). Send several requests.",
        _too_many,
    ),
    Rule(
        (*_LIMITS, "min_tokens"),
        f"the maximum is {MAX_TOKENS:,}.",
        _out_of(-1, MAX_TOKENS, *_LIMITS, "min_tokens"),
    ),
    Rule(
        ("logprobs", "top_logprobs", "prompt_logprobs"),
        "it must not be negative. Log probabilities of the whole vocabulary for each token would fill the memory.",
        _out_of(0, MAX_TOKENS, "logprobs", "top_logprobs", "prompt_logprobs"),
    ),
    Rule(
        ("ignore_eos",),
        "set max_tokens (max_completion_tokens, max_output_tokens) too, or the answer fills the context.",
        _endless,
    ),
    Rule(
        ("use_beam_search",),
        "beam search multiplies a request in the engine and ignores priorities. Use n with a temperature.",
        _switched_on("use_beam_search"),
    ),
    Rule(
        ("priority",),
        "priority is set by the server: interactive requests run before batch requests.",
        _given("priority"),
    ),
    Rule(
        ("request_id",),
        "request ids are set by the server, because an id in use would mix up two requests. "
        "Use custom_id or the header x-request-id.",
        _given("request_id"),
    ),
    Rule(
        ("kv_transfer_params", "ec_transfer_params", "session_id"),
        "it would reach into the engine's caches.",
        _given("kv_transfer_params", "ec_transfer_params", "session_id"),
    ),
    Rule(("vllm_xargs",), "it would reach the engine's plug-ins unchecked.", _given("vllm_xargs")),
    Rule(
        ("chat_template",),
        "a template is a program that runs in the kernel. Set it when you load the model: --chat-template.",
        _given("chat_template"),
    ),
    Rule(
        ("chat_template_kwargs",),
        "only plain values for the template (such as enable_thinking) are allowed, no arguments of its renderer.",
        _template_arguments,
    ),
    Rule(
        ("mm_processor_kwargs", "media_io_kwargs"),
        "set how media are read when you load the model. In a request it could ask for any size.",
        _given("mm_processor_kwargs", "media_io_kwargs"),
    ),
    Rule(
        ("background",),
        "responses do not run in the background here. Leave it out, or make a batch.",
        _switched_on("background", only=RESPONSES.path),
    ),
    Rule(
        ("store",),
        "responses are not stored here, because the engine would keep them in memory forever. Leave it out.",
        _switched_on("store", only=RESPONSES.path),
    ),
)
"""In the order in which they are checked."""


_INSIDE = [rule for rule in RULES if rule.inside]
_BY_FIELD = {field: rule for rule in RULES if not rule.inside for field in rule.fields}


def documentation() -> str:
    """Return the rules as a table in Markdown.

    Examples
    --------
    >>> documentation().splitlines()[0]
    '| Field | Rule |'
    """
    rows = [f"| {', '.join(f'`{field}`' for field in rule.fields)} | {rule.sentence} |" for rule in RULES]
    return "\n".join(["| Field | Rule |", "|---|---|", *rows]) + "\n"
