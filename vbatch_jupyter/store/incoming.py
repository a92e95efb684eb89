"""Content that arrives piece by piece: one way into the store for uploads, their parts, and DataFrames.

It promises that nothing of it is visible before `keep` has returned, that all of it is there after, and that no sweep
removes it in between.
"""

from __future__ import annotations

import secrets
from collections.abc import Callable, Iterable
from pathlib import Path
from types import TracebackType
from typing import Self, TypeVar

from vbatch_jupyter.errors import TooLargeError
from vbatch_jupyter.store.disk import MIB, NewFile, Space

T = TypeVar("T")

_TEMPORARY_PREFIX = ".tmp-"
_SPACE_CHECK_BYTES = 16 * MIB

HEAD_BYTES = MIB
"""How much of a file is kept in memory while it arrives; `Incoming.head` has one byte more if there is more."""


class Incoming:
    """Content that belongs to nothing yet; leaving its block discards what was not kept.

    Parameters
    ----------
    directory
        Where it is written, and where it will be kept.
    space
        The store's.
    max_bytes
        The size above which it is refused; None for no limit.

    Attributes
    ----------
    head
        The first bytes that have arrived.

    Raises
    ------
    StoreFullError
        The disk is full.
    """

    def __init__(self, directory: Path, *, space: Space, max_bytes: int | None = None) -> None:
        self._space = space
        self._max_bytes = max_bytes
        self._checked = 0
        self.head = bytearray()
        space.require(0)
        self._new = NewFile(directory / f"{_TEMPORARY_PREFIX}{secrets.token_hex(16)}")

    @property
    def size(self) -> int:
        """Bytes that have arrived."""
        return self._new.bytes

    @property
    def sha256(self) -> str:
        """Hex digest of all of it, once it is being kept."""
        return self._new.sha256

    def write(self, data: bytes) -> None:
        """Append bytes.

        Raises
        ------
        TooLargeError
            That is more than ``max_bytes``.
        StoreFullError
            The disk is full.
        """
        if self._max_bytes is not None and self.size + len(data) > self._max_bytes:
            raise TooLargeError(f"The file is too large: the maximum is {self._max_bytes:,} bytes.", param="file")
        if len(self.head) <= HEAD_BYTES:
            self.head += data[: HEAD_BYTES + 1 - len(self.head)]
        self._new.write(data)
        if self.size - self._checked >= _SPACE_CHECK_BYTES:
            self._space.require(0)
            self._checked = self.size

    def write_all(self, chunks: Iterable[bytes]) -> None:
        """Append all of some content; see `write`."""
        for chunk in chunks:
            self.write(chunk)

    def keep(self, path: Path, row: Callable[[], T]) -> T:
        """Put the content on the disk and in its place, then make it known; nothing can be written after it.

        Parameters
        ----------
        path
            Its place, in its directory.
        row
            Writes its row; what it raises is raised, with nothing kept.

        Raises
        ------
        StoreFullError
            The disk is full.
        """
        with self._new:
            self._new.seal()
            self._new.place(path)
            try:
                return row()
            except Exception:
                # Not at an Interrupt: it may come when the row is there, and the sweep knows which it was.
                path.unlink(missing_ok=True)
                raise

    def discard(self) -> None:
        """Leave nothing of it; after `keep`, and a second time, it does nothing."""
        self._new.discard()

    def __enter__(self) -> Self:
        return self

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, traceback: TracebackType | None
    ) -> None:
        self.discard()
