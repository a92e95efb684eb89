"""How an input file is divided into batches that a service accepts, and the state of each; kept with the batch."""

from __future__ import annotations

import io
from collections.abc import Callable
from typing import Any, BinaryIO

import msgspec

from vbatch_jupyter.protocol.batch import RequestCounts
from vbatch_jupyter.protocol.endpoints import ENDPOINTS
from vbatch_jupyter.protocol.index import LineIndex
from vbatch_jupyter.protocol.lines import parse_request_line
from vbatch_jupyter.protocol.profiles import Profile
from vbatch_jupyter.protocol.requests import decode_strictly, embedding_inputs


class Part(msgspec.Struct, kw_only=True):
    """A stretch of an input file that is one batch at the service.

    Parameters
    ----------
    first, requests
        Position of its first request in the whole file, and how many it has.
    start, end
        Bytes of the input file.
    file_id
        Its input file at the service, once it is there.
    attempt
        Counts the batches that were made of it: if the service had no room for one, another follows.
    asked
        Whether a batch has been asked for, even if we do not know whether it was made.
    batch_id
        Its batch at the service.
    status, completed, failed
        As the service last gave them.
    collected
        Whether all lines that it will have are in the spool.
    """

    first: int
    requests: int
    start: int
    end: int
    file_id: str | None = None
    attempt: int = 1
    asked: bool = False
    batch_id: str | None = None
    status: str | None = None
    completed: int = 0
    failed: int = 0
    collected: bool = False


def parts_from_json(text: str | None) -> list[Part]:
    """Read what `parts_to_json` wrote; a batch that has not been divided has no parts."""
    return [] if text is None else msgspec.json.decode(text, type=list[Part])


def parts_to_json(parts: list[Part]) -> str:
    """Write the parts of a batch for the store."""
    return msgspec.json.encode(parts).decode()


def counts_of(parts: list[Part]) -> RequestCounts:
    """Sum the counts of parts, whatever a service may count.

    Examples
    --------
    >>> counts_of([Part(first=0, requests=2, start=0, end=9, completed=3, failed=1)])
    RequestCounts(total=2, completed=2, failed=0)
    """
    total = sum(part.requests for part in parts)
    completed = sum(min(part.requests, part.completed) for part in parts)
    failed = sum(min(part.requests, part.failed) for part in parts)
    return RequestCounts(total, completed, min(failed, total - completed))


def divide(index: LineIndex, input_file: BinaryIO, endpoint: str, rules: Profile) -> list[Part]:
    """Divide an input file at a service's limits, into as few parts as possible.

    Parameters
    ----------
    index
        Its requests.
    input_file
        Open for reading bytes; read only where inputs of embeddings must be counted.
    endpoint
        The batch's.
    rules
        The limits.

    Examples
    --------
    >>> import dataclasses
    >>> from vbatch_jupyter.protocol.profiles import PROFILES
    >>> index = LineIndex()
    >>> about = {"number": 1, "custom_id_hash": 0, "request_hash": 0, "deterministic": True, "prefix_key": 0}
    >>> for position in range(5):
    ...     index.append(offset=10 * position, length=9, **about)
    >>> rules = dataclasses.replace(PROFILES["openai"], max_lines=2)
    >>> parts = divide(index, io.BytesIO(), "/v1/completions", rules)
    >>> [(part.first, part.requests, part.start, part.end) for part in parts]
    [(0, 2, 0, 19), (2, 2, 20, 39), (4, 1, 40, 49)]
    """
    known = ENDPOINTS.get(endpoint)
    is_counted = known is not None and not known.generates and rules.max_embedding_inputs
    inputs_of = _counter(index, input_file) if is_counted else None
    parts: list[Part] = []
    inputs = 0
    for position, (offset, length) in enumerate(zip(index.offsets, index.lengths, strict=True)):
        more = inputs_of(position) if inputs_of else 0
        inputs += more
        part = parts[-1] if parts else None
        if part is None or not (
            _within(part.requests + 1, rules.max_lines)
            and _within(offset + length - part.start, rules.max_bytes)
            and _within(inputs, rules.max_embedding_inputs)
        ):
            parts.append(Part(first=position, requests=1, start=offset, end=offset + length))
            inputs = more
        else:
            part.requests += 1
            part.end = offset + length
    return parts


def positions(input_file: BinaryIO, part: Part) -> dict[str, int]:
    """Return the position of each request of a part by its custom_id."""
    content = Stretch(input_file, part.start, part.end)
    lines = (line for line in io.BufferedReader(content) if line.strip())
    return {parse_request_line(line).custom_id: part.first + number for number, line in enumerate(lines)}


class Stretch(io.RawIOBase):
    """A stretch of a file, as a file of its own; not to be closed with it.

    Parameters
    ----------
    file
        Open for reading bytes, seekable; nothing else may read it meanwhile.
    start, end
        Bytes.

    Examples
    --------
    >>> Stretch(io.BytesIO(b"0123456789"), 2, 5).read()
    b'234'
    """

    def __init__(self, file: BinaryIO, start: int, end: int) -> None:
        super().__init__()
        self._file = file
        self._start = start
        self._size = end - start
        self._position = 0

    def readable(self) -> bool:
        """Return True."""
        return True

    def seekable(self) -> bool:
        """Return True."""
        return True

    def seek(self, offset: int, whence: int = io.SEEK_SET) -> int:
        """Move to a place of the stretch."""
        base = {io.SEEK_SET: 0, io.SEEK_CUR: self._position, io.SEEK_END: self._size}[whence]
        self._position = max(0, base + offset)
        return self._position

    def tell(self) -> int:
        """Return the place in the stretch."""
        return self._position

    def readinto(self, buffer: Any) -> int:
        """Read as much as the buffer takes or the stretch has."""
        self._file.seek(self._start + self._position)
        data = self._file.read(min(len(buffer), max(0, self._size - self._position)))
        buffer[: len(data)] = data
        self._position += len(data)
        return len(data)


def _within(value: int, most: int | None) -> bool:
    return most is None or value <= most


def _counter(index: LineIndex, input_file: BinaryIO) -> Callable[[int], int]:
    def inputs_of(position: int) -> int:
        input_file.seek(index.offsets[position])
        body = decode_strictly(input_file.read(index.lengths[position])).get("body")
        return embedding_inputs(body) if isinstance(body, dict) else 1

    return inputs_of
