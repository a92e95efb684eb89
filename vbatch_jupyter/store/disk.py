"""Bytes on the disk: locks and how long they are waited for, durable files, free space, and the reserve.

It promises that the operating system drops a lock when its owner dies, however it dies; that a file which `NewFile`
has put in its place is whole and on the disk, and that no sweep removes it while its block lasts; that a write the disk
has no room for is a `StoreFullError` and leaves nothing in the way; and that writing begins only while there is room to
end it.
"""

from __future__ import annotations

import contextlib
import errno
import fcntl
import hashlib
import math
import os
import sqlite3
import threading
from collections.abc import Iterator
from pathlib import Path
from typing import Self

from vbatch_jupyter.errors import StoreError, StoreFilesystemError, StoreFullError

MIB = 1024 * 1024
GIB = 1024 * MIB

_NO_ROOM = frozenset({errno.ENOSPC, errno.EDQUOT, errno.EFBIG})
_NO_LOCKS = frozenset({errno.ENOLCK, errno.ENOSYS, errno.EOPNOTSUPP})
_BUFFER_BYTES = MIB


def full_message(path: Path) -> str:
    """Return the message for a full disk."""
    return (
        f"The disk of the store in {path} is full. Free some space, or set VBATCH_STORE to a directory on "
        "another disk. Finished answers are kept."
    )


@contextlib.contextmanager
def writing(path: Path) -> Iterator[None]:
    """Turn the operating system's errors into ours, except that something is there, or is not.

    A full disk, a spent quota and a file size limit are a `StoreFullError`.
    """
    try:
        yield
    except (FileExistsError, FileNotFoundError):
        raise
    except OSError as error:
        if error.errno in _NO_ROOM:
            raise StoreFullError(full_message(path)) from error
        raise StoreError(f"The store cannot write to {path}: {error.strerror}.") from error


def write_all(descriptor: int, data: bytes | bytearray) -> None:
    """Write everything; the operating system may take less at a time."""
    view = memoryview(data)
    while view:
        view = view[os.write(descriptor, view) :]


def close(descriptor: int) -> None:
    """Close a file whose content is on the disk, or is not needed. An error says nothing: the file is closed."""
    with contextlib.suppress(OSError):
        os.close(descriptor)


def sync_directory(path: Path) -> None:
    """Put a directory's entries on the disk; without it a rename may be forgotten by a power loss."""
    descriptor = os.open(path, os.O_RDONLY | os.O_DIRECTORY)
    try:
        os.fsync(descriptor)
    finally:
        os.close(descriptor)


TRIED_AGAIN = frozenset(
    {
        sqlite3.SQLITE_BUSY,
        sqlite3.SQLITE_CANTOPEN,
        # What a read that failed is called, too.
        sqlite3.SQLITE_CORRUPT,
        sqlite3.SQLITE_IOERR,
        sqlite3.SQLITE_NOTADB,
        sqlite3.SQLITE_PROTOCOL,
        # What it is called if SQLite cannot look whether the file is still the same.
        sqlite3.SQLITE_READONLY,
    }
)
"""SQLite's codes for what may be a temporary error: if it stays, the attempt after it meets it again."""


def primary_code(error: sqlite3.Error) -> int:
    """Return SQLite's code for an error, such as ``sqlite3.SQLITE_BUSY``."""
    # Extended codes carry the primary one in their low byte; errors of the Python layer carry none.
    return int(getattr(error, "sqlite_errorcode", 0)) & 0xFF


class Allowance(threading.local):
    """How many seconds this thread may still wait for databases; see `within`."""

    left: float = math.inf


allowance = Allowance()
"""Read before each query, so that a function for it would cost more than the rest."""


@contextlib.contextmanager
def within(seconds: float) -> Iterator[None]:
    """Let this thread's calls wait no longer than this in all, whatever store they ask.

    Only waiting for others counts, and not the work itself. A call that does not have to wait always succeeds.

    Parameters
    ----------
    seconds
        How long the calls in the block wait together.
    """
    before = allowance.left
    allowance.left = allowed = min(before, max(seconds, 0.0))
    try:
        yield
    finally:
        allowance.left = before - (allowed - allowance.left)


