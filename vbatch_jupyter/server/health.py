"""Whether the server is up, and whether it can take batches."""

from __future__ import annotations

from http import HTTPStatus

from jupyter_server.auth.decorator import allow_unauthenticated
from tornado import web

from vbatch_jupyter.errors import StoreError
from vbatch_jupyter.server.handler import VBatchHandler


class HealthHandler(VBatchHandler):
    """The one route that is open; it says that the process answers, and nothing else."""

    auth_resource = "vbatch_batches"

    def check_xsrf_cookie(self) -> None:
        """Require nothing: another verb is refused by its name."""

    async def prepare(self) -> None:  # type: ignore[override]
        """Refuse other verbs, also without a token."""
        if self.request.method != "GET":
            raise web.HTTPError(HTTPStatus.METHOD_NOT_ALLOWED)

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
        """Return whether batches can be taken, what fails, and the states of the engines; status 503 if not ready."""
        watch, backend = self.backend.watch, self.backend
        reason, engines, free = None, [], None
        try:
            free = await backend.glance(lambda: backend.store.space.free())  # noqa: PLW0108 - the store is opened in the thread
            engines = await watch.look()
            await backend.glance(lambda: backend.store.check_writable())  # noqa: PLW0108 - likewise
        except (StoreError, OSError) as error:
            reason = str(error)
        problems = watch.problems()
        is_ready = reason is None and not problems
        self.set_status(HTTPStatus.OK if is_ready else HTTPStatus.SERVICE_UNAVAILABLE)
        self.send(
            {
                "status": "ready" if is_ready else "not_ready",
                "store": {"writable": reason is None, "free_bytes": free, "reason": reason},
                "problems": problems,
                "engines": [{"name": view.name, "models": view.models, "state": view.state} for view in engines],
            }
        )


ROUTES = ((r"/vbatch/healthz", HealthHandler), (r"/vbatch/readyz", ReadyHandler))
