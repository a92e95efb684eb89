"""OpenAI's online endpoints: each request goes to the engine with its model, before all batches.

A client can choose only the engine, by the model's name: socket and path are ours, its headers are not passed
on, and of the engine's headers only those that describe the body are.
"""

from __future__ import annotations

import asyncio
import contextlib
from collections.abc import Sequence
from typing import Any

import httpx
import msgspec
from tornado import web
from tornado.iostream import StreamClosedError

from vbatch_jupyter.protocol import policy
from vbatch_jupyter.protocol.endpoints import ENDPOINTS
from vbatch_jupyter.protocol.keys import shortened, unknown_keys
from vbatch_jupyter.server.handler import RefusedError, VBatchHandler
from vbatch_jupyter.store import EngineRecord

_STATES = ("ready", "loading", "not responding", "dead")
"""The states of an engine that has a model, the best one first."""

_RETRY_AFTER_SECONDS = 5
_JSON = "application/json"
_NAMED = 20

IGNORED_HEADER = "x-vbatch-ignored"
"""Names the keys of a request that its engine ignores; OpenAI's objects have no place for that."""


class _Request(msgspec.Struct):
    model: str | None = None


class OnlineHandler(VBatchHandler):
    """Each path of `ENDPOINTS`."""

    auth_resource = "vbatch_engine"
    auth_action = "execute"

    def initialize(self) -> None:
        """Take a body as large as the server allows."""
        super().initialize()
        self.max_body_bytes = self.backend.max_request_bytes
        self._forwarding: asyncio.Task[None] | None = None

    @web.authenticated
    async def post(self, path: str) -> None:
        """Let an engine answer, and pass on its answer as it arrives."""
        model = self.body_as(_Request).model
        if not model:
            raise RefusedError(
                400, "you must provide a model parameter", param="model", code="missing_required_parameter"
            )
        self._look_at_keys(path)
        self._forwarding = asyncio.ensure_future(self._answer(model, path))
        with contextlib.suppress(asyncio.CancelledError, StreamClosedError):
            await self._forwarding

    def _look_at_keys(self, path: str) -> None:
        """Refuse keys that nobody knows, as OpenAI does, and name those that do nothing in a header."""
        # A body whose model is read can still have a key that is not UTF-8.
        keys = self.body_as(dict[str, msgspec.Raw])
        unknown = unknown_keys(ENDPOINTS[path], keys)
        if unknown and self.backend.profile.refuses_unknown:
            error = policy.unknown_parameter(unknown[0])
            raise RefusedError(400, error.message, param=error.param, code=error.code)
        if unknown or policy.has_ignored(path, keys, "local"):
            ignored = policy.ignored(path, self.body_as(dict[str, Any]), "local")
            names = [*unknown, *(breach.field for breach in ignored)][:_NAMED]
            # A header holds no line breaks and only ASCII.
            self.set_header(IGNORED_HEADER, ", ".join(ascii(shortened(name))[1:-1] for name in names))

    def on_connection_close(self) -> None:
        """Abort the engine's work for a client that has left."""
        super().on_connection_close()
        if self._forwarding is not None:
            self._forwarding.cancel()

    async def _answer(self, model: str, path: str) -> None:
        await self.backend.kernels.await_engine(model)
        await self._forward(self._chosen(model, await self.backend.engines()), path)

    def _chosen(self, model: str, engines: Sequence[EngineRecord]) -> EngineRecord:
        having = [engine for engine in engines if model in engine.models and engine.state in _STATES]
        if not having:
            raise unknown_model(model, engines)
        engine = min(having, key=lambda engine: _STATES.index(engine.state))
        if engine.state == "loading":
            message = f"The model '{model}' is being loaded. Try again in a few seconds."
            headers = {"retry-after": str(_RETRY_AFTER_SECONDS)}
            raise RefusedError(503, message, type="server_error", param="model", code="model_loading", headers=headers)
        if engine.state == "not responding":
            message = f"The engine of the model '{model}' does not respond. Try again in a few seconds."
            headers = {"retry-after": str(_RETRY_AFTER_SECONDS)}
            raise RefusedError(503, message, type="server_error", code="engine_not_responding", headers=headers)
        if engine.state == "dead":
            message = f"The engine of the model '{model}' has died. Load it again with `%vbatch load` in its notebook."
            raise RefusedError(503, message, type="server_error", param="model", code="engine_dead")
        return engine

    async def _forward(self, engine: EngineRecord, path: str) -> None:
        headers = {"content-type": _JSON, "x-request-id": self.request_id}
        begun = False
        try:
            async with self.backend.sockets.stream(engine, path, bytes(self._body), headers) as response:
                self.set_status(response.status_code)
                kind = response.headers.get("content-type", _JSON)
                self.set_header("Content-Type", kind)
                if (asked := response.headers.get("retry-after")) is not None:
                    self.set_header("Retry-After", asked)
                if kind.startswith(_JSON):
                    self.finish(await response.aread())
                    return
                self.set_header("Cache-Control", "no-cache")
                self.set_header("X-Accel-Buffering", "no")  # a proxy of nginx would wait for the end
                async for chunk in response.aiter_raw():
                    begun = True
                    self.write(chunk)
                    await self.flush()
            self.finish()
        except httpx.TransportError as error:
            if begun:
                # Break the connection, to show that the answer is not complete.
                self.request.connection.stream.close()  # type: ignore[union-attr] # HTTP/1 has one
                return
            message = f"The kernel with the engine ended before it answered ({type(error).__name__})."
            raise RefusedError(503, message, type="server_error", code="engine_unavailable") from error


def unknown_model(model: str, engines: Sequence[EngineRecord]) -> RefusedError:
    """Return the answer for a model that no engine has, with what to do about it."""
    served = sorted({name for engine in engines if engine.state == "ready" for name in engine.models})
    now = f"Served now: {', '.join(served)}." if served else "No model is loaded now."
    message = (
        f"The model '{model}' does not exist: no kernel of this server has it loaded. Load it in a notebook with "
        f"`%vbatch load {model}`. {now}"
    )
    return RefusedError(404, message, param="model", code="model_not_found")


ROUTES = tuple((f"/vbatch({path})", OnlineHandler) for path in ENDPOINTS)