class FileLock:
    """A lock on a file; processes that want it exclude one another, and so do two locks of one process.

    Parameters
    ----------
    path
        The file; made if it is missing, unless ``flags`` say otherwise.
    flags
        How it is opened.

    Attributes
    ----------
    descriptor
        The open file; None after the lock was released.

    Examples
    --------
    >>> import tempfile
    >>> with tempfile.TemporaryDirectory() as folder, FileLock(Path(folder, "lock")) as first:
    ...     with FileLock(Path(folder, "lock")) as second:
    ...         first.take(), second.take()
    (True, False)
    """

    def __init__(self, path: Path, flags: int = os.O_RDWR | os.O_CREAT) -> None:
        self._path = path
        # A child that inherited the descriptor would keep the lock after our death. O_CLOEXEC is for those that run
        # another program; those that do not, such as multiprocessing's, close it in `_close_in_child`.
        with _FORKING:
            self.descriptor: int | None = os.open(path, flags | os.O_NOFOLLOW | os.O_CLOEXEC, 0o600)
            _OPEN.add(self)

    @classmethod
    def make(cls, path: Path, flags: int = os.O_RDWR | os.O_CREAT) -> Self:
        """Make a file and take its lock, so that no sweep removes it until the lock is released."""
        while True:
            lock = cls(path, flags)
            try:
                # A sweep that saw the file before it was locked may have removed it.
                if lock.take(wait=True) and path.exists():
                    return lock
            except BaseException:
                lock.release()
                raise
            lock.release()

    def take(self, *, shared: bool = False, wait: bool = False) -> bool:
        """Take the lock; False if another holds it and ``wait`` is false.

        Parameters
        ----------
        shared
            Whether others may hold it as well, as long as all of them share it.
        wait
            Whether to wait until it is free.

        Raises
        ------
        StoreFilesystemError
            The file system has no locks.
        """
        assert self.descriptor is not None
        operation = (fcntl.LOCK_SH if shared else fcntl.LOCK_EX) | (0 if wait else fcntl.LOCK_NB)
        try:
            fcntl.flock(self.descriptor, operation)
        except BlockingIOError:
            return False
        except OSError as error:
            if error.errno not in _NO_LOCKS:
                raise
            message = (
                f"The file system of {self._path.parent} does not lock files ({error.strerror}). Set the environment "
                "variable VBATCH_STORE to a directory on a disk of this machine."
            )
            raise StoreFilesystemError(message) from error
        return True

    def release(self) -> None:
        """Release the lock. A second call does nothing."""
        descriptor, self.descriptor = self.descriptor, None
        if descriptor is not None:
            _OPEN.discard(self)
            close(descriptor)

    def __enter__(self) -> Self:
        return self

    def __exit__(self, *error: object) -> None:
        self.release()


_OPEN: set[FileLock] = set()
_FORKING = threading.RLock()
"""Held while a lock's file is opened, and by a fork, so that a child knows of every open lock."""


def _close_in_child() -> None:
    # Closing leaves the parent's locks as they are; unlocking would release them.
    for lock in list(_OPEN):
        lock.release()
    _FORKING.release()


os.register_at_fork(before=_FORKING.acquire, after_in_parent=_FORKING.release, after_in_child=_close_in_child)


