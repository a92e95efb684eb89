"""The lease: the right of one process to advance one batch.

It promises that only the owner changes a batch's row (cancelling excepted, which is anyone's) or publishes its files:
every transaction of a lease checks that the epoch in the row is still the lease's own, in the same transaction. A lock
on a file tells at once that an owner has died; the epoch holds where a former owner did not know that it had.
"""

from __future__ import annotations

import contextlib
import dataclasses
import shutil
import sqlite3
import threading
from collections.abc import Callable, Iterator, Mapping, Sequence
from pathlib import Path
from typing import Any, Literal, Self

from vbatch_jupyter.errors import ConflictError, FencedError, StoreCorruptError, StoreError, StoreFullError
from vbatch_jupyter.protocol.batch import NEXT_STATUSES, TERMINAL_STATUSES, BatchRecord, RequestCounts, Status, Usage
from vbatch_jupyter.protocol.file import FileRecord
from vbatch_jupyter.protocol.ids import result_file_id
from vbatch_jupyter.protocol.index import LineIndex
from vbatch_jupyter.store.database import Database, batch_columns, batch_from_row, insert
from vbatch_jupyter.store.disk import FileLock, NewFile, Space
from vbatch_jupyter.store.files import Files, Sidecar
from vbatch_jupyter.store.spool import Recovered, Spool, SpoolRecord

DISK_FULL_REASON = "The store's disk is full. The batch continues when there is space."


