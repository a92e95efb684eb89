"""Live figures of a vLLM engine, taken from its own statistics once an engine step."""

from __future__ import annotations

import collections
import logging
import time
from collections.abc import Callable
from typing import TYPE_CHECKING, Any

from vbatch_jupyter.records import HOLDS_REQUESTS, EngineState, EngineStats

if TYPE_CHECKING:
    from vllm.v1.metrics.loggers import StatLoggerBase

WINDOW_SECONDS = 5.0
"""Over how long throughput is averaged."""

_logger = logging.getLogger("vllm.vbatch")


class EngineCounters:
    """Figures of one engine, written by its stat logger and read from any thread.

    Parameters
    ----------
    clock
        Monotonic seconds.

    Attributes
    ----------
    steps
        How often the engine has sent something.
    """

    def __init__(self, clock: Callable[[], float] = time.monotonic) -> None:
        self._clock = clock
        self.steps = 0
        self._running = 0
        self._waiting = 0
        self._kv_cache_usage = 0.0
        self._cache_queries = 0
        self._cache_hits = 0
        self._prompt_tokens = 0
        self._generation_tokens = 0
        self._steps: collections.deque[tuple[float, int, int]] = collections.deque()

    def observe(self, scheduler_stats: Any, iteration_stats: Any) -> None:
        """Take over the figures of one engine step.

        Parameters
        ----------
        scheduler_stats, iteration_stats
            vLLM's ``SchedulerStats`` and ``IterationStats``; either may be None.
        """
        self.steps += 1
        if scheduler_stats is not None:
            self._running = scheduler_stats.num_running_reqs
            self._waiting = scheduler_stats.num_waiting_reqs + getattr(scheduler_stats, "num_skipped_waiting_reqs", 0)
            self._kv_cache_usage = scheduler_stats.kv_cache_usage
            if (cache := scheduler_stats.prefix_cache_stats) is not None:
                self._cache_queries += cache.queries
                self._cache_hits += cache.hits
        if iteration_stats is not None:
            prompt = iteration_stats.prompt_token_stats.computed
            generated = iteration_stats.num_generation_tokens
            self._prompt_tokens += prompt
            self._generation_tokens += generated
            now = self._clock()
            self._steps.append((now, prompt, generated))
            while self._steps and self._steps[0][0] < now - WINDOW_SECONDS:
                self._steps.popleft()

    def stats(self, model: str, state: EngineState) -> EngineStats:
        """Return the figures of this moment.

        Parameters
        ----------
        model
            The first served model name.
        state
            The engine's state; an engine that has lost its requests runs nothing.
        """
        since = self._clock() - WINDOW_SECONDS
        # list() first: the engine's thread appends while this one reads.
        steps = [step for step in list(self._steps) if step[0] >= since]
        has_requests = state in HOLDS_REQUESTS
        return EngineStats(
            model=model,
            state=state,
            running=self._running if has_requests else 0,
            waiting=self._waiting if has_requests else 0,
            kv_cache_usage=self._kv_cache_usage if has_requests else 0.0,
            prefix_cache_hit_rate=self._cache_hits / self._cache_queries if self._cache_queries else 0.0,
            prompt_tokens_per_second=sum(step[1] for step in steps) / WINDOW_SECONDS,
            generation_tokens_per_second=sum(step[2] for step in steps) / WINDOW_SECONDS,
            prompt_tokens=self._prompt_tokens,
            generation_tokens=self._generation_tokens,
        )


def stat_logger_factory(counters: EngineCounters) -> Callable[..., StatLoggerBase]:
    """Make what ``AsyncLLM.from_vllm_config(stat_loggers=…)`` takes.

    Parameters
    ----------
    counters
        Where the figures go.
    """
    from vllm.v1.metrics.loggers import StatLoggerBase

    class StatLogger(StatLoggerBase):
        def __init__(self, vllm_config: Any, engine_index: int = 0) -> None:
            del vllm_config, engine_index
            self._warned = False

        def record(self, scheduler_stats: Any, iteration_stats: Any, *args: Any, **kwargs: Any) -> None:
            del args, kwargs
            try:
                counters.observe(scheduler_stats, iteration_stats)
            except Exception:
                # vLLM takes an exception from a stat logger for the death of the engine.
                if not self._warned:
                    self._warned = True
                    _logger.exception("engine figures could not be read; they do not change from here on")

        def log_engine_initialized(self) -> None:
            pass

    return StatLogger
