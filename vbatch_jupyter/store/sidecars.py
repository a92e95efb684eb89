"""What is kept in files next to the output file of a batch, and deleted with it: known answers, and timings.

The known answers say, for each output file, where the answer to each request is. They are only an index: what is
missing costs a request to the engine, and nothing more. A request counts as asked before only if its url and body are
the same bytes. So both the input and the output file must still exist, and when either is deleted or expires, its
answers are no longer reused.

The timings say when each answer came and how long it took, which OpenAI's lines have no place for. They are next to the
error file if the batch has no output file. They may be missing: a batch that ended without them (a full disk, a batch
service) has its results all the same.
"""

from __future__ import annotations

import contextlib
import math
import sqlite3
import struct
import zlib
from array import array
from bisect import bisect_left
from collections.abc import Callable, Iterable, Iterator

import msgspec

from vbatch_jupyter.errors import VBatchError
from vbatch_jupyter.protocol.batch import BatchRecord
from vbatch_jupyter.protocol.index import LineIndex, repeated
from vbatch_jupyter.protocol.lines import parse_output_line, parse_request_line
from vbatch_jupyter.records import Timing
from vbatch_jupyter.store.files import Files
from vbatch_jupyter.store.store import Store

_CHECKSUM = struct.Struct("<I")


class _Header(msgspec.Struct):
    count: int


def pack_answers(index: LineIndex, output_offsets: array[int]) -> bytes:
    """Return what to keep about the answers of a batch.

    Parameters
    ----------
    index
        Its requests.
    output_offsets
        For each request the byte after which its line begins in the output file, counted from 1; 0 if it has none.
    """
    hashes = index.request_hashes
    order = sorted((position for position, offset in enumerate(output_offsets) if offset), key=hashes.__getitem__)
    columns = (hashes, index.offsets, index.lengths, output_offsets)
    packed = (array("Q", (column[position] for position in order)).tobytes() for column in columns)
    return b"".join([msgspec.json.encode(_Header(len(order))), b"\n", *packed])


def find_answers(
    store: Store,
    key: str,
    index: LineIndex,
    read: Callable[[int], bytes],
    finished: bytearray,
    *,
    kept: Iterable[tuple[int, bytes]] = (),
) -> Iterator[tuple[int, bytes]]:
    """Return position and output line of each unfinished request that was answered before.

    Equal requests that are deterministic all get one answer. Of those that are not, each gets an answer of its own: the
    first one the first, the second one the second, and those for which none is left get none. The newest batch comes
    first, and an answer that several batches have, because they have reused it, counts once.

    Parameters
    ----------
    store
        Where those batches are.
    key
        The engine's `answers_key`.
    index
        The requests.
    read
        Returns the line of the input file at a position.
    finished
        One byte for each request; those that are not 0 are skipped, and those found are set to 1.
    kept
        Position and output line of each answer that the batch has already. No other request gets such an answer,
        unless it is deterministic.
    """
    search = _Search(index, read, finished, kept)
    # The rows say which files there are. A listing of the directory would have what others write and rename.
    for row in store.database.read(
        "SELECT input_file_id, output_file_id FROM batch JOIN file ON file.id = output_file_id "
        "WHERE answers_key = ? AND deleted_at IS NULL ORDER BY file.number DESC",
        (key,),
    ):
        if 0 not in finished:
            return
        with contextlib.suppress(VBatchError, OSError, ValueError):
            yield from search.find_in(store.files, row)


class _Search:
    """The search of `find_answers`, with what has been taken so far.

    A *sample* is a request that is not deterministic and equal to others of its batch.
    """

    def __init__(
        self,
        index: LineIndex,
        read: Callable[[int], bytes],
        finished: bytearray,
        kept: Iterable[tuple[int, bytes]],
    ) -> None:
        self._index, self._read, self._finished = index, read, finished
        hashes, deterministic = index.request_hashes, index.deterministic
        self._samples = repeated(one for one, shares in zip(hashes, deterministic, strict=True) if not shares)
        self._taken: set[str | None] = set()
        if self._samples:
            self._taken.update(_answer_id(line) for position, line in kept if self._is_sample(position))

    def find_in(self, files: Files, row: sqlite3.Row) -> Iterator[tuple[int, bytes]]:
        """Return what one earlier batch has."""
        with files.sidecar(row["output_file_id"], "answers").open("rb") as file:
            count = msgspec.json.decode(file.readline(), type=_Header).count
            # In the order in which `pack_answers` writes them; each number has 8 bytes.
            hashes, offsets, lengths, output_offsets = (array("Q", file.read(8 * count)) for _ in range(4))
        # Where the search for the next sample continues: a thousand equal requests must not look at a million lines.
        next_at: dict[int, int] = {}
        with files.open(row["input_file_id"]) as asked, files.open(row["output_file_id"]) as answered:
            for position, done in enumerate(self._finished):
                if done:
                    continue
                wanted, is_sample = self._index.request_hashes[position], self._is_sample(position)
                at = next_at[wanted] if wanted in next_at else bisect_left(hashes, wanted)
                while at < len(hashes) and hashes[at] == wanted:
                    asked.seek(offsets[at])
                    before, now = parse_request_line(asked.read(lengths[at])), parse_request_line(self._read(position))
                    answered.seek(output_offsets[at] - 1)
                    at += 1
                    if (before.url, bytes(before.body)) != (now.url, bytes(now.body)):
                        continue
                    line = answered.readline()
                    if not is_sample or self._take(line):
                        self._finished[position] = 1
                        yield position, line
                        break
                if is_sample:
                    next_at[wanted] = at

    def _is_sample(self, position: int) -> bool:
        return not self._index.deterministic[position] and self._index.request_hashes[position] in self._samples

    def _take(self, line: bytes) -> bool:
        """Take an answer for one sample; False if another has it."""
        before = len(self._taken)
        self._taken.add(_answer_id(line))
        return len(self._taken) > before


def _answer_id(line: bytes) -> str | None:
    """Return the id of an answer, which it keeps in each batch that reuses it."""
    response = parse_output_line(line).response
    return None if response is None else response.request_id


def pack_timings(finished_at: array[float], latencies: array[float]) -> bytes:
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


def timings_of(files: Files, record: BatchRecord) -> list[Timing]:
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
