"""The spool: the finished lines of one batch, appended in groups before anyone is told about them.

Every lease writes a segment of its own (``spool-<epoch>``), so that a former owner which was only stopped, not dead,
can never write into the middle of its successor's lines. A lease whose segment could not be put on the disk continues
in another one (``spool-<epoch>-<part>``): what an fsync that failed has covered may be lost although a second one
succeeds, so it is written again, to another file. A line in a segment is::

    u32 length | u32 crc32 of all that follows | u32 position of the request | u8 kind | f64 finished at | f64 latency
    four u32 of usage, of the kind that has one | the line, without its end

It promises that a group which `append` has returned from is on the disk; that `recover` finds every line that was
ever written whole, each request once; and that both take memory of one line and one byte for each request.
"""

from __future__ import annotations

import contextlib
import dataclasses
import math
import os
import re
import struct
import zlib
from array import array
from collections.abc import Iterator, Sequence
from pathlib import Path
from typing import NamedTuple

from vbatch_jupyter.errors import StoreCorruptError, StoreFullError
from vbatch_jupyter.protocol.batch import RequestCounts, Usage
from vbatch_jupyter.records import Timing
from vbatch_jupyter.store.disk import MIB, close, sync_directory, write_all, writing

NONE, OUTPUT, ERROR = 0, 1, 2
"""The state of a request: not finished, a line of the output file, or a line of the error file."""

_WITH_USAGE = 3
"""The kind, on the disk, of a line of the output file that has its usage before it."""

_HEADER = struct.Struct("<IIIBdd")
_USAGE = struct.Struct("<4I")
_MOST_TOKENS = (1 << 32) - 1
_CHECKED = struct.Struct("<IBdd")
_CHECKED_FROM = 8
_CHECKSUM = struct.Struct("<I")
_SEGMENT = re.compile(r"spool-(\d+)(-\d+)?")


class SpoolRecord(NamedTuple):
    """The finished line of one request.

    Parameters
    ----------
    position
        The request's position in the input file, from 0; blank lines do not count.
    is_error
        Whether the line belongs in the error file.
    line
        The line without its end.
    finished_at
        When its answer came, in Unix seconds; 0 if that is not known.
    latency
        Seconds from handing the request to the engine to its answer; None if the engine was not asked.
    usage
        The tokens of a line of the output file; None if they have not been read yet.
    message
        The message in a line of the error file, for the live widget; it is not stored.
    """

    position: int
    is_error: bool
    line: bytes
    finished_at: float = 0.0
    latency: float | None = None
    usage: Usage | None = None
    message: str | None = None


@dataclasses.dataclass(frozen=True, slots=True)
class Recovered:
    """What former owners of a batch have finished.

    Parameters
    ----------
    finished
        One byte for each request: 0 none, 1 a line of the output file, 2 a line of the error file.
    counts
        The same as counts.
    """

    finished: bytearray
    counts: RequestCounts


def segments(directory: Path) -> dict[Path, int]:
    """Return the segments with their epochs, oldest first; none once the batch has ended and its directory is gone."""
    with contextlib.suppress(FileNotFoundError):
        # The names have leading zeros, and are in the order of their epochs and parts.
        paths = sorted(directory.iterdir())
        return {path: int(match[1]) for path in paths if (match := _SEGMENT.fullmatch(path.name))}
    return {}


def spool_bytes(directory: Path) -> int:
    """Return the size of a batch's spool; 0 if it has none."""
    try:
        return sum(path.stat().st_size for path in segments(directory))
    except FileNotFoundError:
        # Its owner has just published and removed it.
        return 0


