"""The engines of all kernels over HTTP: to list them, and to load and unload a model in any of them."""

from __future__ import annotations

import msgspec
from tornado import web

from vbatch_jupyter.server.handler import RefusedError, VBatchHandler


class LoadBody(msgspec.Struct):
    """What a kernel is to load."""

    model: str = ""
    flags: list[str] = msgspec.field(default_factory=list)


class EnginesHandler(VBatchHandler):
    """``/vbatch/engines``."""

    auth_resource = "vbatch_engine"

    @web.authenticated
    async def get(self) -> None:
        """List the engines."""
        self.send({"object": "list", "data": [view.to_json() for view in await self.backend.watch.look()]})


class EngineCommandHandler(VBatchHandler):
    """``/vbatch/engines/{name}/load`` and ``/unload``."""

    auth_resource = "vbatch_engine"

    @web.authenticated
    async def post(self, name: str, command: str) -> None:
        """Load or unload a model in a kernel. A kernel that the server starts itself needs only the name."""
        watch, kernels = self.backend.watch, self.backend.kernels
        if name in kernels.names:
            await (kernels.begin(name) if command == "load" else kernels.end(name))
            self.send((await watch.named(name)).to_json())
            return
        record = await watch.find(name)
        response = await watch.ask(record, f"/{command}", self._loading() if command == "load" else None)
        self.set_status(response.status_code)
        self.set_header("Content-Type", "application/json")
        self.finish(response.content)

    def _loading(self) -> object:
        loading = self.body_as(LoadBody) if self.has_body else LoadBody()
        if not loading.model:
            message = 'Name the model for this kernel in the body: {"model": "…", "flags": []}.'
            raise RefusedError(400, message, param="model", code="missing_required_parameter")
        return msgspec.to_builtins(loading)


ROUTES = (
    (r"/vbatch/engines", EnginesHandler),
    (r"/vbatch/engines/([^/]+)/(load|unload)", EngineCommandHandler),
)
