"""A stream of events for the panel and other clients: batches and engines as they are now, and then each change.

A new connection gets a whole snapshot, so a lost connection is simply made again. One task looks at the store for
all subscribers, and none does without any. The reason why a batch waits is here, not in OpenAI's object.
"""

from __future__ import annotations

import asyncio
import contextlib
import math
import time
from collections.abc import Mapping
from typing import Any

import msgspec
from tornado import web
from tornado.iostream import StreamClosedError

from vbatch_jupyter.errors import NotFoundError
from vbatch_jupyter.protocol.batch import TERMINAL_STATUSES
from vbatch_jupyter.server.backend import Backend
from vbatch_jupyter.server.handler import VBatchHandler
from vbatch_jupyter.server.views import BatchView, BatchWatch
from vbatch_jupyter.server.watch import EngineView, EngineWatch

HEARTBEAT_SECONDS = 15.0
"""How often a quiet stream sends a heartbeat; proxies close a silent stream."""

_LOOK_SECONDS = 0.25
_FIGURES_SECONDS = 1.0
_SIZE_SECONDS = 60.0
_RECENT_BATCHES = 100
# A reader this far behind is dropped. It connects again and gets a snapshot, which is shorter than what it missed.
_BYTES_BEHIND = 4 * 1024 * 1024


class Subscriber:
    """One subscriber.

    Attributes
    ----------
    dropped
        Set when it reads too slowly, has left, or the server stops.
    """

    def __init__(self) -> None:
        self.dropped = asyncio.Event()
        self._events: asyncio.Queue[bytes] = asyncio.Queue()
        self._behind = 0

    def tell(self, event: bytes) -> None:
        """Send it an event, or drop it if it is far behind."""
        if self._behind > _BYTES_BEHIND:
            self.dropped.set()
            return
        self._behind += len(event)
        self._events.put_nowait(event)

    async def next(self) -> bytes:
        """Wait for the next event."""
        event = await self._events.get()
        self._behind -= len(event)
        return event


View = BatchView | EngineView


class Events:
    """The events for all subscribers.

    Parameters
    ----------
    backend
        Give the store.
    engines
        Know the engines.
    batches
        Say what is shown of a batch.
    """

    def __init__(self, backend: Backend, engines: EngineWatch, batches: BatchWatch) -> None:
        self._backend = backend
        self._engines = engines
        self._shown_batches = batches
        self._subscribers: set[Subscriber] = set()
        self._seen: dict[str, View] = {}
        self._loop = backend.new_loop("events")
        self._problems: list[dict[str, Any]] = []
        self._version: tuple[int, int] | None = None
        self._looked_at = 0.0
        self._store_bytes = 0
        self._sized_at = -math.inf
        self._lock = asyncio.Lock()

    async def subscribe(self) -> Subscriber:
        """Begin to listen; the first event is a snapshot."""
        subscriber = Subscriber()
        async with self._lock:
            await self._look()
            subscriber.tell(encoded("snapshot", self._shown()))
            self._subscribers.add(subscriber)
            self._loop.start(self._look_if_changed, every=_LOOK_SECONDS)
        return subscriber

    async def snapshot(self) -> dict[str, Any]:
        """Return the first event of a subscriber."""
        async with self._lock:
            await self._look()
            return self._shown()

    def _shown(self) -> dict[str, Any]:
        views = list(self._seen.values())
        return {
            "batches": [view.to_json() for view in views if isinstance(view, BatchView)],
            "engines": [view.to_json() for view in views if isinstance(view, EngineView)],
            "problems": self._engines.problems(),
            "store_bytes": self._store_bytes,
        }

    def leave(self, subscriber: Subscriber) -> None:
        """Stop listening."""
        self._subscribers.discard(subscriber)
        if not self._subscribers:
            self._loop.end()

    async def stop(self) -> None:
        """Send all subscribers away."""
        for subscriber in list(self._subscribers):
            subscriber.dropped.set()
            self.leave(subscriber)
        await self._loop.stop()

    async def _look_if_changed(self) -> None:
        # Before the look, which may fail: why it does is told by the next one.
        if (problems := self._engines.problems()) != self._problems:
            self._problems = problems
            self._tell("problems", {"problems": problems})
        now = asyncio.get_running_loop().time()
        newest = await self._backend.call(lambda: self._backend.store.version())  # noqa: PLW0108 - opened in the thread
        if newest != self._version or now - self._looked_at >= _FIGURES_SECONDS:
            async with self._lock:
                await self._look()
            self._version, self._looked_at = newest, now

    async def _look(self) -> None:
        engines = await self._engines.look()
        batches = await self._backend.call(lambda: self._batches(engines))
        seen: dict[str, View] = {**batches, **{engine.id: engine for engine in engines}}
        changed = [view for id_, view in seen.items() if view != self._seen.get(id_)]
        # Batches that are only too old to be shown have not gone.
        gone = [id_ for id_, view in self._seen.items() if isinstance(view, EngineView) and id_ not in seen]
        self._seen = seen
        if not self._subscribers:
            return
        for view in changed:
            self._tell("batch" if isinstance(view, BatchView) else "engine", view.to_json())
        for id_ in gone:
            self._tell("engine_gone", {"id": id_})

    def _batches(self, engines: list[EngineView]) -> dict[str, View]:
        # The one figure here that grows dearer with the store.
        if time.monotonic() - self._sized_at >= _SIZE_SECONDS:
            self._store_bytes, self._sized_at = self._backend.store.bytes(), time.monotonic()
        recent = self._backend.store.batches.list(limit=_RECENT_BATCHES).data
        older = [record for record in self._backend.store.batches.unfinished() if record not in recent]
        records = {record.id: record for record in (*recent, *reversed(older))}
        # One that was shown only because it had not ended is told once more.
        for id_, view in self._seen.items():
            if id_ not in records and isinstance(view, BatchView) and view.record.status not in TERMINAL_STATUSES:
                with contextlib.suppress(NotFoundError):
                    records[id_] = self._backend.store.batches.get(id_)
        return {view.record.id: view for view in self._shown_batches.look(list(records.values()), engines)}

    def _tell(self, name: str, data: Mapping[str, Any]) -> None:
        event = encoded(name, data)
        for subscriber in self._subscribers:
            subscriber.tell(event)


