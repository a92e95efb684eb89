"""A batch that advances: one moment of it, its progress as one line of text, and its rates."""

from __future__ import annotations

import dataclasses
import math
from collections.abc import Mapping
from typing import Self

from vbatch_jupyter.manager.time_left import Pace
from vbatch_jupyter.manager.waiting import progress_text
from vbatch_jupyter.protocol.batch import BatchRecord
from vbatch_jupyter.records import EngineStats

_MOST_RATES = 240


@dataclasses.dataclass(frozen=True, slots=True, kw_only=True)
class Snapshot:
    """One moment of a batch and of the engine it runs on.

    Parameters
    ----------
    time
        Monotonic seconds.
    batch
        The batch as the store has it.
    waiting
        Why it does not advance; None if it advances.
    engine
        The engine that runs it, if one does.
    answers
        The last lines of its output file that this process has seen, newest first.
    errors
        How often this process has seen each error message.
    """

    time: float
    batch: BatchRecord
    waiting: str | None = None
    engine: EngineStats | None = None
    answers: tuple[bytes, ...] = ()
    errors: Mapping[str, int] = dataclasses.field(default_factory=dict)


class Progress:
    """The progress of one batch over several snapshots.

    Parameters
    ----------
    first
        The first snapshot.

    Attributes
    ----------
    now
        The last snapshot.
    pace
        How fast the batch is, and how long it will still take.

    Examples
    --------
    >>> import dataclasses
    >>> from vbatch_jupyter.protocol.batch import BatchRecord, RequestCounts
    >>> batch = BatchRecord(
    ...     id="batch_1a2b3c", endpoint="/v1/embeddings", input_file_id="file-0", created_at=0, status="in_progress"
    ... )
    >>> looks = [
    ...     Snapshot(time=time, batch=dataclasses.replace(batch, request_counts=RequestCounts(1000, completed)))
    ...     for time, completed in [(0.0, 0), (10.0, 400)]
    ... ]
    >>> Progress(looks[0]).see(looks[1]).line()
    'batch_1a2b… in_progress 400/1,000 completed · 40.0 requests/s · 15 s left'
    """

    def __init__(self, first: Snapshot) -> None:
        self.pace = Pace()
        self.see(first)

    def see(self, now: Snapshot) -> Self:
        """Add the next snapshot."""
        self.now = now
        running = now.engine.running if now.engine else None
        self.pace.see(now.batch, time=now.time, running=running, waits=now.waiting is not None)
        return self

    def line(self, *, with_engine: bool = False, whole_id: bool = False) -> str:
        """Return it as one line of text, with the reason at the end if the batch waits.

        Parameters
        ----------
        with_engine
            Whether to add the engine's figures.
        whole_id
            Whether to write the batch's whole id, and not only its beginning.
        """
        batch = self.now.batch
        head = f"{batch.id if whole_id else _short(batch.id)} {batch.status} {progress_text(batch)}"
        parts = [head.rstrip()]
        if batch.status == "in_progress":
            parts += [part for part in (self._rate(), self._time_left()) if part]
            parts += self._engine_figures() if with_engine else []
        if self.now.waiting is not None:
            # The reason may quote an engine's message, and this must be one line.
            parts.append(" ".join(self.now.waiting.split()))
        return " · ".join(parts)

    def _rate(self) -> str | None:
        engine, rate = self.now.engine, self.pace.requests_per_second
        # Embeddings generate no tokens.
        if engine is not None and engine.generation_tokens_per_second:
            return f"{engine.generation_tokens_per_second:,.0f} tokens/s"
        return f"{rate:,.1f} requests/s" if rate else None

    def _engine_figures(self) -> list[str]:
        engine = self.now.engine
        if engine is None or not engine.running + engine.waiting:
            return []
        return [
            f"{engine.prompt_tokens_per_second:,.0f} prompt tokens/s",
            f"{engine.running:,} running, {engine.waiting:,} waiting",
            f"KV cache usage {engine.kv_cache_usage:.0%}",
            f"prefix cache hit rate {engine.prefix_cache_hit_rate:.0%}",
        ]

    def _time_left(self) -> str | None:
        seconds = self.pace.seconds_left
        return f"{duration(seconds)} left" if seconds else None


class Rates:
    """Values at equal steps. If there are many, neighbours become their mean and the steps twice as long.

    Examples
    --------
    >>> rates = Rates(most=4)
    >>> for value in (1, 3, 5, 7, 10, 20):
    ...     rates.add(value)
    >>> rates.values
    [2.0, 6.0, 15.0]
    """

    def __init__(self, *, most: int = _MOST_RATES) -> None:
        self.values: list[float] = []
        self._most = most
        self._step = 1
        self._waiting: list[float] = []

    def add(self, value: float) -> None:
        """Take the next value."""
        self._waiting.append(value)
        if len(self._waiting) < self._step:
            return
        self.values.append(_mean(self._waiting))
        self._waiting.clear()
        if len(self.values) == self._most:
            self.values = [_mean(self.values[place : place + 2]) for place in range(0, self._most, 2)]
            self._step *= 2


def _mean(values: list[float]) -> float:
    return sum(values) / len(values)


def _short(batch_id: str) -> str:
    shown = len("batch_") + 4
    return batch_id if len(batch_id) <= shown else f"{batch_id[:shown]}…"


def duration(seconds: float) -> str:
    """Write a duration, in whole seconds.

    Examples
    --------
    >>> duration(0.4), duration(75), duration(7_260)
    ('1 s', '1 min 15 s', '2 h 1 min')
    """
    whole = math.ceil(seconds)
    hours, minutes = divmod(whole // 60, 60)
    if hours:
        return f"{hours:,} h {minutes} min"
    return f"{minutes} min {whole % 60} s" if minutes else f"{whole} s"
