"""Upgrades a store of an earlier release to this one, one version at a time.

Each upgrade runs in the transaction that raises the version. A kill in the middle leaves the old version, and the next
process that opens the store does the whole upgrade again.
"""

from __future__ import annotations

import contextlib
import os
import shutil
import sqlite3
from array import array
from collections.abc import Callable
from pathlib import Path

import msgspec

from vbatch_jupyter.protocol.index import hash_of
from vbatch_jupyter.protocol.lines import answer_id
from vbatch_jupyter.store.disk import sync_directory, write_all


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
