"""How many requests of batches are with the engine at once."""

from __future__ import annotations

import asyncio
import time
from collections.abc import Callable

LEAST_WAITING = 64
MOST_WAITING = 256
_WAITING_SECONDS = 0.5
_LOOK_SECONDS = 0.5


class Window:
    """Admits requests to the engine, those of all batches in turn.

    The engine has as many requests as it runs at once, and in addition as many as it finishes in half a second, from
    `LEAST_WAITING` to `MOST_WAITING`: enough that it does not run dry while this process is kept from feeding it, and
    few enough that a cancel has little to abort and a batch that comes later has little before it. An idle engine, of
    which nothing is known, gets as many to wait as it runs: answers of one length end all in the same step, and were
    the next ones were missing they would start, and end, in two steps.

    Parameters
    ----------
    slots
        Requests that the engine runs at once.
    clock
        Monotonic seconds.

    Examples
    --------
    >>> Window(8).size, Window(256).size
    (72, 512)
    """

    def __init__(self, slots: int, *, clock: Callable[[], float] = time.monotonic) -> None:
        self._slots = slots
        self._clock = clock
        self._idle_size = slots + max(slots, LEAST_WAITING)
        self.size = self._idle_size
        self._free = asyncio.Semaphore(self.size)
        self._too_many = 0
        self._taken = 0
        self._finished = 0
        self._since = clock()

    async def acquire(self) -> None:
        """Wait for a place."""
        await self._free.acquire()
        if not self._taken:
            self._finished, self._since = 0, self._clock()
        self._taken += 1

    def release(self) -> None:
        """Release a place, when its request has ended or was not sent at all."""
        if self._too_many > 0:
            self._too_many -= 1
        else:
            self._free.release()
        if self._too_many < 0:
            # One at a time, or the batch whose turn it is would have all that are new.
            self._too_many += 1
            self._free.release()
        self._taken -= 1
        self._finished += 1
        seconds = self._clock() - self._since
        if not self._taken:
            self._resize(self._idle_size)
            while self._too_many < 0:
                self._too_many += 1
                self._free.release()
        elif seconds >= _LOOK_SECONDS:
            waiting = round(self._finished / seconds * _WAITING_SECONDS)
            self._resize(self._slots + min(max(waiting, LEAST_WAITING), MOST_WAITING))
            self._finished, self._since = 0, self._clock()

    def _resize(self, size: int) -> None:
        self._too_many += self.size - size
        self.size = size
