"""One file system call of another process fails: `faults.c`, compiled and told which call and with what."""

from __future__ import annotations

import ctypes
import errno
import mmap
import os
import subprocess
from pathlib import Path
from typing import NamedTuple

SOURCE = Path(__file__).with_suffix(".c")

ERRORS = ("EIO", "EMFILE", "ENOSPC")


class _Control(ctypes.Structure):
    _fields_ = (
        ("store", ctypes.c_char * 512),
        ("error", ctypes.c_int32),
        ("pid", ctypes.c_int32),
        ("at", ctypes.c_int64),
        ("times", ctypes.c_int64),
        ("seen", ctypes.c_int64),
        ("failed", ctypes.c_int64),
        ("function", ctypes.c_char * 32),
        ("path", ctypes.c_char * 1024),
    )


class Seen(NamedTuple):
    """What was counted since `Faults.arm`.

    Parameters
    ----------
    calls
        How many calls could have failed.
    failed
        How many did.
    function, path
        The last one that did; the path is relative to the store.
    """

    calls: int
    failed: int
    function: str
    path: str

    def __str__(self) -> str:
        return f"{self.function}({self.path})" if self.failed else "no call"


class Faults:
    """The calls of the processes that are started with `environment`.

    Parameters
    ----------
    folder
        Where the library and the shared file are written.

    Attributes
    ----------
    environment
        The variables that a process must be started with.
    """

    def __init__(self, folder: Path) -> None:
        library, shared = folder / "faults.so", folder / "faults"
        compiler = os.environ.get("CC", "cc")
        subprocess.run([compiler, "-shared", "-fPIC", "-O1", "-o", library, SOURCE, "-ldl"], check=True)
        shared.write_bytes(bytes(ctypes.sizeof(_Control)))
        with shared.open("r+b") as file:
            self._control = _Control.from_buffer(mmap.mmap(file.fileno(), 0))
        self.environment = {"LD_PRELOAD": str(library), "VBATCH_FAULTS": str(shared)}

    def arm(self, store: Path, error: str, at: int, *, times: int = 1, pid: int = 0) -> None:
        """Begin to count, and fail a call.

        Parameters
        ----------
        store
            Only calls on its paths and descriptors count.
        error
            Such as ``"EIO"``; only calls that can return it count.
        at
            The number of the call that fails, from 1; 0 to count only.
        times
            How many calls fail from that one on.
        pid
            Only calls of this process count; 0 for every process.
        """
        control = self._control
        control.error = 0
        control.store = str(store.resolve()).encode()
        control.at, control.times, control.pid = at, times, pid
        control.seen = control.failed = 0
        control.function = control.path = b""
        control.error = getattr(errno, error)

    def disarm(self) -> Seen:
        """Fail nothing any more, and return what was seen."""
        self._control.error = 0
        return self.seen()

    def seen(self) -> Seen:
        """Return what has been seen so far."""
        control = self._control
        path = control.path.decode().removeprefix(control.store.decode()).lstrip("/")
        return Seen(control.seen, control.failed, control.function.decode(), path)