class Spool:
    """The spool of one batch, under one lease.

    Parameters
    ----------
    directory
        The batch's.
    epoch
        The lease's.
    total
        Requests in the batch.

    Attributes
    ----------
    finished
        `NONE`, `OUTPUT` or `ERROR` for each request.
    completed, failed
        How many of them are `OUTPUT` and `ERROR`; kept, because counting a million for each group would be quadratic.
    """

    def __init__(self, directory: Path, *, epoch: int, total: int) -> None:
        self._directory = directory
        self._epoch = epoch
        self._descriptor: int | None = None
        self._part = 0
        # How much of each segment is whole. A former owner that comes back to life may lengthen its own; that is not
        # read, so that what is finalised is what was counted.
        self._sizes: dict[Path, int] = {}
        self._torn = False
        self.finished = bytearray(total)
        self.completed = 0
        self.failed = 0

    @property
    def bytes(self) -> int:
        """Size of what `recover` has read and `append` has written."""
        return sum(self._sizes.values())

    def recover(self) -> None:
        """Read all segments of former owners, and cut off what a kill left half written.

        Raises
        ------
        StoreCorruptError
            A line is for a request that the batch does not have.
        """
        for path in segments(self._directory):
            whole = 0
            for record, end in _scan(path):
                if record.position >= len(self.finished):
                    message = (
                        f"{path} has a line for request {record.position} at byte {whole}, but the batch has "
                        f"{len(self.finished)} requests. Run `python -m vbatch_jupyter fsck`, and make a new batch."
                    )
                    raise StoreCorruptError(message)
                whole = end
                if self.finished[record.position] == NONE:
                    self._mark(record.position, ERROR if record.is_error else OUTPUT)
            if whole < path.stat().st_size:
                os.truncate(path, whole)
            self._sizes[path] = whole

    def recovered(self) -> Recovered:
        """Return what is finished, as it is now."""
        return Recovered(bytearray(self.finished), RequestCounts(len(self.finished), self.completed, self.failed))

    def append(self, records: Sequence[SpoolRecord]) -> None:
        """Put a group of lines on the disk, all of it or nothing.

        A request that has a line already keeps it, so that a group may be given again after an error. If the disk did
        not take the group, it is then written to another segment.

        Raises
        ------
        StoreFullError
            The disk was full; what had been written of the group was cut off again.
        """
        parts: list[bytes] = []
        kinds: dict[int, int] = {}
        for position, is_error, line, finished_at, latency, usage, _ in records:
            if not 0 <= position < len(self.finished):
                raise ValueError(f"There is no request {position}: the batch has {len(self.finished)}.")
            if self.finished[position] == NONE and position not in kinds:
                kinds[position] = kind = ERROR if is_error else OUTPUT
                content = line
                if usage is not None and not is_error:
                    kind, content = _WITH_USAGE, _packed(usage) + line
                checked = _CHECKED.pack(position, kind, finished_at, math.nan if latency is None else latency)
                parts += (struct.pack("<II", len(content), zlib.crc32(content, zlib.crc32(checked))), checked, content)
        if not parts:
            return
        group = b"".join(parts)
        descriptor = self._segment()
        start = self._sizes[self._path]
        try:
            with writing(self._directory):
                self._mend(descriptor)
                # Until the group is on the disk its bytes must be removed, also if an Interrupt ends this function.
                self._torn = True
                write_all(descriptor, group)
                try:
                    os.fdatasync(descriptor)
                except OSError:
                    self._leave_segment()
                    raise
        except StoreFullError:
            # At once, so that the room is there for others; `_mend` repeats it if this fails too.
            self._mend(descriptor)
            raise
        # In this order, an Interrupt between any two lines costs at most that the group is written twice.
        self._sizes[self._path] = start + len(group)
        for position, kind in kinds.items():
            self._mark(position, kind)
        self._torn = False

    def _mark(self, position: int, kind: int) -> None:
        self.finished[position] = kind
        self.completed += kind == OUTPUT
        self.failed += kind == ERROR

    def _segment(self) -> int:
        if self._descriptor is None:
            flags = os.O_WRONLY | os.O_CREAT | os.O_EXCL | os.O_APPEND | os.O_NOFOLLOW | os.O_CLOEXEC
            with writing(self._directory):
                self._descriptor = os.open(self._path, flags, 0o600)
                self._sizes[self._path] = 0
                try:
                    sync_directory(self._directory)
                except OSError:
                    self._leave_segment()
                    raise
        return self._descriptor

    @property
    def _path(self) -> Path:
        part = f"-{self._part:04d}" if self._part else ""
        return self._directory / f"spool-{self._epoch:010d}{part}"

    def _mend(self, descriptor: int) -> None:
        if self._torn:
            os.ftruncate(descriptor, self._sizes[self._path])
            self._torn = False

    def _leave_segment(self) -> None:
        """Continue in another segment: what was not put on the disk of this one is written again there."""
        assert self._descriptor is not None
        # Lines that cannot be cut off are found twice, and count once.
        with contextlib.suppress(OSError):
            os.ftruncate(self._descriptor, self._sizes[self._path])
        self.close()
        self._torn = False
        self._part += 1

    def records(self) -> Iterator[SpoolRecord]:
        """Yield every finished line, each request once, always in the same order."""
        seen = bytearray(len(self.finished))
        for path, size in list(self._sizes.items()):
            for record, _ in _scan(path, size=size):
                if not seen[record.position]:
                    seen[record.position] = 1
                    yield record

    def close(self) -> None:
        """Close the segment; a second call does nothing."""
        descriptor, self._descriptor = self._descriptor, None
        if descriptor is not None:
            close(descriptor)


