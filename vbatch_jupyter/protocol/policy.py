"""What a request's body may not ask for: fields that would harm the engine, other requests, or this machine.

vLLM takes far more than OpenAI does, and trusts who asks. Here whoever has the server's key may ask, and a batch runs
unattended; so every request passes these rules on its way into an engine, be it a line of a batch or a chat. Whatever
vLLM's own checks refuse is left to them. Values are read as leniently as vLLM reads them: ``"n": "999"`` is a number.
"""

from __future__ import annotations

import dataclasses
from collections.abc import Callable, Iterator, Mapping
from typing import Any

import msgspec

MAX_SEQUENCES = 128
"""The most answers to one prompt; OpenAI's own limit."""

MAX_PROMPTS = 2048
"""The most sequences of one request, prompts times answers; OpenAI's limit for the inputs of embeddings."""

MAX_TOKENS = 1 << 20
"""The most output tokens that a request may ask for; longer than any model's context for answers."""

_RESPONSES = "/v1/responses"
_LIMITS = ("max_tokens", "max_completion_tokens", "max_output_tokens")
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
        The keys of the body that it is about.
    sentence
        What is refused, and why; it is the answer's message and the documentation.
    broken
        Called with the body and the endpoint's path; gives the offending field, or None where the rule holds.
    inside
        Whether the fields are somewhere inside the messages; else the rule is about bodies that have one of the fields.
    """

    fields: tuple[str, ...]
    sentence: str
    broken: Callable[[Mapping[str, Any], str], str | None]
    inside: bool = False


@dataclasses.dataclass(frozen=True, slots=True)
class Refusal:
    """Why a body is refused; what OpenAI's error envelope says about it."""

    message: str
    param: str | None
    code: str


def refusal(path: str, body: bytes) -> Refusal | None:
    """Find the first rule that a request breaks.

    Parameters
    ----------
    path
        The endpoint's, such as ``"/v1/chat/completions"``.
    body
        The request's JSON.

    Examples
    --------
    >>> refusal("/v1/completions", b'{"model": "m", "prompt": "a", "n": 2}')
    >>> refusal("/v1/completions", b'{"model": "m", "prompt": "a", "n": 129}').param
    'n'
    """
    try:
        content = msgspec.json.decode(body)
    except (ValueError, RecursionError) as error:
        # What is read here and what vLLM reads must be the same: it would also take UTF-16, NaN and lone surrogates.
        return Refusal(f"We could not parse the JSON body of your request: {error}.", None, "invalid_json")
    if not isinstance(content, dict):
        return Refusal("The body of a request must be a JSON object.", None, "invalid_json")
    for rule in RULES:
        # Most bodies have none of the fields, and there may be a million of them.
        if not rule.inside and content.keys().isdisjoint(rule.fields):
            continue
        if (field := rule.broken(content, path)) is not None:
            return Refusal(f"Invalid '{field}': {rule.sentence}", field, "unsupported_value")
    return None


# ----------------------------------------------------------------------------------------------------- how to look


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
    """Read a number as vLLM's models do, which also take one that is written as a string."""
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
    del path
    return "ignore_eos" if _is_on(body.get("ignore_eos")) and not any(body.get(name) for name in _LIMITS) else None


def _template_arguments(body: Mapping[str, Any], path: str) -> str | None:
    del path
    arguments = body.get("chat_template_kwargs")
    if not isinstance(arguments, dict):
        return None
    plain = all(isinstance(value, str | int | float | bool | None) for value in arguments.values())
    return None if plain and not arguments.keys() & _TEMPLATE_ARGUMENTS else "chat_template_kwargs"


