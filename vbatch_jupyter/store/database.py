"""The store's one SQLite connection, with whole transactions and one deadline for waiting; its rows as records.

If another database takes the place of this one, it is opened; so is one whose connection an error has left unusable.

It promises that a function given to `write` takes effect as a whole or not at all, also under ``kill -9``, and that its
effect is on the disk when `write` returns. The journal is a rollback journal (TRUNCATE, FULL), because several
processes with SQLite builds of their own write: before 3.51.3, write-ahead logs of several writers could corrupt the
database.

Nothing in this process may open the database's file except through SQLite: closing any descriptor of it drops the
locks that SQLite holds in the whole process. An open cursor of a reader blocks the commits of writers, so every query
is fetched to its end at once.
"""

from __future__ import annotations

import contextlib
import dataclasses
import json
import os
import secrets
import sqlite3
import threading
import time
from collections.abc import Callable, Mapping, Sequence
from pathlib import Path
from typing import Any, TypeVar

import msgspec

from vbatch_jupyter.errors import StoreBusyError, StoreCorruptError, StoreError, StoreFullError
from vbatch_jupyter.protocol.batch import BatchError, BatchRecord, RequestCounts, Usage
from vbatch_jupyter.protocol.file import FileRecord
from vbatch_jupyter.store.disk import TRIED_AGAIN, Space, allowance, full_message, primary_code, within
from vbatch_jupyter.store.upgrades import SCHEMA_VERSION, bring_up, refuse_newer

T = TypeVar("T")

UNFINISHED = "status IN ('validating', 'in_progress', 'finalizing', 'cancelling')"
"""The condition for a batch that has not ended, as the index of these batches has it."""

_BATCH_FIELDS = tuple(field.name for field in dataclasses.fields(BatchRecord))
_FILE_FIELDS = tuple(field.name for field in dataclasses.fields(FileRecord))
_BOOLEANS = frozenset({"paused", "careful", "fresh"})

WAIT_SECONDS = 30.0
"""How long one call waits for other threads and processes, if nothing else is said."""

# SQLite waits this long at a time; in between an Interrupt is noticed.
_ATTEMPT_SECONDS = 0.1
_PAUSE_SECONDS = 0.01
_ATTEMPTS = 3


@dataclasses.dataclass
class _Wait:
    """One call's waiting: when it must end, and how long it was."""

    deadline: float
    seconds: float = 0.0


@dataclasses.dataclass
class Commits:
    """How often a store object has committed; cheap."""

    count: int = 0