class NewFile:
    """A file that is not in its place yet; leaving its block removes it if it was not put there.

    Until then it is locked, so that a sweep sees that it is being written.

    Parameters
    ----------
    path
        Where it is written; nothing may be there.

    Attributes
    ----------
    bytes
        Bytes given to `write` so far.

    Examples
    --------
    >>> import tempfile
    >>> with tempfile.TemporaryDirectory() as folder:
    ...     with NewFile(Path(folder, "new")) as new:
    ...         new.write(b"a line")
    ...         new.seal()
    ...         new.place(Path(folder, "there"))
    ...     (new.bytes, os.listdir(folder))
    (6, ['there'])
    """

    def __init__(self, path: Path) -> None:
        self._path = path
        self._hash = hashlib.sha256()
        self._buffer = bytearray()
        self._sealed = self._placed = self._is_lost = False
        self.bytes = 0
        # O_EXCL: never write through a link that an attacker has made.
        with writing(path.parent):
            self._lock = FileLock.make(path, os.O_WRONLY | os.O_CREAT | os.O_EXCL)

    @property
    def sha256(self) -> str:
        """Hex digest of a sealed file's content."""
        return self._hash.hexdigest()

    def write(self, data: bytes) -> None:
        """Append bytes.

        Raises
        ------
        StoreFullError
            The disk is full.
        """
        self._buffer += data
        self.bytes += len(data)
        if len(self._buffer) >= _BUFFER_BYTES:
            self._flush()

    def _flush(self) -> None:
        assert self._lock.descriptor is not None
        with writing(self._path.parent):
            write_all(self._lock.descriptor, self._buffer)
        self._hash.update(self._buffer)
        self._buffer = bytearray()

    def seal(self, *, durable: bool = True) -> None:
        """Put the content on the disk, or leave that to the operating system; nothing can be written after it."""
        self._flush()
        self._sealed = True
        if durable:
            assert self._lock.descriptor is not None
            with writing(self._path.parent):
                os.fsync(self._lock.descriptor)

    def place(self, path: Path, *, durable: bool = True) -> None:
        """Rename the sealed file to its place, replacing what is there, and put the rename on the disk.

        A second call does not rename again: a transaction that places a file may be repeated. A rename that could not
        be put on the disk is not put there by another call: the file has to be written again.

        Parameters
        ----------
        path
            Its place.
        durable
            False if another file is placed in the same directory next, which puts both renames on the disk.
        """
        assert self._sealed
        with writing(path.parent):
            if not self._placed:
                self._path.rename(path)
                self._placed = True
            if durable:
                if self._is_lost:
                    raise OSError(errno.EIO, "the file's name could not be put on the disk", str(path))
                self._is_lost = True
                sync_directory(path.parent)
                self._is_lost = False

    def discard(self) -> None:
        """Remove the file if it was not put in its place. A second call does nothing."""
        if self._lock.descriptor is not None:
            if not self._placed:
                # What cannot be removed now is removed by the next owner or a sweep.
                with contextlib.suppress(OSError):
                    self._path.unlink()
            self._lock.release()

    def __enter__(self) -> Self:
        return self

    def __exit__(self, *error: object) -> None:
        self.discard()


class Space:
    """The free space of the store's disk, and a reserve for the moment when it is full.

    Parameters
    ----------
    path
        The store's directory.
    reserve_bytes
        Size of the file that is kept to be deleted, so that a status can still be written on a full disk.
    floor_bytes
        What must stay free; the disk is the notebooks' too.
    """

    def __init__(self, path: Path, *, reserve_bytes: int = 64 * MIB, floor_bytes: int = GIB) -> None:
        self._path = path
        self._reserve = path / "reserve"
        self._reserve_bytes = reserve_bytes
        self._floor_bytes = floor_bytes

    def free(self) -> int:
        """Bytes that an ordinary user may still write."""
        with writing(self._path):
            state = os.statvfs(self._path)
        return state.f_bavail * state.f_frsize

    def require(self, wanted: int, *, keep_floor: bool = True) -> None:
        """Raise an error if the disk has no room for this.

        Parameters
        ----------
        wanted
            Bytes to be written.
        keep_floor
            Whether the floor must stay free too.

        Raises
        ------
        StoreFullError
            Less than that is free.
        """
        needed = wanted + (self._floor_bytes if keep_floor else 0)
        free = self.free()
        if free < needed:
            sizes = f"{needed / MIB:,.1f} MiB are needed, {free / MIB:,.1f} MiB are free."
            raise StoreFullError(f"{full_message(self._path)} {sizes}")

    def keep_reserve(self) -> None:
        """Make the reserve if it is missing and there is room for it above the floor; the next sweep tries again."""
        with contextlib.suppress(OSError, StoreError):
            if not self._reserve_bytes or self._reserve.exists():
                return
            if self.free() < self._reserve_bytes + self._floor_bytes:
                return
            descriptor = os.open(self._reserve, os.O_WRONLY | os.O_CREAT | os.O_NOFOLLOW | os.O_CLOEXEC, 0o600)
            try:
                os.posix_fallocate(descriptor, 0, self._reserve_bytes)
            except OSError:
                # The disk has filled up in the meantime; an empty reserve would be of no use.
                self._reserve.unlink(missing_ok=True)
            finally:
                close(descriptor)

    def spend_reserve(self) -> bool:
        """Delete the reserve. Return False if there was no reserve, or if it cannot be deleted."""
        try:
            self._reserve.unlink()
        except OSError:
            return False
        return True
