"""OpenAI's files endpoint."""

from __future__ import annotations

import contextlib
import os
import re
from typing import Any, BinaryIO, Literal, cast

from tornado import web
from tornado.iostream import StreamClosedError

from vbatch_jupyter.errors import StoreBusyError
from vbatch_jupyter.manager.checks import expires_after_of
from vbatch_jupyter.server.forms import FormHandler
from vbatch_jupyter.server.handler import VBatchHandler, page_of
from vbatch_jupyter.store import Incoming

RESOURCE = "vbatch_files"

_PIECE_BYTES = 512 * 1024
_PLAIN_NAME = re.compile(r"[A-Za-z0-9_-][A-Za-z0-9._ -]{0,99}")


class FilesHandler(FormHandler[Incoming]):
    """``/files``."""

    auth_resource = RESOURCE
    file_field = "file"

    def begin(self) -> Incoming:
        """Begin an upload."""
        return self.backend.manager.files.begin(max_bytes=self.max_file_bytes())

    def max_file_bytes(self) -> int:
        """Return what is configured."""
        return self.backend.max_file_bytes

    @web.authenticated
    async def get(self) -> None:
        """List the files."""
        limit, after = self.integer("limit", 10_000), self.get_query_argument("after", None)
        purpose = self.get_query_argument("purpose", None)
        order = cast("Literal['asc', 'desc']", self.get_query_argument("order", "desc"))
        await self.send_from(
            lambda: page_of(self.backend.manager.files.list(purpose=purpose, after=after, limit=limit, order=order))
        )

    @web.authenticated
    async def post(self) -> None:
        """Keep an uploaded file."""
        form = await self.form()
        upload = form.sink
        assert upload is not None

        def commit() -> Any:
            with upload:
                seconds = expires_after_of("expires_after", expires_after_in(form.fields))
                purpose: Any = form.fields.get("purpose")
                return self.backend.manager.files.keep(
                    upload, filename=form.filename, purpose=purpose, expires_after_seconds=seconds
                )

        self.send((await self.backend.call(commit)).to_openai())


class FileHandler(VBatchHandler):
    """``/files/{id}``."""

    auth_resource = RESOURCE

    @web.authenticated
    async def get(self, file_id: str) -> None:
        """Retrieve a file's record."""
        self.send((await self.backend.call(lambda: self.backend.manager.files.retrieve(file_id))).to_openai())

    @web.authenticated
    async def delete(self, file_id: str) -> None:
        """Delete a file."""
        record = await self.backend.call(lambda: self.backend.manager.files.delete(file_id))
        self.send({"id": record.id, "object": "file", "deleted": True})


class ContentHandler(VBatchHandler):
    """``/files/{id}/content``."""

    auth_resource = RESOURCE

    @web.authenticated
    async def get(self, file_id: str) -> None:
        """Send a file's content, always as data and never as a page, whatever its name."""
        # Read by a glance: a store that others hold does not keep anyone from a file.
        name, content = await self.backend.glance(lambda: self._opened(file_id))
        self.set_header("Content-Type", "application/octet-stream")
        self.set_header("Content-Length", str(os.fstat(content.fileno()).st_size))
        self.set_header("Content-Disposition", f'attachment; filename="{name}"')
        self.set_header("X-Content-Type-Options", "nosniff")
        self.set_header("Content-Security-Policy", "default-src 'none'; sandbox")
        try:
            while piece := await self.backend.glance(lambda: content.read(_PIECE_BYTES)):
                self.write(piece)
                # The next piece is read when this one has gone, so that a slow client holds no more than one.
                await self.flush()
            self.finish(set_content_type="application/octet-stream")
        except StreamClosedError:
            # The client has gone.
            return
        finally:
            await self.backend.glance(content.close)

    def _opened(self, file_id: str) -> tuple[str, BinaryIO]:
        files, name = self.backend.manager.files, file_id
        with contextlib.suppress(StoreBusyError):
            given = files.retrieve(file_id).filename
            name = given if _PLAIN_NAME.fullmatch(given) else file_id
        return name, files.content(file_id)


def expires_after_in(fields: dict[str, str]) -> dict[str, Any] | None:
    """Return what a form says of a file's expiry, as JSON has it.

    Examples
    --------
    >>> expires_after_in({"purpose": "batch", "expires_after[anchor]": "created_at", "expires_after[seconds]": "3600"})
    {'anchor': 'created_at', 'seconds': 3600}
    """
    found: dict[str, Any] = {}
    for name in ("anchor", "seconds"):
        if (text := fields.get(f"expires_after[{name}]")) is not None:
            found[name] = int(text) if name == "seconds" and re.fullmatch(r"-?[0-9]{1,18}", text) else text
    return found or None


ROUTES = (
    (r"/vbatch/v1/files", FilesHandler),
    (r"/vbatch/v1/files/([^/]+)", FileHandler),
    (r"/vbatch/v1/files/([^/]+)/content", ContentHandler),
)
