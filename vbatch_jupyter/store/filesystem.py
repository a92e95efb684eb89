"""Where a store may be: a private directory on a file system of this machine.

It promises that the directory is readable by its owner alone (0700), and that it is on no network file system: there,
locks and renames are not reliable, and two machines could both believe that they own a batch.
"""

from __future__ import annotations

import os
import re
import stat
import tomllib
from collections.abc import Collection
from pathlib import Path

from vbatch_jupyter.errors import StoreError, StoreFilesystemError

MOUNTINFO = Path("/proc/self/mountinfo")

_TYPES = tomllib.loads(Path(__file__).with_suffix(".toml").read_text(encoding="utf-8"))
_NETWORK_TYPES, _LOCAL_FUSE_TYPES = frozenset(_TYPES["network"].split()), frozenset(_TYPES["local_fuse"].split())


def filesystem_type(path: Path, mountinfo: str) -> str | None:
    r"""Return the type of the file system that a path is on.

    Parameters
    ----------
    path
        An absolute path without links.
    mountinfo
        The text of ``/proc/self/mountinfo``.

    Examples
    --------
    >>> text = "21 1 8:1 / / rw - ext4 /dev/sda1 rw\n22 21 0:40 / /home rw shared:7 - nfs4 host:/home rw\n"
    >>> filesystem_type(Path("/home/ann/store"), text), filesystem_type(Path("/homestead"), text)
    ('nfs4', 'ext4')
    """
    longest, kind = -1, None
    for line in mountinfo.splitlines():
        mount, _, source = line.partition(" - ")
        # Blanks in a mount point are written as octal escapes.
        point = re.sub(r"\\([0-7]{3})", lambda match: chr(int(match[1], 8)), mount.split()[4])
        # A later mount hides an earlier one at the same point.
        if path.is_relative_to(point) and len(point) >= longest:
            longest, kind = len(point), source.split()[0]
    return kind


def refuse_network(path: Path, *, mountinfo: Path = MOUNTINFO) -> None:
    """Raise an error for a directory on a network file system.

    Raises
    ------
    StoreFilesystemError
        It is on one.
    """
    try:
        text = mountinfo.read_text(encoding="utf-8", errors="surrogateescape")
    except FileNotFoundError:
        # Not Linux: nothing says what the file system is.
        return
    kind = filesystem_type(path.resolve(), text)
    if kind is None or kind in _LOCAL_FUSE_TYPES:
        return
    if kind in _NETWORK_TYPES or kind == "fuse" or kind.startswith("fuse."):
        message = (
            f"The store cannot be in {path}: it is on a file system of type {kind}, where locks and renames are "
            "not reliable. Set the environment variable VBATCH_STORE to a directory on a disk of this machine."
        )
        raise StoreFilesystemError(message)


def make_private(path: Path, *, holds_store: bool, ours: Collection[str] = ()) -> None:
    """Make a directory that only its owner can enter, or make one so that is there already.

    Parameters
    ----------
    path
        The directory.
    holds_store
        Whether a store is in it already. A directory with anything else in it is left alone.
    ours
        Names that do not count, because a store that is being made has them.

    Raises
    ------
    StoreError
        It is not a directory, belongs to another user, or has other files in it.
    """
    advice = "Set the environment variable VBATCH_STORE to another directory."
    try:
        path.mkdir(mode=0o700, parents=True, exist_ok=True)
        state = path.stat()
        if state.st_uid != os.geteuid():
            raise StoreError(f"The store cannot be in {path}: the directory belongs to another user. {advice}")
        if not holds_store and any(child.name not in ours for child in path.iterdir()):
            raise StoreError(f"The store cannot be in {path}: the directory has other files in it. {advice}")
        if stat.S_IMODE(state.st_mode) != stat.S_IRWXU:
            path.chmod(0o700)
    except OSError as error:
        raise StoreError(f"The store cannot be in {path}: {error.strerror}. {advice}") from error
