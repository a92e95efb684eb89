"""OpenAI's models endpoint: the names that the engines of this server's kernels serve, or would."""

from __future__ import annotations

from openai.types import Model
from tornado import web

from vbatch_jupyter.server.handler import VBatchHandler
from vbatch_jupyter.server.kernels import EngineKernels
from vbatch_jupyter.server.online import unknown_model
from vbatch_jupyter.store import EngineRecord


class ModelsHandler(VBatchHandler):
    """``/models``."""

    auth_resource = "vbatch_engine"

    @web.authenticated
    async def get(self) -> None:
        """List the models."""
        models = _models(await self.backend.engines(), self.backend.kernels)
        self.send({"object": "list", "data": [model.model_dump(mode="json") for model in models.values()]})


class ModelHandler(VBatchHandler):
    """``/models/{model}``; a model's name may have slashes, bare or escaped."""

    auth_resource = "vbatch_engine"

    @web.authenticated
    async def get(self, model: str) -> None:
        """Retrieve a model."""
        engines = await self.backend.engines()
        if (found := _models(engines, self.backend.kernels).get(model)) is None:
            raise unknown_model(model, engines)
        self.send(found)


def _models(engines: list[EngineRecord], kernels: EngineKernels) -> dict[str, Model]:
    # Models that the server starts on demand count as available. A name that two engines serve is
    # one model, as old as the first of them.
    created = dict.fromkeys(kernels.names, kernels.created_at)
    created |= {
        name: engine.created_at for engine in reversed(engines) if engine.state == "ready" for name in engine.models
    }
    return {name: Model(id=name, created=moment, object="model", owned_by="vbatch") for name, moment in created.items()}


ROUTES = ((r"/vbatch/v1/models", ModelsHandler), (r"/vbatch/v1/models/(.+)", ModelHandler))
