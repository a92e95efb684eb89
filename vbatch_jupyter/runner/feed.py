"""One batch's requests on their way through the engine."""

from __future__ import annotations

import asyncio
import os
import time
from array import array
from collections.abc import Callable, Collection, Mapping
from typing import Any, Literal, NamedTuple

import msgspec

from vbatch_jupyter.engine.base import BATCH_PRIORITY, BUSY_STATUSES, Engine
from vbatch_jupyter.errors import EngineDiedError, EngineError, RequestAbortedError
from vbatch_jupyter.loop import Attempts, in_thread
from vbatch_jupyter.manager import lifecycle
from vbatch_jupyter.protocol.batch import BatchRecord, Usage
from vbatch_jupyter.protocol.ids import request_id
from vbatch_jupyter.protocol.index import LineIndex
from vbatch_jupyter.protocol.lines import (
    RequestLine,
    decode_request_line,
    decode_response,
    error_body,
    output_line,
    sentence_in,
)
from vbatch_jupyter.protocol.profiles import PROFILES
from vbatch_jupyter.protocol.reading import usage_in
from vbatch_jupyter.records import HOLDS_REQUESTS
from vbatch_jupyter.runner.collector import Collector, Latest
from vbatch_jupyter.runner.window import Window
from vbatch_jupyter.store import Lease, SpoolRecord, Store

End = Literal["answered", "ending", "died", "stopped"]
"""Why a feed ended: every request has its line; the batch was cancelled, has expired or is another owner's; the engine
died; the runner stops."""

# Validating: a record may be a moment older than the feed.
_FED_STATUSES = frozenset({"validating", "in_progress"})
_SUCCESS = range(200, 300)
_SERVER_ERROR = 500
_FOLLOWERS_AT_ONCE = 256
_STARTED_AT_ONCE = 16


_Request = RequestLine[dict[str, Any]]


class _Answer(NamedTuple):
    """The outcome of a request: the response, and the decoded parts that are needed."""

    status: int
    body: bytes
    usage: Usage | None = None
    message: str | None = None


