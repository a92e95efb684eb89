"""The kernel's Unix socket: interactive requests, live figures, and requests of the Jupyter server to a kernel.

It runs on the engine's own loop, so an interactive request goes straight into the engine and waits for no batch. Only
its owner can open the socket (0600, in a folder of 0700), and every request needs the secret of this process: a
leaked descriptor or a reused path is not enough.
"""

from __future__ import annotations

import asyncio
import contextlib
import dataclasses
import fcntl
import hmac
import os
import shutil
import socket
import tempfile
import uuid
import weakref
from collections.abc import Callable, Coroutine, Sequence
from pathlib import Path
from typing import Any

import msgspec
import prometheus_client
from tornado import web
from tornado.httpserver import HTTPServer
from tornado.iostream import IOStream, StreamClosedError
from tornado.netutil import bind_unix_socket

from vbatch_jupyter.engine.base import Engine
from vbatch_jupyter.errors import (
    BadRequestError,
    ConflictError,
    EngineArgumentError,
    EngineError,
    EngineSilentError,
    VBatchError,
)
from vbatch_jupyter.loop import Loop, in_thread
from vbatch_jupyter.protocol.endpoints import ENDPOINTS
from vbatch_jupyter.protocol.lines import count_all, error_body
from vbatch_jupyter.records import SECRET_HEADER, EngineStats

_MAX_PATH_BYTES = 100
"""A longer path cannot be bound (108 bytes on Linux, 104 elsewhere)."""

_LONGEST_NAME = f"vbatch-12345678/99/{uuid.UUID(int=0)}"
"""Of a socket of vLLM's; ours is shorter."""

_MAX_BODY_BYTES = 512 * 1024 * 1024
"""What Jupyter itself takes; the server's own limit is below it."""

KEEP_ALIVE_SECONDS = 15.0
"""A stream that has had nothing for so long gets a comment: proxies and clients end connections that are still."""

_EVENTS, _COMMENT = "text/event-stream", b": keep-alive\n\n"
_RETRY_AFTER_SECONDS = 5

_CALLER, _GONE, _CONFLICT, _FAILED, _UNAVAILABLE = 400, 404, 409, 500, 503


@dataclasses.dataclass(frozen=True, slots=True)
class Verbs:
    """What the listener can ask of its kernel.

    Parameters
    ----------
    engine
        Returns the engine, or None if none is loaded; called on the engine's loop.
    stats
        Returns the engine's figures, also while there is none.
    loops
        Returns the loops of the process; their problems are sent with the figures.
    wake
        Makes the runner look at the store; called on the engine's loop.
    load, unload
        Load a model with its flags, and unload it. They block, and print nothing under the user's cells.
    """

    engine: Callable[[], Engine | None]
    stats: Callable[[], EngineStats]
    loops: Callable[[], Sequence[Loop]]
    wake: Callable[[], None]
    load: Callable[[str, Sequence[str]], object]
    unload: Callable[[], object]


class _Loading(msgspec.Struct):
    model: str
    flags: list[str] = []


def make_socket_path(runtime_directory: Path) -> Path:
    """Make a folder of our own (0700) for the sockets of this process and its engine, and return the path of the first.

    Parameters
    ----------
    runtime_directory
        Where it should be. It is in the folder for temporary files where its paths would be too long to bind, or on a
        network file system, which locks no folder: vLLM's processes meet over a file that they lock.
    """
    with contextlib.suppress(OSError):
        runtime_directory.mkdir(mode=0o700, parents=True, exist_ok=True)
        if len(bytes(runtime_directory / _LONGEST_NAME)) <= _MAX_PATH_BYTES:
            folder = Path(tempfile.mkdtemp(prefix="vbatch-", dir=runtime_directory))
            if _locks(folder):
                return folder / "engine"
            folder.rmdir()
    return Path(tempfile.mkdtemp(prefix="vbatch-"), "engine")


