"""How a request's body is received: as it arrives, bounded in size and time, and refused while it still arrives.

A refusal is answered at once. What the client sends then is read for a while and dropped, because a connection that is
closed with bytes unread is reset, and the reset may reach the client before the answer does.
"""

from __future__ import annotations

import asyncio
from typing import Any

from jupyter_server.base.handlers import APIHandler
from tornado import web

_LINGER_SECONDS = 30.0
_NO_LIMIT = 2**63


@web.stream_request_body
class ReceivingHandler(APIHandler):
    """Base of the handlers; a subclass says what becomes of the body."""

    def initialize(self) -> None:
        """Begin with nothing received."""
        self._receiving = False
        self._answered = False
        self._watch: asyncio.TimerHandle | None = None
        self._lingering: asyncio.Task[None] | None = None
        # `take` decides how much is too much; tornado's own answer would not have OpenAI's envelope.
        connection: Any = self.request.connection
        connection.set_max_body_size(_NO_LIMIT)

    @property
    def idle_seconds(self) -> float:
        """How long the next byte of a body may take."""
        raise NotImplementedError

    async def take(self, data: bytes) -> None:
        """Take a part of the body; what it raises is the answer."""
        raise NotImplementedError

    def idle_error(self) -> Exception:
        """Return the answer to a client that has stopped sending."""
        raise NotImplementedError

    def let_go(self) -> None:
        """Forget what was received: the body was refused, or its client has gone."""

    def receive(self) -> None:
        """Receive the body; called when the request is allowed."""
        if self._has_body():
            self._body_future().add_done_callback(lambda _: self._stop_watching())
            self._start_watching()

    async def data_received(self, chunk: bytes) -> None:
        """Receive a part of the body, or drop it if the request was refused."""
        self._receiving = True
        if self._answered:
            return
        # A slow disk is not a slow client.
        self._stop_watching()
        try:
            await self.take(chunk)
        except Exception as error:  # noqa: BLE001 - whatever it is, it is the answer
            self._answer_now(error)
        else:
            self._start_watching()

    def _answer_now(self, error: Exception) -> None:
        if self._answered:
            return
        self.let_go()
        try:
            # tornado answers with the exception that is being handled.
            raise error  # noqa: TRY301 - likewise
        except Exception as raised:  # noqa: BLE001 - it is our own
            self._handle_request_exception(raised)
        # At the body's end tornado calls the verb; there is nothing left to say then.
        setattr(self, str(self.request.method).lower(), lambda *_: None)

    def _start_watching(self) -> None:
        loop = asyncio.get_running_loop()
        self._watch = loop.call_later(self.idle_seconds, lambda: self._answer_now(self.idle_error()))

    def _stop_watching(self) -> None:
        if self._watch is not None:
            self._watch.cancel()
            self._watch = None

    def finish(self, *args: Any, **kwargs: Any) -> Any:
        """Answer, and close the connection a while later if the client is still sending."""
        if not self._is_sending():
            return super().finish(*args, **kwargs)
        if self._answered:
            return _done()
        self._answered = True
        self._stop_watching()
        for chunk in args:
            self.write(chunk)
        if self._has_body():
            self.set_header("Connection", "close")
        self.set_header("Content-Length", str(sum(map(len, self._write_buffer))))
        flushed = self.flush()
        self._lingering = asyncio.ensure_future(self._linger())
        return flushed

    def _is_sending(self) -> bool:
        # Also where nothing is to come: tornado would close the connection, unannounced, for what it has not seen end.
        if self._body_future().done():
            return False
        # Who waits for 100 (Continue) sends nothing before it.
        return self._receiving or "Expect" not in self.request.headers

    async def _linger(self) -> None:
        await asyncio.wait({self._body_future()}, timeout=_LINGER_SECONDS)
        if not self._finished:
            super().finish()

    def _has_body(self) -> bool:
        headers = self.request.headers
        return "Transfer-Encoding" in headers or headers.get("Content-Length", "0") != "0"

    def _body_future(self) -> asyncio.Future[None]:
        future: asyncio.Future[None] = self.request._body_future  # noqa: SLF001 - tornado's only word that a body has ended
        return future

    def on_finish(self) -> None:
        """Forget the body."""
        self._stop_watching()
        self.let_go()
        super().on_finish()

    def on_connection_close(self) -> None:
        """Forget the body."""
        self._stop_watching()
        self.let_go()
        super().on_connection_close()


def _done() -> asyncio.Future[None]:
    future = asyncio.get_running_loop().create_future()
    future.set_result(None)
    return future
