"""Which finished answers can be reused: for each output file, where the answer to each request is.

It is only an index: what is missing costs a request to the engine, and nothing more. A request counts as asked
before only if its url and body are the same bytes. So both the input and the output file must still exist, and
when either is deleted or expires, its answers are no longer reused.
"""

from __future__ import annotations

import contextlib
import os
from array import array
from bisect import bisect_left
from collections.abc import Callable, Iterator
from pathlib import Path

import msgspec

from vbatch_jupyter.errors import VBatchError
from vbatch_jupyter.protocol.batch import BatchRecord
from vbatch_jupyter.protocol.ids import result_file_id
from vbatch_jupyter.protocol.index import LineIndex
from vbatch_jupyter.protocol.lines import parse_request_line
from vbatch_jupyter.store.batches import Batches
from vbatch_jupyter.store.disk import NewFile
from vbatch_jupyter.store.files import Files

_COLUMNS = ("hashes", "input_offsets", "input_lengths", "output_offsets")


class _Header(msgspec.Struct):
    key: str
    input_file_id: str
    count: int


class Answers:
    """The answers of finished batches, by the engine that gave them.

    Parameters
    ----------
    directory
        One file for each output file, under the same name.
    batches, files
        The store's.
    """

    def __init__(self, directory: Path, *, batches: Batches, files: Files) -> None:
        self._directory = directory
        self._batches = batches
        self._files = files

    def keep(self, record: BatchRecord, index: LineIndex, output_offsets: array[int]) -> None:
        """Remember where the answers of a batch that is about to end will be.

        Parameters
        ----------
        record
            The batch; `BatchRecord.answers_key` says whose answers they are.
        index
            Its requests.
        output_offsets
            For each request the byte after which its line begins in the output file, counted from 1; 0 if it has
            none.
        """
        if not record.answers_key:
            return
        output_file_id = result_file_id(record.id, "output")
        hashes = index.request_hashes
        order = sorted((position for position, offset in enumerate(output_offsets) if offset), key=hashes.__getitem__)
        header = msgspec.json.encode(_Header(record.answers_key, record.input_file_id, len(order)))
        temporary = self._directory / f"{output_file_id}.{os.getpid()}.tmp"
        temporary.unlink(missing_ok=True)
        with NewFile(temporary) as new:
            new.write(header + b"\n")
            for column in (hashes, index.offsets, index.lengths, output_offsets):
                new.write(array("Q", (column[position] for position in order)).tobytes())
            new.seal()
            new.place(self._directory / output_file_id)

    def find(
        self, key: str, index: LineIndex, read: Callable[[int], bytes], finished: bytearray
    ) -> Iterator[tuple[int, bytes]]:
        """Return position and output line of each unfinished request that was answered before.

        Parameters
        ----------
        key
            The engine's `answers_key`.
        index
            The requests.
        read
            Returns the line of the input file at a position.
        finished
            One byte for each request; those that are not 0 are skipped, and those found are set to 1.
        """
        for path in sorted(self._directory.glob("file-*"), key=lambda path: -path.stat().st_mtime_ns):
            if path.suffix == ".tmp":
                continue
            with contextlib.suppress(VBatchError, OSError, ValueError):
                yield from self._find_in(path, key, index, read, finished)

    def _find_in(
        self, path: Path, key: str, index: LineIndex, read: Callable[[int], bytes], finished: bytearray
    ) -> Iterator[tuple[int, bytes]]:
        with path.open("rb") as kept:
            header = msgspec.json.decode(kept.readline(), type=_Header)
            if header.key != key:
                return
            columns = {name: array("Q") for name in _COLUMNS}
            for column in columns.values():
                column.frombytes(kept.read(header.count * column.itemsize))
        hashes = columns["hashes"]
        with self._files.open(header.input_file_id) as asked, self._files.open(path.name) as answered:
            for position, done in enumerate(finished):
                if done:
                    continue
                at = bisect_left(hashes, index.request_hashes[position])
                if at == len(hashes) or hashes[at] != index.request_hashes[position]:
                    continue
                asked.seek(columns["input_offsets"][at])
                before = parse_request_line(asked.read(columns["input_lengths"][at]))
                now = parse_request_line(read(position))
                if (before.url, bytes(before.body)) == (now.url, bytes(now.body)):
                    answered.seek(columns["output_offsets"][at] - 1)
                    finished[position] = 1
                    yield position, answered.readline()

    def sweep(self) -> list[str]:
        """Remove what is kept of files that are no longer there; return the names."""
        removed = []
        kept = list(self._directory.iterdir())
        # What is kept of a batch that is about to end is there before its output file, and a batch's directory longer.
        ending = {result_file_id(path.name, "output") for path in self._batches.directory.iterdir()}
        for path in kept:
            file_id = path.name.partition(".")[0]
            if file_id not in ending and not self._files.path(file_id).exists():
                path.unlink(missing_ok=True)
                removed.append(path.name)
        return removed
