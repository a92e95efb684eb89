"""What an engine and a batch look like at one moment; widgets, magics and HTTP all draw these."""

from __future__ import annotations

import dataclasses
from collections.abc import Mapping
from typing import Literal

from vbatch_jupyter.protocol.batch import BatchRecord

EngineState = Literal["loading", "ready", "dead", "unloaded"]


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


@dataclasses.dataclass(frozen=True, slots=True, kw_only=True)
class Snapshot:
    """One moment of a batch and of the engine it runs on.

    Parameters
    ----------
    time
        Monotonic seconds.
    batch
        The batch as the store has it.
    engine
        The engine that runs it, if one does.
    answers
        The last lines of its output file, the newest first, as far as this process has seen them.
    errors
        How often each message of an error has come, as far as this process has seen them.
    """

    time: float
    batch: BatchRecord
    engine: EngineStats | None = None
    answers: tuple[bytes, ...] = ()
    errors: Mapping[str, int] = dataclasses.field(default_factory=dict)
