"""Input, output and error files: immutable, whole, and known to the database.

It promises that a file whose record can be had is on the disk, whole; that a file which an unfinished batch reads is
not deleted; and that the sidecars of a file go when the file does.
"""

from __future__ import annotations

import builtins
import contextlib
import dataclasses
import errno
import os
import secrets
import sqlite3
from collections.abc import Callable, Iterable
from pathlib import Path
from typing import BinaryIO, Literal, TypeVar, get_args

import msgspec

from vbatch_jupyter.errors import (
    ConflictError,
    NotFoundError,
    StoreBusyError,
    StoreCorruptError,
    StoreError,
    StoreFullError,
    TooLargeError,
    VBatchError,
)
from vbatch_jupyter.protocol.batch import BatchRecord
from vbatch_jupyter.protocol.file import FileRecord
from vbatch_jupyter.protocol.ids import FILE_ID, new_file_id, result_file_id
from vbatch_jupyter.records import Page, Timing
from vbatch_jupyter.store.database import UNFINISHED, Database, file_from_row, insert
from vbatch_jupyter.store.disk import MIB, NewFile, Space
from vbatch_jupyter.store.spool import unpack_timings
from vbatch_jupyter.store.sweep import ids_with_rows

T = TypeVar("T")

_LOST = frozenset({errno.ENOENT, errno.ENOTDIR, errno.ELOOP})
_TEMPORARY_PREFIX = ".tmp-"
_SPACE_CHECK_BYTES = 16 * MIB

HEAD_BYTES = MIB
"""How much of a file is kept in memory while it arrives; `Incoming.head` has one byte more if there is more."""

Sidecar = Literal["answers", "misfits", "notes", "timings"]
SIDECARS: tuple[Sidecar, ...] = get_args(Sidecar)
"""The kinds of files that can be next to an output file, each under its name and its kind: ``file-….answers``."""


