"""Puts finished lines into the spool, in groups, and keeps the feed from running ahead of the disk.

The last lines are kept in memory, to draw a batch while it runs.
"""

from __future__ import annotations

import asyncio
import contextlib
import threading
from collections import Counter, deque
from collections.abc import Iterable, Mapping

from vbatch_jupyter.errors import StoreBusyError, StoreFullError
from vbatch_jupyter.loop import Backoff, in_thread
from vbatch_jupyter.protocol.endpoints import CHAT
from vbatch_jupyter.store import Lease, SpoolRecord

GROUP_LINES = 256
GROUP_SECONDS = 0.5
_MOST_LINES_WAITING = 4096
_BACKOFF = Backoff(first=1.0, longest=5.0)

_ANSWERS = 5
_MESSAGES = 100
_MESSAGE_CHARACTERS = 500
_OTHERS = "(other messages)"


class Collector:
    """Collects one batch's finished lines.

    Parameters
    ----------
    lease
        On the batch.
    latest
        Takes what has reached the spool.
    """

    def __init__(self, lease: Lease, latest: Latest | None = None) -> None:
        self._lease = lease
        self._latest = latest or Latest()
        self._waiting: list[SpoolRecord] = []
        self._group_is_full = asyncio.Event()
        self._has_room = asyncio.Event()
        self._has_room.set()
        self._ending = False
        self._given_up = asyncio.Event()
        self._task = asyncio.create_task(self._write())
        self.lines = 0
        """How many lines have reached the spool."""

    async def put(self, record: SpoolRecord) -> None:
        """Take a finished line; waits while the disk is behind or full.

        Raises
        ------
        FencedError
            Another owner has taken the batch over.
        """
        while not self._has_room.is_set() and not self._task.done():
            room = asyncio.create_task(self._has_room.wait())
            await asyncio.wait({room, self._task}, return_when=asyncio.FIRST_COMPLETED)
            room.cancel()
        if self._task.done():
            self._task.result()
        self._waiting.append(record)
        if len(self._waiting) >= GROUP_LINES:
            self._group_is_full.set()
        if len(self._waiting) >= _MOST_LINES_WAITING:
            self._has_room.clear()

    def give_up(self) -> None:
        """Wait for room no longer: lines that the disk does not take are dropped, and their requests run again."""
        self._given_up.set()

    async def end(self) -> None:
        """Write what is left and stop.

        Raises
        ------
        FencedError
            Another owner has taken the batch over.
        StoreFullError, StoreBusyError
            The collector was told to give up, and the disk took no more.
        """
        self._ending = True
        self._group_is_full.set()
        await self._task

    async def _write(self) -> None:
        while self._waiting or not self._ending:
            if not self._ending:
                with contextlib.suppress(TimeoutError):
                    await asyncio.wait_for(self._group_is_full.wait(), GROUP_SECONDS)
            self._group_is_full.clear()
            group, self._waiting = self._waiting, []
            if group:
                await self._append(group)
                self.lines += len(group)
                self._latest.add(group)
            self._has_room.set()

    async def _append(self, group: list[SpoolRecord]) -> None:
        failures = 0
        while True:
            try:
                await in_thread(self._lease.append, group)
            except (StoreFullError, StoreBusyError):
                # Full: the batch's row says so. The group is kept here, and the feed stops behind `put` meanwhile.
                if self._given_up.is_set():
                    raise
                self._has_room.clear()
                failures += 1
                with contextlib.suppress(TimeoutError):
                    await asyncio.wait_for(self._given_up.wait(), _BACKOFF.pause(failures))
            else:
                return


class Latest:
    """The last answers of one batch, and its errors by message; of a bounded size, and safe from any thread.

    Examples
    --------
    >>> latest = Latest()
    >>> latest.add([SpoolRecord(0, False, b"first"), SpoolRecord(1, False, b"second")])
    >>> latest.answers(), latest.errors()
    ((b'second', b'first'), {})
    """

    def __init__(self) -> None:
        self._lock = threading.Lock()
        self._answers: deque[bytes] = deque(maxlen=_ANSWERS)
        self._errors: Counter[str] = Counter()

    def add(self, records: Iterable[SpoolRecord]) -> None:
        """Take lines that have reached the spool."""
        with self._lock:
            for record in records:
                if record.is_error:
                    # The errors of all endpoints are alike.
                    self._count(record.message or CHAT.read(record.line).answer.error or "")
                else:
                    self._answers.append(record.line)

    def _count(self, message: str) -> None:
        message = message[:_MESSAGE_CHARACTERS]
        # Messages that quote their request are all different.
        is_counted = message in self._errors or len(self._errors) < _MESSAGES
        self._errors[message if is_counted else _OTHERS] += 1

    def answers(self) -> tuple[bytes, ...]:
        """Return the last lines of the output file, newest first."""
        with self._lock:
            return tuple(reversed(self._answers))

    def errors(self) -> Mapping[str, int]:
        """Return how often each message of an error has come."""
        with self._lock:
            return dict(self._errors)
