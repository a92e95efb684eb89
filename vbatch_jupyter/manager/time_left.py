"""How fast a batch advances, how long it will still take, and how long it took; every face asks here."""

from __future__ import annotations

from collections.abc import Iterable
from typing import NamedTuple

from vbatch_jupyter.protocol.batch import TERMINAL_STATUSES, BatchRecord
from vbatch_jupyter.records import Timing

_WINDOW_SECONDS = 60.0


class Work(NamedTuple):
    """What an engine did for a batch.

    Parameters
    ----------
    asked
        How many requests the engine answered, or refused.
    reused
        How many answers were known, so that the engine was not asked.
    seconds
        How long at least one request was with the engine. Time without an engine does not count.
    concurrency
        How many requests were with the engine at once, on average over that time.
    """

    asked: int
    reused: int
    seconds: float
    concurrency: float


def work_of(timings: Iterable[Timing]) -> Work:
    """Return what an engine did for a batch.

    Parameters
    ----------
    timings
        Of the batch's requests.

    Examples
    --------
    >>> work_of([Timing(10.0, 4.0), Timing(11.0, 4.0), Timing(102.0, 1.0), Timing(5.0, None)])
    Work(asked=3, reused=1, seconds=6.0, concurrency=1.5)
    """
    spans, reused = [], 0
    for finished_at, latency in timings:
        if finished_at is not None and latency is not None:
            spans.append((finished_at - latency, finished_at))
        elif finished_at is not None:
            reused += 1
    seconds, end = 0.0, float("-inf")
    for begun, finished in sorted(spans):
        seconds += max(finished - max(begun, end), 0.0)
        end = max(end, finished)
    together = sum(finished - begun for begun, finished in spans)
    return Work(len(spans), reused, seconds, together / seconds if seconds else 0.0)


class _Look(NamedTuple):
    time: float
    ended: int
    done: float
    running: int | None


class Pace:
    """The observations of one batch in the last minute.

    Examples
    --------
    >>> import dataclasses
    >>> from vbatch_jupyter.protocol.batch import RequestCounts
    >>> batch = BatchRecord(
    ...     id="batch_0", endpoint="/v1/embeddings", input_file_id="file-0", created_at=0, status="in_progress"
    ... )
    >>> pace = Pace()
    >>> for time, completed in [(0.0, 0), (10.0, 400)]:
    ...     pace.see(dataclasses.replace(batch, request_counts=RequestCounts(1000, completed)), time=time)
    >>> pace.requests_per_second, pace.seconds_left
    (40.0, 15.0)
    """

    def __init__(self) -> None:
        self._looks: list[_Look] = []
        self._batch: BatchRecord | None = None

    def see(self, batch: BatchRecord, *, time: float, running: int | None = None, waits: bool = False) -> None:
        """Add an observation.

        Parameters
        ----------
        batch
            The batch as it is now.
        time
            Seconds of any clock that does not go back.
        running
            Requests in the engine that runs it; None if that is not known.
        waits
            Whether it waits for something.
        """
        counts = batch.request_counts
        ended = counts.completed + counts.failed
        # A running request counts as half: at the first answer of a batch, hundreds are nearly finished.
        look = _Look(time, ended, ended + min(running or 0, counts.left) / 2, running)
        self._batch, looks = batch, self._looks
        # What ended after a look at an idle engine may be known answers, which say nothing about the engine's speed.
        if looks and looks[-1].running == 0 and ended > looks[-1].ended:
            looks.clear()
        # The speed before a pause, or before a recovery took answers back, says nothing about the future.
        if looks and (waits or ended < looks[-1].ended or time - looks[-1].time > _WINDOW_SECONDS):
            looks.clear()
        if len(looks) > 1 and looks[-1].ended == looks[-2].ended == ended:
            looks.pop()
        looks.append(look)
        # If requests take longer than the window, the last one that ended is still in it.
        while len(looks) > 2 and looks[1].time <= time - _WINDOW_SECONDS and looks[1].ended < ended:  # noqa: PLR2004
            del looks[0]

    @property
    def requests_per_second(self) -> float | None:
        """Requests that end per second; None if that is not known yet."""
        if not self._looks or (seconds := self._looks[-1].time - self._looks[0].time) <= 0:
            return None
        return (self._looks[-1].ended - self._looks[0].ended) / seconds

    @property
    def seconds_left(self) -> float | None:
        """How long the rest will take at this pace; None if that is not known."""
        if self._batch is None or self._batch.status in TERMINAL_STATUSES:
            return None if self._batch is None else 0.0
        if self._batch.status != "in_progress":
            return None
        counts = self._batch.request_counts
        if not counts.left:
            return 0.0
        if not self.requests_per_second:
            return None
        first, last = self._looks[0], self._looks[-1]
        return (counts.total - last.done) * (last.time - first.time) / max(last.done - first.done, 1.0)
