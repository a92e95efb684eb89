"""One batch's requests on their way through the engine."""

from __future__ import annotations

import asyncio
import contextlib
import os
from array import array
from collections.abc import Iterable, Iterator, Mapping
from typing import Any, Literal

from vbatch_jupyter import lifecycle
from vbatch_jupyter.engine.base import BATCH_PRIORITY, Engine
from vbatch_jupyter.errors import EngineDiedError, EngineError, RequestAbortedError
from vbatch_jupyter.planning import Plan
from vbatch_jupyter.protocol.batch import BatchRecord
from vbatch_jupyter.protocol.ids import request_id
from vbatch_jupyter.protocol.index import LineIndex
from vbatch_jupyter.protocol.lines import RequestLine, error_body, output_line, parse_request_line
from vbatch_jupyter.runner.collector import Collector, in_thread
from vbatch_jupyter.store import Lease, SpoolRecord, Store

End = Literal["answered", "ending", "died", "stopped"]
"""Why a feed ended: every request has its line; the batch was cancelled or has expired; the engine died; the runner
stops."""

_WATCH_SECONDS = 0.1
_RETRY_SECONDS = 0.5
_MOST_ATTEMPTS = 3
_RETRYABLE_STATUSES = frozenset({429, 503})
_SUCCESS = range(200, 300)
_SERVER_ERROR = 500
_FOLLOWERS_AT_ONCE = 256