class Database:
    """The database of one store.

    Parameters
    ----------
    path
        The database's file; it and its tables are made if they are missing.
    space
        Its reserve is spent if the disk has no room for a transaction.
    wait_seconds
        How long one call waits for others at most; `within` sets less for several calls together.

    Raises
    ------
    StoreVersionError
        A newer release has written it.
    StoreCorruptError
        It is damaged, or belongs to another program, or it is missing and the store's directory has content.
    """

    def __init__(self, path: Path, *, space: Space, wait_seconds: float = WAIT_SECONDS) -> None:
        self._path = path
        self._space = space
        self._wait_seconds = wait_seconds
        self._lock = threading.Lock()
        self._turn: int | None = None
        self._waiting: list[threading.Lock] = []
        self.commits = Commits()
        self.is_held = False
        """Whether the last call had to give up waiting for others."""
        self.on_replaced: Callable[[], object] = lambda: None
        """Called when another database has taken the place of the one before."""
        self._opened: tuple[int, int] | None = None
        self._is_closed = False
        self._open()

    def _open(self) -> None:
        path = self._path
        if path.exists() and not path.is_file():
            raise StoreError(f"The database {path} cannot be used: it is not a file.")
        try:
            self._connection = sqlite3.connect(
                path, timeout=_ATTEMPT_SECONDS, isolation_level=None, check_same_thread=False
            )
        except sqlite3.Error as error:
            raise self._translated(error) from error
        self._connection.row_factory = sqlite3.Row
        try:
            # chmod and not a umask, which would be the whole process's; nothing else can reach into the 0700 directory.
            path.chmod(0o600)
            self._opened = self._found()
            with within(self._wait_seconds):
                self.read("PRAGMA journal_mode = TRUNCATE")
                self.read("PRAGMA synchronous = FULL")
                self.read("PRAGMA foreign_keys = ON")
                bring_up(path, self.read, self.write)
        except BaseException:
            self._opened = None
            self._connection.close()
            raise

    def _found(self) -> tuple[int, int]:
        state = os.stat(self._path)  # noqa: PTH116 - asked before every query, and quicker
        return state.st_dev, state.st_ino

    def _ensure_open(self) -> None:
        """Open the database that is there now, if it is not the one that was opened."""
        if self._is_closed:
            return
        try:
            if self._found() == self._opened:
                return
        except FileNotFoundError as error:
            message = (
                f"The store's database {self._path} is gone. Put it back, or restart what uses it to begin with an "
                "empty store."
            )
            raise StoreError(message) from error
        except OSError as error:
            raise StoreError(f"The database {self._path} cannot be used: {error.strerror}.") from error
        # Whatever becomes of the next one, this one is closed.
        self._opened = None
        self._connection.close()
        self._open()
        # Everything that was read before has changed.
        self.commits.count += 1
        try:
            self.on_replaced()
        except BaseException:
            # The next call does it again.
            self._opened = None
            raise

    def read(self, sql: str, parameters: Sequence[Any] | Mapping[str, Any] = ()) -> list[sqlite3.Row]:
        """Return all rows of one query.

        Raises
        ------
        StoreBusyError
            Others kept the database locked until the deadline.
        """
        return self._alone(
            lambda wait: self._retried(
                wait, lambda: self._waited(wait, lambda: self._connection.execute(sql, parameters).fetchall())
            )
        )

    def write(self, function: Callable[[sqlite3.Connection], T]) -> T:
        """Run a function in one transaction, and commit before returning.

        Parameters
        ----------
        function
            Called with the connection, again after a rollback; what it raises is raised, with nothing written.

        Raises
        ------
        StoreBusyError
            Others kept the database locked until the deadline.
        StoreFullError
            The disk is full, even after the reserve was spent.
        StoreVersionError
            A newer release has upgraded the store meanwhile.
        """

        def run(wait: _Wait) -> T:
            try:
                return self._retried(wait, lambda: self._transaction(function, wait))
            except StoreFullError:
                # The reserve keeps state writable on a full disk.
                if not self._space.spend_reserve():
                    raise
                return self._retried(wait, lambda: self._transaction(function, wait))

        return self._alone(run)

    def _transaction(self, function: Callable[[sqlite3.Connection], T], wait: _Wait) -> T:
        try:
            # IMMEDIATE: a transaction that reads first and then cannot get the write lock would have to be thrown away.
            self._waited(wait, lambda: self._connection.execute("BEGIN IMMEDIATE"))
            if (version := self._connection.execute("PRAGMA user_version").fetchall()[0][0]) > SCHEMA_VERSION:
                refuse_newer(self._path, version)
            result = function(self._connection)
            self._commit(wait)
            self.commits.count += 1
        except BaseException:
            # BaseException: an Interrupt must not leave the transaction open and the database locked.
            if self._connection.in_transaction:
                try:
                    self._connection.execute("ROLLBACK")
                except sqlite3.Error:
                    # Closed, its transaction ends; the next call opens the database again.
                    self._opened = None
            raise
        return result

    def _commit(self, wait: _Wait, attempts: int = 3) -> None:
        """Commit; one that raises an error after the transaction has taken effect is put on the disk by another one.

        SQLite's last step is to put the journal's end on the disk. If that fails, everyone sees the transaction, and a
        loss of power could still undo it.
        """
        mark = secrets.randbits(31)
        # A number in the header, which each transaction writes anyway; nothing else uses it.
        self._connection.execute(f"PRAGMA application_id = {mark}")
        try:
            # Where readers are in the way the transaction stays open, and new readers wait for it.
            self._waited(wait, lambda: self._connection.execute("COMMIT"))
        except sqlite3.Error as error:
            raised = primary_code(error) == sqlite3.SQLITE_IOERR and not self._connection.in_transaction
            if attempts == 1 or not raised or not self._has_taken_effect(mark, wait):
                raise
            self._waited(wait, lambda: self._connection.execute("BEGIN IMMEDIATE"))
            self._commit(wait, attempts - 1)

    def _has_taken_effect(self, mark: int, wait: _Wait) -> bool:
        with contextlib.suppress(sqlite3.Error):
            found = self._waited(wait, lambda: self._connection.execute("PRAGMA application_id").fetchall())
            return bool(found[0][0] == mark)
        return False

    def _alone(self, function: Callable[[_Wait], T]) -> T:
        """Call while other threads of this process wait; an Interrupt at any step leaves nobody waiting for ever."""
        me, begun = threading.get_ident(), time.monotonic()
        wait = _Wait(begun + min(self._wait_seconds, max(allowance.left, 0.0)))
        if self._turn == me:
            return function(wait)
        try:
            self._take_turn(me, wait)
            wait.seconds = time.monotonic() - begun
            return function(wait)
        finally:
            if self._turn == me:  # a call before this could be interrupted
                self._turn = None
            if self._waiting:
                with contextlib.suppress(IndexError):  # another thread wakes them too
                    while True:
                        self._waiting.pop().release()
                time.sleep(0)  # or this thread would take the next turn, too
            allowance.left -= wait.seconds

    def _take_turn(self, me: int, wait: _Wait) -> None:
        while True:
            with self._lock:
                if self._turn is None:
                    self._turn = me
                    return
            left = wait.deadline - time.monotonic()
            if left <= 0:
                raise self._busy()
            waiting = threading.Lock()
            waiting.acquire()
            self._waiting.append(waiting)
            # Whoever was to wake this one may have been interrupted, or have looked before it was there.
            waiting.acquire(timeout=min(left, _PAUSE_SECONDS))

    def _waited(self, wait: _Wait, function: Callable[[], T]) -> T:
        """Call again while others hold the database, until the deadline."""
        while True:
            begun = time.monotonic()
            try:
                return function()
            except sqlite3.Error as error:
                if primary_code(error) != sqlite3.SQLITE_BUSY or begun >= wait.deadline:
                    raise
                # SQLite does not always wait itself.
                time.sleep(_PAUSE_SECONDS)
                wait.seconds += time.monotonic() - begun

    def _retried(self, wait: _Wait, function: Callable[[], T]) -> T:
        failures = 0
        while True:
            self._ensure_open()
            try:
                result = function()
            except sqlite3.Error as error:
                is_busy = primary_code(error) == sqlite3.SQLITE_BUSY
                failures += not is_busy
                if (
                    failures == _ATTEMPTS
                    or primary_code(error) not in TRIED_AGAIN
                    or (is_busy and time.monotonic() >= wait.deadline)
                ):
                    raise self._translated(error) from error
            else:
                self.is_held = False
                return result

    def _busy(self) -> StoreBusyError:
        self.is_held = True
        message = (
            f"Another process keeps the database {self._path} locked. Try again; if this stays, look for a stopped "
            "process that uses the store."
        )
        return StoreBusyError(message)

    def _translated(self, error: sqlite3.Error) -> StoreError:
        code = primary_code(error)
        if code == sqlite3.SQLITE_BUSY:
            return self._busy()
        if code == sqlite3.SQLITE_FULL:
            return StoreFullError(full_message(self._path.parent))
        if code in {sqlite3.SQLITE_CORRUPT, sqlite3.SQLITE_NOTADB}:
            message = (
                f"The database {self._path} is damaged ({error}). Set VBATCH_STORE to another directory, and restore "
                "this one from a backup."
            )
            return StoreCorruptError(message)
        return StoreError(f"The database {self._path} cannot be used: {error}.")

    def data_version(self) -> int:
        """Return a number that changes whenever another connection has committed."""
        return int(self.read("PRAGMA data_version")[0][0])

    def version(self) -> tuple[int, int]:
        """Return a value that changes after every commit, also of this connection."""
        return self.data_version(), self.commits.count

    def check_writable(self) -> None:
        """Write to the disk, and change nothing.

        Raises
        ------
        StoreError
            The database cannot be written: no room, another process's lock, no permission.
        """
        self.write(lambda connection: connection.execute(f"PRAGMA user_version = {SCHEMA_VERSION}").close())

    def close(self) -> None:
        """Close the connection; a second call does nothing."""

        def end(_: _Wait) -> None:
            self._is_closed = True
            self._connection.close()

        self._alone(end)


