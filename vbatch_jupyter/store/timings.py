"""When each answer of a batch that has ended came, and how long it took: what OpenAI's lines have no place for.

They are in a file next to the batch's output file, or its error file if it has no other, and are deleted with it. They
may be missing: a batch that ended without them (a full disk, a batch service) has its results all the same.
"""

from __future__ import annotations

import contextlib
import math
import struct
import zlib
from array import array

from vbatch_jupyter.protocol.batch import BatchRecord
from vbatch_jupyter.records import Timing
from vbatch_jupyter.store.files import Files

_CHECKSUM = struct.Struct("<I")


def pack(finished_at: array[float], latencies: array[float]) -> bytes:
    """Return what to keep about the timings of a batch.

    Parameters
    ----------
    finished_at
        For each request Unix seconds, 0 if it was not run.
    latencies
        For each request seconds, NaN if the engine was not asked.
    """
    content = finished_at.tobytes() + latencies.tobytes()
    return content + _CHECKSUM.pack(zlib.crc32(content))


def find(files: Files, record: BatchRecord) -> list[Timing]:
    """Return the timing of each request of a batch, in the input file's order; nothing if none were kept."""
    columns = array("d")
    with contextlib.suppress(OSError, ValueError, struct.error):
        kept = files.sidecar(record.output_file_id or record.error_file_id or "", "timings").read_bytes()
        content, checksum = kept[: -_CHECKSUM.size], kept[-_CHECKSUM.size :]
        if _CHECKSUM.unpack(checksum) == (zlib.crc32(content),):
            columns.frombytes(content)
    half = len(columns) // 2
    return [
        Timing(finished or None, None if math.isnan(latency) else latency)
        for finished, latency in zip(columns[:half], columns[half:], strict=True)
    ]
