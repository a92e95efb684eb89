"""When a value breaks a rule of `policy.toml`; the rules name these functions.

Each is called with the value, which is never null, and with what else is known. vLLM reads values leniently
(``"n": "999"`` is a number); OpenAI does not.
"""

from __future__ import annotations

import dataclasses
from collections.abc import Callable, Iterator, Mapping
from typing import Any

from vbatch_jupyter.protocol.constraint_size import excess, has_constraint, labels
from vbatch_jupyter.protocol.endpoints import ENDPOINTS
from vbatch_jupyter.protocol.keys import shortened
from vbatch_jupyter.records import EngineLimits

MAX_SEQUENCES = 128
"""The most answers to one prompt; OpenAI's own limit."""

MAX_PROMPTS = 2048
"""The most sequences of one request, prompts times answers; OpenAI's limit for the inputs of embeddings."""

MAX_TOKENS = 1 << 20
"""The most output tokens that a request may ask for; more than the context of any model."""

LIMITS = tuple(dict.fromkeys(key for endpoint in ENDPOINTS.values() for key in endpoint.limits))
"""The keys that limit an answer's tokens, of all endpoints."""

PROMPTS = ("messages", "input", "prompt", "previous_input_messages")
"""The keys that a prompt may be under."""

_FALSE = frozenset({"", "0", "f", "false", "n", "no", "off"})
_BOOLEANS = _FALSE - {""} | {"1", "t", "true", "y", "yes", "on"}
_CONSTRAINTS = ("json", "regex", "choice", "grammar", "json_object", "structural_tag")


@dataclasses.dataclass(slots=True)
class Asked:
    """What is known besides the value; one object for each request.

    Parameters
    ----------
    body
        The request's.
    path
        The endpoint's.
    lenient
        Whether the server reads a text that looks like a number as that number, as vLLM does.
    limits
        Of the engine.
    rule, field
        What is being checked: the rule, and the key of the body.
    """

    body: Mapping[str, Any]
    path: str
    lenient: bool
    limits: EngineLimits
    rule: Any = None
    field: str = ""


Condition = Callable[[Any, Asked], bool | str | None]
"""Returns whether the value breaks the rule, or what in it does, which the rule's sentence has as ``{found}``."""

CONDITIONS: dict[str, Condition] = {}
"""By the name that the rules use."""


def _condition(function: Condition) -> Condition:
    CONDITIONS[function.__name__.removeprefix("_")] = function
    return function


def number_of(value: Any, *, lenient: bool = True) -> float | None:
    """Read a number; None if the value is not one.

    Examples
    --------
    >>> number_of("5"), number_of("5", lenient=False), number_of("hot"), number_of([1])
    (5.0, None, None, None)
    """
    if not lenient and (isinstance(value, bool) or not isinstance(value, int | float)):
        return None
    if not isinstance(value, int | float | str):
        return None
    try:
        return float(value)
    except (ValueError, OverflowError):
        return None


def is_on(value: Any) -> bool:
    """Return whether a flag is on, however it is written."""
    return value.strip().lower() not in _FALSE if isinstance(value, str) else bool(value)


def _outside(number: float, rule: Any) -> bool:
    return (
        (rule.least is not None and not number >= rule.least)
        or (rule.most is not None and not number <= rule.most)
        or (rule.above is not None and not number > rule.above)
    )


# ------------------------------------------------------------------------------------------------- one value


@_condition
def _given(_value: Any, _asked: Asked) -> bool:
    return True


@_condition
def _switched_on(value: Any, _asked: Asked) -> bool:
    return is_on(value)


@_condition
def _number(value: Any, asked: Asked) -> bool:
    read = number_of(value, lenient=asked.lenient)
    return read is None or _outside(read, asked.rule)


@_condition
def _number_outside(value: Any, asked: Asked) -> bool:
    read = number_of(value, lenient=asked.lenient)
    if read is None:
        return isinstance(value, int) and _outside(value, asked.rule)  # too large to be a float
    return _outside(read, asked.rule)


@_condition
def _integer(value: Any, asked: Asked) -> bool:
    if isinstance(value, int) and not isinstance(value, bool):
        return _outside(value, asked.rule)  # a float would lose digits
    read = number_of(value, lenient=asked.lenient)
    return read is None or not read.is_integer() or _outside(read, asked.rule)


@_condition
def _limit(value: Any, asked: Asked) -> bool:
    # A completion that only echoes its prompt may have 0 tokens.
    if value == 0 and is_on(asked.body.get("echo")) and asked.path == "/v1/completions":
        return False
    return bool(_integer(value, asked))


