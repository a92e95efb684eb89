"""Small immutable records that several floors pass on, and the names that a kernel and the Jupyter server agree on."""

from __future__ import annotations

import dataclasses
import os
from typing import Generic, Literal, NamedTuple, Protocol, TypeVar

SECRET_HEADER = "x-vbatch-secret"  # noqa: S105 - its name
"""The header that carries the secret of a kernel's socket."""

NAME_VARIABLE = "VBATCH_ENGINE_NAME"
"""Set by a server for a kernel that it starts: the name of the engine that the kernel is to hold."""

EngineState = Literal["loading", "ready", "not responding", "dead", "unloaded"]

HOLDS_REQUESTS = frozenset({"ready", "not responding"})
"""The states of an engine that has requests, or can take them; the others have lost what they had."""

SILENCE_HELP = """Seconds without a sign of life after which an engine that has requests counts as not responding; 0
means never. An engine that only computes for long, as in a long prompt, is given ten times as long."""
REBUILD_HELP = """Seconds for which an engine may not respond until it is ended and rebuilt; 0 means never."""

_PATIENCE_VARIABLES = ("VBATCH_ENGINE_SILENCE_SECONDS", "VBATCH_ENGINE_REBUILD_SECONDS")


@dataclasses.dataclass(slots=True)
class Patience:
    """How long an engine that has requests may give no sign of life; `engine.silence` says what is one.

    Parameters
    ----------
    silence_seconds
        After so many seconds it counts as not responding; 0 means never.
    rebuild_seconds
        After so many more it is ended, and rebuilt as after a death; 0 means never.
    """

    silence_seconds: float = 60.0
    rebuild_seconds: float = 60.0

    @classmethod
    def of_environment(cls) -> Patience:
        """Return that of this process's variables, which a Jupyter server sets for its kernels."""
        given = [os.environ.get(name) for name in _PATIENCE_VARIABLES]
        defaults = dataclasses.astuple(cls())
        return cls(*(default if text is None else float(text) for text, default in zip(given, defaults, strict=True)))

    def variables(self) -> dict[str, str]:
        """Return the variables that `of_environment` reads."""
        return dict(zip(_PATIENCE_VARIABLES, map(str, dataclasses.astuple(self)), strict=True))


@dataclasses.dataclass(frozen=True, slots=True, kw_only=True)
class EngineLimits:
    """What an engine can do at all, as far as it is known; None if it is not.

    Parameters
    ----------
    max_model_len
        The most tokens of a prompt and its answer together.
    paths
        The endpoints that its model serves.
    takes_tools
        Whether it has a tool parser.
    takes_dimensions
        Whether the vectors of its model may be shortened.
    """

    max_model_len: int | None = None
    paths: frozenset[str] | None = None
    takes_tools: bool | None = None
    takes_dimensions: bool | None = None


@dataclasses.dataclass(frozen=True, slots=True, kw_only=True)
class EngineStats:
    """One moment of an engine, in vLLM's terms.

    Parameters
    ----------
    model
        The first served model name.
    state
        Whether the engine can answer.
    running, waiting
        Requests in the engine's scheduler.
    kv_cache_usage
        Fraction of the KV cache in use, 0 to 1.
    prefix_cache_hit_rate
        Hits over queries since the engine was loaded, counted in tokens, 0 to 1.
    prompt_tokens_per_second, generation_tokens_per_second
        Throughput over the last seconds.
    prompt_tokens, generation_tokens
        Totals since the engine was loaded.
    retries
        Requests that were sent to the engine again, because it was too busy, or they were lost.
    """

    model: str
    state: EngineState
    running: int = 0
    waiting: int = 0
    kv_cache_usage: float = 0.0
    prefix_cache_hit_rate: float = 0.0
    prompt_tokens_per_second: float = 0.0
    generation_tokens_per_second: float = 0.0
    prompt_tokens: int = 0
    generation_tokens: int = 0
    retries: int = 0


class Timing(NamedTuple):
    """When one request's answer came.

    Parameters
    ----------
    finished_at
        Unix seconds; None if the request was not run.
    latency
        Seconds from handing it to the engine to its answer; None if the engine was not asked, because the answer
        was known.
    """

    finished_at: float | None
    latency: float | None


class Identified(Protocol):
    """What has an id."""

    @property
    def id(self) -> str:
        """Its id."""


IdentifiedT = TypeVar("IdentifiedT", bound=Identified)


@dataclasses.dataclass(frozen=True, slots=True)
class Page(Generic[IdentifiedT]):
    """One page of a list.

    Parameters
    ----------
    data
        The records, in the order that was asked for.
    has_more
        Whether more follow the last one.
    """

    data: tuple[IdentifiedT, ...]
    has_more: bool

    @property
    def first_id(self) -> str | None:
        """Id of the first record; None on an empty page."""
        return self.data[0].id if self.data else None

    @property
    def last_id(self) -> str | None:
        """Id of the last record, the cursor of the next page; None on an empty page."""
        return self.data[-1].id if self.data else None
