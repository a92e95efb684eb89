"""A file's lines, page by page: what a table of requests or answers shows, however large the file is.

A file never changes, so where its lines begin is found once, in a thread, and kept; a page then reads its own lines
and a few before them.
"""

from __future__ import annotations

import asyncio
import contextlib
from array import array
from bisect import bisect_right
from collections import OrderedDict
from collections.abc import Callable
from typing import Any, BinaryIO

import msgspec
from tornado import web

from vbatch_jupyter.errors import StoreBusyError
from vbatch_jupyter.protocol.lines import without_mark
from vbatch_jupyter.server.backend import Backend
from vbatch_jupyter.server.handler import VBatchHandler

MAX_LIMIT = 1000
"""The most lines of a page."""

LINE_BYTES = 64 * 1024
"""What is shown of one line."""

PAGE_BYTES = 4 * 1024 * 1024
"""A page ends early at this size."""

_LINES_APART, _BYTES_APART = 64, 1024 * 1024
_CHUNK_BYTES = 1024 * 1024
_FILES_KEPT = 32


class LineOffsets:
    r"""Where some of a file's lines begin: the first, and then one every 64 lines or every MiB.

    Parameters
    ----------
    content
        The file, read from its beginning to its end.

    Attributes
    ----------
    total
        How many lines the file has; a last one without an end counts.

    Examples
    --------
    >>> import io
    >>> content = io.BytesIO(b"a\n\nlong\nd")
    >>> offsets = LineOffsets(content)
    >>> offsets.total, [(number, text) for number, text, _ in offsets.page(content, 2, 2, line_bytes=3)]
    (4, [(2, b''), (3, b'lon')])
    """

    def __init__(self, content: BinaryIO) -> None:
        self._numbers, self._offsets = array("Q", [1]), array("Q", [0])
        number, offset, ended = 1, 0, True
        while chunk := content.read(_CHUNK_BYTES):
            start = 0
            while (end := chunk.find(b"\n", start) + 1) > 0:
                number, start = number + 1, end
                self._keep(number, offset + end)
            ended = chunk.endswith(b"\n")
            offset += len(chunk)
        self.total = number - 1 if ended else number

    def _keep(self, number: int, offset: int) -> None:
        if number - self._numbers[-1] >= _LINES_APART or offset - self._offsets[-1] >= _BYTES_APART:
            self._numbers.append(number)
            self._offsets.append(offset)

    def page(
        self, content: BinaryIO, start: int, limit: int, *, line_bytes: int = LINE_BYTES, page_bytes: int = PAGE_BYTES
    ) -> list[tuple[int, bytes, bool]]:
        """Read lines: the number of each, its text without its end, and whether that was cut.

        Parameters
        ----------
        content
            The file.
        start
            Number of the first line, from 1.
        limit
            Lines, at most.
        line_bytes
            What is read of a line.
        page_bytes
            The page ends after this many bytes.
        """
        if start > self.total:
            return []
        place = bisect_right(self._numbers, start) - 1
        content.seek(self._offsets[place])
        for _ in range(start - self._numbers[place]):
            _read_line(content, 0)
        lines: list[tuple[int, bytes, bool]] = []
        taken = 0
        for number in range(start, min(start + limit, self.total + 1)):
            text, cut = _read_line(content, line_bytes)
            lines.append((number, text, cut))
            taken += len(text)
            if taken >= page_bytes:
                break
        return lines


def _read_line(content: BinaryIO, most: int) -> tuple[bytes, bool]:
    """Read a line to its end, and keep only its first bytes."""
    kept, cut = b"", False
    while piece := content.readline(_CHUNK_BYTES):
        text = piece.removesuffix(b"\n")
        cut = cut or len(kept) + len(text) > most
        kept += text[: most - len(kept)]
        if piece.endswith(b"\n"):
            break
    return kept, cut


class LinePages:
    """Pages of files, with the positions of lines in the files that were read last.

    Parameters
    ----------
    backend
        Give the files, and the threads to read them in.
    """

    def __init__(self, backend: Backend) -> None:
        self._backend = backend
        self._known: OrderedDict[str, asyncio.Task[LineOffsets]] = OrderedDict()

    async def read(self, file_id: str, start: int, limit: int) -> tuple[int, list[tuple[int, bytes, bool]]]:
        """Return how many lines a file has, and some of them.

        Parameters
        ----------
        file_id
            The file.
        start, limit
            See `LineOffsets.page`.

        Raises
        ------
        NotFoundError
            There is no such file.
        """
        # Before anything that is kept: a deleted file has no lines.
        with contextlib.suppress(StoreBusyError):
            await self._backend.glance(lambda: self._backend.manager.files.retrieve(file_id))
        if file_id not in self._known:
            # One task for all requests in the meantime.
            read = self._with(file_id, LineOffsets)
            self._known[file_id] = asyncio.ensure_future(self._backend.call(read))
        self._known.move_to_end(file_id)
        while len(self._known) > _FILES_KEPT:
            self._known.popitem(last=False)
        try:
            # A client that leaves must not cancel it for the others.
            offsets = await asyncio.shield(self._known[file_id])
        except BaseException:
            if (task := self._known.get(file_id)) is not None and task.done():
                del self._known[file_id]
            raise
        page = self._with(file_id, lambda content: offsets.page(content, start, limit))
        return offsets.total, await self._backend.glance(page)

    def _with(self, file_id: str, read: Callable[[BinaryIO], Any]) -> Callable[[], Any]:
        def call() -> Any:
            with self._backend.manager.files.content(file_id) as content:
                return read(content)

        return call


def line_item(number: int, text: bytes, cut: bool) -> dict[str, Any]:  # noqa: FBT001 - as the page gives them
    r"""Return a line as an answer shows it.

    Parameters
    ----------
    number
        Of the line, from 1.
    text
        Its bytes.
    cut
        Whether there is more of it.

    Examples
    --------
    >>> msgspec.json.encode([line_item(1, b'{"n": 1.50}', False), line_item(2, b"no JSON\xff", True)])
    b'[{"number":1,"json":{"n": 1.50},"text":null,"truncated":false},{"number":2,"json":null,"text":"no JSON\xef\xbf\xbd","truncated":true}]'
    """  # noqa: E501 - the result is on one line
    text = without_mark(text)
    try:
        msgspec.json.decode(text)
    except (ValueError, RecursionError):
        return {"number": number, "json": None, "text": text.decode(errors="replace"), "truncated": cut}
    return {"number": number, "json": msgspec.Raw(text), "text": None, "truncated": cut}


class LinesHandler(VBatchHandler):
    """``/vbatch/files/{id}/lines``."""

    auth_resource = "vbatch_files"

    @web.authenticated
    async def get(self, file_id: str) -> None:
        """Return a page of a file's lines."""
        start, limit = self.within("start", 1, None), self.within("limit", 100, MAX_LIMIT)
        total, lines = await self.backend.pages.read(file_id, start, limit)
        has_more = start + len(lines) <= total
        await self.send_from(
            lambda: {
                "object": "list",
                "data": [line_item(*line) for line in lines],
                "total": total,
                "has_more": has_more,
            }
        )


ROUTES = ((r"/vbatch/files/([^/]+)/lines", LinesHandler),)
