"""Metrics of batches and engines, on Jupyter's own ``/metrics``.

Jupyter collects on its event loop, where nothing may wait for a disk or a kernel. So a task gathers the figures a
moment before, as long as someone collects them. An engine that has not answered lately is left out.
"""

from __future__ import annotations

import asyncio
import time
from collections.abc import Iterable, Iterator, Mapping
from typing import Any

import prometheus_client
from prometheus_client.core import CounterMetricFamily, GaugeMetricFamily, Metric
from prometheus_client.parser import text_string_to_metric_families
from prometheus_client.registry import Collector

from vbatch_jupyter.protocol.batch import NEXT_STATUSES
from vbatch_jupyter.server.backend import Backend
from vbatch_jupyter.server.watch import EngineView, EngineWatch
from vbatch_jupyter.store import Store

_GATHER_SECONDS = 2.0
_STALE_SECONDS = 10.0
# Prometheus asks once a minute by default.
_ASKED_WITHIN_SECONDS = 180.0


class VBatchCollector(Collector):
    """Gathers the figures of one server.

    Parameters
    ----------
    backend
        Give the store.
    engines
        Know the engines.
    """

    def __init__(self, backend: Backend, engines: EngineWatch) -> None:
        self._backend = backend
        self._engines = engines
        self._metrics: list[Metric] = []
        self._gathered_at = float("-inf")
        self._asked_at = time.monotonic()
        self._loop = backend.new_loop("metrics")

    def start(self) -> None:
        """Appear on ``/metrics``."""
        self._loop.start(self._gather, every=_GATHER_SECONDS)
        prometheus_client.REGISTRY.register(self)

    async def stop(self) -> None:
        """Disappear from ``/metrics``."""
        prometheus_client.REGISTRY.unregister(self)
        await self._loop.stop()

    def describe(self) -> Iterable[Metric]:
        """Return no names: the metrics of an engine are not known in advance."""
        return []

    def collect(self) -> Iterable[Metric]:
        """Return the figures of the loops, and the figures gathered last."""
        self._asked_at = time.monotonic()
        gathered = self._metrics if self._asked_at - self._gathered_at < _STALE_SECONDS else []
        return [*loop_metrics(self._engines.loops()), *gathered]

    async def _gather(self) -> None:
        if time.monotonic() - self._asked_at > _ASKED_WITHIN_SECONDS:
            return
        # A store that is busy or damaged gives no figures instead of old ones.
        views, told = await asyncio.gather(self._engines.look(), self._engines.metrics())
        texts = [(record.kernel_id or record.id, text) for record, text in told]
        self._metrics = await self._backend.call(
            lambda: [*store_metrics(self._backend.store), *engine_metrics(views), *relabelled(texts)]
        )
        self._gathered_at = time.monotonic()


def store_metrics(store: Store) -> Iterator[Metric]:
    """Return the figures of a store.

    Parameters
    ----------
    store
        The store; this asks its database and its disk.
    """
    totals = {totals.status: totals for totals in store.batches.totals()}
    batches = GaugeMetricFamily("vbatch_batches", "Batches by status.", labels=["status"])
    for status in NEXT_STATUSES:
        batches.add_metric([status], totals[status].batches if status in totals else 0)
    yield batches
    requests = CounterMetricFamily("vbatch_requests", "Requests of batches, by how they ended.", labels=["status"])
    for status in ("completed", "failed"):
        requests.add_metric([status], sum(getattr(each, status) for each in totals.values()))
    yield requests
    tokens = CounterMetricFamily("vbatch_tokens", "Tokens of batches that have ended.", labels=["kind"])
    tokens.add_metric(["input"], sum(each.input_tokens for each in totals.values()))
    tokens.add_metric(["output"], sum(each.output_tokens for each in totals.values()))
    yield tokens
    waiting = [each for each in totals.values() if each.status in {"in_progress", "finalizing"}]
    left = sum(each.total - each.completed - each.failed for each in waiting)
    yield GaugeMetricFamily("vbatch_queue_requests", "Requests of batches in progress without an answer.", value=left)
    yield GaugeMetricFamily("vbatch_store_free_bytes", "Free space on the store's disk.", value=store.space.free())


def loop_metrics(loops: Iterable[Mapping[str, Any]]) -> Iterator[Metric]:
    """Return the figures of loops.

    Parameters
    ----------
    loops
        The states of the loops; those of the server have no kernel.
    """
    labels = ["loop", "kernel_id"]
    steps = CounterMetricFamily("vbatch_loop_steps", "Steps of a loop that have ended.", labels=labels)
    problems = CounterMetricFamily("vbatch_loop_problems", "Steps of a loop that have failed.", labels=labels)
    failing = GaugeMetricFamily("vbatch_loop_failing", "Whether a loop has a problem now.", labels=labels)
    for loop in loops:
        values = [loop["loop"], loop["kernel_id"] or ""]
        steps.add_metric(values, loop["steps"])
        problems.add_metric(values, loop["problems"])
        failing.add_metric(values, float(loop["problem"] is not None))
    yield from (steps, problems, failing)


def engine_metrics(views: Iterable[EngineView]) -> Iterator[Metric]:
    """Return the figures of engines, as reported by their kernels.

    Parameters
    ----------
    views
        The engines; an engine that is not running has no figures.
    """
    labels = ["model", "kernel_id"]
    up = GaugeMetricFamily("vbatch_engine_up", "Whether the engine can answer.", labels=labels)
    running = GaugeMetricFamily("vbatch_engine_requests_running", "Requests that the engine runs.", labels=labels)
    waiting = GaugeMetricFamily("vbatch_engine_requests_waiting", "Requests that wait in the engine.", labels=labels)
    retries = CounterMetricFamily("vbatch_engine_retries", "Requests sent to the engine again.", labels=labels)
    for view in views:
        if not view.models:
            continue
        values = [view.models[0], view.kernel_id or view.id]
        up.add_metric(values, float(view.state == "ready"))
        if view.stats is not None:
            running.add_metric(values, view.stats["running"])
            waiting.add_metric(values, view.stats["waiting"])
            retries.add_metric(values, view.stats.get("retries", 0))
    yield from (up, running, waiting, retries)


def relabelled(texts: Iterable[tuple[str, str]]) -> Iterator[Metric]:
    r"""Put the ``vllm:`` metrics of several kernels together, told apart by the label ``kernel_id``.

    Parameters
    ----------
    texts
        By kernel what it tells, in Prometheus' text format.

    Examples
    --------
    >>> told = "# TYPE vllm:steps_total counter\nvllm:steps_total{model_name=\"m\"} 3\n"
    >>> [metric.samples[0].labels for metric in relabelled([("k1", told)])]
    [{'model_name': 'm', 'kernel_id': 'k1'}]
    """
    found: dict[str, Metric] = {}
    for kernel_id, text in texts:
        for told in text_string_to_metric_families(text):
            if told.name.startswith("vllm:"):
                metric = found.setdefault(told.name, Metric(told.name, told.documentation, told.type))
                for sample in told.samples:
                    metric.add_sample(sample.name, {**sample.labels, "kernel_id": kernel_id}, sample.value)
    yield from found.values()
