"""The batches of one store: their rows, and who may advance them.

It promises that a batch which `create` has returned is on the disk; that a status only moves forward; and that at most
one live owner holds a batch's lease.
"""

from __future__ import annotations

import builtins
import contextlib
import dataclasses
import json
import os
import shutil
import socket
import sqlite3
from collections.abc import Callable, Iterable
from pathlib import Path

from vbatch_jupyter.errors import ConflictError, NotFoundError
from vbatch_jupyter.protocol.batch import TERMINAL_STATUSES, BatchRecord, Status
from vbatch_jupyter.protocol.ids import BATCH_ID
from vbatch_jupyter.records import Page
from vbatch_jupyter.store.database import UNFINISHED, Database, batch_columns, batch_from_row, insert
from vbatch_jupyter.store.disk import FileLock, Space, sync_directory, writing
from vbatch_jupyter.store.files import Files
from vbatch_jupyter.store.lease import Lease
from vbatch_jupyter.store.spool import segments, spool_bytes
from vbatch_jupyter.store.sweep import ids_with_rows


@dataclasses.dataclass(frozen=True, slots=True)
class Totals:
    """Sums over all batches of one status.

    Parameters
    ----------
    status
        OpenAI's.
    batches
        How many there are.
    total, completed, failed
        Their requests.
    input_tokens, output_tokens
        Their usage, known of those that have ended.
    """

    status: Status
    batches: int
    total: int
    completed: int
    failed: int
    input_tokens: int
    output_tokens: int