@_condition
def _above_one(value: Any, _asked: Asked) -> bool:
    return (number_of(value) or 0) > 1


@_condition
def _boolean(value: Any, asked: Asked) -> bool:
    if isinstance(value, bool):
        return False
    return not asked.lenient or str(value).strip().lower() not in _BOOLEANS


@_condition
def _choice(value: Any, asked: Asked) -> bool:
    return bool(value not in asked.rule.choices)


@_condition
def _stops(value: Any, asked: Asked) -> bool:
    if isinstance(value, str):
        return False
    return not isinstance(value, list) or len(value) > asked.rule.most or not all(isinstance(one, str) for one in value)


@_condition
def _not_texts(value: Any, _asked: Asked) -> bool:
    return not isinstance(value, list) or not all(isinstance(one, str) for one in value)


@_condition
def _not_ids(value: Any, asked: Asked) -> bool:
    read = [number_of(one, lenient=asked.lenient) for one in value] if isinstance(value, list) else [None]
    return any(one is None or one < 0 or not one.is_integer() for one in read)


@_condition
def _no_choice(value: Any, asked: Asked) -> bool:
    choice = value.get("choice") if isinstance(value, dict) else None
    return choice is not None and (not choice or bool(_not_texts(choice, asked)))


@_condition
def _has_empty(value: Any, asked: Asked) -> bool:
    if isinstance(value, list):
        # No stop at all is fine, no prompt at all is not.
        return (not value and asked.rule.path is not None) or "" in value or [] in value
    return isinstance(value, str) and not value


@_condition
def _not_token_ids(value: Any, asked: Asked) -> bool:
    return not isinstance(value, dict) or not all(
        key.strip().lstrip("-").isdigit() and number_of(bias, lenient=asked.lenient) is not None
        for key, bias in value.items()
    )


@_condition
def _format(value: Any, asked: Asked) -> bool:
    if not isinstance(value, dict) or value.get("type") not in asked.rule.choices:
        return True
    return value["type"] == "json_schema" and not isinstance(value.get("json_schema"), dict)


@_condition
def _nameless(value: Any, _asked: Asked) -> bool:
    schema = value.get("json_schema") if isinstance(value, dict) else None
    return isinstance(schema, dict) and not isinstance(schema.get("name"), str)


@_condition
def _not_one_constraint(value: Any, _asked: Asked) -> bool:
    return not isinstance(value, dict) or sum(value.get(key) is not None for key in _CONSTRAINTS) != 1


@_condition
def _more_than_text(value: Any, _asked: Asked) -> bool:
    return bool(value != ["text"])


@_condition
def _too_large(_value: Any, asked: Asked) -> str | None:
    return excess(asked.field, asked.body, asked.rule.limits, is_strict=False)


@_condition
def _too_large_if_strict(_value: Any, asked: Asked) -> str | None:
    return excess(asked.field, asked.body, asked.rule.limits, is_strict=True)


# ------------------------------------------------------------------------------------------------- two values


@_condition
def _over_limit(value: Any, asked: Asked) -> bool:
    most = next((asked.body[key] for key in LIMITS if asked.body.get(key) is not None), None)
    least = number_of(value)
    return least is not None and most is not None and least > (number_of(most) or least)


@_condition
def _greedy(value: Any, asked: Asked) -> bool:
    return (number_of(value) or 0) > 1 and number_of(asked.body.get("temperature")) == 0


@_condition
def _without_logprobs(value: Any, asked: Asked) -> bool:
    return (number_of(value) or 0) > 0 and not is_on(asked.body.get("logprobs"))


@_condition
def _not_included(value: Any, asked: Asked) -> bool:
    return (number_of(value) or 0) > 0 and "message.output_text.logprobs" not in (asked.body.get("include") or ())


@_condition
def _without_tools(value: Any, asked: Asked) -> bool:
    return value != "none" and asked.body.get("tools") is None


@_condition
def _with_format(_value: Any, asked: Asked) -> bool:
    form = asked.body.get("response_format")
    return isinstance(form, dict) and form.get("type") != "text"


@_condition
def _with_generation_prompt(value: Any, asked: Asked) -> bool:
    return is_on(value) and is_on(asked.body.get("add_generation_prompt", True))


@_condition
def _next_to_grammar(_value: Any, asked: Asked) -> bool:
    return has_constraint(asked.body)