def read_segment(path: Path) -> Iterator[SpoolRecord]:
    """Return the whole lines of one segment, without changing it."""
    return (record for record, _ in _scan(path))


def _scan(path: Path, *, size: int | None = None) -> Iterator[tuple[SpoolRecord, int]]:
    """Return each whole line of a segment and the offset at which it ends."""
    descriptor = os.open(path, os.O_RDONLY | os.O_NOFOLLOW | os.O_CLOEXEC)
    with os.fdopen(descriptor, "rb", buffering=MIB) as file:
        if size is None:
            size = os.fstat(descriptor).st_size
        end = 0
        while end + _HEADER.size <= size:
            header = file.read(_HEADER.size)
            length, crc, position, kind, finished_at, latency = _HEADER.unpack(header)
            end += _HEADER.size + length
            # Looked at before reading: the length of a torn header could ask for 4 GiB.
            if end > size:
                return
            line = file.read(length)
            if zlib.crc32(line, zlib.crc32(header[_CHECKED_FROM:])) != crc or kind not in {OUTPUT, ERROR, _WITH_USAGE}:
                return
            usage = None
            if kind == _WITH_USAGE:
                usage, line = Usage(*_USAGE.unpack_from(line)), line[_USAGE.size :]
            asked = None if math.isnan(latency) else latency
            yield SpoolRecord(position, kind == ERROR, line, finished_at, asked, usage), end


def _packed(usage: Usage) -> bytes:
    tokens = (usage.input_tokens, usage.cached_tokens, usage.output_tokens, usage.reasoning_tokens)
    try:
        return _USAGE.pack(*tokens)
    except struct.error:
        # A server may send any text.
        return _USAGE.pack(*(min(max(count, 0), _MOST_TOKENS) for count in tokens))


def pack_timings(finished_at: array[float], latencies: array[float]) -> bytes:
    """Return what to keep about the timings of a batch that has ended.

    Parameters
    ----------
    finished_at
        For each request Unix seconds, 0 if it was not run.
    latencies
        For each request seconds, NaN if the engine was not asked.
    """
    content = finished_at.tobytes() + latencies.tobytes()
    return content + _CHECKSUM.pack(zlib.crc32(content))


def unpack_timings(kept: bytes) -> list[Timing]:
    """Return the timing of each request, in the input file's order.

    Raises
    ------
    ValueError
        These are not the bytes that `pack_timings` returned.
    """
    content, checksum = kept[: -_CHECKSUM.size], kept[-_CHECKSUM.size :]
    if checksum != _CHECKSUM.pack(zlib.crc32(content)):
        raise ValueError("The checksum of the timings is wrong.")
    columns = array("d", content)
    half = len(columns) // 2
    return [
        Timing(finished or None, None if math.isnan(latency) else latency)
        for finished, latency in zip(columns[:half], columns[half:], strict=True)
    ]