def _locks(folder: Path) -> bool:
    descriptor = os.open(folder, os.O_RDONLY)
    try:
        fcntl.flock(descriptor, fcntl.LOCK_EX | fcntl.LOCK_NB)
    except OSError:
        return False
    finally:
        os.close(descriptor)
    return True


class Listener:
    """Serves one kernel on a Unix socket; made and closed on the engine's loop.

    Parameters
    ----------
    path
        Of `make_socket_path`.
    secret
        What each request must carry.
    verbs
        The kernel.
    """

    def __init__(self, path: Path, *, secret: str, verbs: Verbs) -> None:
        self._folder = path.parent
        shared = {"secret": secret, "verbs": verbs}
        routes: list[Any] = [
            *((path, _RequestHandler, shared) for path in ENDPOINTS),
            (r"/stats", _StatsHandler, shared),
            (r"/metrics", _MetricsHandler, shared),
            (r"/wake", _WakeHandler, shared),
            (r"/load", _LoadHandler, shared),
            (r"/unload", _UnloadHandler, shared),
            (r".*", _UnknownHandler, shared),
        ]
        # What tornado logs would be printed under the user's cells.
        application = web.Application(routes, log_function=lambda _: None)
        self._server = _Server(application, max_body_size=_MAX_BODY_BYTES, max_buffer_size=_MAX_BODY_BYTES)
        listening = bind_unix_socket(str(path), mode=0o600)
        _sockets.add(listening)
        self._server.add_socket(listening)

    async def close(self) -> None:
        """End what runs, and remove the socket."""
        self._server.stop()
        await self._server.close_all_connections()
        await in_thread(lambda: shutil.rmtree(self._folder, ignore_errors=True))


_sockets: weakref.WeakSet[socket.socket] = weakref.WeakSet()


class _Server(HTTPServer):
    def handle_stream(self, stream: IOStream, address: Any) -> None:
        _sockets.add(stream.socket)
        super().handle_stream(stream, address)


def _close_in_child() -> None:
    # A child that this process has forked would keep connections open after its end, and their clients would wait.
    # Not through tornado, which would tell the event loop, and that is the parent's too.
    for each in _sockets:
        each.close()


os.register_at_fork(after_in_child=_close_in_child)


class _Handler(web.RequestHandler):
    def initialize(self, secret: str, verbs: Verbs) -> None:
        self._secret = secret
        self.verbs = verbs
        self._working: asyncio.Task[None] | None = None

    def prepare(self) -> None:
        given = self.request.headers.get(SECRET_HEADER, "")
        if not hmac.compare_digest(given.encode(), self._secret.encode()):
            raise web.HTTPError(403, "The secret of this process is missing or wrong.")

    async def work(self, coroutine: Coroutine[Any, Any, None]) -> None:
        """Run what is cancelled when the client leaves."""
        self._working = asyncio.ensure_future(coroutine)
        with contextlib.suppress(asyncio.CancelledError, StreamClosedError):
            await self._working

    def on_connection_close(self) -> None:
        if self._working is not None:
            self._working.cancel()

    def send(self, status: int, body: bytes) -> None:
        self.set_status(status)
        self.set_header("Content-Type", "application/json")
        self.finish(body)

    def write_error(self, status_code: int, **kwargs: Any) -> None:
        error = kwargs.get("exc_info", (None, None, None))[1]
        message = getattr(error, "log_message", None) or f"{type(error).__name__}: {error}"
        kind = "server_error" if status_code >= _FAILED else "invalid_request_error"
        self.send(status_code, error_body(message, type=kind))

    def log_exception(self, *arguments: Any) -> None:
        """Print nothing under the user's cells; the answer says what happened."""