class Incoming(NewFile):
    """Content that arrives piece by piece: one way into the store for uploads, their parts, and DataFrames.

    It promises that nothing of it is visible before `keep` has returned, and that all of it is there after.

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
    """

    def __init__(self, directory: Path, *, space: Space, max_bytes: int | None = None) -> None:
        space.require(0)
        super().__init__(directory / f"{_TEMPORARY_PREFIX}{secrets.token_hex(16)}")
        self._space = space
        self._max_bytes = max_bytes
        self._checked = 0
        self.head = bytearray()

    def write(self, data: bytes) -> None:
        """Append bytes.

        Raises
        ------
        TooLargeError
            That is more than ``max_bytes``.
        StoreFullError
            The disk is full.
        """
        if self._max_bytes is not None and self.bytes + len(data) > self._max_bytes:
            raise TooLargeError(f"The file is too large: the maximum is {self._max_bytes:,} bytes.", param="file")
        if len(self.head) <= HEAD_BYTES:
            self.head += data[: HEAD_BYTES + 1 - len(self.head)]
        super().write(data)
        if self.bytes - self._checked >= _SPACE_CHECK_BYTES:
            self._space.require(0)
            self._checked = self.bytes

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
        """
        with self:
            self.seal()
            self.place(path)
            try:
                return row()
            except VBatchError as error:
                # Otherwise, as after an Interrupt, the row may be there; the sweep knows.
                if isinstance(error, StoreFullError) or not isinstance(error, StoreError):
                    with contextlib.suppress(OSError):
                        path.unlink()
                raise


class Files:
    """The files of one store.

    Parameters
    ----------
    directory
        Where they are.
    database, space, clock
        The store's.

    Attributes
    ----------
    directory
        As above.
    incoming
        Where files are written before they have their place.
    """

    def __init__(self, directory: Path, *, database: Database, space: Space, clock: Callable[[], float]) -> None:
        self.directory = directory
        self.incoming = directory.with_name("incoming")
        self._database = database
        self._space = space
        self._clock = clock

    def begin(self, *, max_bytes: int | None = None) -> Incoming:
        """Take a file's content piece by piece; `keep` makes a file of it.

        Parameters
        ----------
        max_bytes
            The size above which it is refused.

        Raises
        ------
        StoreFullError
            The disk is full.
        """
        return Incoming(self.incoming, space=self._space, max_bytes=max_bytes)

    def keep(
        self,
        incoming: Incoming,
        *,
        filename: str,
        purpose: str,
        expires_at: int | None = None,
        also: Callable[[sqlite3.Connection, FileRecord], None] = lambda _connection, _record: None,
    ) -> FileRecord:
        """Keep a file that has arrived; it is on the disk when the call returns.

        Parameters
        ----------
        incoming
            From `begin`, with all of its content.
        filename
            The name it was given; data only, never a path.
        purpose
            As OpenAI has it.
        expires_at
            Unix seconds after which it may be deleted.
        also
            What else belongs to the transaction that makes it known; where it raises, nothing is kept.

        Raises
        ------
        StoreFullError
            The disk is full; nothing of it is kept.
        """
        id = new_file_id()  # noqa: A001 - OpenAI's word

        def row() -> FileRecord:
            record = FileRecord(
                id=id,
                bytes=incoming.bytes,
                created_at=int(self._clock()),
                filename=filename,
                purpose=purpose,
                sha256=incoming.sha256,
                expires_at=expires_at,
            )

            def make(connection: sqlite3.Connection) -> None:
                insert(connection, "file", dataclasses.asdict(record))
                also(connection, record)

            self._database.write(make)
            return record

        return incoming.keep(self.path(id), row)

    def create(
        self, chunks: Iterable[bytes], *, filename: str, purpose: str, expires_at: int | None = None
    ) -> FileRecord:
        """Keep a file whose content is in memory; see `begin` and `keep`.

        Parameters
        ----------
        chunks
            Its content, which may be larger than the memory.
        filename, purpose, expires_at
            As in `keep`.
        """
        with self.begin() as incoming:
            incoming.write_all(chunks)
            return self.keep(incoming, filename=filename, purpose=purpose, expires_at=expires_at)

    def get(self, id: str) -> FileRecord:  # noqa: A002 - OpenAI's word
        """Return a file's record.

        Raises
        ------
        NotFoundError
            There is no such file, or it was deleted.
        """
        # The id came from outside: only what the pattern admits may ever become a path.
        rows = FILE_ID.fullmatch(id) and self._database.read(
            "SELECT * FROM file WHERE id = ? AND deleted_at IS NULL", (id,)
        )
        if not rows:
            raise NotFoundError("file", id)
        return file_from_row(rows[0])

    def list(
        self,
        *,
        purpose: str | None = None,
        after: str | None = None,
        limit: int = 10_000,
        order: Literal["asc", "desc"] = "desc",
    ) -> Page[FileRecord]:
        """Return one page of the files.

        Parameters
        ----------
        purpose
            Only files of this purpose.
        after
            Id of the last file of the page before; it may have been deleted since.
        limit
            Files on the page, at most.
        order
            ``"desc"``: newest first.

        Raises
        ------
        NotFoundError
            There never was a file ``after``.
        """
        conditions, parameters = ["deleted_at IS NULL"], list[str | int]()
        if purpose is not None:
            conditions.append("purpose = ?")
            parameters.append(purpose)
        if after is not None:
            cursor = FILE_ID.fullmatch(after) and self._database.read("SELECT number FROM file WHERE id = ?", (after,))
            if not cursor:
                raise NotFoundError("file", after)
            conditions.append("number > ?" if order == "asc" else "number < ?")
            parameters.append(cursor[0]["number"])
        rows = self._database.read(
            f"SELECT * FROM file WHERE {' AND '.join(conditions)} "  # noqa: S608 - made of the constants above
            f"ORDER BY number {'ASC' if order == 'asc' else 'DESC'} LIMIT ?",
            (*parameters, limit + 1),
        )
        return Page(tuple(file_from_row(row) for row in rows[:limit]), has_more=len(rows) > limit)

    def path(self, id: str) -> Path:  # noqa: A002
        """Return the path of a file's content.

        Raises
        ------
        NotFoundError
            The id is not a valid file id.
        """
        if not FILE_ID.fullmatch(id):
            raise NotFoundError("file", id)
        return self.directory / id

    def sidecar(self, id: str, kind: Sidecar) -> Path:  # noqa: A002
        """Return the path of a sidecar of a file."""
        return self.directory / f"{id}.{kind}"

    def keep_sidecar(self, id: str, kind: Sidecar, content: bytes) -> None:  # noqa: A002
        """Write a sidecar of a file, and replace an earlier one.

        Raises
        ------
        StoreFullError
            There is no room.
        """
        with NewFile(self.incoming / f"{_TEMPORARY_PREFIX}{secrets.token_hex(16)}") as new:
            new.write(content)
            new.seal()
            new.place(self.sidecar(id, kind))

    def notes(self, id: str) -> dict[str, builtins.list[str]]:  # noqa: A002
        """Return what the requests of an input file ask in vain, by batch; nothing if nothing was found."""
        with contextlib.suppress(OSError, ValueError):
            return msgspec.json.decode(self.sidecar(id, "notes").read_bytes(), type=dict[str, builtins.list[str]])
        return {}

    def timings(self, record: BatchRecord) -> builtins.list[Timing]:
        """Return the timing of each request of a batch, in the input file's order; nothing if none were kept."""
        with contextlib.suppress(OSError, ValueError):  # a full disk, a batch service
            id_ = record.output_file_id or record.error_file_id or ""
            return unpack_timings(self.sidecar(id_, "timings").read_bytes())
        return []

    def open(self, id: str) -> BinaryIO:  # noqa: A002
        """Open a file's content for reading; deleting the file meanwhile does not disturb the reader.

        Raises
        ------
        NotFoundError
            There is no such file.
        StoreCorruptError
            Its content is lost.
        """
        with contextlib.suppress(StoreBusyError):  # content is whole, and goes when its file is deleted
            self.get(id)
        try:
            descriptor = os.open(self.path(id), os.O_RDONLY | os.O_NOFOLLOW | os.O_CLOEXEC)
        except OSError as error:
            if error.errno not in _LOST:  # such as too many open files, which says nothing about the content
                raise
            self.get(id)  # deleted since we read its row: that is not damage
            message = (
                f"The content of file {id} cannot be read at {self.path(id)}: {error.strerror}. Run "
                "`python -m vbatch_jupyter fsck` to see what else is damaged."
            )
            raise StoreCorruptError(message) from error
        return os.fdopen(descriptor, "rb", buffering=MIB)

    def delete(self, id: str) -> FileRecord:  # noqa: A002
        """Delete a file.

        Raises
        ------
        NotFoundError
            There is no such file.
        ConflictError
            A batch that has not ended reads it.
        """
        record = self.get(id)

        def mark(connection: sqlite3.Connection) -> None:
            reading = connection.execute(
                f"SELECT id, status FROM batch WHERE input_file_id = ? AND {UNFINISHED}",  # noqa: S608 - a constant
                (id,),
            ).fetchall()
            if reading:
                message = (
                    f"Cannot delete file '{id}': it is used by batch '{reading[0]['id']}' with status "
                    f"'{reading[0]['status']}'. Cancel the batch, or wait until it has ended."
                )
                raise ConflictError(message, id=id, status="processed")
            marked = connection.execute(
                "UPDATE file SET deleted_at = ? WHERE id = ? AND deleted_at IS NULL", (int(self._clock()), id)
            )
            if marked.rowcount == 0:
                raise NotFoundError("file", id)

        self._database.write(mark)
        # A kill or an error here leaves content without a row, which the sweep removes.
        for path in (self.path(id), *(self.sidecar(id, kind) for kind in SIDECARS)):
            with contextlib.suppress(OSError):
                path.unlink()
        return record

    def known(self, ids: Iterable[str]) -> set[str]:
        """Return which of the ids have a file, and all that batches which have not ended will give to their files."""
        # In this order: a batch that ends between the two looks has the rows of its files by the second.
        unfinished = self._database.read(f"SELECT id FROM batch WHERE {UNFINISHED}")  # noqa: S608 - a constant
        files = {result_file_id(row["id"], kind) for row in unfinished for kind in ("output", "error")}
        return files | self.alive(ids)

    def alive(self, ids: Iterable[str]) -> set[str]:
        """Return which of the ids have a file that was not deleted."""
        return ids_with_rows(self._database, "SELECT id FROM file WHERE deleted_at IS NULL AND id", ids)

    def expire(self) -> builtins.list[str]:
        """Delete the files that have expired, and that no unfinished batch reads; return their ids."""
        expired = []
        for row in self._database.read(
            "SELECT id FROM file WHERE deleted_at IS NULL AND expires_at <= ?", (int(self._clock()),)
        ):
            # A batch still reads it, or another process was quicker: the next sweep looks again.
            with contextlib.suppress(ConflictError, NotFoundError):
                expired.append(self.delete(row["id"]).id)
        return expired