class Lease:
    """One owner's hold on one batch; made by `Batches.acquire`.

    Parameters
    ----------
    record
        The batch, with this lease's epoch.
    directory
        The batch's.
    lock
        Held; released with the lease.
    database, files, space, clock
        The store's.

    Attributes
    ----------
    id, epoch, reason
        The batch's id, the fence, and what was last read or written of its reason.
    """

    def __init__(
        self,
        record: BatchRecord,
        *,
        directory: Path,
        lock: FileLock,
        database: Database,
        files: Files,
        space: Space,
        clock: Callable[[], float],
    ) -> None:
        self.id = record.id
        self.epoch = record.epoch
        self._directory = directory
        self._file_lock = lock
        self._database = database
        self._files = files
        self._space = space
        self._clock = clock
        self._lock = threading.RLock()
        self._spool: Spool | None = None
        self.reason = record.reason
        self._released = False
        self._has_ended = False

    def __repr__(self) -> str:
        return f"<Lease of {self.id}, epoch {self.epoch}{', released' if self._released else ''}>"

    # ------------------------------------------------------------------------------------------------------- the row

    def refresh(self) -> BatchRecord:
        """Read the batch again; this shows whether someone has cancelled it.

        Raises
        ------
        FencedError
            Another owner has taken the batch over.
        """
        return batch_from_row(self._owned(self._database.read("SELECT * FROM batch WHERE id = ?", (self.id,))))

    def update(self, **fields: Any) -> BatchRecord:
        """Change fields of the batch in one transaction; a new status gets its timestamp by itself.

        A batch that has no reason any more is not paused any more.

        Parameters
        ----------
        **fields
            Fields of `BatchRecord`.

        Raises
        ------
        FencedError
            Another owner has taken the batch over; nothing was changed.
        ConflictError
            The batch's status does not allow it, such as ``finalizing`` after a cancel.
        """
        columns = batch_columns(fields)
        record = self._database.write(lambda connection: self._change(connection, columns))
        self.reason = record.reason
        if record.status in TERMINAL_STATUSES:
            self._remove_directory()
        return record

    def _owned(self, rows: Sequence[sqlite3.Row]) -> sqlite3.Row:
        if self._released or not rows or rows[0]["epoch"] != self.epoch:
            owner = "nobody" if self._released or not rows else rows[0]["owner"]
            message = (
                f"Batch {self.id} no longer belongs to this owner (epoch {self.epoch}), but to {owner}. Nothing was "
                "written. Finished answers are kept."
            )
            raise FencedError(message)
        return rows[0]

    def _change(
        self, connection: sqlite3.Connection, columns: dict[str, Any], *, among: frozenset[Status] | None = None
    ) -> BatchRecord:
        """Change columns within the caller's transaction, if the epoch and the status allow it."""
        row = self._fetch(connection)
        self._check_status(row, columns.get("status", row["status"]), among=among)
        changed = dict(columns)
        status: Status = columns.get("status", row["status"])
        if status != row["status"]:
            changed.setdefault(f"{status}_at", int(self._clock()))
        if status in TERMINAL_STATUSES:
            changed |= {"owner": None, "reason": None}
        if changed.get("reason", "") is None:
            changed["paused"] = False
        if changed:
            assignments = ", ".join(f"{column} = :{column}" for column in changed)
            connection.execute(
                f"UPDATE batch SET {assignments} WHERE id = :_id AND epoch = :_epoch",  # noqa: S608 - our column names
                {**changed, "_id": self.id, "_epoch": self.epoch},
            )
        return batch_from_row(self._fetch(connection))

    def _fetch(self, connection: sqlite3.Connection) -> sqlite3.Row:
        return self._owned(connection.execute("SELECT * FROM batch WHERE id = ?", (self.id,)).fetchall())

    def _check_status(self, row: sqlite3.Row, status: Status, *, among: frozenset[Status] | None = None) -> None:
        present: Status = row["status"]
        if present in TERMINAL_STATUSES or (among is not None and present not in among):
            raise ConflictError(
                f"Batch {self.id} cannot change any more: its status is '{present}'.", id=self.id, status=present
            )
        if status != present and status not in NEXT_STATUSES[present]:
            message = f"Batch {self.id} cannot go from status '{present}' to '{status}'."
            raise ConflictError(message, id=self.id, status=present)

    # ----------------------------------------------------------------------------------------------------- the index

    def save_index(self, index: LineIndex) -> None:
        """Keep the index of the input file next to the spool.

        Raises
        ------
        StoreFullError
            The disk is full.
        """
        with self._new_file("index") as new:
            new.write(index.to_bytes())
            new.seal()
            new.place(self._directory / "index")

    def load_index(self) -> LineIndex:
        """Read the index of the input file.

        Raises
        ------
        StoreCorruptError
            It is missing or damaged. Validating the input file makes it again.
        """
        path = self._directory / "index"
        try:
            return LineIndex.from_bytes(path.read_bytes())
        except FileNotFoundError as error:
            raise StoreCorruptError(f"Batch {self.id} has no index at {path}. Validate the batch again.") from error

    # ----------------------------------------------------------------------------------------------------- the spool

    def recover(self) -> Recovered:
        """Find what was finished under this and former leases, and bring the counts in line with it.

        The first call reads the whole spool; later ones give what has been kept in step since.

        Raises
        ------
        FencedError
            Another owner has taken the batch over.
        StoreCorruptError
            The spool has a line of a request that the batch does not have.
        """
        with self._lock:
            return self._recovered_spool().recovered()

    def _recovered_spool(self) -> Spool:
        if self._spool is None:
            record = self.refresh()
            # What a former owner was finalising takes room, and is written again.
            for path in self._directory.glob("*.tmp"):
                path.unlink(missing_ok=True)
            spool = Spool(self._directory, epoch=self.epoch, total=record.request_counts.total)
            spool.recover()
            self._commit_counts(spool, {}, among=frozenset({"in_progress", "finalizing", "cancelling"}))
            self._spool = spool
        return self._spool

    def append(self, records: Sequence[SpoolRecord], *, counts: RequestCounts | None = None) -> RequestCounts:
        """Put a group of finished lines into the spool, and count them.

        When the call returns, they outlive a kill and a power loss. A request that has a line already keeps it: after
        an error the same group may be given again.

        Parameters
        ----------
        records
            The group.
        counts
            The counts for the batch's row; by default those of the spool.

        Raises
        ------
        StoreFullError
            The disk was full; the group is not in the spool, and what was finished before is.
        FencedError
            Another owner has taken the batch over.
        ConflictError
            The batch is neither in progress nor being cancelled.
        """
        with self._lock:
            if self._has_ended:
                status = self.refresh().status
                message = f"Batch {self.id} cannot take more lines: its status is '{status}'."
                raise ConflictError(message, id=self.id, status=status)
            spool = self._recovered_spool()
            try:
                # The finaliser will need room for all lines once more.
                group_bytes = sum(len(record.line) for record in records)
                self._space.require(2 * group_bytes + spool.bytes)
                spool.append(records)
                others: dict[str, Any] = {} if self.reason is None else {"reason": None}
                others |= batch_columns({} if counts is None else {"request_counts": counts})
                record = self._commit_counts(spool, others, among=frozenset({"in_progress", "cancelling"}))
            except StoreFullError:
                self.note_waiting(DISK_FULL_REASON)
                raise
            if self.reason == DISK_FULL_REASON:
                self._space.keep_reserve()
            self.reason = record.reason
            return record.request_counts

    def _commit_counts(self, spool: Spool, others: dict[str, Any], *, among: frozenset[Status]) -> BatchRecord:
        counts = {"completed": spool.completed, "failed": spool.failed, "spool_bytes": spool.bytes}
        return self._database.write(lambda connection: self._change(connection, counts | others, among=among))

    def note_waiting(self, reason: str, *, paused: bool = False) -> bool:
        """Write why the batch waits, or is paused; the next lines take it back. Return False if it is not written."""
        if paused or self.reason != reason:
            # Fenced, ended, busy, or not even room for this: the error that brought us here says more.
            with contextlib.suppress(StoreError, ConflictError, OSError):
                self.update(reason=reason, paused=paused)
                return True
        return self.reason == reason

    def records(self) -> Iterator[SpoolRecord]:
        """Yield every finished line, each request once, always in the same order."""
        with self._lock:
            spool = self._recovered_spool()
        return spool.records()

    # --------------------------------------------------------------------------------------------------- the results

    def new_result_file(self, kind: Literal["output", "error"]) -> NewFile:
        """Begin to write the output or the error file; leaving its block without `publish` removes it.

        Raises
        ------
        StoreFullError
            The disk is full.
        """
        # The floor is for this: finishing gives the spool's room back.
        self._space.require(self._recovered_spool().bytes, keep_floor=False)
        return self._new_file(kind)

    def publish(
        self,
        status: Literal["completed", "expired", "cancelled"],
        *,
        output: NewFile | None = None,
        error: NewFile | None = None,
        sidecars: Mapping[Sidecar, bytes] | None = None,
        counts: RequestCounts | None = None,
        usage: Usage | None = None,
    ) -> BatchRecord:
        """End the batch: files, status, timestamp, counts and usage appear together, then the spool goes.

        A kill at any moment leaves either the batch as it was, to be published again under the same file ids, or the
        batch ended.

        Parameters
        ----------
        status
            What the batch ends in.
        output, error
            From `new_result_file`; an empty one counts as none, as OpenAI has it.
        sidecars
            What to keep next to the first of these files; left out if the disk is full.
        counts, usage
            For the batch's row.

        Raises
        ------
        FencedError
            Another owner has taken the batch over; no file was touched.
        ConflictError
            The status does not allow it; no file was touched.
        StoreFullError
            The disk is full.
        """
        results = [(kind, new) for kind, new in (("output", output), ("error", error)) if new and new.bytes]
        for _, new in results:
            new.seal()
        columns = batch_columns({"status": status, "usage": usage} | ({"request_counts": counts} if counts else {}))

        def end(connection: sqlite3.Connection) -> BatchRecord:
            row = self._fetch(connection)
            self._check_status(row, status)
            # Inside the transaction: while it is open nobody can take the batch over, so a former owner that was
            # stopped for an hour cannot rename its files over those that its successor has published.
            for sidecar, new in written.items():
                new.place(self._files.sidecar(result_file_id(self.id, results[0][0]), sidecar), durable=False)
            for kind, new in results:
                file = self._result_record(kind, new, row["output_expires_after_seconds"])
                new.place(self._files.path(file.id))
                insert(connection, "file", dataclasses.asdict(file))
                columns[f"{kind}_file_id"] = file.id
            return self._change(connection, columns)

        with contextlib.ExitStack() as stack:
            written = self._write_sidecars((results and sidecars) or {}, stack)
            record = self._database.write(end)
        self._remove_directory()
        return record

    def _result_record(self, kind: str, new: NewFile, expires_after_seconds: int | None) -> FileRecord:
        now = int(self._clock())
        return FileRecord(
            id=result_file_id(self.id, kind),
            bytes=new.bytes,
            created_at=now,
            filename=f"{self.id}_{kind}.jsonl",
            purpose="batch_output",
            sha256=new.sha256,
            expires_at=None if expires_after_seconds is None else now + expires_after_seconds,
        )

    def _new_file(self, name: str) -> NewFile:
        # With the epoch in its name: a former owner that still writes does so to a file of its own.
        path = self._directory / f"{name}-{self.epoch:010d}.tmp"
        path.unlink(missing_ok=True)
        return NewFile(path)

    def _write_sidecars(self, contents: Mapping[Sidecar, bytes], stack: contextlib.ExitStack) -> dict[Sidecar, NewFile]:
        written: dict[Sidecar, NewFile] = {}
        for kind, content in contents.items():
            # A problem with a sidecar must not keep a batch from ending.
            with contextlib.suppress(OSError, StoreError):
                new = stack.enter_context(self._new_file(kind))
                new.write(content)
                # Timings have a checksum, which costs less than to wait for the disk.
                new.seal(durable=kind != "timings")
                written[kind] = new
        return written

    # --------------------------------------------------------------------------------------------------- the release

    def _remove_directory(self) -> None:
        with self._lock:
            self._has_ended = True
            if self._spool is not None:
                self._spool.close()
        # What a kill in here leaves is removed by the store's sweep.
        shutil.rmtree(self._directory, ignore_errors=True)

    def release(self) -> None:
        """Let others take the batch; a second call does nothing."""
        with self._lock:
            if self._released:
                return
            if self._spool is not None:
                self._spool.close()
        try:
            self.update(owner=None)
        except (StoreError, ConflictError, OSError):
            # Fenced, ended, or the disk is full: the owner is for display, the lock is what counts.
            pass
        finally:
            self._released = True
            self._file_lock.release()

    def __enter__(self) -> Self:
        return self

    def __exit__(self, *error: object) -> None:
        self.release()
