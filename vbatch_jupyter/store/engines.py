"""Which processes have an engine or can load one, where each listens, and what its engine serves.

An engine that a Jupyter server starts when it is needed has a row before it runs, with a note that says so.

A row says so and a lock proves it: the process holds a lock on a file of the engine's name for as long as it lives, so
everyone can see at once that a process was killed and its row is out of date. Such a row is not damage,
and the next sweep removes it.
"""

from __future__ import annotations

import dataclasses
import json
import os
import secrets
import shutil
import sqlite3
from collections.abc import Callable, Iterable, Sequence
from pathlib import Path

from vbatch_jupyter.records import EngineState
from vbatch_jupyter.store.database import Database, insert
from vbatch_jupyter.store.disk import FileLock
from vbatch_jupyter.store.sweep import ids_with_rows


@dataclasses.dataclass(frozen=True, slots=True)
class EngineRecord:
    """One process that holds an engine, or can be asked to load one.

    Parameters
    ----------
    id
        ``engine_`` and 32 hexadecimal digits; a new one for each process.
    kernel_id
        Jupyter's id of the kernel; None outside Jupyter.
    pid
        The process.
    name
        The name for people; by default the first served name.
    models
        The served names, the first one shown; none while no model is loaded.
    state
        Whether the engine can answer.
    socket
        Path of the Unix socket on which the process listens; empty if it does not.
    secret
        What a request over the socket must carry.
    created_at
        Unix seconds.
    note
        What a Jupyter server does to start the engine, whose process does not run yet; None for a process that runs.
    """

    id: str
    kernel_id: str | None
    pid: int
    name: str | None
    models: tuple[str, ...]
    state: EngineState
    socket: str
    secret: str = dataclasses.field(repr=False)
    created_at: int
    note: str | None = None


class Engines:
    """The engines of one store.

    Parameters
    ----------
    directory
        Where the locks are.
    database
        The store's.
    clock
        Returns Unix seconds.

    Examples
    --------
    >>> import tempfile
    >>> from vbatch_jupyter.store import Store
    >>> with tempfile.TemporaryDirectory() as folder, Store(Path(folder, "store"), floor_bytes=0) as store:
    ...     record = store.engines.register(kernel_id=None, name=None)
    ...     store.engines.update(record.id, state="ready", models=["demo"])
    ...     [(engine.models, engine.state) for engine in store.engines.live()]
    [(('demo',), 'ready')]
    """

    def __init__(self, directory: Path, *, database: Database, clock: Callable[[], float]) -> None:
        self.directory = directory
        self._database = database
        self._clock = clock
        self._held: dict[str, FileLock] = {}
        self._registered: dict[str, EngineRecord] = {}
        database.on_replaced = self._register_again

    def register(
        self,
        *,
        kernel_id: str | None,
        name: str | None,
        socket: str = "",
        models: Sequence[str] = (),
        note: str | None = None,
    ) -> EngineRecord:
        """Register this process, or an engine that it would start, until `remove` or the end of the process.

        Parameters
        ----------
        kernel_id, name, socket, models, note
            See `EngineRecord`.
        """
        record = EngineRecord(
            id=f"engine_{secrets.token_hex(16)}",
            kernel_id=kernel_id,
            pid=os.getpid(),
            name=name,
            models=tuple(models),
            state="unloaded",
            socket=socket,
            secret=secrets.token_urlsafe(32),
            created_at=int(self._clock()),
            note=note,
        )
        self._make(record)
        return record

    def _make(self, record: EngineRecord) -> None:
        # The lock first: a row without one would be taken for that of a dead process.
        self._held[record.id] = FileLock.make(self.directory / record.id)
        columns = {**dataclasses.asdict(record), "models": json.dumps(record.models)}

        def write(connection: sqlite3.Connection) -> None:
            connection.execute("DELETE FROM engine WHERE id = ?", (record.id,))
            insert(connection, "engine", columns)

        self._database.write(write)
        self._registered[record.id] = record

    def _register_again(self) -> None:
        """Register what this process has registered in a store whose place has been taken by another."""
        for record in list(self._registered.values()):
            if (lock := self._held.pop(record.id, None)) is not None:
                lock.release()
            self._make(record)

    def update(
        self,
        id: str,  # noqa: A002 - OpenAI's word
        *,
        state: EngineState,
        models: Sequence[str],
        name: str | None = None,
        note: str | None = None,
    ) -> None:
        """Write the new state of an engine.

        Parameters
        ----------
        id
            The engine's.
        state, models
            See `EngineRecord`.
        name, note
            New ones; None leaves them as they are.
        """
        statement = (
            "UPDATE engine SET state = ?, models = ?, name = coalesce(?, name), note = coalesce(?, note) WHERE id = ?"
        )
        values = (state, json.dumps(list(models)), name, note, id)
        self._database.write(lambda connection: connection.execute(statement, values).close())
        if (record := self._registered.get(id)) is not None:
            self._registered[id] = dataclasses.replace(
                record, state=state, models=tuple(models), name=name or record.name, note=note or record.note
            )

    def live(self, *, planned: bool = False) -> list[EngineRecord]:
        """Return the engines whose processes live, oldest first.

        Parameters
        ----------
        planned
            Whether to return also the engines that a Jupyter server would start.
        """
        return self.still_live(record for record in self._all() if planned or record.note is None)

    def still_live(self, records: Iterable[EngineRecord]) -> list[EngineRecord]:
        """Return those of some engines whose processes live; the database is not asked."""
        return [record for record in records if self._is_live(record.id)]

    def remove(self, id: str) -> None:  # noqa: A002 - OpenAI's word
        """Remove an engine. It is not an error if it does not exist."""
        self._registered.pop(id, None)
        self._database.write(lambda connection: connection.execute("DELETE FROM engine WHERE id = ?", (id,)).close())
        (self.directory / id).unlink(missing_ok=True)
        if (lock := self._held.pop(id, None)) is not None:
            lock.release()

    def known(self, ids: Iterable[str]) -> set[str]:
        """Return which of the ids have a row."""
        return ids_with_rows(self._database, "SELECT id FROM engine WHERE id", ids)

    def expire(self) -> list[str]:
        """Remove the engines of processes that are gone, and their sockets; return their ids."""
        gone = [record for record in self._all() if not self._is_live(record.id)]
        for record in gone:
            _remove_socket(Path(record.socket))
            self.remove(record.id)
        return [record.id for record in gone]

    def _all(self) -> list[EngineRecord]:
        return [_record(row) for row in self._database.read("SELECT * FROM engine ORDER BY number")]

    def _is_live(self, id: str) -> bool:  # noqa: A002 - OpenAI's word
        try:
            lock = FileLock(self.directory / id, os.O_RDONLY)
        except FileNotFoundError:
            return False
        with lock:
            # Shared, so that two who look at once do not take each other for the owner.
            return not lock.take(shared=True)

    def close(self) -> None:
        """Remove the engines of this process; a second call does nothing."""
        for id in list(self._held):  # noqa: A001 - OpenAI's word
            self.remove(id)


def _remove_socket(path: Path) -> None:
    # Its folder holds the sockets of that process's engine as well, and nothing else.
    if path.is_socket() and path.parent.name.startswith("vbatch-"):
        shutil.rmtree(path.parent, ignore_errors=True)


def _record(row: sqlite3.Row) -> EngineRecord:
    fields = {field.name: row[field.name] for field in dataclasses.fields(EngineRecord)}
    return EngineRecord(**{**fields, "models": tuple(json.loads(row["models"]))})
