"""What the handlers share whose body is a form with a file in it."""

from __future__ import annotations

from typing import ClassVar, Generic

from vbatch_jupyter.errors import TooLargeError
from vbatch_jupyter.server.handler import VBatchHandler
from vbatch_jupyter.server.multipart import FormReader, SinkT

_MIB = 1024 * 1024
# The size of everything in a form except its file.
_FORM_BYTES = _MIB


class FormHandler(VBatchHandler, Generic[SinkT]):
    """Base of the handlers whose POST is a form with a file; parsing and writing are done off the event loop.

    Attributes
    ----------
    file_field
        The name of the field that is the file.
    """

    file_field: ClassVar[str]
    _reader: FormReader[SinkT] | None = None

    def begin(self) -> SinkT:
        """Make what takes the file's content; it may block."""
        raise NotImplementedError

    def max_file_bytes(self) -> int:
        """Return the size of the largest file that is taken."""
        raise NotImplementedError

    async def prepare(self) -> None:  # type: ignore[override]
        """Check the headers, before the body is read."""
        await super().prepare()
        if self._finished or self.request.method != "POST":
            return
        reader = FormReader(self.request.headers.get("Content-Type", ""), file_field=self.file_field, begin=self.begin)
        length, most = self.request.headers.get("Content-Length", ""), self.max_file_bytes()
        if length.isdecimal() and int(length) > most + _FORM_BYTES:
            raise TooLargeError(f"The file is too large: the maximum is {most:,} bytes.", param=self.file_field)
        self._reader = reader

    async def take(self, data: bytes) -> None:
        """Receive a part of the form, and pass it on in pieces of one MiB."""
        if self._reader is None:
            await super().take(data)
            return
        self._body += data
        if len(self._body) >= _MIB:
            await self._write(self._reader)

    async def _write(self, reader: FormReader[SinkT]) -> None:
        piece = bytes(self._body)
        self._body.clear()
        try:
            await self.backend.call(lambda: reader.write(piece))
        except BaseException:
            # Before the answer, so that a client that gets the error finds nothing left behind.
            await self.backend.call(reader.discard)
            raise

    async def form(self) -> FormReader[SinkT]:
        """Return the whole form. The caller must keep or discard its file.

        Raises
        ------
        BadRequestError
            It is not whole.
        """
        reader, self._reader = self._reader, None
        assert reader is not None
        await self._write(reader)
        try:
            reader.finish()
        except BaseException:
            await self.backend.call(reader.discard)
            raise
        return reader

    def let_go(self) -> None:
        """Forget the body, and what was written of it."""
        super().let_go()
        reader, self._reader = self._reader, None
        if reader is not None and reader.sink is not None:
            self.backend.start(reader.discard)
