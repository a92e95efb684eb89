"""The one rule by which the store's directories are swept: a name whose row is gone goes too.

Files arrive in a directory of their own, so that a sweep which looks for what a killed process has left need not list
all files. A kill between a rename and its row, or between the end of a row and of its file, leaves a name among them:
for that they are listed, too, but not often.

In this order, so that nothing is lost which another process makes meanwhile:

1. List the directory. What is made after that is not looked at.
2. Leave what is being written. Whoever makes a file or a directory holds a lock on it until its row is there.
3. Ask the database, while the lock keeps a new writer away. What has a row stays.
"""

from __future__ import annotations

import json
import os
import shutil
from collections.abc import Callable, Iterable, Iterator
from pathlib import Path
from typing import Protocol

from vbatch_jupyter.store.database import Database
from vbatch_jupyter.store.disk import FileLock, sync_directory


class Place(Protocol):
    """One kind of thing in the store: a directory whose names are the ids of rows.

    Attributes
    ----------
    directory
        The directory. What follows a dot in a name is its kind: ``file-….answers``.
    """

    directory: Path

    def known(self, ids: Iterable[str]) -> set[str]:
        """Return which of the ids are still needed."""

    def expire(self) -> list[str]:
        """Remove the expired rows; return their names."""


def sweep(place: Place) -> list[str]:
    """Remove the expired rows, then what has no row; return the names."""
    removed = place.expire()
    for path in orphans(place.directory, place.known):
        if path.is_dir():
            shutil.rmtree(path, ignore_errors=True)
        else:
            path.unlink(missing_ok=True)
        removed.append(path.name)
    if removed:
        sync_directory(place.directory)
    return removed


def orphans(directory: Path, known: Callable[[Iterable[str]], set[str]]) -> Iterator[Path]:
    """Yield what no process writes and no row needs; each is locked until the next one."""
    paths = {path: path.name.split(".") for path in sorted(directory.iterdir())}
    needed = known(id_ for id_, *_ in paths.values())
    for path, (id_, *kinds) in paths.items():
        # A second dot: what was to become a sidecar.
        is_temporary = len(kinds) > 1
        if id_ in needed and not is_temporary:
            continue
        try:
            lock = FileLock(path / "lock") if path.is_dir() else FileLock(path, os.O_RDONLY)
        except OSError:
            # It is gone since it was listed, or the store has not made it.
            continue
        with lock:
            # Asked again: its writer may have made its row, and gone, since the first time.
            if lock.take() and (is_temporary or id_ not in known([id_])):
                yield path


class Unfinished:
    """The place of what is being written, and has its lock for as long: nothing in it has a row.

    Parameters
    ----------
    directory
        The directory.
    """

    def __init__(self, directory: Path) -> None:
        self.directory = directory

    def known(self, _ids: Iterable[str]) -> set[str]:
        """Return nothing."""
        return set()

    def expire(self) -> list[str]:
        """Return nothing."""
        return []


def ids_with_rows(database: Database, query: str, ids: Iterable[str]) -> set[str]:
    """Return which of the ids a query finds; the query ends with the name of their column."""
    query = f"{query} IN (SELECT value FROM json_each(?))"  # noqa: S608 - the queries of our four kinds
    rows = database.read(query, (json.dumps(list(ids)),))
    return {row["id"] for row in rows}
