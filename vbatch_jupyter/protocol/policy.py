"""What a request's body may not ask for, and what would do nothing: the one table of rules, `policy.toml`.

Some rules are ours: vLLM accepts far more than OpenAI does, and trusts its callers. Here anyone with the server's key
can send requests, and batches run unattended. So every request is checked against these rules before it reaches an
engine, both lines of a batch and chats (`check`). The others say what vLLM and OpenAI refuse or ignore, so that it can
be said before anything runs (`broken`, `ignored`).
"""

from __future__ import annotations

import dataclasses
import functools
import re
import tomllib
from collections.abc import Callable, Iterable, Iterator, Mapping, Sequence
from pathlib import Path
from typing import Any, Literal, NamedTuple

import msgspec

from vbatch_jupyter.errors import BadRequestError
from vbatch_jupyter.protocol import conditions
from vbatch_jupyter.protocol.conditions import (
    CONDITIONS,
    LIMITS,
    MAX_PROMPTS,
    MAX_SEQUENCES,
    MAX_TOKENS,
    PROMPTS,
)
from vbatch_jupyter.protocol.endpoints import ENDPOINTS, Endpoint
from vbatch_jupyter.protocol.keys import MOST_NAMED, check_keys, more_of, shortened, unknown_keys
from vbatch_jupyter.records import EngineLimits

Server = Literal["here", "local", "openai", "compatible"]
"""Who answers: ``here`` is only what is checked before an engine, ``local`` that and a vLLM engine. Of any other
service that is compatible with OpenAI's API it is only known that it refuses what both OpenAI and vLLM refuse."""

NO_LIMITS = EngineLimits()
"""Nothing is known of the engine."""

_PLAIN_KEYS = ("content", "role")
_PLAIN_ROLES = frozenset({"assistant", "system", "user"})
_MOST_MESSAGES = 1000
_FIGURES = {
    "MAX_SEQUENCES": MAX_SEQUENCES,
    "MAX_PROMPTS": MAX_PROMPTS,
    "MAX_TOKENS": MAX_TOKENS,
    "LIMITS": " ".join(LIMITS),
}
_FIGURE = re.compile(r"\{(\w+)\}")


@dataclasses.dataclass(frozen=True, slots=True, kw_only=True, eq=False)
class Rule:
    """One rule.

    Parameters
    ----------
    fields
        The keys of the body that the rule is about.
    sentence
        What is refused, and why. It is used as the error message and in the documentation.
    by
        Who refuses such a request, or ignores the key.
    condition
        Says of a value whether it breaks the rule.
    inside
        Finds what breaks the rule anywhere inside the messages, and returns its key; None for a rule about keys of the
        body.
    ignored
        Whether it is not refused, but does nothing.
    path
        The endpoint of the rule; None if it is for all.
    least, most, above, choices, limits
        For the condition.
    breaks, keeps
        Bodies that break the rule, and bodies that do not, as JSON; for tests.
    source
        Where it is written.
    """

    fields: tuple[str, ...]
    sentence: str
    by: frozenset[str]
    condition: conditions.Condition
    inside: Callable[[Mapping[str, Any]], str | None] | None = None
    ignored: bool = False
    path: str | None = None
    least: float | None = None
    most: float | None = None
    above: float | None = None
    choices: Sequence[str] = ()
    limits: Mapping[str, int] = dataclasses.field(default_factory=dict)
    breaks: Sequence[str] = ()
    keeps: Sequence[str] = ()
    source: str = ""


class Breach(NamedTuple):
    """A rule that a request breaks, or an ignored key.

    Parameters
    ----------
    field
        The key.
    sentence
        What is wrong, and what to do.
    """

    field: str
    sentence: str


class Answering(NamedTuple):
    """Who answers requests, and what is known of that engine."""

    server: Server = "local"
    limits: EngineLimits = NO_LIMITS


LOCAL = Answering()
"""An engine of which nothing is known but that it is vLLM's."""


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


