"""What an input file asks in vain: requests that would be answered with an error, and keys that would be ignored.

Said once a batch and kind, with how many requests and the first of them. A batch may have a million requests, most of
them alike, so what is known of one is kept for those that have the same keys and values.
"""

from __future__ import annotations

import dataclasses
import operator
from collections.abc import Callable, Iterable, Iterator, Mapping, Sequence
from typing import Any

import msgspec

from vbatch_jupyter.protocol import policy
from vbatch_jupyter.protocol.conditions import PROMPTS
from vbatch_jupyter.protocol.endpoints import ENDPOINTS
from vbatch_jupyter.protocol.keys import MOST_NAMED, about, more_of, unknown_keys
from vbatch_jupyter.protocol.profiles import Profile
from vbatch_jupyter.protocol.requests import quoted
from vbatch_jupyter.records import EngineLimits

_FIRST = 3
_REMEMBERED = 1000
_KINDS = 20

Found = tuple[tuple[bool, str], ...]
"""For each finding whether it is an error, and the sentence."""


@dataclasses.dataclass(slots=True)
class _Kind:
    count: int = 0
    first: list[str] = dataclasses.field(default_factory=list)


class _Shape:
    """The requests that have the same keys, and what is found in those that have the same values too."""

    def __init__(self, names: tuple[str, ...]) -> None:
        self.names = names
        self.values: Callable[[Mapping[str, Any]], Any] = operator.itemgetter(*names) if names else len
        self.found: dict[bytes, Found] = {}


class Notes:
    """Collects what is found in the requests of one file.

    Parameters
    ----------
    profile
        Who answers, and what is refused.
    limits
        What the engine can do at all: only what is beyond it is then found.

    Examples
    --------
    >>> from vbatch_jupyter.protocol.profiles import PROFILES
    >>> notes = Notes(PROFILES["local"])
    >>> for name in ("a", "b"):
    ...     notes.see("/v1/completions", {"model": "m", "prompt": "Hello", "temprature": 0, "n": 0}, name)
    >>> [sentence[:45] for sentence in notes.sentences()]
    ['All 2 requests would be answered with an erro', 'All 2 requests have a key that is ignored: Ne']
    """

    def __init__(self, profile: Profile, limits: EngineLimits | None = None) -> None:
        self._profile = profile
        self._limits = limits
        self._shapes: dict[tuple[str, ...], _Shape] = {}
        self._kinds: dict[tuple[bool, str], _Kind] = {}
        self._requests = 0

    def see(self, path: str, body: Mapping[str, Any], custom_id: str, *, others: Sequence[str] = ()) -> None:
        """Look at one request.

        Parameters
        ----------
        path, body, custom_id
            The request's.
        others
            The keys of its body that are next to it.
        """
        self._requests += 1
        keys = (path, *body)
        shape = self._shapes.get(keys)
        if shape is None:
            shape = _Shape(tuple(key for key in body if key not in PROMPTS))
            if len(self._shapes) < _REMEMBERED:
                self._shapes[keys] = shape
        # As JSON: to Python true and 1 are equal, and a list cannot be a key.
        found = shape.found.get(values := msgspec.json.encode(shape.values(body)))
        if found is None:
            found = self._found(path, body, shape.names)
            if len(shape.found) < _REMEMBERED:
                shape.found[values] = found
        if self._limits is None and not policy.has_plain_prompt(body):
            found += tuple(_errors(policy.broken(path, body, self._profile.server, fields=PROMPTS)))
        found += tuple((False, outside(key)) for key in others)
        for kind in found:
            self._count(kind, custom_id)

    def _found(self, path: str, body: Mapping[str, Any], fields: Sequence[str]) -> Found:
        if self._limits is None:
            return found_in(path, body, self._profile, fields)
        return tuple(_errors(policy.beyond(path, body, self._profile.server, self._limits, fields=fields)))

    def _count(self, kind: tuple[bool, str], custom_id: str) -> None:
        seen = self._kinds.get(kind)
        if seen is None:
            if len(self._kinds) >= _KINDS:
                return
            seen = self._kinds[kind] = _Kind()
        seen.count += 1
        if len(seen.first) < _FIRST:
            seen.first.append(custom_id)

    def sentences(self) -> tuple[str, ...]:
        """Return a sentence for each finding, errors first."""
        kinds = sorted(self._kinds.items(), key=lambda kind: not kind[0][0])
        return tuple(self._sentence(is_error, sentence, kind) for (is_error, sentence), kind in kinds)

    def _sentence(self, is_error: bool, sentence: str, kind: _Kind) -> str:  # noqa: FBT001 - it is the kind's
        if kind.count == self._requests:
            who = "The request" if kind.count == 1 else f"All {kind.count:,} requests"
        else:
            names = ", ".join(map(quoted, kind.first)) + (", …" if kind.count > len(kind.first) else "")
            who = f"{kind.count:,} of {self._requests:,} requests ({names})"
        if is_error:
            return f"{who} would be answered with an error: {sentence}"
        return f"{who} {'has' if kind.count == 1 else 'have'} a key that is ignored: {sentence}"


def found_in(path: str, body: Mapping[str, Any], profile: Profile, fields: Sequence[str]) -> Found:
    """Return what some keys of a body break, or ask in vain.

    Parameters
    ----------
    path, body
        The request's.
    profile
        Who answers.
    fields
        The keys.
    """
    found = list(_errors(policy.broken(path, body, profile.server, fields=fields)))
    found += [(False, f"'{key}': {sentence}") for key, sentence in policy.ignored(path, body, profile.server)]
    endpoint = ENDPOINTS.get(path)
    if endpoint is None or endpoint.known_keys.issuperset(fields):
        return tuple(found)
    unknown = unknown_keys(endpoint, fields)
    for key in unknown[:MOST_NAMED]:
        if not any(policy.broken(path, body, profile.server, fields=(key,))):
            sentence = policy.unknown_parameter(key).message if profile.refuses_unknown else about(endpoint, key)
            found.append((profile.refuses_unknown, sentence))
    found += [(profile.refuses_unknown, sentence) for sentence in more_of(unknown)]
    return tuple(found)


def outside(key: str) -> str:
    """Return a sentence about a key of the body that is next to it.

    Examples
    --------
    >>> outside("seed")
    "'seed' is next to the body, where nobody reads it. Put it into the body."
    """
    return f"{quoted(key)} is next to the body, where nobody reads it. Put it into the body."


def _errors(breaches: Iterable[policy.Breach]) -> Iterator[tuple[bool, str]]:
    return ((True, f"Invalid '{field}': {sentence}") for field, sentence in breaches)
