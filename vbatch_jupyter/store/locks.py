"""Locks on files, which the operating system drops when their owner dies, however it dies."""

from __future__ import annotations

import fcntl
import os
from pathlib import Path
from typing import Self

from vbatch_jupyter.errors import StoreFilesystemError


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
        # O_CLOEXEC: a child that inherited the descriptor would keep the lock after our death.
        self.descriptor: int | None = os.open(path, flags | os.O_NOFOLLOW | os.O_CLOEXEC, 0o600)

    @classmethod
    def make(cls, path: Path, flags: int = os.O_RDWR | os.O_CREAT) -> Self:
        """Make a file and take its lock, so that no sweep removes it until the lock is released."""
        while True:
            lock = cls(path, flags)
            # A sweep that saw the file before it was locked may have removed it.
            if lock.take(wait=True) and path.exists():
                return lock
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
            message = (
                f"The file system of {self._path.parent} does not lock files ({error.strerror}). Set the environment "
                "variable VBATCH_STORE to a directory on a disk of this machine."
            )
            raise StoreFilesystemError(message) from error
        return True

    def release(self) -> None:
        """Release the lock. A second call does nothing."""
        if self.descriptor is not None:
            os.close(self.descriptor)
            self.descriptor = None

    def __enter__(self) -> Self:
        return self

    def __exit__(self, *error: object) -> None:
        self.release()
