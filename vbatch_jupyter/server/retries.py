"""What runs again: the requests of a batch without an answer, in a new batch; and a batch that is paused."""

from __future__ import annotations

from tornado import web

from vbatch_jupyter.manager.retry import retry
from vbatch_jupyter.server.handler import VBatchHandler


class RetryHandler(VBatchHandler):
    """``/vbatch/batches/{id}/retry``."""

    auth_resource = "vbatch_batches"

    @web.authenticated
    async def post(self, batch_id: str) -> None:
        """Make a batch of the requests that have no answer; its metadata names the one it retries."""
        models = await self.backend.allowed_models()
        record = await self.backend.call(lambda: retry(self.backend.manager, batch_id, models=models))
        self.send(record.to_openai())


class ResumeHandler(VBatchHandler):
    """``/vbatch/batches/{id}/resume``."""

    auth_resource = "vbatch_batches"

    @web.authenticated
    async def post(self, batch_id: str) -> None:
        """Continue a batch that is paused, or try one at once that waits."""
        self.send((await self.backend.call(lambda: self.backend.manager.batches.resume(batch_id))).to_openai())


ROUTES = (
    (r"/vbatch/batches/([^/]+)/retry", RetryHandler),
    (r"/vbatch/batches/([^/]+)/resume", ResumeHandler),
)
