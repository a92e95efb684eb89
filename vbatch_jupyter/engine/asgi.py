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
    application: Application,
    method: str,
    path: str,
    body: bytes,
    headers: Sequence[tuple[bytes, bytes]] = (),
) -> EngineResponse:
    """Send one request to an application and return once its answer has begun.

    Cancelling the call, or closing the response's chunks early, cancels the application's work on it.

    Parameters
    ----------
    application
        The ASGI application.
    method, path, body
        The request.
    headers
        Lower-case names; content-type and content-length are added.
    """
    started: asyncio.Future[tuple[int, dict[str, str]]] = asyncio.get_running_loop().create_future()
    chunks: asyncio.Queue[bytes] = asyncio.Queue()
    received = False

    async def receive() -> Message:
        nonlocal received
        if not received:
            received = True
            return {"type": "http.request", "body": body, "more_body": False}
        # A second message could only say that the client has left; a client in process leaves by cancelling.
        return await asyncio.get_running_loop().create_future()

    async def send(message: Message) -> None:
        if message["type"] == "http.response.start":
            pairs = {name.decode().lower(): value.decode() for name, value in message["headers"]}
            started.set_result((message["status"], pairs))
        elif message["type"] == "http.response.body" and message.get("body"):
            chunks.put_nowait(bytes(message["body"]))

    scope = {
        "type": "http",
        "asgi": {"version": "3.0", "spec_version": "2.4"},
        "http_version": "1.1",
        "method": method,
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
            chunks.put_nowait(_END)

    task = asyncio.ensure_future(work())
    try:
        await asyncio.wait({task, started}, return_when=asyncio.FIRST_COMPLETED)
    except asyncio.CancelledError:
        task.cancel()
        raise
    if not started.done():
        started.cancel()
        await task
        raise RuntimeError(f"the application ended without an answer to {method} {path}")
    status, pairs = started.result()
    return EngineResponse(status=status, headers=pairs, chunks=_drain(chunks, task))


async def _drain(chunks: asyncio.Queue[bytes], task: asyncio.Future[None]) -> AsyncIterator[bytes]:
    try:
        while (chunk := await chunks.get()) is not _END:
            yield chunk
        await task
    finally:
        task.cancel()