class _RequestHandler(_Handler):
    _may_comment = True
    """Whether nothing is being written, and the last event is whole."""

    _has_had = False

    async def post(self) -> None:
        await self.work(self._answer())

    async def _answer(self) -> None:
        engine = self.verbs.engine()
        if engine is None:
            self.send(_UNAVAILABLE, _error("No engine is loaded in this kernel."))
            return
        try:
            response = await engine.request("POST", self.request.path, self.request.body)
        except EngineSilentError as error:
            self.set_header("Retry-After", str(_RETRY_AFTER_SECONDS))
            self.send(_UNAVAILABLE, error_body(str(error), type="server_error", code="engine_not_responding"))
            return
        except EngineError as error:
            self.send(_UNAVAILABLE, _error(str(error)))
            return
        self.set_status(response.status)
        kind = response.headers.get("content-type", "application/json")
        self.set_header("Content-Type", kind)
        keeping = asyncio.create_task(self._keep_alive()) if kind.startswith(_EVENTS) else None
        try:
            # Closed whatever happens: that is what aborts the request in the engine.
            async with contextlib.aclosing(response.chunks) as chunks:  # type: ignore[type-var]
                async for chunk in chunks:
                    self._may_comment = False
                    self.write(count_all(chunk))
                    await self.flush()
                    self._has_had, self._may_comment = True, chunk.endswith(b"\n\n")
        finally:
            if keeping is not None:
                keeping.cancel()
        self.finish()

    async def _keep_alive(self) -> None:
        """Send a comment to a client of a stream that has had nothing for a while; clients ignore it."""
        while True:
            self._has_had = False
            await asyncio.sleep(KEEP_ALIVE_SECONDS)
            if self._may_comment and not self._has_had:
                self.write(_COMMENT)
                # Not awaited: tornado tells the end of a write only to the last who waits, and that is `_answer`.
                self.flush()


class _StatsHandler(_Handler):
    def get(self) -> None:
        loops = [loop.report() for loop in self.verbs.loops()]
        self.send(200, msgspec.json.encode({**dataclasses.asdict(self.verbs.stats()), "loops": loops}))


class _MetricsHandler(_Handler):
    async def get(self) -> None:
        text = await in_thread(_vllm_metrics)
        self.set_header("Content-Type", "text/plain; version=0.0.4; charset=utf-8")
        self.finish(text)


class _WakeHandler(_Handler):
    def post(self) -> None:
        self.verbs.wake()
        self.set_status(204)
        self.finish()


class _LoadHandler(_Handler):
    async def post(self) -> None:
        try:
            loading = msgspec.json.decode(self.request.body, type=_Loading)
        except msgspec.MsgspecError as error:
            self.send(_CALLER, error_body(f"The body of a load is {{model, flags}}: {error}."))
            return
        await _verb(self, lambda: self.verbs.load(loading.model, loading.flags))


class _UnloadHandler(_Handler):
    async def post(self) -> None:
        await _verb(self, self.verbs.unload)


class _UnknownHandler(_Handler):
    def get(self) -> None:
        self.send(_GONE, error_body(f"Unknown request URL: {self.request.path}.", code="unknown_url"))

    post = put = patch = delete = head = get


async def _verb(handler: _Handler, verb: Callable[[], object]) -> None:
    """Run a blocking verb to its end, even if its client leaves, and answer with the engine's figures."""
    try:
        await in_thread(verb)
    except ConflictError as error:
        answer = _CONFLICT, error_body(str(error), code="engine_busy")
    except (BadRequestError, EngineArgumentError) as error:
        answer = _CALLER, error_body(str(error))
    except VBatchError as error:
        answer = _FAILED, error_body(str(error), type="server_error", code="engine_not_loaded")
    else:
        answer = 200, msgspec.json.encode(handler.verbs.stats())
    with contextlib.suppress(StreamClosedError):
        handler.send(*answer)


def _error(message: str) -> bytes:
    return error_body(message, type="server_error", code="engine_unavailable")


def _vllm_metrics() -> bytes:
    """Return the metrics of vLLM's front end in this process, without those that others have registered."""
    registry = prometheus_client.CollectorRegistry()

    class Ours:
        def collect(self) -> Any:
            return (family for family in prometheus_client.REGISTRY.collect() if family.name.startswith("vllm:"))

    registry.register(Ours())
    return prometheus_client.generate_latest(registry)
