"""Copies a store while it is used; the copy is the store as it was at one moment, and a store itself.

1. While the database is held, so that no process commits, it is copied, and what an unfinished batch may lose after
   that moment is opened: its index, its spool and its input file. An open file stays readable when it is removed.
2. With nothing held, the files are copied. They never change, and each was on the disk before the database named it.
   One that was deleted meanwhile is deleted in the copy, too. More of a spool may be copied than was counted, as after
   a kill.
3. The copied database gets its name last. Before that, the directory holds no store.

Engines belong to processes, and an upload that is not complete to its client: neither is in the copy. The index of
known answers is made again.
"""

from __future__ import annotations

import contextlib
import dataclasses
import os
import sqlite3
from collections.abc import Callable
from pathlib import Path

from vbatch_jupyter.errors import StoreError
from vbatch_jupyter.store.disk import MIB, sync_directory, write_all, writing
from vbatch_jupyter.store.files import SIDECARS
from vbatch_jupyter.store.filesystem import make_private
from vbatch_jupyter.store.spool import segments
from vbatch_jupyter.store.store import DATABASE_NAME, PLACES, Store

_UNFINISHED_NAME = f"{DATABASE_NAME}.partial"


@dataclasses.dataclass(frozen=True, slots=True)
class Copied:
    """What a backup has copied.

    Parameters
    ----------
    files
        How many files, without the database.
    bytes
        Their size, with the database.
    """

    files: int
    bytes: int


def backup(
    store: Store, directory: Path, *, on_progress: Callable[[int, int], None] = lambda _done, _total: None
) -> Copied:
    """Copy a store into a directory, while other processes may use the store.

    Parameters
    ----------
    store
        The store.
    directory
        A new or an empty directory. The copy is a store: ``VBATCH_STORE`` may name it.
    on_progress
        Called with the number of files that are copied, and of those there are.

    Raises
    ------
    StoreError
        The directory is not empty, or cannot be written.
    StoreFullError
        There is no room in it.
    """
    directory = directory.expanduser().absolute()
    if directory.is_dir() and next(directory.iterdir(), None) is not None:
        raise StoreError(f"The backup cannot be made in {directory}: the directory is not empty. Name a new one.")
    for path in (directory, *(directory / name for name in PLACES)):
        make_private(path, holds_store=True)
    with contextlib.ExitStack() as stack, writing(directory):
        opened = store.database.write(lambda _: _copy_database(store, directory / _UNFINISHED_NAME, stack))
        with contextlib.closing(sqlite3.connect(directory / _UNFINISHED_NAME, isolation_level=None)) as copy:
            copied = _copy_files(store, directory, copy, opened, on_progress)
            _leave_out_processes(copy)
        for name in PLACES:
            sync_directory(directory / name)
        (directory / _UNFINISHED_NAME).rename(directory / DATABASE_NAME)
        sync_directory(directory)
        return Copied(copied.files, copied.bytes + (directory / DATABASE_NAME).stat().st_size)


def _copy_database(store: Store, target: Path, stack: contextlib.ExitStack) -> dict[Path, int]:
    """Copy the database, and open what unfinished batches need; return the descriptors by the path in the store."""
    # A connection that has a transaction open cannot be the source of a copy.
    with (
        contextlib.closing(sqlite3.connect(store.path / DATABASE_NAME)) as held,
        contextlib.closing(sqlite3.connect(target)) as copy,
    ):
        target.chmod(0o600)
        held.backup(copy)
    opened: dict[Path, int] = {}
    for record in store.batches.unfinished():
        folder = store.batches.directory / record.id
        for path in (folder / "index", *segments(folder), store.files.path(record.input_file_id)):
            # A batch that is not validated has no index, and one may have no input file, which fails validation.
            with contextlib.suppress(FileNotFoundError):
                descriptor = os.open(path, os.O_RDONLY | os.O_NOFOLLOW | os.O_CLOEXEC)
                stack.callback(os.close, descriptor)
                opened[path.relative_to(store.path)] = descriptor
    return opened


def _copy_files(
    store: Store,
    directory: Path,
    copy: sqlite3.Connection,
    opened: dict[Path, int],
    on_progress: Callable[[int, int], None],
) -> Copied:
    ids = [id_ for (id_,) in copy.execute("SELECT id FROM file WHERE deleted_at IS NULL ORDER BY number").fetchall()]
    count = size = 0
    for path, descriptor in opened.items():
        if path.parts[0] == store.batches.directory.name:
            (directory / path.parent).mkdir(mode=0o700, exist_ok=True)
            # The lock is what tells a batch's directory from one that is left over.
            (directory / path.parent / "lock").touch(mode=0o600)
            size += _copy(descriptor, directory / path)
            count += 1
    for number, id_ in enumerate(ids):
        on_progress(number, len(ids))
        for name in (id_, *(f"{id_}.{kind}" for kind in SIDECARS)):
            path = Path(store.files.directory.name, name)
            try:
                descriptor = opened[path] if path in opened else os.open(store.path / path, os.O_RDONLY | os.O_NOFOLLOW)
            except FileNotFoundError:
                if name == id_ and not store.files.alive([id_]):
                    copy.execute("UPDATE file SET deleted_at = ? WHERE id = ?", (int(store.clock()), id_))
                continue
            try:
                size += _copy(descriptor, directory / path)
                count += 1
            finally:
                if path not in opened:
                    os.close(descriptor)
    on_progress(len(ids), len(ids))
    for folder in {(directory / path).parent for path in opened}:
        sync_directory(folder)
    return Copied(count, size)


def _copy(source: int, target: Path) -> int:
    """Copy a file from its beginning to what is its end now; return the bytes."""
    at = 0
    descriptor = os.open(target, os.O_WRONLY | os.O_CREAT | os.O_EXCL | os.O_CLOEXEC, 0o600)
    try:
        while block := os.pread(source, MIB, at):
            write_all(descriptor, block)
            at += len(block)
        os.fsync(descriptor)
    finally:
        os.close(descriptor)
    return at


def _leave_out_processes(copy: sqlite3.Connection) -> None:
    # A sweep of the copy would remove the sockets of engines that live.
    copy.execute("DELETE FROM engine")
    copy.execute("UPDATE upload SET status = 'cancelled' WHERE status = 'pending'")
    copy.execute(
        "UPDATE batch SET owner = NULL WHERE status IN ('validating', 'in_progress', 'finalizing', 'cancelling')"
    )
