"""Small immutable records that several floors pass on, and the names that a kernel and the Jupyter server agree on."""

from __future__ import annotations

import dataclasses
from typing import Literal, NamedTuple

SECRET_HEADER = "x-vbatch-secret"  # noqa: S105 - its name
"""The header that carries the secret of a kernel's socket."""

NAME_VARIABLE = "VBATCH_ENGINE_NAME"
"""Set by a server for a kernel that it starts: the name of the engine that the kernel is to hold."""

EngineState = Literal["loading", "ready", "dead", "unloaded"]


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
    """

    max_model_len: int | None = None
    paths: frozenset[str] | None = None
    takes_tools: bool | None = None


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