def check(path: str, body: Mapping[str, Any], *, refuses_unknown: bool = False) -> None:
    """Raise an error if a request breaks one of our own rules.

    Parameters
    ----------
    path
        The endpoint's, such as ``"/v1/chat/completions"``.
    body
        The request's body, as `decode` reads it.
    refuses_unknown
        Whether a key that neither OpenAI nor vLLM knows is refused, as OpenAI does.

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
    for field, sentence in broken(path, body, "here"):
        raise BadRequestError(f"Invalid '{field}': {sentence}", param=field, code="unsupported_value")
    if refuses_unknown and (endpoint := ENDPOINTS.get(path)) is not None and (unknown := unknown_keys(endpoint, body)):
        raise unknown_parameter(unknown[0])


def refuse(endpoint: Endpoint, body: Mapping[str, Any], by: Answering) -> None:
    """Raise an error if all requests with these values would be answered with one, or have a key in vain.

    Parameters
    ----------
    endpoint
        Whose body it is.
    body
        A request's, with any prompt.
    by
        Who answers.

    Raises
    ------
    BadRequestError
        Names each key.

    Examples
    --------
    >>> from vbatch_jupyter.protocol.endpoints import CHAT
    >>> refuse(CHAT, {"temperature": 5, "n": 0}, Answering())  # doctest: +ELLIPSIS
    Traceback (most recent call last):
    vbatch_jupyter.errors.BadRequestError: Invalid 'temperature': it must be a number from 0 to 2. Invalid 'n': ...
    """
    if breaches := list(broken(endpoint.path, body, *by)):
        message = " ".join(f"Invalid '{field}': {sentence}" for field, sentence in breaches)
        raise BadRequestError(message, param=breaches[0].field, code="invalid_value")
    if not endpoint.known_keys.issuperset(body):
        check_keys(endpoint, body)
    if by.server == "openai" and (unknown := [key for key in body if key not in endpoint.openai_keys]):
        names = ", ".join(repr(shortened(key)) for key in unknown[:MOST_NAMED])
        message = f"OpenAI does not know {names} and answers each such request with an error."
        raise BadRequestError(" ".join([message, *more_of(unknown)]), param=unknown[0], code="unknown_parameter")


def unknown_parameter(key: str) -> BadRequestError:
    """Return OpenAI's error for a key that it does not know.

    Examples
    --------
    >>> unknown_parameter("temprature").message
    "Unknown parameter: 'temprature'."
    """
    name = shortened(key)
    return BadRequestError(f"Unknown parameter: '{name}'.", param=name, code="unknown_parameter")


def broken(
    path: str,
    body: Mapping[str, Any],
    server: Server,
    limits: EngineLimits = NO_LIMITS,
    *,
    fields: Iterable[str] | None = None,
) -> Iterator[Breach]:
    """Yield the first rule that each key of a body breaks.

    Parameters
    ----------
    path
        The endpoint's.
    body
        The request's body.
    server
        Who answers it.
    limits
        What is known of the engine that answers it.
    fields
        The keys to look at; all by default.

    Examples
    --------
    >>> body = {"model": "m", "messages": [{"role": "user", "content": "a"}], "temperature": 0, "n": 3, "top_p": 5}
    >>> [breach.field for breach in broken("/v1/chat/completions", body, "local")]
    ['n', 'top_p']
    >>> [breach.field for breach in broken("/v1/chat/completions", body, "openai")]
    ['top_p']
    """
    by_field, inside = _rules_of(server, path, knows_limits=limits is not NO_LIMITS)
    # Most prompts are plain texts, which break no rule, and a batch may have a million.
    if has_plain_prompt(body):
        fields, inside = [field for field in fields or body if field not in PROMPTS], ()
    asked = conditions.Asked(body, path, server != "openai", limits)
    yield from _breaches(by_field, body if fields is None else fields, asked)
    for rule in inside:
        if rule.inside is not None and (field := rule.inside(body)) is not None:
            yield Breach(field, rule.sentence)


def beyond(
    path: str, body: Mapping[str, Any], server: Server, limits: EngineLimits, *, fields: Iterable[str]
) -> Iterator[Breach]:
    """Yield of the rules that `broken` checks only those about what the engine can do at all.

    Parameters
    ----------
    path, body, server, limits, fields
        As for `broken`.

    Examples
    --------
    >>> body = {"temperature": 5, "max_tokens": 65}
    >>> limits = EngineLimits(max_model_len=64)
    >>> [breach.field for breach in beyond("/v1/completions", body, "local", limits, fields=body)]
    ['max_tokens']
    """
    return _breaches(_rules_of_limits(server, path), fields, conditions.Asked(body, path, server != "openai", limits))


def ignored(path: str, body: Mapping[str, Any], server: Server) -> Iterator[Breach]:
    """Yield the keys of a body that its server ignores, though OpenAI knows them.

    Parameters
    ----------
    path, body, server
        As for `broken`.

    Examples
    --------
    >>> [breach.field for breach in ignored("/v1/chat/completions", {"functions": []}, "local")]
    ['functions']
    """
    return _breaches(_ignored_by(server, path), body, conditions.Asked(body, path, server != "openai", NO_LIMITS))


def has_ignored(path: str, keys: Iterable[str], server: Server) -> bool:
    """Return whether some of the keys may be ignored; `ignored` looks at their values too."""
    return not _ignored_by(server, path).keys().isdisjoint(keys)


def _breaches(
    by_field: Mapping[str, Sequence[Rule]], fields: Iterable[str], asked: conditions.Asked
) -> Iterator[Breach]:
    for field in fields:
        rules = by_field.get(field)
        if rules is None or (value := asked.body.get(field)) is None:
            continue
        for rule in rules:
            asked.rule, asked.field = rule, field
            if found := rule.condition(value, asked):
                figures = {"path": asked.path, "max_model_len": asked.limits.max_model_len, "found": found}
                yield Breach(field, _filled(rule.sentence, figures))
                break


def has_plain_prompt(body: Mapping[str, Any]) -> bool:
    """Return whether a body's prompt is only texts in roles that all know, none empty, so that it breaks no rule.

    Examples
    --------
    >>> has_plain_prompt({"messages": [{"role": "user", "content": "Hello"}]}), has_plain_prompt({"input": ""})
    (True, False)
    """
    for name in PROMPTS:
        if name not in body:
            continue
        value = body[name]
        if type(value) is list and 0 < len(value) <= _MOST_MESSAGES:
            for item in value:
                if (
                    type(item) is not dict
                    or len(item) != len(_PLAIN_KEYS)
                    or type(item.get("content")) is not str
                    or type(role := item.get("role")) is not str
                    or role not in _PLAIN_ROLES
                ):
                    return False
        elif type(value) is not str or not value or name == "messages":
            return False
    return True


def _filled(sentence: str, figures: Mapping[str, Any]) -> str:
    def figure(match: re.Match[str]) -> str:
        value = figures.get(match[1])
        return f"{value:,}" if isinstance(value, int) else match[0] if value is None else str(value)

    return _FIGURE.sub(figure, sentence) if "{" in sentence else sentence


def _rule(*, fields: str, sentence: str, by: str, condition: str, inside: bool = False, **rest: Any) -> Rule:
    said = frozenset(by.split())
    who = set(said)
    if said & {"here", "vllm"}:
        who.add("local")
    if said >= {"openai", "vllm"}:
        who.add("compatible")
    rest |= {name: _FIGURES[rest[name].strip("{}")] for name in ("least", "most") if isinstance(rest.get(name), str)}
    return Rule(
        fields=tuple(_filled(fields, _FIGURES).split()),
        sentence=_filled(sentence, _FIGURES | {"most": rest.get("most")}),
        by=frozenset(who),
        condition=CONDITIONS["given" if inside else condition],
        inside=getattr(conditions, condition) if inside else None,
        **rest,
    )


RULES: tuple[Rule, ...] = tuple(
    _rule(**table) for table in tomllib.loads(Path(__file__).with_suffix(".toml").read_text(encoding="utf-8"))["rules"]
)
"""In the order in which they are checked."""


@functools.cache
def _rules_of(server: Server, path: str, *, knows_limits: bool) -> tuple[Mapping[str, Sequence[Rule]], Sequence[Rule]]:
    """Return the rules of a server and an endpoint: those about keys, by the key, and those about what is inside."""
    rules = [rule for rule in RULES if server in rule.by and rule.path in (None, path) and not rule.ignored]
    if not knows_limits:
        rules = [rule for rule in rules if rule.condition not in conditions.OF_LIMITS]
    return _by_field(rules, path), [rule for rule in rules if rule.inside is not None]


@functools.cache
def _rules_of_limits(server: Server, path: str) -> Mapping[str, Sequence[Rule]]:
    by_field, _ = _rules_of(server, path, knows_limits=True)
    of_limits = {
        field: [rule for rule in rules if rule.condition in conditions.OF_LIMITS] for field, rules in by_field.items()
    }
    return {field: rules for field, rules in of_limits.items() if rules}


@functools.cache
def _ignored_by(server: Server, path: str) -> Mapping[str, Sequence[Rule]]:
    return _by_field([rule for rule in RULES if server in rule.by and rule.path in (None, path) and rule.ignored], path)


def _by_field(rules: Sequence[Rule], path: str) -> Mapping[str, Sequence[Rule]]:
    endpoint, by_field = ENDPOINTS.get(path), dict[str, list[Rule]]()
    for rule in rules:
        for field in rule.fields if rule.inside is None else ():
            # A key that the endpoint does not have has no wrong value; but ours are checked for every endpoint.
            if "here" in rule.by or (endpoint is not None and field in endpoint.known_keys):
                by_field.setdefault(field, []).append(rule)
    return by_field