def _members(body: Mapping[str, Any]) -> Iterator[tuple[str, Any]]:
    """Give every key below ``messages``, ``input`` and ``prompt``, with its value."""
    left = [body.get(name) for name in ("messages", "input", "prompt", "previous_input_messages")]
    while left:
        value = left.pop()
        if isinstance(value, dict):
            yield from value.items()
            left.extend(value.values())
        elif isinstance(value, list):
            left.extend(value)


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
        "media come inside the request, as a data: URL; nothing is fetched from the network or read from the disk.",
        _foreign_media,
        inside=True,
    ),
    Rule(
        ("image_embeds", "audio_embeds", "video_embeds", "image_pil"),
        "media come as data: URLs of their files; tensors are not taken, since reading one can run code.",
        _embedded,
        inside=True,
    ),
    Rule(("prompt_embeds",), "tensors are not taken, since reading one can run code.", _given("prompt_embeds")),
    Rule(
        ("n", "best_of"),
        f"it may be at most {MAX_SEQUENCES}; each answer takes a slot of the engine.",
        _out_of(-1, MAX_SEQUENCES, "n", "best_of"),
    ),
    Rule(
        ("prompt", "input"),
        f"one request may have at most {MAX_PROMPTS:,} sequences (prompts times n); send several requests.",
        _too_many,
    ),
    Rule(
        (*_LIMITS, "min_tokens"),
        f"it may be at most {MAX_TOKENS:,}.",
        _out_of(-1, MAX_TOKENS, *_LIMITS, "min_tokens"),
    ),
    Rule(
        ("logprobs", "top_logprobs", "prompt_logprobs"),
        "it may not be negative: the log probabilities of the whole vocabulary for each token fill the memory.",
        _out_of(0, MAX_TOKENS, "logprobs", "top_logprobs", "prompt_logprobs"),
    ),
    Rule(
        ("ignore_eos",),
        "it needs max_tokens (max_completion_tokens, max_output_tokens) beside it, or the answer fills the context.",
        _endless,
    ),
    Rule(
        ("use_beam_search",),
        "beam search multiplies a request in the engine, and ignores priorities; use n with a temperature.",
        _switched_on("use_beam_search"),
    ),
    Rule(
        ("priority",),
        "interactive requests come before those of batches, and nobody chooses for themselves.",
        _given("priority"),
    ),
    Rule(
        ("request_id",),
        "ids are given here: one that is in use would mix two requests up. Use custom_id or the header x-request-id.",
        _given("request_id"),
    ),
    Rule(
        ("kv_transfer_params", "ec_transfer_params", "session_id"),
        "it reaches into the engine's caches, past the prompt.",
        _given("kv_transfer_params", "ec_transfer_params", "session_id"),
    ),
    Rule(("vllm_xargs",), "it reaches the engine's plug-ins unchecked.", _given("vllm_xargs")),
    Rule(
        ("chat_template",),
        "a template is a program that runs in the kernel; give one when the model is loaded: --chat-template.",
        _given("chat_template"),
    ),
    Rule(
        ("chat_template_kwargs",),
        "it may hold plain values for the template (such as enable_thinking), and no argument of its renderer.",
        _template_arguments,
    ),
    Rule(
        ("mm_processor_kwargs", "media_io_kwargs"),
        "how media are read is said when the model is loaded: a request could have them read at any size.",
        _given("mm_processor_kwargs", "media_io_kwargs"),
    ),
    Rule(
        ("background",),
        "no response runs in the background here; leave it out, or make a batch.",
        _switched_on("background", only=_RESPONSES),
    ),
    Rule(
        ("store",),
        "responses are not kept here, since the engine would keep them in its memory for good; leave it out.",
        _switched_on("store", only=_RESPONSES),
    ),
)
"""In the order in which they are looked at."""


def documentation() -> str:
    """Give the rules as a table in Markdown.

    Examples
    --------
    >>> documentation().splitlines()[0]
    '| Field | Rule |'
    """
    rows = [f"| {', '.join(f'`{field}`' for field in rule.fields)} | {rule.sentence} |" for rule in RULES]
    return "\n".join(["| Field | Rule |", "|---|---|", *rows]) + "\n"
