"""Call an ASGI application in process.

httpx's ASGITransport would do, but it holds a streamed body back until its end, and costs more than the rest of the
path of a short request.
"""

from __future__ import annotations

import asyncio
from collections.abc import AsyncIterator, Awaitable, Callable, MutableMapping, Sequence
from typing import Any

from vbatch_jupyter.engine.base import EngineResponse

Message = MutableMapping[str, Any]
Application = Callable[
    [MutableMapping[str, Any], Callable[[], Awaitable[Message]], Callable[[Message], Awaitable[None]]],
    Awaitable[None],
]

_END = b""


async def call(
    application: Application, path: str, body: bytes, headers: Sequence[tuple[bytes, bytes]]
) -> EngineResponse:
    """Send one POST request to an application and return once its answer has begun.

    Cancelling the call, or closing the response's chunks early, cancels the application's work on it.

    Parameters
    ----------
    application
        The ASGI application.
    path, body
        The request.
    headers
        Lower-case names; content-type and content-length are added.
    """
    loop = asyncio.get_running_loop()
    started: asyncio.Future[tuple[int, dict[str, str]]] = loop.create_future()
    chunks: asyncio.Queue[bytes] = asyncio.Queue()
    left = asyncio.Event()
    received = False

    async def receive() -> Message:
        nonlocal received
        if not received:
            received = True
            return {"type": "http.request", "body": body, "more_body": False}
        await left.wait()
        return {"type": "http.disconnect"}

    async def send(message: Message) -> None:
        if message["type"] == "http.response.start":
            pairs = {name.decode().lower(): value.decode() for name, value in message["headers"]}
            started.set_result((message["status"], pairs))
        elif message["type"] == "http.response.body" and message.get("body"):
            chunks.put_nowait(bytes(message["body"]))

    scope = {
        "type": "http",
        "asgi": {"version": "3.0", "spec_version": "2.3"},
        "http_version": "1.1",
        "method": "POST",
        "scheme": "http",
        "path": path,
        "raw_path": path.encode(),
        "root_path": "",
        "query_string": b"",
        "headers": [
            (b"content-type", b"application/json"),
            (b"content-length", str(len(body)).encode()),
            *headers,
        ],
        "client": None,
        "server": None,
    }

    async def work() -> None:
        try:
            await application(scope, receive, send)
        finally:
            left.set()
            chunks.put_nowait(_END)

    task = loop.create_task(work())
    try:
        either: list[asyncio.Future[Any]] = [task, started]
        await asyncio.wait(either, return_when=asyncio.FIRST_COMPLETED)
    except asyncio.CancelledError:
        _leave(task, left)
        raise
    if not started.done():
        started.cancel()
        await task
        raise RuntimeError(f"the application ended without an answer to POST {path}")
    status, pairs = started.result()
    return EngineResponse(status=int(status), headers=pairs, chunks=_drain(chunks, task, left))


async def _drain(chunks: asyncio.Queue[bytes], task: asyncio.Task[None], left: asyncio.Event) -> AsyncIterator[bytes]:
    try:
        while (chunk := await chunks.get()) is not _END:
            yield chunk
        await task
    finally:
        _leave(task, left)


def _leave(task: asyncio.Task[None], left: asyncio.Event) -> None:
    # The client leaves, as over a socket, and the application ends by itself. Cancelling its task would not do: vLLM's
    # routes work in a task of their own, which would continue.
    left.set()
    if not task.done():
        _leaving.add(task)
        task.add_done_callback(_forget)


_leaving: set[asyncio.Task[None]] = set()
"""Keeps what is about to end from being collected before it has."""


def _forget(task: asyncio.Task[None]) -> None:
    _leaving.discard(task)
    if not task.cancelled():
        task.exception()  # nobody is there to hear of it
