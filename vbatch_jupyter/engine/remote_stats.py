"""Live figures of vLLM servers, read from their ``/metrics``."""

from __future__ import annotations

import collections
import dataclasses
import time
from collections.abc import Callable, Mapping
from typing import Any

from vbatch_jupyter.records import EngineState, EngineStats

_RUNNING, _WAITING, _CACHE = "vllm:num_requests_running", "vllm:num_requests_waiting", "vllm:kv_cache_usage_perc"
_QUERIES, _HITS = "vllm:prefix_cache_queries_total", "vllm:prefix_cache_hits_total"
_PROMPT, _GENERATED = "vllm:prompt_tokens_total", "vllm:generation_tokens_total"
_STARTED = "process_start_time_seconds"
_NAMES = frozenset({_RUNNING, _WAITING, _CACHE, _QUERIES, _HITS, _PROMPT, _GENERATED, _STARTED})

_OLD_SECONDS = 30.0

Values = Mapping[str, float]


@dataclasses.dataclass(slots=True)
class _Server:
    first: Values
    before: tuple[float, Values]
    now: tuple[float, Values]

    def since_first(self, name: str) -> float:
        return self.now[1].get(name, 0.0) - self.first.get(name, 0.0)

    def per_second(self, name: str) -> float:
        seconds = self.now[0] - self.before[0]
        return (self.now[1].get(name, 0.0) - self.before[1].get(name, 0.0)) / seconds if seconds else 0.0


class RemoteFigures:
    """The figures of one address, behind which several servers may take turns; they are told apart by their start.

    Parameters
    ----------
    clock
        Monotonic seconds.

    Examples
    --------
    >>> figures = RemoteFigures(clock=lambda: 0.0)
    >>> figures.observe("vllm:num_requests_running{engine='0'} 3.0")
    True
    >>> figures.stats("m", "ready", in_flight=1).running
    3
    """

    def __init__(self, clock: Callable[[], float] = time.monotonic) -> None:
        self._clock = clock
        self._servers: dict[float, _Server] = {}

    def observe(self, text: str) -> bool:
        """Take what ``/metrics`` says; False if it is not vLLM's.

        Parameters
        ----------
        text
            In the format of Prometheus.
        """
        values: collections.defaultdict[str, float] = collections.defaultdict(float)
        for line in text.splitlines():
            name = line.partition("{")[0].partition(" ")[0]
            if name in _NAMES:
                # A server with several engines has a line for each.
                values[name] += float(line.rpartition(" ")[2])
        if _RUNNING not in values:
            return False
        started, moment = values.get(_STARTED, 0.0), (self._clock(), values)
        earlier = self._servers.get(started)
        servers = {
            **self._servers,
            started: _Server(earlier.first, earlier.now, moment) if earlier else _Server(values, moment, moment),
        }
        # In one step: other threads read it.
        self._servers = servers
        return True

    def stats(self, model: str, state: EngineState, *, in_flight: int) -> EngineStats:
        """Return the figures of this moment.

        Parameters
        ----------
        model
            The first served model name.
        state
            The engine's.
        in_flight
            Requests that are with the servers; what is known of those that have no figures.
        """
        servers = list(self._servers.values())
        live = [server for server in servers if server.now[0] >= self._clock() - _OLD_SECONDS]
        totals: dict[str, Any] = {
            "prompt_tokens": round(sum(server.since_first(_PROMPT) for server in servers)),
            "generation_tokens": round(sum(server.since_first(_GENERATED) for server in servers)),
        }
        if queries := sum(server.since_first(_QUERIES) for server in servers):
            totals["prefix_cache_hit_rate"] = sum(server.since_first(_HITS) for server in servers) / queries
        if state != "ready" or not live:
            return EngineStats(model=model, state=state, running=in_flight if state == "ready" else 0, **totals)
        return EngineStats(
            model=model,
            state=state,
            running=round(sum(server.now[1][_RUNNING] for server in live)),
            waiting=round(sum(server.now[1].get(_WAITING, 0.0) for server in live)),
            kv_cache_usage=sum(server.now[1].get(_CACHE, 0.0) for server in live) / len(live),
            prompt_tokens_per_second=sum(server.per_second(_PROMPT) for server in live),
            generation_tokens_per_second=sum(server.per_second(_GENERATED) for server in live),
            **totals,
        )
