"""How fast a batch advances and when it will be done, from two snapshots."""

from __future__ import annotations

import dataclasses
import math

from vbatch_jupyter.display.snapshot import Snapshot
from vbatch_jupyter.protocol.batch import TERMINAL_STATUSES, RequestCounts


@dataclasses.dataclass(frozen=True, slots=True)
class Progress:
    """The progress between two snapshots of a batch.

    Parameters
    ----------
    before, now
        The earlier and the later snapshot; the same one twice if there is only one.

    Examples
    --------
    >>> from vbatch_jupyter.protocol.batch import BatchRecord, RequestCounts
    >>> batch = BatchRecord(
    ...     id="batch_1a2b3c", endpoint="/v1/embeddings", input_file_id="file-0", created_at=0, status="in_progress"
    ... )
    >>> looks = [
    ...     Snapshot(time=time, batch=dataclasses.replace(batch, request_counts=RequestCounts(1000, completed)))
    ...     for time, completed in [(0.0, 0), (10.0, 400)]
    ... ]
    >>> Progress(*looks).line()
    'batch_1a2b… in_progress 400/1,000 completed · 40.0 requests/s · 15 s left'
    """

    before: Snapshot
    now: Snapshot

    @property
    def requests_per_second(self) -> float | None:
        """Requests per second that ended between the snapshots; None if no time passed."""
        seconds = self.now.time - self.before.time
        if seconds <= 0:
            return None
        # A snapshot from before a recovery may have counted requests whose lines were incomplete.
        ended = _ended(self.now.batch.request_counts) - _ended(self.before.batch.request_counts)
        return max(0, ended) / seconds

    @property
    def seconds_left(self) -> float | None:
        """The seconds that the remaining requests will take at this pace; None if it is not known."""
        if self.now.batch.status != "in_progress":
            return 0.0 if self.now.batch.status in TERMINAL_STATUSES else None
        counts = self.now.batch.request_counts
        if not counts.left:
            return 0.0
        done, seconds = _done(self.now), self.now.time - self.before.time
        if seconds <= 0 or _ended(counts) <= _ended(self.before.batch.request_counts):
            return None
        return (counts.total - done) * seconds / max(done - _done(self.before), 1.0)

    def line(self, *, with_engine: bool = False) -> str:
        """Return it as one line of text, with the reason at the end if the batch waits.

        Parameters
        ----------
        with_engine
            Say also what the engine is doing.
        """
        batch = self.now.batch
        counts = batch.request_counts
        head = f"{_short(batch.id)} {batch.status}"
        if counts.total:
            head += f" {counts.completed:,}/{counts.total:,} completed"
        if counts.failed:
            head += f", {counts.failed:,} failed"
        parts = [head]
        if batch.status in TERMINAL_STATUSES and (average := self._average()):
            parts.append(average)
        if batch.status == "in_progress":
            parts += [part for part in (self._rate(), self._time_left()) if part]
            parts += self._engine_figures() if with_engine else []
        if batch.reason is not None:
            # A reason may quote an engine's message, and this is one line.
            parts.append(" ".join(batch.reason.split()))
        return " · ".join(parts)

    def _average(self) -> str | None:
        before, now = self.before.engine, self.now.engine
        seconds = self.now.time - self.before.time
        if before is None or now is None or seconds <= 0 or now.generation_tokens <= before.generation_tokens:
            return None
        tokens = now.generation_tokens - before.generation_tokens
        return f"{tokens / seconds:,.0f} tokens/s over {duration(seconds)}"

    def _rate(self) -> str | None:
        engine, rate = self.now.engine, self.requests_per_second
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
        seconds = self.seconds_left
        return f"{duration(seconds)} left" if seconds else None


def _done(snapshot: Snapshot) -> float:
    """Count a request that runs as half of one: at the first answer of a batch hundreds are nearly answered."""
    counts, engine = snapshot.batch.request_counts, snapshot.engine
    return _ended(counts) + min(engine.running if engine else 0, counts.left) / 2


def _ended(counts: RequestCounts) -> int:
    return counts.completed + counts.failed


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