def file_from_row(row: sqlite3.Row) -> FileRecord:
    """Build the record of a row of the table ``file``."""
    return FileRecord(**{name: row[name] for name in _FILE_FIELDS})


def batch_from_row(row: sqlite3.Row) -> BatchRecord:
    """Build the record of a row of the table ``batch``."""
    fields: dict[str, Any] = {name: row[name] for name in _BATCH_FIELDS if name != "request_counts"}
    fields["request_counts"] = RequestCounts(row["total"], row["completed"], row["failed"])
    fields["errors"] = tuple(BatchError(**error) for error in json.loads(row["errors"] or "[]"))
    fields["usage"] = None if row["usage"] is None else Usage(**json.loads(row["usage"]))
    fields["metadata"] = None if row["metadata"] is None else json.loads(row["metadata"])
    # An earlier release kept it among the metadata.
    fields["retry_of"] = row["retry_of"] or (fields["metadata"] or {}).get("retry_of")
    fields["models"] = None if row["models"] is None else tuple(json.loads(row["models"]))
    fields["engine_seeds"] = tuple(json.loads(row["engine_seeds"] or "[]"))
    for name in _BOOLEANS:
        fields[name] = bool(row[name])
    return BatchRecord(**fields)


def insert(connection: sqlite3.Connection, table: str, columns: Mapping[str, Any]) -> None:
    """Insert a row, within the caller's transaction; one with its id is there if an attempt that raised has made it."""
    names, marks = ", ".join(columns), ", ".join(f":{name}" for name in columns)
    connection.execute(f"INSERT INTO {table} ({names}) VALUES ({marks}) ON CONFLICT (id) DO NOTHING", columns)  # noqa: S608 - our field names


def batch_columns(fields: Mapping[str, Any]) -> dict[str, Any]:
    """Return the columns that fields of a `BatchRecord` are kept in.

    Examples
    --------
    >>> batch_columns({"request_counts": RequestCounts(3, 1, 0), "paused": True})
    {'total': 3, 'completed': 1, 'failed': 0, 'paused': True}
    """
    columns: dict[str, Any] = {}
    for name, value in fields.items():
        if name == "request_counts":
            columns |= dataclasses.asdict(value)
        elif name == "errors":
            columns[name] = json.dumps([dataclasses.asdict(error) for error in value]) if value else None
        elif name == "usage":
            columns[name] = None if value is None else json.dumps(msgspec.structs.asdict(value))
        elif name == "metadata":
            columns[name] = None if value is None else json.dumps(dict(value))
        elif name in ("models", "engine_seeds"):
            columns[name] = None if value is None else json.dumps(value)
        elif name in _BATCH_FIELDS:
            columns[name] = value
        else:
            raise TypeError(f"A batch has no field {name!r}.")
    return columns
