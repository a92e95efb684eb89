"""How fast a batch advances and how long it will still take; every face asks here."""

from __future__ import annotations

from typing import NamedTuple

from vbatch_jupyter.protocol.batch import TERMINAL_STATUSES, BatchRecord

_WINDOW_SECONDS = 60.0


class _Look(NamedTuple):
    time: float
    ended: int
    done: float


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

    def see(self, batch: BatchRecord, *, time: float, running: int = 0, waits: bool = False) -> None:
        """Add an observation.

        Parameters
        ----------
        batch
            The batch as it is now.
        time
            Seconds of any clock that does not go back.
        running
            Requests in the engine that runs it.
        waits
            Whether it waits for something.
        """
        counts = batch.request_counts
        ended = counts.completed + counts.failed
        # A running request counts as half: at the first answer of a batch, hundreds are nearly finished.
        look = _Look(time, ended, ended + min(running, counts.left) / 2)
        self._batch, looks = batch, self._looks
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
