"""OpenAI's models endpoint: the names that the engines of this server's kernels serve."""

from __future__ import annotations

from tornado import web

from vbatch_jupyter.server.base import RefusedError, VBatchHandler


class ModelsHandler(VBatchHandler):
    """``/models``."""

    auth_resource = "vbatch_engine"

    @web.authenticated
    async def get(self) -> None:
        """List the models."""
        self.send({"object": "list", "data": []})


class ModelHandler(VBatchHandler):
    """``/models/{model}``."""

    auth_resource = "vbatch_engine"

    @web.authenticated
    async def get(self, model: str) -> None:
        """Retrieve a model."""
        raise RefusedError(404, f"The model '{model}' does not exist.", param="model", code="model_not_found")


ROUTES = ((r"/vbatch/v1/models", ModelsHandler), (r"/vbatch/v1/models/(.+)", ModelHandler))
