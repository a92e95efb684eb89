"""Makes the tables of a new store, and upgrades a store of an earlier release to this one, one version at a time.

Each upgrade runs in the transaction that raises the version. A kill in the middle leaves the old version, and the next
process that opens the store does the whole upgrade again.
"""

from __future__ import annotations

import contextlib
import os
import shutil
import sqlite3
from array import array
from collections.abc import Callable, Iterator
from importlib import resources
from pathlib import Path

import msgspec

from vbatch_jupyter.errors import StoreCorruptError, StoreVersionError
from vbatch_jupyter.protocol.index import hash_of
from vbatch_jupyter.protocol.lines import answer_id
from vbatch_jupyter.store.disk import sync_directory, write_all

SCHEMA_VERSION = 10
"""The ``PRAGMA user_version`` of a store of this release."""

_ASK_VERSION = "PRAGMA user_version"
_TABLES = frozenset({"batch", "engine", "file", "upload", "upload_part"})
_CONTENT = ("files", "batches", "uploads")


def refuse_newer(path: Path, version: int) -> None:
    """Raise an error for a store of a newer release.

    Raises
    ------
    StoreVersionError
        It is one.
    """
    if version > SCHEMA_VERSION:
        message = (
            f"The store in {path.parent} was written by a newer vbatch-jupyter (its version is {version}, this "
            f"release knows {SCHEMA_VERSION}). Upgrade vbatch-jupyter, or set VBATCH_STORE to another directory."
        )
        raise StoreVersionError(message)


def bring_up(
    path: Path,
    read: Callable[[str], list[sqlite3.Row]],
    write: Callable[[Callable[[sqlite3.Connection], None]], None],
) -> None:
    """Make the tables of a new database, or bring those of an earlier release up to this one.

    Parameters
    ----------
    path
        The database's file, in the store's directory.
    read, write
        Of its `Database`.

    Raises
    ------
    StoreVersionError
        A newer release has written it.
    StoreCorruptError
        It has the tables of another program, or it is new and the directory has the content of a store.
    """

    def create(connection: sqlite3.Connection) -> None:
        # Another process may have made the tables in the meantime.
        if _version(connection.execute(_ASK_VERSION).fetchall()) == 0:
            _create(connection, path)

    def upgrade(connection: sqlite3.Connection) -> None:
        # Another process may have done it in the meantime.
        while (version := _version(connection.execute(_ASK_VERSION).fetchall())) in UPGRADES:
            UPGRADES[version](connection, path.parent)
            connection.execute(f"PRAGMA user_version = {version + 1}")

    if _version(read(_ASK_VERSION)) == 0:
        write(create)
    if _version(read(_ASK_VERSION)) in UPGRADES:
        write(upgrade)
    refuse_newer(path, _version(read(_ASK_VERSION)))
    if not {row["name"] for row in read("SELECT name FROM sqlite_master")} >= _TABLES:
        raise _foreign(path)


def _version(rows: list[sqlite3.Row]) -> int:
    return int(rows[0][0])


def _foreign(path: Path) -> StoreCorruptError:
    return StoreCorruptError(f"The database {path} belongs to another program. Set VBATCH_STORE to another directory.")


def _create(connection: sqlite3.Connection, path: Path) -> None:
    if connection.execute("SELECT 1 FROM sqlite_master LIMIT 1").fetchall():
        raise _foreign(path)
    # With a new database the next sweep would remove all of it.
    for directory in (path.parent / name for name in _CONTENT):
        if directory.is_dir() and next(directory.iterdir(), None) is not None:
            message = (
                f"The database {path} is missing or empty, but {directory} has files. Restore the database from a "
                "backup, or set VBATCH_STORE to another directory. Nothing was changed."
            )
            raise StoreCorruptError(message)
    # `executescript` would commit the transaction, and a kill could leave half a store.
    for statement in statements_of(resources.files(__package__).joinpath("schema.sql").read_text(encoding="utf-8")):
        connection.execute(statement)
    connection.execute(f"PRAGMA user_version = {SCHEMA_VERSION}")


def statements_of(script: str) -> Iterator[str]:
    """Yield the statements of a script, so that they can be run within a transaction."""
    statement = ""
    for line in script.splitlines(keepends=True):
        statement += line
        # SQLite knows that the semicolons inside a trigger do not end it.
        if line.rstrip().endswith(";") and sqlite3.complete_statement(statement):
            yield statement
            statement = ""


def _add_origin(connection: sqlite3.Connection, _store: Path) -> None:
    connection.execute("ALTER TABLE batch ADD COLUMN origin TEXT")


def _move_sidecars(connection: sqlite3.Connection, store: Path) -> None:
    """Put answers and timings, which had directories of their own, next to the file that they are about."""
    owners = {
        "answers": "SELECT id, id FROM file WHERE deleted_at IS NULL",
        "timings": "SELECT batch.id, file.id FROM batch JOIN file ON file.id = coalesce(output_file_id, error_file_id) "
        "WHERE deleted_at IS NULL",
    }
    for kind, query in owners.items():
        for name, file_id in connection.execute(query).fetchall():
            old = store / kind / name
            if old.exists():
                old.rename(store / "files" / f"{file_id}.{kind}")
    sync_directory(store / "files")
    for kind in owners:
        shutil.rmtree(store / kind, ignore_errors=True)
    # One lock for a whole directory kept the sweeps away.
    for directory in ("files", "uploads"):
        (store / directory / ".lock").unlink(missing_ok=True)
    sync_directory(store)


