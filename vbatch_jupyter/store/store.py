"""The store: one private directory on a local disk, with the database, the files and the spools of the batches.

::

    vbatch.sqlite3              what changes together: rows of files and batches
    files/file-…                contents of input, output and error files
    incoming/                   what is being written, and will be one of these
    batches/batch_…/            of a batch that has not ended: lock, index, spool-<epoch>
    files/file-….answers        where the answer to each request is in an output file, so that it can be reused
    answers.sqlite3             an index of these, by engine and request; made again if it is lost
    files/file-….timings        of a batch that has ended: when each answer came, and how long it took
    engines/engine_…            locked by the process that holds the engine, for as long as it lives
    listed                      as old as the last sweep that listed all files
    reserve                     room for state on a full disk

It promises that what its calls have returned is on the disk, that any number of processes of one machine may use it at
once, and that a kill of any of them at any moment loses nothing and doubles nothing.
"""

from __future__ import annotations

import contextlib
import functools
import operator
import os
import time
from collections.abc import Callable
from pathlib import Path
from typing import Self

from vbatch_jupyter.errors import StoreError
from vbatch_jupyter.store.answers import Answers
from vbatch_jupyter.store.batches import Batches
from vbatch_jupyter.store.database import WAIT_SECONDS, Database
from vbatch_jupyter.store.disk import GIB, MIB, Space, sync_directory
from vbatch_jupyter.store.engines import Engines
from vbatch_jupyter.store.files import Files
from vbatch_jupyter.store.filesystem import MOUNTINFO, make_private, refuse_network
from vbatch_jupyter.store.sweep import Unfinished, sweep
from vbatch_jupyter.store.uploads import Uploads

DATABASE_NAME = "vbatch.sqlite3"

PLACES = ("files", "incoming", "uploads", "batches", "engines")
"""The directories of a store."""
# What a store has when its making was interrupted, and what a disk of its own has.
_OURS = frozenset({*PLACES, DATABASE_NAME, f"{DATABASE_NAME}-journal", "reserve", "lost+found"})

_LIST_SECONDS = 86_400.0


