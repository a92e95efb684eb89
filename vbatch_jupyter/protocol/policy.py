"""What a request's body may not ask for: fields that would harm the engine, other requests, or this machine.

vLLM accepts far more than OpenAI does, and trusts its callers. Here anyone with the server's key can send requests, and
batches run unattended. So every request is checked against these rules before it reaches an engine, both lines of a
batch and chats. What vLLM's own checks refuse is left to them. Values are read as leniently as vLLM reads them:
``"n": "999"`` is a number.
"""

from __future__ import annotations

import dataclasses
import tomllib
from collections.abc import Callable, Iterator, Mapping, Sequence
from pathlib import Path
from typing import Any

import msgspec

from vbatch_jupyter.errors import BadRequestError
from vbatch_jupyter.protocol.endpoints import ENDPOINTS

MAX_SEQUENCES = 128
"""The most answers to one prompt; OpenAI's own limit."""

MAX_PROMPTS = 2048
"""The most sequences of one request, prompts times answers; OpenAI's limit for the inputs of embeddings."""

MAX_TOKENS = 1 << 20
"""The most output tokens that a request may ask for; more than the context of any model."""

_PROMPTS = ("messages", "input", "prompt", "previous_input_messages")
_PLAIN_KEYS = frozenset({"content", "name", "role"})
_FALSE = frozenset({"", "0", "f", "false", "n", "no", "off"})
_TABLE = tomllib.loads(Path(__file__).with_suffix(".toml").read_text(encoding="utf-8"))
_TEMPLATE_ARGUMENTS = frozenset(_TABLE["template_arguments"].split())

Broken = Callable[[Sequence[str], Mapping[str, Any], str], str | None]


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
        Called with the fields, the body and the endpoint's path. Returns the offending field, or None if the rule is
        kept.
    inside
        Whether to look for the fields anywhere inside the messages, and not only among the keys of the body.
    path
        The endpoint of the rule; None if it is for all.
    """

    fields: tuple[str, ...]
    sentence: str
    broken: Broken
    inside: bool
    path: str | None


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
        if rule.path in (None, path) and (field := rule.broken(rule.fields, body, path)) is not None:
            raise BadRequestError(f"Invalid '{field}': {rule.sentence}", param=field, code="unsupported_value")


# ----------------------------------------------------------------------------------------------------- the checks


def _given(fields: Sequence[str], body: Mapping[str, Any], path: str) -> str | None:
    del path
    return next((field for field in fields if body.get(field) is not None), None)


def _switched_on(fields: Sequence[str], body: Mapping[str, Any], path: str) -> str | None:
    del path
    return next((field for field in fields if _is_on(body.get(field))), None)


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


def _out_of(least: float, most: float) -> Broken:
    def broken(fields: Sequence[str], body: Mapping[str, Any], path: str) -> str | None:
        del path
        for field in fields:
            number = _number(body.get(field))
            if number is not None and not least <= number <= most:
                return field
        return None

    return broken


def _too_many(fields: Sequence[str], body: Mapping[str, Any], path: str) -> str | None:
    del path
    field = next((name for name in fields if isinstance(body.get(name), list)), None)
    if field is None or all(isinstance(value, int) for value in body[field]):
        return None  # one text, or one prompt as its tokens
    answers = max(_number(body.get("n")) or 1, _number(body.get("best_of")) or 1)
    return field if len(body[field]) * answers > MAX_PROMPTS else None


def _endless(fields: Sequence[str], body: Mapping[str, Any], path: str) -> str | None:
    # Of the limits of another endpoint vLLM knows nothing.
    limits = ENDPOINTS[path].limits if path in ENDPOINTS else ()
    return None if any(body.get(name) for name in limits) else _switched_on(fields, body, path)


def _template_arguments(fields: Sequence[str], body: Mapping[str, Any], path: str) -> str | None:
    del fields, path
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


def _foreign_media(fields: Sequence[str], body: Mapping[str, Any], path: str) -> str | None:
    del fields, path
    for key, value in _members(body):
        if key.endswith("_url"):
            url = value.get("url") if isinstance(value, dict) else value
            if url is not None and not (isinstance(url, str) and url.startswith("data:")):
                return key
    return None


def _embedded(fields: Sequence[str], body: Mapping[str, Any], path: str) -> str | None:
    del fields, path
    for key, value in _members(body):
        kind = value if key == "type" else key
        if isinstance(kind, str) and kind.endswith(("_embeds", "_pil")) and value is not None:
            return kind
    return None


_CHECKS: dict[str, Broken] = {
    "answers": _out_of(-1, MAX_SEQUENCES),
    "embedded": _embedded,
    "endless": _endless,
    "foreign_media": _foreign_media,
    "given": _given,
    "logprobs": _out_of(0, MAX_TOKENS),
    "sequences": _too_many,
    "switched_on": _switched_on,
    "template_arguments": _template_arguments,
    "tokens": _out_of(-1, MAX_TOKENS),
}
_FIGURES = {
    "MAX_SEQUENCES": MAX_SEQUENCES,
    "MAX_PROMPTS": MAX_PROMPTS,
    "MAX_TOKENS": MAX_TOKENS,
    "LIMITS": " ".join(dict.fromkeys(key for endpoint in ENDPOINTS.values() for key in endpoint.limits)),
}


def _rule(*, fields: str, sentence: str, check: str, inside: bool = False, path: str | None = None) -> Rule:
    words, sentence = fields.format_map(_FIGURES), sentence.format_map(_FIGURES)
    return Rule(tuple(words.split()), sentence, _CHECKS[check], inside, path)


RULES: tuple[Rule, ...] = tuple(_rule(**table) for table in _TABLE["rules"])
"""In the order in which they are checked."""

_INSIDE = [rule for rule in RULES if rule.inside]
_BY_FIELD = {field: rule for rule in RULES if not rule.inside for field in rule.fields}