class Feed:
    """Feeds one batch's unfinished requests to an engine and collects their lines.

    Parameters
    ----------
    store, lease, record, index
        The batch.
    order, followers
        Of its plan.
    engine
        Where the requests go.
    window
        Admits requests; shared by all feeds of the engine, and fair between them.
    latest
        Takes what has reached the spool.
    attempts, say
        As for a `Collector`.
    """

    def __init__(
        self,
        store: Store,
        lease: Lease,
        record: BatchRecord,
        *,
        index: LineIndex,
        order: array[int],
        followers: Mapping[int, array[int]],
        engine: Engine,
        window: Window,
        latest: Latest | None = None,
        attempts: Attempts | None = None,
        say: Callable[[str], None] = lambda _: None,
    ) -> None:
        self._store = store
        self._lease = lease
        self._record = record
        self._refuses_unknown = PROFILES[record.profile].refuses_unknown
        self._index = index
        self._order = order
        self._followers = followers
        self._apart = array("I")
        self._engine = engine
        self._window = window
        self._collector = Collector(lease, latest, attempts=attempts, say=say)
        self._in_flight: dict[asyncio.Task[None], int] = {}
        self._one_finished = asyncio.Event()
        self._end: asyncio.Future[End] = asyncio.get_running_loop().create_future()
        self._failure: BaseException | None = None
        self.suspects = array("I")
        """Positions of the requests that ran when the engine died."""

    @property
    def lines(self) -> int:
        """How many lines this feed has put into the spool."""
        return self._collector.lines

    def look(self, record: BatchRecord | None) -> None:
        """Stop if the batch must not be fed any more: it was cancelled, has expired, or belongs to another owner.

        Parameters
        ----------
        record
            As it was a moment ago; None if it has ended.
        """
        if (
            record is None
            or record.epoch > self._lease.epoch
            or record.status not in _FED_STATUSES
            or lifecycle.is_expired(record, self._store.clock())
        ):
            self._conclude("ending")
        elif record.reason is None and self._lease.reason is not None:
            # Resumed.
            self._collector.try_again()

    def stop(self) -> None:
        """Abort what runs, and do not wait for disk space; requests without a line stay unfinished."""
        self._collector.give_up()
        self._conclude("stopped")

    async def run(self) -> End:
        """Feed until there is nothing left to feed, or a reason to stop.

        Raises
        ------
        FencedError
            Another owner has taken the batch over.
        """
        try:
            with self._store.files.open(self._record.input_file_id) as input_file:
                feeding = asyncio.create_task(self._feed(input_file.fileno()))
                first: list[asyncio.Future[Any]] = [feeding, self._end]
                try:
                    await asyncio.wait(first, return_when=asyncio.FIRST_COMPLETED)
                finally:
                    await _abort([feeding])
                    await _abort(list(self._in_flight))
        finally:
            await self._collector.end()
        if self._failure is not None:
            raise self._failure
        if not self._end.done():
            feeding.result()
        return self._end.result() if self._end.done() else "answered"

    async def _feed(self, descriptor: int) -> None:
        for count, position in enumerate(self._order):
            if not await self._start(position, descriptor):
                return
            if count % _STARTED_AT_ONCE == 0:
                # An idle engine takes hundreds, and each is half a millisecond in which a chat would wait.
                await asyncio.sleep(0)
        while self._in_flight or self._apart:
            if not self._apart:
                # asyncio.wait would look at all that run each time that one of them ends.
                self._one_finished.clear()
                await self._one_finished.wait()
            elif not await self._start(self._apart.pop(), descriptor):
                return

    async def _start(self, position: int, descriptor: int) -> bool:
        """Start a request when the window admits it; False if the feed has ended."""
        await self._window.acquire()
        if self._record.careful and self._engine.state not in HOLDS_REQUESTS:
            # The engine died before this request ran, so it is not to blame.
            self._conclude("died")
        if self._end.done():
            self._window.release()
            return False
        task = asyncio.create_task(self._run_one(position, descriptor))
        self._in_flight[task] = position
        task.add_done_callback(self._finished)
        if self._record.careful:
            await asyncio.wait({task})
        return True

    def _finished(self, task: asyncio.Task[None]) -> None:
        position = self._in_flight.pop(task)
        self._one_finished.set()
        self._window.release()
        if task.cancelled() or (error := task.exception()) is None:
            return
        if isinstance(error, EngineDiedError):
            if not self._end.done():
                self.suspects = array("I", [position, *self._in_flight.values()])
            self._conclude("died")
        else:
            self._fail(error)

    def _conclude(self, end: End) -> None:
        if not self._end.done():
            self._end.set_result(end)

    def _fail(self, error: BaseException) -> None:
        if self._failure is None:
            self._failure = error
        self._conclude("stopped")

    # --------------------------------------------------------------------------------------------------- one request

    async def _run_one(self, position: int, descriptor: int) -> None:
        request, body = self._read(position, descriptor)
        sent_at = time.monotonic()
        answer = await self._answer(request, body)
        await self._collector.put(self._record_of(position, request, answer, time.monotonic() - sent_at))
        followers = self._followers.get(position)
        if followers is None:
            return
        if answer.status in BUSY_STATUSES or answer.status >= _SERVER_ERROR:
            # A transient engine error says nothing about the request, so run its duplicates on their own.
            self._apart.extend(followers)
            return
        for count, follower in enumerate(followers):
            other, its_body = self._read(follower, descriptor)
            if (other.url, its_body) == (request.url, body):
                await self._collector.put(self._record_of(follower, other, answer))
            else:
                self._apart.append(follower)  # equal hashes, other requests
            if count % _FOLLOWERS_AT_ONCE == 0:
                await asyncio.sleep(0)

    def _read(self, position: int, descriptor: int) -> tuple[_Request, bytes]:
        """Read a request, and write its body as the engine gets it: exactly what was decoded, and nothing else."""
        line = os.pread(descriptor, self._index.lengths[position], self._index.offsets[position])
        request = decode_request_line(line)
        return request, msgspec.json.encode(request.body)

    async def _answer(self, request: _Request, body: bytes) -> _Answer:
        failures = 0
        while True:
            asked = None
            try:
                response = await self._engine.request(
                    request.method,
                    request.url,
                    body,
                    content=request.body,
                    priority=BATCH_PRIORITY,
                    refuses_unknown=self._refuses_unknown,
                )
                answer = _answer_of(request.custom_id, response.status, await response.read())
                if response.status not in BUSY_STATUSES:
                    return answer
                asked = response.headers.get("retry-after")
            except EngineDiedError:
                raise
            except Exception as error:  # noqa: BLE001
                # Whatever one request brings about inside the engine's front end must not end the batch.
                reason = str(error) if isinstance(error, RequestAbortedError) else f"{type(error).__name__}: {error}"
                answer = _no_answer(f"The engine gave no answer in {failures + 1} attempts: {reason}")
            failures += 1
            if (pause := self._engine.retry.after(failures, asked=asked)) is None:
                return answer
            self._engine.retries += 1
            await asyncio.sleep(pause)

    def _record_of(
        self, position: int, request: _Request, answer: _Answer, latency: float | None = None
    ) -> SpoolRecord:
        name = request_id(self._record.id, position)
        line = output_line(
            id=name,
            custom_id=request.custom_id,
            status_code=answer.status,
            request_id="req_" + name.removeprefix("batch_req_"),
            body=answer.body,
        )
        is_error = answer.status not in _SUCCESS
        return SpoolRecord(position, is_error, line, self._store.clock(), latency, answer.usage, answer.message)

    async def put_killer(self) -> None:
        """Write a line in the error file for the one request that ran when the engine died, and for its duplicates."""
        (killer,) = self.suspects
        message = (
            "The engine died each time it ran this request, so the request was skipped. "
            "The engine's log says why it died."
        )
        answer = _no_answer(message)
        with self._store.files.open(self._record.input_file_id) as input_file:
            request, body = self._read(killer, input_file.fileno())
            group = [self._record_of(killer, request, answer)]
            for follower in self._followers.get(killer, ()):
                other, its_body = self._read(follower, input_file.fileno())
                if (other.url, its_body) == (request.url, body):
                    group.append(self._record_of(follower, other, answer))
        await in_thread(self._lease.append, group)


async def _abort(tasks: Collection[asyncio.Task[None]]) -> None:
    for task in tasks:
        task.cancel()
    if tasks:
        await asyncio.wait(tasks)


def _answer_of(custom_id: str, status: int, body: bytes) -> _Answer:
    """Decode a response, once for all uses."""
    try:
        content = decode_response(custom_id, status, body)
    except EngineError as error:
        return _no_answer(str(error))
    if status in _SUCCESS:
        return _Answer(status, body, usage=usage_in(content))
    return _Answer(status, body, message=sentence_in(content))


def _no_answer(message: str) -> _Answer:
    body = error_body(message, type="server_error", code="engine_error")
    return _Answer(_SERVER_ERROR, body, message=message)