def _add_retry_of_and_models(connection: sqlite3.Connection, _store: Path) -> None:
    connection.execute("ALTER TABLE batch ADD COLUMN retry_of TEXT")
    connection.execute("ALTER TABLE batch ADD COLUMN models TEXT CHECK (models IS NULL OR json_valid(models))")


def _rename_remote(connection: sqlite3.Connection, _store: Path) -> None:
    connection.execute("ALTER TABLE batch RENAME COLUMN remote TO parts")


def _add_note(connection: sqlite3.Connection, _store: Path) -> None:
    connection.execute("ALTER TABLE engine ADD COLUMN note TEXT")


def _add_engine_seeds(connection: sqlite3.Connection, _store: Path) -> None:
    connection.execute(
        "ALTER TABLE batch ADD COLUMN engine_seeds TEXT CHECK (engine_seeds IS NULL OR json_valid(engine_seeds))"
    )


def _pause_with_reason(connection: sqlite3.Connection, _store: Path) -> None:
    """Let batches run that were paused without a reason; if there is one still, it is found again."""
    connection.execute(
        "UPDATE batch SET paused = 0 WHERE paused AND reason IS NULL "
        "AND status IN ('validating', 'in_progress', 'finalizing', 'cancelling')"
    )
    connection.execute(
        "CREATE TRIGGER paused_has_reason BEFORE UPDATE OF paused, reason ON batch "
        "WHEN new.paused AND new.reason IS NULL BEGIN SELECT raise(ABORT, 'a paused batch has a reason'); END"
    )


def _let_engines_not_respond(connection: sqlite3.Connection, _store: Path) -> None:
    """Allow the state 'not responding': only a new table can have another check."""
    connection.execute("ALTER TABLE engine RENAME TO former_engine")
    connection.execute("""
        CREATE TABLE engine (
            number INTEGER PRIMARY KEY AUTOINCREMENT,
            id TEXT NOT NULL UNIQUE,
            kernel_id TEXT,
            pid INTEGER NOT NULL,
            name TEXT,
            models TEXT NOT NULL CHECK (json_valid(models)),
            state TEXT NOT NULL CHECK (state IN ('unloaded', 'loading', 'ready', 'not responding', 'dead')),
            socket TEXT NOT NULL,
            secret TEXT NOT NULL,
            created_at INTEGER NOT NULL,
            note TEXT
        )
    """)
    connection.execute("INSERT INTO engine SELECT * FROM former_engine")
    connection.execute("DROP TABLE former_engine")


def _add_indexes(connection: sqlite3.Connection, store: Path) -> None:
    """Make the indexes that keep a large store fast, and say more in the sidecars of answers."""
    expiry = "output_expires_after_seconds + coalesce(completed_at, failed_at, expired_at, cancelled_at)"
    for index in (
        "batch_by_output_file ON batch (output_file_id) WHERE output_file_id IS NOT NULL",
        "file_by_expiry ON file (expires_at) WHERE deleted_at IS NULL AND expires_at IS NOT NULL",
        "upload_by_expiry ON upload (expires_at) WHERE status = 'pending'",
        f"batch_by_expiry ON batch ({expiry}) WHERE output_expires_after_seconds IS NOT NULL",
    ):
        connection.execute(f"CREATE INDEX {index}")
    for path in sorted((store / "files").glob("*.answers")):
        # One that cannot be read costs requests to the engine, and nothing else.
        with contextlib.suppress(OSError, ValueError):
            _widen(path)


def _widen(path: Path) -> None:
    """Add to a sidecar of answers the positions, the ids of the answers, and the lengths of their lines."""
    header, _, packed = path.read_bytes().partition(b"\n")
    size = 8 * msgspec.json.decode(header)["count"]
    if len(packed) != 4 * size:  # an upgrade that was killed has done it
        return
    requests, asked_at, asked_bytes, answered_at = (packed[start : start + size] for start in range(0, 4 * size, size))
    answers, begins, lengths = array("Q"), array("q"), array("q")
    with path.with_suffix("").open("rb") as output_file:
        for counted_from_1 in array("q", answered_at):
            begins.append(counted_from_1 - 1)
            output_file.seek(counted_from_1 - 1)
            line = output_file.readline()
            lengths.append(len(line.rstrip(b"\n")))
            answers.append(hash_of(answer_id(line)))
    columns = (array("q", range(len(answers))), requests, answers, asked_at, asked_bytes, begins, lengths)
    temporary = path.with_suffix(".answers.tmp")
    temporary.unlink(missing_ok=True)
    descriptor = os.open(temporary, os.O_WRONLY | os.O_CREAT | os.O_EXCL | os.O_CLOEXEC, 0o600)
    try:
        write_all(descriptor, b"".join([header, b"\n", *(bytes(column) for column in columns)]))
    finally:
        os.close(descriptor)
    temporary.rename(path)


UPGRADES: dict[int, Callable[[sqlite3.Connection, Path], None]] = {
    1: _add_origin,
    2: _move_sidecars,
    3: _add_retry_of_and_models,
    4: _rename_remote,
    5: _add_note,
    6: _add_engine_seeds,
    7: _pause_with_reason,
    8: _let_engines_not_respond,
    9: _add_indexes,
}
"""For each version, the function that upgrades to the next one; called with the store's directory."""