class Feed:
    """Feeds one batch's unfinished requests to an engine and collects their lines.

    Parameters
    ----------
    store, lease, record, index, plan
        The batch.
    engine
        Where the requests go.
    window
        Admits requests; shared by all feeds of the engine, and fair between them.
    """

    def __init__(
        self,
        store: Store,
        lease: Lease,
        record: BatchRecord,
        *,
        index: LineIndex,
        plan: Plan,
        engine: Engine,
        window: asyncio.Semaphore,
    ) -> None:
        self._store = store
        self._lease = lease
        self._record = record
        self._index = index
        self._order = plan.order
        self._followers: Mapping[int, array[int]] = plan.followers
        self._apart = array("I")
        self._engine = engine
        self._window = window
        self._collector = Collector(lease)
        self._in_flight: set[asyncio.Task[None]] = set()
        self._end: asyncio.Future[End] = asyncio.get_running_loop().create_future()
        self.suspect: int | None = None
        """Where requests run one at a time: the position of the one that runs."""

    @property
    def lines(self) -> int:
        """How many lines this feed has put into the spool."""
        return self._collector.lines

    def stop(self) -> None:
        """Abort what runs; its requests stay unfinished."""
        self._conclude("stopped")

    async def run(self) -> End:
        """Feed until there is nothing left to feed, or a reason to stop.

        Raises
        ------
        FencedError
            Another owner has taken the batch over.
        """
        watch = asyncio.create_task(self._watch())
        try:
            with self._store.files.open(self._record.input_file_id) as input_file:
                await self._feed(input_file.fileno())
                await self._drain()
            await self._collector.end()
        finally:
            watch.cancel()
            await self._abort()
        self._raise_failure(watch)
        return self._end.result() if self._end.done() else "answered"

    async def _feed(self, descriptor: int) -> None:
        for position in self._positions():
            await self._window.acquire()
            if self._end.done():
                self._window.release()
                return
            task = asyncio.create_task(self._run_one(position, descriptor))
            self._in_flight.add(task)
            task.add_done_callback(self._finished)
            if self._record.careful:
                self.suspect = position
                await self._until_first([task])

    def _positions(self) -> Iterator[int]:
        yield from self._order
        while self._apart:
            yield self._apart.pop()

    async def _drain(self) -> None:
        while not self._end.done() and (self._in_flight or self._apart):
            if self._in_flight:
                await self._until_first(self._in_flight)
        await self._abort()

    async def _until_first(self, tasks: Iterable[asyncio.Task[None]]) -> None:
        first: list[asyncio.Future[Any]] = [*tasks, self._end]
        await asyncio.wait(first, return_when=asyncio.FIRST_COMPLETED)

    async def _abort(self) -> None:
        for task in self._in_flight:
            task.cancel()
        if self._in_flight:
            await asyncio.wait(self._in_flight)

    def _finished(self, task: asyncio.Task[None]) -> None:
        self._in_flight.discard(task)
        self._window.release()
        if not task.cancelled() and (error := task.exception()) is not None and not self._end.done():
            if isinstance(error, EngineDiedError):
                self._end.set_result("died")
            else:
                self._end.set_exception(error)

    def _conclude(self, end: End) -> None:
        if not self._end.done():
            self._end.set_result(end)

    async def _watch(self) -> None:
        while True:
            await asyncio.sleep(_WATCH_SECONDS)
            record = await in_thread(self._lease.refresh)
            if record.status != "in_progress" or lifecycle.is_expired(record, self._store.clock()):
                self._conclude("ending")
                return

    def _raise_failure(self, watch: asyncio.Task[None]) -> None:
        # The watch may have been fenced before anything else noticed.
        if watch.done() and not watch.cancelled() and (error := watch.exception()) is not None:
            raise error

    # --------------------------------------------------------------------------------------------------- one request

    async def _run_one(self, position: int, descriptor: int) -> None:
        request = self._read(position, descriptor)
        status, body = await self._answer(request)
        await self._collect(position, request, status, body)
        followers = self._followers.get(position, ())
        for count, follower in enumerate(followers):
            other = self._read(follower, descriptor)
            if (other.url, bytes(other.body)) != (request.url, bytes(request.body)):
                self._apart.append(follower)  # equal hashes, other bytes
                continue
            await self._collect(follower, other, status, body)
            if count % _FOLLOWERS_AT_ONCE == 0:
                await asyncio.sleep(0)

    def _read(self, position: int, descriptor: int) -> RequestLine:
        line = os.pread(descriptor, self._index.lengths[position], self._index.offsets[position])
        return parse_request_line(line)

    async def _answer(self, request: RequestLine) -> tuple[int, bytes]:
        message = ""
        for attempt in range(_MOST_ATTEMPTS):
            try:
                response = await self._engine.request(
                    request.method, request.url, bytes(request.body), priority=BATCH_PRIORITY
                )
                body = await response.read()
            except EngineDiedError:
                raise
            except RequestAbortedError as error:
                message = str(error)
            except Exception as error:  # noqa: BLE001
                # Whatever one request brings about inside the engine's front end must not end the batch.
                message = f"{type(error).__name__}: {error}"
            else:
                if response.status not in _RETRYABLE_STATUSES or attempt == _MOST_ATTEMPTS - 1:
                    return response.status, body
            await asyncio.sleep(_RETRY_SECONDS * 2**attempt)
        message = f"The engine gave no answer in {_MOST_ATTEMPTS} attempts: {message}"
        return _SERVER_ERROR, error_body(message, type="server_error", code="engine_error")

    async def _collect(self, position: int, request: RequestLine, status: int, body: bytes) -> None:
        name = request_id(self._record.id, position)
        try:
            line = output_line(
                id=name, custom_id=request.custom_id, status_code=status, request_id=_inner(name), body=body
            )
        except EngineError as error:
            status = _SERVER_ERROR
            body = error_body(str(error), type="server_error", code="engine_error")
            line = output_line(
                id=name, custom_id=request.custom_id, status_code=status, request_id=_inner(name), body=body
            )
        await self._collector.put(SpoolRecord(position, status not in _SUCCESS, line))

    async def put_killer(self) -> None:
        """Give the one request that ran when the engine died a line in the error file."""
        if self.suspect is None:
            return
        message = (
            "The engine died each time it ran this request, so it was given up; all others of the batch went on. "
            "The engine's log says why it died."
        )
        with contextlib.closing(self._store.files.open(self._record.input_file_id)) as input_file:
            request = self._read(self.suspect, input_file.fileno())
        body = error_body(message, type="server_error", code="engine_error")
        name = request_id(self._record.id, self.suspect)
        line = output_line(
            id=name, custom_id=request.custom_id, status_code=_SERVER_ERROR, request_id=_inner(name), body=body
        )
        await in_thread(self._lease.append, [SpoolRecord(self.suspect, True, line)])


def _inner(name: str) -> str:
    return "req_" + name.removeprefix("batch_req_")