@_condition
def _forced_next_to_grammar(value: Any, asked: Asked) -> bool:
    return value not in ("auto", "none") and has_constraint(asked.body)


@_condition
def _forbidden_label(value: Any, asked: Asked) -> str | None:
    words = [word for word in value if isinstance(word, str) and word] if isinstance(value, list) else []
    found = next(((word, label) for label in labels(asked.body) for word in words if word in label), None)
    return found and f"'{shortened(found[0])}' is in '{shortened(found[1])}', which the answer may be."


@_condition
def _without_stream(value: Any, asked: Asked) -> bool:
    return bool(value) and not is_on(asked.body.get("stream"))


@_condition
def _endless(value: Any, asked: Asked) -> bool:
    # Of the limits of another endpoint vLLM knows nothing.
    limits = ENDPOINTS[asked.path].limits if asked.path in ENDPOINTS else ()
    return is_on(value) and not any(asked.body.get(name) for name in limits)


@_condition
def _sequences(value: Any, asked: Asked) -> bool:
    if not isinstance(value, list) or all(isinstance(one, int) for one in value):
        return False  # one text, or one prompt as its tokens
    answers = max(number_of(asked.body.get("n")) or 1, number_of(asked.body.get("best_of")) or 1)
    return len(value) * answers > MAX_PROMPTS


# ------------------------------------------------------------------------------------------------- the engine


@_condition
def _beyond_context(value: Any, asked: Asked) -> bool:
    most, read = asked.limits.max_model_len, number_of(value)
    return most is not None and read is not None and read > most


@_condition
def _not_served(_value: Any, asked: Asked) -> bool:
    return asked.limits.paths is not None and asked.path not in asked.limits.paths


@_condition
def _no_tool_parser(_value: Any, asked: Asked) -> bool:
    return asked.limits.takes_tools is False and asked.body.get("tool_choice") != "none"


@_condition
def _no_dimensions(_value: Any, asked: Asked) -> bool:
    return asked.limits.takes_dimensions is False


OF_LIMITS = (_beyond_context, _not_served, _no_tool_parser, _no_dimensions)
"""The conditions that need the limits of an engine."""


# ------------------------------------------------------------------------------------------------- prompts


@_condition
def _no_list(value: Any, _asked: Asked) -> bool:
    return not isinstance(value, list) or not value


@_condition
def _no_messages(value: Any, _asked: Asked) -> bool:
    if not isinstance(value, list) or not value:
        return True
    for message in value:
        if not isinstance(message, dict) or not isinstance(message.get("role"), str):
            return True
        content = message.get("content", "")
        if not isinstance(content, str | list) and (content is not None or message["role"] in ("user", "system")):
            return True
    return False


@_condition
def _no_content(value: Any, _asked: Asked) -> bool:
    return isinstance(value, list) and any(
        isinstance(message, dict) and "content" not in message and message.get("role") in ("user", "system")
        for message in value
    )


@_condition
def _unknown_role(value: Any, asked: Asked) -> bool:
    return any(message["role"] not in asked.rule.choices for message in value)


@_condition
def _template_arguments(value: Any, asked: Asked) -> bool:
    if not isinstance(value, dict):
        return False
    plain = all(isinstance(one, str | int | float | bool | None) for one in value.values())
    return not plain or not value.keys().isdisjoint(asked.rule.choices)


# ------------------------------------------------------------------------------------------------- inside the messages


def _members(body: Mapping[str, Any]) -> Iterator[tuple[str, Any]]:
    """Yield every key inside ``messages``, ``input`` and ``prompt``, with its value."""
    left = [body.get(name) for name in PROMPTS]
    while left:
        value = left.pop()
        if isinstance(value, dict):
            yield from value.items()
            value = list(value.values())
        if isinstance(value, list):  # a prompt may be a million tokens
            left += [one for one in value if type(one) is dict or type(one) is list]


def foreign_media(body: Mapping[str, Any]) -> str | None:
    """Return the key of a picture, sound or file that would be fetched."""
    for key, value in _members(body):
        if key.endswith("_url"):
            url = value.get("url") if isinstance(value, dict) else value
            if url is not None and not (isinstance(url, str) and url.startswith("data:")):
                return key
    return None


def embedded(body: Mapping[str, Any]) -> str | None:
    """Return the kind of a tensor."""
    for key, value in _members(body):
        kind = value if key == "type" else key
        if isinstance(kind, str) and kind.endswith(("_embeds", "_pil")) and value is not None:
            return kind
    return None
