"""OpenAI's batches endpoint."""

from __future__ import annotations

from typing import Any

import msgspec
from tornado import web

from vbatch_jupyter.manager.checks import expires_after_of
from vbatch_jupyter.server.handler import VBatchHandler, page_of

RESOURCE = "vbatch_batches"


class NewBatch(msgspec.Struct):
    """The body of a create; the manager checks its content."""

    input_file_id: Any = None
    endpoint: Any = None
    completion_window: Any = None
    metadata: Any = None
    output_expires_after: Any = None


class BatchesHandler(VBatchHandler):
    """``/batches``."""

    auth_resource = RESOURCE

    @web.authenticated
    async def get(self) -> None:
        """List the batches, newest first."""
        after, limit = self.get_query_argument("after", None), self.integer("limit", 20)
        await self.send_from(lambda: page_of(self.backend.manager.batches.list(after=after, limit=limit)))

    @web.authenticated
    async def post(self) -> None:
        """Create a batch."""
        new = self.body_as(NewBatch)
        seconds = expires_after_of("output_expires_after", new.output_expires_after)
        models = await self.backend.allowed_models()
        record = await self.backend.call(
            lambda: self.backend.manager.batches.create(
                input_file_id=new.input_file_id,
                endpoint=new.endpoint,
                completion_window=new.completion_window,
                metadata=new.metadata,
                output_expires_after_seconds=seconds,
                models=models,
                idempotency_key=self.request.headers.get("Idempotency-Key"),
            )
        )
        self.send(record.to_openai())


class BatchHandler(VBatchHandler):
    """``/batches/{id}``."""

    auth_resource = RESOURCE

    @web.authenticated
    async def get(self, batch_id: str) -> None:
        """Retrieve a batch."""
        self.send((await self.backend.call(lambda: self.backend.manager.batches.retrieve(batch_id))).to_openai())


class CancelHandler(VBatchHandler):
    """``/batches/{id}/cancel``."""

    auth_resource = RESOURCE

    @web.authenticated
    async def post(self, batch_id: str) -> None:
        """Cancel a batch."""
        self.send((await self.backend.call(lambda: self.backend.manager.batches.cancel(batch_id))).to_openai())


ROUTES = (
    (r"/vbatch/v1/batches", BatchesHandler),
    (r"/vbatch/v1/batches/([^/]+)", BatchHandler),
    (r"/vbatch/v1/batches/([^/]+)/cancel", CancelHandler),
)
