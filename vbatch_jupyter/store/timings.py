"""When each answer of a batch that has ended came, and how long it took: what OpenAI's lines have no place for.

They may be missing: a batch that ended without them (a kill in that moment, a full disk, a batch service) has its
results all the same.
"""

from __future__ import annotations

import contextlib
import math
import os
import struct
import zlib
from array import array
from pathlib import Path

from vbatch_jupyter.protocol.ids import result_file_id
from vbatch_jupyter.records import Timing
from vbatch_jupyter.store.batches import Batches
from vbatch_jupyter.store.files import Files

_CHECKSUM = struct.Struct("<I")


class Timings:
    """The timings of batches that have ended.

    Parameters
    ----------
    directory
        One file for each batch, under its id: two columns of a number a request.
    batches, files
        The store's; timings go when both files of their batch have.
    """

    def __init__(self, directory: Path, *, batches: Batches, files: Files) -> None:
        self._directory = directory
        self._batches = batches
        self._files = files

    def keep(self, batch_id: str, finished_at: array[float], latencies: array[float]) -> None:
        """Keep the timings of a batch that is about to end; if the disk is full they are left out.

        Parameters
        ----------
        batch_id
            The batch.
        finished_at
            For each request Unix seconds, 0 if it was not run.
        latencies
            For each request seconds, NaN if the engine was not asked.
        """
        content = finished_at.tobytes() + latencies.tobytes()
        temporary = self._directory / f"{batch_id}.{os.getpid()}.tmp"
        # Not forced onto the disk, which costs more than the figures are worth: a checksum tells what a crash has torn.
        with contextlib.suppress(OSError):
            temporary.touch(mode=0o600)
            temporary.write_bytes(content + _CHECKSUM.pack(zlib.crc32(content)))
            temporary.replace(self._directory / batch_id)

    def find(self, batch_id: str) -> list[Timing]:
        """Return the timing of each request, in the input file's order; nothing if none were kept."""
        columns = array("d")
        with contextlib.suppress(OSError, ValueError, struct.error):
            kept = (self._directory / batch_id).read_bytes()
            content, checksum = kept[: -_CHECKSUM.size], kept[-_CHECKSUM.size :]
            if _CHECKSUM.unpack(checksum) == (zlib.crc32(content),):
                columns.frombytes(content)
        half = len(columns) // 2
        return [
            Timing(finished or None, None if math.isnan(latency) else latency)
            for finished, latency in zip(columns[:half], columns[half:], strict=True)
        ]

    def sweep(self) -> list[str]:
        """Remove the timings of batches whose files are no longer there; return the names."""
        removed = []
        for path in self._directory.iterdir():
            batch_id = path.name.partition(".")[0]
            # In this order: a batch's files are there before its directory goes.
            if (self._batches.directory / batch_id).exists():
                continue
            if not any(self._files.path(result_file_id(batch_id, kind)).exists() for kind in ("output", "error")):
                path.unlink(missing_ok=True)
                removed.append(path.name)
        return removed
