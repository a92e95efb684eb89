"""Whether the server is up, and whether it can take batches."""

from __future__ import annotations

from jupyter_server.auth.decorator import allow_unauthenticated
from jupyter_server.base.handlers import JupyterHandler
from tornado import web

from vbatch_jupyter.errors import StoreError
from vbatch_jupyter.server.handler import VBatchHandler
from vbatch_jupyter.server.watch import WATCH_KEY, EngineWatch


class HealthHandler(JupyterHandler):
    """The one route that is open; it says that the process answers, and nothing else."""

    @allow_unauthenticated
    def get(self) -> None:
        """Say ok."""
        self.set_header("Content-Type", "text/plain; charset=utf-8")
        self.finish("ok")


class ReadyHandler(VBatchHandler):
    """``/vbatch/readyz``; the server is ready without an engine, because batches can wait."""

    auth_resource = "vbatch_batches"

    @web.authenticated
    async def get(self) -> None:
        """Return whether batches can be taken, and the states of the engines; status 503 if they cannot."""
        watch: EngineWatch = self.settings[WATCH_KEY]
        store = self.services.store
        reason = None
        try:
            await self.services.call(store.check_writable)
        except StoreError as error:
            reason = str(error)
            self.set_status(503)
        engines = [{"name": view.name, "models": view.models, "state": view.state} for view in await watch.look()]
        free = await self.services.call(store.space.free)
        self.send(
            {
                "status": "ready" if reason is None else "not_ready",
                "store": {"writable": reason is None, "free_bytes": free, "reason": reason},
                "engines": engines,
            }
        )


ROUTES = ((r"/vbatch/healthz", HealthHandler), (r"/vbatch/readyz", ReadyHandler))
