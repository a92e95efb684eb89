"""Puts finished lines into the spool, in groups: those of the engine as they come, and known answers before them.

It keeps the feed from running ahead of the disk. The last lines are kept in memory, to draw a batch while it runs.
"""

from __future__ import annotations

import asyncio
import contextlib
import threading
from collections import deque
from collections.abc import Callable, Iterable, Iterator, Mapping
from typing import Any

from vbatch_jupyter.engine.base import Engine
from vbatch_jupyter.loop import Attempts, in_thread
from vbatch_jupyter.manager.error_groups import ErrorGroups
from vbatch_jupyter.manager.waiting import lasts, postpone
from vbatch_jupyter.protocol.batch import BatchRecord
from vbatch_jupyter.protocol.endpoints import CHAT
from vbatch_jupyter.protocol.ids import request_id
from vbatch_jupyter.protocol.index import LineIndex
from vbatch_jupyter.protocol.lines import output_line, parse_output_line, parse_request_line
from vbatch_jupyter.protocol.reading import usage_of
from vbatch_jupyter.store import Lease, SpoolRecord, Store

GROUP_LINES = 256
GROUP_SECONDS = 0.5
_MOST_LINES_WAITING = 4096
_KNOWN_LINES = 4096
_KNOWN_BYTES = 8 * 1024 * 1024
"""Groups of known answers are large because each waits for the disk; losing one costs only another lookup."""

_ANSWERS = 5

SEVERAL_ENGINES = ""
"""The answers key of a batch that more than one engine has answered: its answers cannot be reused."""


class Collector:
    """Collects one batch's finished lines.

    Parameters
    ----------
    lease
        On the batch.
    latest
        Takes what has reached the spool.
    attempts
        When to try again what the disk has not taken.
    say
        Called with a sentence when lines have to wait.
    """

    def __init__(
        self,
        lease: Lease,
        latest: Latest | None = None,
        *,
        attempts: Attempts | None = None,
        say: Callable[[str], None] = lambda _: None,
    ) -> None:
        self._lease = lease
        self._attempts = attempts or Attempts()
        self._say = say
        self._latest = latest or Latest()
        self._waiting: list[SpoolRecord] = []
        self._group_is_full = asyncio.Event()
        self._has_room = asyncio.Event()
        self._has_room.set()
        self._ending = False
        self._has_given_up = False
        self._again = asyncio.Event()
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
        """Wait no longer: lines that the disk does not take are dropped, and their requests run again."""
        self._has_given_up = True
        self._again.set()

    def try_again(self) -> None:
        """Try again at once to write what waits."""
        self._again.set()

    async def end(self) -> None:
        """Write what is left and stop.

        Raises
        ------
        FencedError
            Another owner has taken the batch over.
        StoreError, OSError
            The disk took no more, and the collector was told to give up, or the error stays.
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
        while True:
            try:
                await in_thread(self._lease.append, group)
            except Exception as error:
                # The group is kept here, and the feed stops behind `put` meanwhile.
                if self._has_given_up or lasts(error, self._lease.id, self._attempts):
                    raise
                self._has_room.clear()
                await self._wait_after(error)
            else:
                self._attempts.forget(self._lease.id)
                return

    async def _wait_after(self, error: Exception) -> None:
        self._again.clear()
        if (said := await in_thread(postpone, self._lease, error, self._attempts)) is not None:
            self._say(said)
        pause = self._attempts.pause(self._lease.id)
        with contextlib.suppress(TimeoutError):
            await asyncio.wait_for(self._again.wait(), pause)


class Latest:
    """The last answers of one batch, and its errors by kind; of a bounded size, and safe from any thread.

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
        self._errors: ErrorGroups | None = None

    def add(self, records: Iterable[SpoolRecord]) -> None:
        """Take lines that have reached the spool."""
        with self._lock:
            for record in records:
                if record.is_error:
                    # The errors of all endpoints are alike.
                    self._errors = self._errors or ErrorGroups()
                    self._errors.add(record.message or CHAT.read(record.line).answer.error or "")
                else:
                    self._answers.append(record.line)

    def answers(self) -> tuple[bytes, ...]:
        """Return the last lines of the output file, newest first."""
        with self._lock:
            return tuple(reversed(self._answers))

    def errors(self) -> Mapping[str, int]:
        """Return how often each kind of error has come."""
        with self._lock:
            return self._errors.counted() if self._errors else {}


def take_answers(
    store: Store,
    lease: Lease,
    record: BatchRecord,
    index: LineIndex,
    engine: Engine,
    *,
    on_notice: Callable[[str], None] = lambda _: None,
) -> int:
    """Put answers that the same engine has given before into the spool; return their number.

    Parameters
    ----------
    store, lease, record, index
        The batch. Only batches of this machine's own take part (profile ``local``): a client of OpenAI's endpoints
        expects a new answer to a new batch.
    engine
        The engine; the batch remembers its key and its seed.
    on_notice
        Called with one sentence if answers that are known may be asked for again.
    """
    is_local = record.profile == "local"
    seen: dict[str, Any] = {}
    if is_local and record.answers_key != engine.answers_key:
        seen["answers_key"] = engine.answers_key if record.answers_key is None else SEVERAL_ENGINES
    if engine.seed is not None and record.engine_seeds[-1:] != (engine.seed,):
        seen["engine_seeds"] = (*record.engine_seeds, engine.seed)
    if seen:
        lease.update(**seen)
    if record.fresh or not is_local:
        return 0
    count = size = 0
    group: list[SpoolRecord] = []
    for known in _known(store, lease, record, index, engine.answers_key, on_notice=on_notice):
        group.append(known)
        count += 1
        size += len(known.line)
        if len(group) == _KNOWN_LINES or size >= _KNOWN_BYTES:
            lease.append(group)
            group, size = [], 0
    if group:
        lease.append(group)
    return count


def _known(
    store: Store,
    lease: Lease,
    record: BatchRecord,
    index: LineIndex,
    answers_key: str,
    *,
    on_notice: Callable[[str], None],
) -> Iterator[SpoolRecord]:
    def say(problem: str) -> None:
        on_notice(f"Batch {record.id}: answers that are known may be asked for again, as not all were found: {problem}")

    finished = lease.recover().finished
    kept = ((spooled.position, spooled.line) for spooled in lease.records() if not spooled.is_error)
    with store.files.open(record.input_file_id) as input_file:

        def read(position: int) -> bytes:
            input_file.seek(index.offsets[position])
            return input_file.read(index.lengths[position])

        for position, line in store.answers.find(answers_key, index, read, finished, kept=kept, on_problem=say):
            response = parse_output_line(line).response
            if response is None:
                continue
            name = request_id(record.id, position)
            answer_line = output_line(
                id=name,
                custom_id=parse_request_line(read(position)).custom_id,
                status_code=response.status_code,
                request_id=response.request_id or name,
                body=bytes(response.body),
            )
            yield SpoolRecord(position, False, answer_line, store.clock(), usage=usage_of(line))
