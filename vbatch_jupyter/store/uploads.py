"""Uploads: large files that come in parts, in any order and at the same time.

It promises that a part which `keep_part` has returned is on the disk; that an upload ends once; and that a completed
one has its file, known in the same transaction.
"""

from __future__ import annotations

import contextlib
import dataclasses
import hashlib
import sqlite3
from collections.abc import Callable, Iterable, Sequence
from pathlib import Path

from vbatch_jupyter.errors import BadRequestError, ConflictError, NotFoundError, StoreError
from vbatch_jupyter.protocol.file import FileRecord
from vbatch_jupyter.protocol.ids import UPLOAD_ID, new_part_id
from vbatch_jupyter.protocol.upload import MAX_PART_BYTES, PartRecord, UploadRecord
from vbatch_jupyter.store.database import Database, insert
from vbatch_jupyter.store.disk import MIB, Space
from vbatch_jupyter.store.files import Files, Incoming
from vbatch_jupyter.store.sweep import ids_with_rows

_UPLOAD_FIELDS = tuple(field.name for field in dataclasses.fields(UploadRecord))
_PART_FIELDS = tuple(field.name for field in dataclasses.fields(PartRecord))


class Uploads:
    """The uploads of one store.

    Parameters
    ----------
    directory
        Where their parts are.
    database, files, space, clock
        The store's.

    Attributes
    ----------
    directory
        As above.
    """

    def __init__(
        self, directory: Path, *, database: Database, files: Files, space: Space, clock: Callable[[], float]
    ) -> None:
        self.directory = directory
        self._database = database
        self._files = files
        self._space = space
        self._clock = clock

    def create(self, record: UploadRecord) -> UploadRecord:
        """Keep a new upload.

        Parameters
        ----------
        record
            The upload; its id is new.

        Raises
        ------
        StoreFullError
            There is no room for its parts and the file that is made of them.
        """
        self._space.require(2 * record.bytes)
        self._database.write(lambda connection: insert(connection, "upload", dataclasses.asdict(record)))
        return record

    def get(self, id: str) -> UploadRecord:  # noqa: A002 - OpenAI's word
        """Return an upload's record; one whose time has passed is expired, whether or not a sweep has seen it.

        Raises
        ------
        NotFoundError
            There is no such upload.
        """
        rows = UPLOAD_ID.fullmatch(id) and self._database.read("SELECT * FROM upload WHERE id = ?", (id,))
        if not rows:
            raise NotFoundError("upload", id)
        record = UploadRecord(**{name: rows[0][name] for name in _UPLOAD_FIELDS})
        if record.status == "pending" and record.expires_at <= self._clock():
            return dataclasses.replace(record, status="expired")
        return record

    def parts(self, id: str) -> list[PartRecord]:  # noqa: A002
        """Return the parts of an upload, in the order in which they came."""
        rows = self._database.read("SELECT * FROM upload_part WHERE upload_id = ? ORDER BY number", (id,))
        return [PartRecord(**{name: row[name] for name in _PART_FIELDS}) for row in rows]

    def path(self, part_id: str) -> Path:
        """Return the path of a part's content; the id is one that this store has given out."""
        return self.directory / part_id

    def begin_part(self, id: str) -> Incoming:  # noqa: A002
        """Take a part's content piece by piece; `keep_part` adds it.

        Raises
        ------
        NotFoundError
            There is no such upload.
        ConflictError
            It has ended.
        StoreFullError
            The disk is full.
        """
        _check_pending(self.get(id))
        return Incoming(self.directory, space=self._space, max_bytes=MAX_PART_BYTES)

    def keep_part(self, id: str, incoming: Incoming) -> PartRecord:  # noqa: A002
        """Add a part that has arrived; it is on the disk when the call returns.

        Raises
        ------
        ConflictError
            The upload has ended meanwhile.
        StoreFullError
            The disk is full.
        """
        part_id = new_part_id()

        def row() -> PartRecord:
            record = PartRecord(id=part_id, upload_id=id, bytes=incoming.bytes, created_at=int(self._clock()))

            def add(connection: sqlite3.Connection) -> None:
                _check_pending(self.get(id))
                insert(connection, "upload_part", dataclasses.asdict(record))

            self._database.write(add)
            return record

        return incoming.keep(self.path(part_id), row)

    def complete(
        self,
        id: str,  # noqa: A002
        part_ids: Sequence[str],
        *,
        md5: str | None,
        expires_at: int | None,
        check_head: Callable[[bytearray], None] | None = None,
    ) -> FileRecord:
        """Make the file of an upload's parts. A second call with the same parts returns the same file.

        Parameters
        ----------
        part_ids
            The parts in the order of the file.
        md5
            Hex digest that the file must have; None if its client did not say.
        expires_at
            Unix seconds after which the file may be deleted.
        check_head
            Checks the file's first bytes. If it raises, the upload stays as it is.

        Raises
        ------
        NotFoundError
            There is no such upload.
        BadRequestError
            The parts are not the upload's, do not have its number of bytes, or have another digest.
        ConflictError
            It has ended in another way.
        StoreFullError
            The disk is full.
        """
        record, parts = self.get(id), {part.id: part for part in self.parts(id)}
        if record.status == "completed" and record.file_id is not None:
            made_of = sorted((part.position, part.id) for part in parts.values() if part.position is not None)
            if [part_id for _, part_id in made_of] == list(part_ids):
                return self._files.get(record.file_id)
        _check_pending(record)
        _check_parts(record, parts, part_ids)

        def end(connection: sqlite3.Connection, file: FileRecord) -> None:
            if (record := self.get(id)).file_id == file.id:
                # Ended by an attempt that raised an error.
                return
            _check_pending(record)
            for position, part_id in enumerate(part_ids):
                connection.execute("UPDATE upload_part SET position = ? WHERE id = ?", (position, part_id))
            connection.execute("UPDATE upload SET status = 'completed', file_id = ? WHERE id = ?", (file.id, id))

        with self._files.begin() as incoming:
            self._space.require(record.bytes)
            self._join(record, part_ids, incoming, md5=md5, check_head=check_head)
            file = self._files.keep(
                incoming, filename=record.filename, purpose=record.purpose, expires_at=expires_at, also=end
            )
        self._remove_parts(id)
        return file

    def _join(
        self,
        record: UploadRecord,
        part_ids: Sequence[str],
        incoming: Incoming,
        *,
        md5: str | None,
        check_head: Callable[[bytearray], None] | None,
    ) -> None:
        digest = hashlib.md5(usedforsecurity=False)
        for part_id in part_ids:
            try:
                content = self.path(part_id).open("rb")
            except FileNotFoundError:
                # Ended since its status was read, and its parts are gone; otherwise it is damage, and raised.
                _check_pending(self.get(record.id))
                raise
            with content:
                while block := content.read(MIB):
                    digest.update(block)
                    incoming.write(block)
        if check_head is not None:
            check_head(incoming.head)
        if md5 is not None and digest.hexdigest() != md5.lower():
            message = f"The md5 of the parts is {digest.hexdigest()}, not '{md5}'. Check their order and upload again."
            raise BadRequestError(message, param="md5", code="invalid_value")

    def cancel(self, id: str) -> UploadRecord:  # noqa: A002
        """Cancel an upload and remove its parts; one that is cancelled stays so.

        Raises
        ------
        NotFoundError
            There is no such upload.
        ConflictError
            It has ended in another way.
        """

        def end(connection: sqlite3.Connection) -> UploadRecord:
            record = self.get(id)
            if record.status != "cancelled":
                _check_pending(record)
                connection.execute("UPDATE upload SET status = 'cancelled' WHERE id = ?", (id,))
            return self.get(id)

        record = self._database.write(end)
        self._remove_parts(id)
        return record

    def _remove_parts(self, id: str) -> None:  # noqa: A002
        # A kill or an error here leaves contents that the sweep removes.
        with contextlib.suppress(StoreError):
            for part in self.parts(id):
                with contextlib.suppress(OSError):
                    self.path(part.id).unlink()

    def known(self, ids: Iterable[str]) -> set[str]:
        """Return which of the ids are parts of pending uploads."""
        query = "SELECT upload_part.id FROM upload_part JOIN upload ON upload.id = upload_id WHERE status = 'pending'"
        return ids_with_rows(self._database, f"{query} AND upload_part.id", ids)

    def expire(self) -> list[str]:
        """Expire the uploads whose time has passed; their rows stay, and the sweep removes their parts."""
        past, now = "status = 'pending' AND expires_at <= ?", (int(self._clock()),)
        if self._database.read(f"SELECT id FROM upload WHERE {past}", now):  # noqa: S608 - as above
            expire = f"UPDATE upload SET status = 'expired' WHERE {past}"  # noqa: S608
            self._database.write(lambda connection: connection.execute(expire, now).close())
        return []


def _check_pending(record: UploadRecord) -> None:
    if record.status != "pending":
        message = f"Upload '{record.id}' cannot continue: its status is '{record.status}'. Create a new one."
        raise ConflictError(message, id=record.id, status=record.status)


def _check_parts(record: UploadRecord, parts: dict[str, PartRecord], part_ids: Sequence[str]) -> None:
    for number, part_id in enumerate(part_ids):
        if part_id not in parts:
            message = f"Upload '{record.id}' has no part '{part_id}'."
            raise BadRequestError(message, param=f"part_ids[{number}]", code="invalid_value")
    if len(set(part_ids)) < len(part_ids):
        raise BadRequestError("Each part can be in 'part_ids' only once.", param="part_ids", code="invalid_value")
    total = sum(parts[part_id].bytes for part_id in part_ids)
    if total != record.bytes:
        message = (
            f"The parts have {total:,} bytes, but the upload was created for {record.bytes:,}. Name all of its "
            "parts, or upload the missing ones."
        )
        raise BadRequestError(message, param="part_ids", code="invalid_value")