class Store:
    """The store in one directory.

    Parameters
    ----------
    path
        The directory, made if it is missing; by default ``$VBATCH_STORE``, or ``vbatch`` in Jupyter's data
        directory.
    clock
        Returns Unix seconds.
    reserve_bytes
        Space that is freed when the disk is full, so that a batch can still be cancelled; 64 MiB by default.
    floor_bytes
        What the store leaves free on its disk; 1 GiB by default.
    wait_seconds
        How long one call waits for the transactions of others; 30 seconds by default.
    mountinfo
        The operating system's list of mounts.
    must_exist
        Whether a directory without a store is an error. Otherwise a store is made.

    Attributes
    ----------
    path, clock
        As above.
    files, uploads, batches, engines, answers, space, database
        The store's parts.

    Raises
    ------
    StoreFilesystemError
        The directory is on a network file system.
    StoreVersionError
        A newer release has written the store.
    StoreCorruptError
        The database is damaged, is missing though there are files, or belongs to another program.
    StoreBusyError
        Others keep the database locked.
    StoreError
        The directory belongs to another user, has other files in it, cannot be used, or has no store though it must.

    Examples
    --------
    >>> import tempfile
    >>> with tempfile.TemporaryDirectory() as folder, Store(Path(folder, "store"), floor_bytes=0) as store:
    ...     file = store.files.create([b"{}"], filename="in.jsonl", purpose="batch")
    ...     with store.files.open(file.id) as content:
    ...         content.read()
    b'{}'
    """

    def __init__(
        self,
        path: Path | str | None = None,
        *,
        clock: Callable[[], float] = time.time,
        reserve_bytes: int = 64 * MIB,
        floor_bytes: int = GIB,
        wait_seconds: float = WAIT_SECONDS,
        mountinfo: Path = MOUNTINFO,
        must_exist: bool = False,
    ) -> None:
        self.path = Path(path or _default_path()).expanduser().absolute()
        self.clock = clock
        try:
            refuse_network(self.path, mountinfo=mountinfo)
            holds_store = (self.path / DATABASE_NAME).is_file()
            if must_exist and not holds_store:
                raise StoreError(f"There is no store in {self.path}. Set VBATCH_STORE to its directory.")
            make_private(self.path, holds_store=holds_store, ours=_OURS)
            for name in PLACES:
                make_private(self.path / name, holds_store=True)
            sync_directory(self.path)
            self.space = Space(self.path, reserve_bytes=reserve_bytes, floor_bytes=floor_bytes)
            self.database = Database(self.path / DATABASE_NAME, space=self.space, wait_seconds=wait_seconds)
            try:
                self.space.keep_reserve()
            except BaseException:
                self.database.close()
                raise
        except OSError as error:
            raise StoreError(f"The store in {self.path} cannot be opened: {error}.") from error
        # Through the attribute, so that a clock that is set later is used everywhere.
        now: Callable[[], float] = functools.partial(operator.methodcaller("clock"), self)
        self.files = Files(self.path / "files", database=self.database, space=self.space, clock=now)
        self.uploads = Uploads(
            self.path / "uploads", database=self.database, files=self.files, space=self.space, clock=now
        )
        self.batches = Batches(
            self.path / "batches", database=self.database, files=self.files, space=self.space, clock=now
        )
        self.engines = Engines(self.path / "engines", database=self.database, clock=now)
        self.answers = Answers(self.path, database=self.database, files=self.files, space=self.space)
        self._swept_at: float | None = None
        self._listed = self.path / "listed"

    def __repr__(self) -> str:
        return f"<Store {self.path}>"

    def version(self) -> tuple[int, int]:
        """Return a value that changes after every commit, also of this store object."""
        return self.database.version()

    def bytes(self) -> int:
        """Return the size of all files that were not deleted."""
        rows = self.database.read("SELECT coalesce(sum(bytes), 0) AS size FROM file WHERE deleted_at IS NULL")
        return int(rows[0]["size"])

    def check_writable(self) -> None:
        """Check whether the store can take files and batches.

        Raises
        ------
        StoreError
            They cannot: the disk has less free space than its floor, or the database cannot be written.
        """
        self.space.require(0)
        self.database.check_writable()

    def sweep(self, *, at_most_every_seconds: float = 0) -> list[str]:
        """Remove what killed processes left behind, and files that have expired; return the names.

        Parameters
        ----------
        at_most_every_seconds
            Do nothing if this object has swept within that time. If it is not 0, all files are listed only once a day.
        """
        now = time.monotonic()
        if self._swept_at is not None and now - self._swept_at < at_most_every_seconds:
            return []
        self._swept_at = now
        self.space.keep_reserve()
        every_file = not at_most_every_seconds or self._files_are_due()
        removed = sweep(self.files) if every_file else self.files.expire()
        if every_file:
            # Without room for it, or leave to make it, the next sweep lists them again.
            with contextlib.suppress(OSError):
                self._listed.touch(mode=0o600)
        places = (Unfinished(self.files.incoming), self.uploads, self.batches, self.engines)
        removed += [name for place in places for name in sweep(place)]
        if removed:
            self.answers.prune()
        return removed

    def _files_are_due(self) -> bool:
        """Return whether all files have not been listed for a day, by any process."""
        try:
            return not 0 <= time.time() - self._listed.stat().st_mtime < _LIST_SECONDS
        except OSError:
            return True

    def close(self) -> None:
        """Close the database; a second call does nothing."""
        self.database.close()

    def __enter__(self) -> Self:
        return self

    def __exit__(self, *error: object) -> None:
        self.close()


def _default_path() -> str:
    if from_environment := os.environ.get("VBATCH_STORE"):
        return from_environment
    from jupyter_core.paths import jupyter_data_dir

    return os.path.join(jupyter_data_dir(), "vbatch")  # noqa: PTH118 - jupyter_core speaks in strings
