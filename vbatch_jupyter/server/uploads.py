"""OpenAI's uploads endpoint: a large file in parts."""

from __future__ import annotations

import functools
from typing import Any

import msgspec
from tornado import web

from vbatch_jupyter.manager.checks import expires_after_of
from vbatch_jupyter.protocol.upload import MAX_PART_BYTES
from vbatch_jupyter.server.forms import FormHandler
from vbatch_jupyter.server.handler import VBatchHandler
from vbatch_jupyter.store import Incoming

RESOURCE = "vbatch_files"


class NewUpload(msgspec.Struct):
    """The body of a create; the manager checks its content."""

    bytes: Any = None
    filename: Any = None
    mime_type: Any = None
    purpose: Any = None
    expires_after: Any = None


class Completion(msgspec.Struct):
    """The body of a complete."""

    part_ids: Any = None
    md5: Any = None


class UploadsHandler(VBatchHandler):
    """``/uploads``."""

    auth_resource = RESOURCE

    @web.authenticated
    async def post(self) -> None:
        """Create an upload."""
        new = self.body_as(NewUpload)
        seconds = expires_after_of("expires_after", new.expires_after)
        record = await self.backend.call(
            lambda: self.backend.manager.uploads.create(
                bytes=new.bytes,
                filename=new.filename,
                mime_type=new.mime_type,
                purpose=new.purpose,
                expires_after_seconds=seconds,
            )
        )
        self.send(record.to_openai())


class PartsHandler(FormHandler[Incoming]):
    """``/uploads/{id}/parts``."""

    auth_resource = RESOURCE
    file_field = "data"

    def begin(self) -> Incoming:
        """Begin a part."""
        return self.backend.manager.uploads.begin_part(self.path_args[0])

    def max_file_bytes(self) -> int:
        """Return OpenAI's limit."""
        return MAX_PART_BYTES

    @web.authenticated
    async def post(self, upload_id: str) -> None:
        """Add a part to an upload."""
        incoming = (await self.form()).sink
        assert incoming is not None
        keep = functools.partial(self.backend.manager.uploads.keep_part, upload_id, incoming)
        self.send((await self.backend.call(keep)).to_openai())


class CompleteHandler(VBatchHandler):
    """``/uploads/{id}/complete``."""

    auth_resource = RESOURCE
    # 8 GiB in the smallest parts that a client would send.
    max_body_bytes = 16 * 1024 * 1024

    @web.authenticated
    async def post(self, upload_id: str) -> None:
        """Make the file of an upload's parts."""
        body = self.body_as(Completion)
        uploads = self.backend.manager.uploads
        upload, file = await self.backend.call(
            lambda: uploads.complete(upload_id, part_ids=body.part_ids, md5=body.md5)
        )
        self.send(upload.to_openai(file))


class CancelHandler(VBatchHandler):
    """``/uploads/{id}/cancel``."""

    auth_resource = RESOURCE

    @web.authenticated
    async def post(self, upload_id: str) -> None:
        """Cancel an upload."""
        self.send((await self.backend.call(lambda: self.backend.manager.uploads.cancel(upload_id))).to_openai())


ROUTES = (
    (r"/vbatch/v1/uploads", UploadsHandler),
    (r"/vbatch/v1/uploads/([^/]+)/parts", PartsHandler),
    (r"/vbatch/v1/uploads/([^/]+)/complete", CompleteHandler),
    (r"/vbatch/v1/uploads/([^/]+)/cancel", CancelHandler),
)