class Batches:
    """The batches of one store.

    Parameters
    ----------
    directory
        Where each unfinished batch has a directory for its lock, index and spool.
    database, files, space, clock
        The store's.
    """

    def __init__(
        self, directory: Path, *, database: Database, files: Files, space: Space, clock: Callable[[], float]
    ) -> None:
        self.directory = directory
        self._database = database
        self._files = files
        self._space = space
        self._clock = clock

    def create(self, record: BatchRecord) -> BatchRecord:
        """Keep a new batch, or return the one that was made under its ``idempotency_key``.

        Parameters
        ----------
        record
            The batch; its id is new.

        Raises
        ------
        StoreFullError
            The disk has no room for its spool and its output, each estimated as large as its input.
        """
        self._space.require(4 * self._input_bytes(record.input_file_id))
        columns = batch_columns({name: getattr(record, name) for name in record.__dataclass_fields__})

        def make(connection: sqlite3.Connection) -> BatchRecord:
            if record.idempotency_key is not None:
                # The transaction writes from its beginning: nobody can make it between this query and the insert.
                made = connection.execute("SELECT * FROM batch WHERE idempotency_key = ?", (record.idempotency_key,))
                for row in made.fetchall():
                    return batch_from_row(row)
            insert(connection, "batch", columns)
            return record

        return self._database.write(make)

    def _input_bytes(self, file_id: str) -> int:
        try:
            return self._files.get(file_id).bytes
        except NotFoundError:
            # Not for `create` to judge: the batch will fail validation, as OpenAI's does.
            return 0

    def get(self, id: str) -> BatchRecord:  # noqa: A002 - OpenAI's word
        """Return a batch's record.

        Raises
        ------
        NotFoundError
            There is no such batch.
        """
        return batch_from_row(self._row(id))

    def _row(self, id: str) -> sqlite3.Row:  # noqa: A002
        rows = BATCH_ID.fullmatch(id) and self._database.read("SELECT * FROM batch WHERE id = ?", (id,))
        if not rows:
            raise NotFoundError("batch", id)
        return rows[0]

    def list(self, *, after: str | None = None, limit: int = 20) -> Page[BatchRecord]:
        """Return one page of the batches, newest first.

        Parameters
        ----------
        after
            Id of the last batch of the page before.
        limit
            Batches on the page, at most.

        Raises
        ------
        NotFoundError
            There is no batch ``after``.
        """
        condition, parameters = ("1", ()) if after is None else ("number < ?", (self._row(after)["number"],))
        rows = self._database.read(
            f"SELECT * FROM batch WHERE {condition} ORDER BY number DESC LIMIT ?",  # noqa: S608 - the two above
            (*parameters, limit + 1),
        )
        return Page(tuple(batch_from_row(row) for row in rows[:limit]), has_more=len(rows) > limit)

    def count(self) -> int:
        """Return how many there are."""
        return int(self._database.read("SELECT count(*) AS batches FROM batch")[0]["batches"])

    def unfinished(self) -> builtins.list[BatchRecord]:
        """Return the batches that have not ended, oldest first."""
        rows = self._database.read(
            f"SELECT * FROM batch WHERE {UNFINISHED} ORDER BY number"  # noqa: S608 - a constant
        )
        return [batch_from_row(row) for row in rows]

    def has_uncounted(self, id: str) -> bool:  # noqa: A002
        """Return whether the spool has more or fewer lines than the batch's counts; cheap.

        This happens after a kill between writing a group and counting it, and while a group is being written.
        """
        return bool(self._row(id)["spool_bytes"] != spool_bytes(self.directory / id))

    def has_room_to_finish(self, id: str) -> bool:  # noqa: A002
        """Return whether the disk has room for the spool's content once more, which finishing will need; cheap."""
        return self._space.free() > spool_bytes(self.directory / id)

    def cancel(self, id: str) -> BatchRecord:  # noqa: A002
        """Ask for a batch to be cancelled. Its owner, or the process that tends the store, ends it.

        A batch that is being finalised has all its answers and completes; one that is cancelled stays so.

        Raises
        ------
        NotFoundError
            There is no such batch.
        ConflictError
            It has ended in another way.
        """
        self._row(id)

        def mark(connection: sqlite3.Connection) -> BatchRecord:
            record = _fetch(connection, id)
            if record.status in TERMINAL_STATUSES and record.status != "cancelled":
                # OpenAI's sentence (contract §1.3).
                message = f"Cannot cancel a batch with status '{record.status}'."
                raise ConflictError(message, id=id, status=record.status)
            # Cancelling needs no engine, so a batch that was paused without one continues.
            connection.execute(
                "UPDATE batch SET status = 'cancelling', cancelling_at = ?, "
                "paused = 0, reason = CASE WHEN paused THEN NULL ELSE reason END "
                "WHERE id = ? AND status IN ('validating', 'in_progress')",
                (int(self._clock()), id),
            )
            return _fetch(connection, id)

        return self._database.write(mark)

    def resume(self, id: str) -> BatchRecord:  # noqa: A002
        """Let runners continue a batch that is paused, or try one again that waits. Else do nothing.

        Raises
        ------
        NotFoundError
            There is no such batch.
        """
        self._row(id)

        def clear(connection: sqlite3.Connection) -> BatchRecord:
            connection.execute(
                "UPDATE batch SET paused = 0, reason = NULL, deaths = 0, careful = 0 "  # noqa: S608 - a constant
                f"WHERE id = ? AND {UNFINISHED} AND (reason IS NOT NULL OR careful)",
                (id,),
            )
            return _fetch(connection, id)

        return self._database.write(clear)

    def totals(self) -> builtins.list[Totals]:
        """Return the sums over all batches of each status."""
        rows = self._database.read(
            "SELECT status, count(*) AS batches, sum(total) AS total, sum(completed) AS completed, "
            "sum(failed) AS failed, sum(coalesce(json_extract(usage, '$.input_tokens'), 0)) AS input_tokens, "
            "sum(coalesce(json_extract(usage, '$.output_tokens'), 0)) AS output_tokens FROM batch GROUP BY status"
        )
        return [Totals(**{name: row[name] for name in row.keys()}) for row in rows]  # noqa: SIM118 - no mapping

    def acquire(self, id: str) -> Lease | None:  # noqa: A002
        """Take the lease of a batch; None if a live owner holds it, or if the batch has ended.

        Raises
        ------
        NotFoundError
            There is no such batch.
        """
        directory = self.directory / id
        while self.get(id).status not in TERMINAL_STATUSES:
            try:
                with writing(self.directory):
                    self._make_directory(directory)
                    lock = FileLock(directory / "lock")
            except FileNotFoundError:
                if not self.directory.exists():
                    raise
                # Its owner has just ended it and removed the directory.
                continue
            try:
                if lock.take():
                    if (record := self._raise_epoch(id, directory)) is not None:
                        return Lease(
                            record,
                            directory=directory,
                            lock=lock,
                            database=self._database,
                            files=self._files,
                            space=self._space,
                            clock=self._clock,
                        )
                    # It has ended since it was looked at, and this is not the directory that its owner removed.
                    shutil.rmtree(directory, ignore_errors=True)
            except BaseException:
                lock.release()
                raise
            lock.release()
            return None
        return None

    def _make_directory(self, directory: Path) -> None:
        try:
            directory.mkdir(mode=0o700)
        except FileExistsError:
            return
        try:
            sync_directory(self.directory)
        except OSError:
            # The next attempt makes it again, and puts that on the disk.
            with contextlib.suppress(OSError):
                directory.rmdir()
            raise

    def _raise_epoch(self, id: str, directory: Path) -> BatchRecord | None:  # noqa: A002
        # A database restored from a backup may lag behind the segments, and a segment is never written twice.
        written = max(segments(directory).values(), default=0)

        def take(connection: sqlite3.Connection) -> BatchRecord | None:
            record = _fetch(connection, id)
            if record.status in TERMINAL_STATUSES:
                return None
            connection.execute(
                "UPDATE batch SET epoch = ?, owner = ? WHERE id = ?",
                (max(record.epoch, written) + 1, f"{socket.gethostname()}:{os.getpid()}", id),
            )
            return _fetch(connection, id)

        return self._database.write(take)

    def remove(self, ids: Iterable[str]) -> None:
        """Remove the rows of batches that have ended; their files stay."""
        statement = f"DELETE FROM batch WHERE NOT {UNFINISHED} AND id IN (SELECT value FROM json_each(?))"  # noqa: S608
        chosen = json.dumps(list(ids))
        self._database.write(lambda connection: connection.execute(statement, (chosen,)).close())

    def known(self, ids: Iterable[str]) -> set[str]:
        """Return which of the ids are batches that have not ended; only they have a directory."""
        return ids_with_rows(self._database, f"SELECT id FROM batch WHERE {UNFINISHED} AND id", ids)  # noqa: S608

    def expire(self) -> builtins.list[str]:
        """Remove ended batches that are past their expiry; return their ids.

        A batch is kept for as long after its end as its output (``output_expires_after``), and forever if that
        has no end.
        """
        past = (
            "output_expires_after_seconds IS NOT NULL AND output_expires_after_seconds + "
            "coalesce(completed_at, failed_at, expired_at, cancelled_at) <= ?"
        )
        now = int(self._clock())
        if not self._database.read(f"SELECT 1 FROM batch WHERE {past} LIMIT 1", (now,)):  # noqa: S608 - as above
            return []

        def remove(connection: sqlite3.Connection) -> builtins.list[str]:
            found = connection.execute(f"DELETE FROM batch WHERE {past} RETURNING id", (now,)).fetchall()  # noqa: S608
            return [row["id"] for row in found]

        return self._database.write(remove)


def _fetch(connection: sqlite3.Connection, id: str) -> BatchRecord:  # noqa: A002
    return batch_from_row(connection.execute("SELECT * FROM batch WHERE id = ?", (id,)).fetchall()[0])