def encoded(name: str, data: Mapping[str, Any]) -> bytes:
    r"""Write one server-sent event.

    Parameters
    ----------
    name
        Of the event.
    data
        Sent as JSON on one line.

    Examples
    --------
    >>> encoded("engine_gone", {"id": "engine_0"})
    b'event: engine_gone\ndata: {"id":"engine_0"}\n\n'
    """
    return b"event: %b\ndata: %b\n\n" % (name.encode(), msgspec.json.encode(data))


class EventsHandler(VBatchHandler):
    """``/vbatch/events``."""

    auth_resource = "vbatch_batches"

    @web.authenticated
    async def get(self) -> None:
        """Send events until the client leaves."""
        events = self.backend.events
        self.set_header("Content-Type", "text/event-stream")
        self.set_header("Cache-Control", "no-store")
        # nginx would gather events until its buffer is full.
        self.set_header("X-Accel-Buffering", "no")
        self._subscriber = await events.subscribe()
        try:
            await self._send_all(self._subscriber)
        finally:
            events.leave(self._subscriber)

    def on_connection_close(self) -> None:
        """Stop sending to a client that has left."""
        super().on_connection_close()
        if (subscriber := getattr(self, "_subscriber", None)) is not None:
            subscriber.dropped.set()

    async def _send_all(self, subscriber: Subscriber) -> None:
        dropped = asyncio.ensure_future(subscriber.dropped.wait())
        try:
            while not dropped.done():
                sending = asyncio.ensure_future(self._send_one(subscriber))
                await asyncio.wait({sending, dropped}, return_when=asyncio.FIRST_COMPLETED)
                if not sending.done():
                    sending.cancel()
                    # Either may end it: our cancel, or the stream that closes at the same moment.
                    with contextlib.suppress(asyncio.CancelledError, StreamClosedError):
                        await sending
                    break
                if isinstance(sending.exception(), StreamClosedError):
                    break
                sending.result()
        finally:
            dropped.cancel()
        # Close a slow reader's connection; waiting for it to read the rest could take forever.
        self._auto_finish = False
        if (stream := self.request.connection.stream) is not None:  # type: ignore[union-attr] # HTTP/1 has one
            stream.close()

    async def _send_one(self, subscriber: Subscriber) -> None:
        try:
            event = await asyncio.wait_for(subscriber.next(), HEARTBEAT_SECONDS)
        except TimeoutError:
            event = b": heartbeat\n\n"
        self.write(event)
        await self.flush()


class SnapshotHandler(VBatchHandler):
    """``/vbatch/snapshot``."""

    auth_resource = "vbatch_batches"

    @web.authenticated
    async def get(self) -> None:
        """Return what a stream of events begins with, for clients that poll or are behind a proxy that buffers."""
        self.send(await self.backend.events.snapshot())


ROUTES = ((r"/vbatch/events", EventsHandler), (r"/vbatch/snapshot", SnapshotHandler))
