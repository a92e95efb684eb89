"""The compact index of an input file that validation makes, and the one of its answers when the batch has ended.

Planning puts requests together whose prompts share a beginning. A prefix key has hashes of beginnings of several
lengths. The lengths are chosen for each file: most prompts of a batch begin with the same instructions, so some
lengths are counted from where the prompts first differ, and a document of a few hundred characters differs from
another one after instructions of any length. Characters, because tokens cost a hundred times as much and put requests
into no better order: an engine shares whole blocks of 16 tokens or more.
"""

from __future__ import annotations

import dataclasses
import hashlib
import itertools
import os
import struct
import zlib
from array import array
from collections.abc import Iterable, Sequence

import msgspec

from vbatch_jupyter.errors import StoreCorruptError
from vbatch_jupyter.protocol.lines import answer_id

_HEADER = struct.Struct("<8sQI")
_MAGIC = b"vbindex2"
_LOWER = (1 << 64) - 1

LEVELS = 8
"""How many lengths a key has; 16 bits each, the shortest uppermost."""

_FROM_THE_BEGINNING = (128, 512, 2048, 8192)
_FROM_THE_DIFFERENCE = (64, 256, 1024, 4096)
_MOST_CHARACTERS = 1 << 16

UNLIMITED = 0xFFFFFFFF
"""The output limit of a request that names none."""


class LineIndex:
    """Where each request is in an input file, and what planning needs to know about it.

    Columns of equal length, one entry per request in the file's order, 53 bytes per request. Blank lines are no
    requests: a request's *position* (its index in the columns, from 0) and the *number* of its line in the file
    (from 1) differ by the blank lines before it.

    Attributes
    ----------
    offsets, lengths
        Bytes: where the line begins in the file and how long it is without its end.
    numbers
        The line's number in the file, from 1, for messages.
    custom_id_hashes
        64-bit hashes of the custom_ids.
    request_hashes
        64-bit hashes of url and body; requests with equal bytes have equal hashes.
    deterministic
        1 if equal requests share an answer, else 0 (`requests.is_deterministic`).
    output_limits
        The most tokens that the answer may have, if the request says it.
    prefix_keys, prefix_keys_below
        The upper and the lower 64 bits of `prefix.prefix_key`: eight 16-bit hashes of ever longer beginnings of the
        prompt. Requests that share a long one have keys that share their upper bits.

    Examples
    --------
    >>> index = LineIndex()
    >>> index.append(offset=0, length=80, number=1, custom_id_hash=7, request_hash=9, deterministic=True)
    >>> len(index), LineIndex.from_bytes(index.to_bytes()) == index
    (1, True)
    """

    def __init__(self) -> None:
        self.offsets = array("Q")
        self.lengths = array("I")
        self.numbers = array("I")
        self.custom_id_hashes = array("Q")
        self.request_hashes = array("Q")
        self.deterministic = array("B")
        self.output_limits = array("I")
        self.prefix_keys = array("Q")
        self.prefix_keys_below = array("Q")

    def append(
        self,
        *,
        offset: int,
        length: int,
        number: int,
        custom_id_hash: int,
        request_hash: int,
        deterministic: bool,
        prefix_key: int = 0,
        output_limit: int = UNLIMITED,
    ) -> None:
        """Add one request; the parameters are the attributes' entries, the prefix key in one piece."""
        self.offsets.append(offset)
        self.lengths.append(length)
        self.numbers.append(number)
        self.custom_id_hashes.append(custom_id_hash)
        self.request_hashes.append(request_hash)
        self.deterministic.append(deterministic)
        self.output_limits.append(output_limit)
        self.prefix_keys.append(prefix_key >> 64)
        self.prefix_keys_below.append(prefix_key & _LOWER)

    def __len__(self) -> int:
        return len(self.offsets)

    def __eq__(self, other: object) -> bool:
        if not isinstance(other, LineIndex):
            return NotImplemented
        return all(mine == theirs for mine, theirs in zip(self._columns(), other._columns(), strict=True))

    __hash__ = None  # type: ignore[assignment]  # mutable

    def __repr__(self) -> str:
        return f"<LineIndex of {len(self):,} requests>"

    def to_bytes(self) -> bytes:
        """Write the index, with a checksum, for `from_bytes` on the same machine."""
        content = b"".join(column.tobytes() for column in self._columns())
        return _HEADER.pack(_MAGIC, len(self), zlib.crc32(content)) + content

    @classmethod
    def from_bytes(cls, data: bytes) -> LineIndex:
        """Read what `to_bytes` wrote.

        Raises
        ------
        StoreCorruptError
            The bytes are incomplete, altered, or not an index.
        """
        if len(data) < _HEADER.size:
            message = f"The index of the input file is incomplete: it has {len(data)} bytes. Validate the batch again."
            raise StoreCorruptError(message)
        magic, count, checksum = _HEADER.unpack_from(data)
        index = cls()
        content = memoryview(data)[_HEADER.size :]
        expected = count * sum(column.itemsize for column in index._columns())
        if magic != _MAGIC or len(content) != expected or zlib.crc32(content) != checksum:
            message = (
                f"The index of the input file is damaged: its checksum or its size ({len(content):,} bytes for "
                f"{count:,} requests) is wrong. Validate the batch again."
            )
            raise StoreCorruptError(message)
        start = 0
        for column in index._columns():
            end = start + count * column.itemsize
            column.frombytes(content[start:end])
            start = end
        return index

    def _columns(self) -> list[array[int]]:
        """Return the columns in the order of their names, in which they are stored."""
        return [column for _, column in sorted(vars(self).items())]


class _Header(msgspec.Struct):
    count: int


@dataclasses.dataclass(frozen=True, slots=True)
class AnswerColumns:
    """Where the answers of a batch are: columns of equal length, one entry for each line of its output file.

    Parameters
    ----------
    positions
        The positions of the requests in the batch.
    requests
        The hashes of the requests, as in `LineIndex.request_hashes`, with a sign.
    answers
        A number for each answer that tells it from others to the same request, also in batches that have reused it; 0
        if the request is deterministic.
    asked_at, asked_bytes
        Where the request's line is in the input file.
    answered_at, answered_bytes
        Where the answer's line is in the output file.
    """

    positions: array[int] = dataclasses.field(default_factory=lambda: array("q"))
    requests: array[int] = dataclasses.field(default_factory=lambda: array("q"))
    answers: array[int] = dataclasses.field(default_factory=lambda: array("q"))
    asked_at: array[int] = dataclasses.field(default_factory=lambda: array("q"))
    asked_bytes: array[int] = dataclasses.field(default_factory=lambda: array("q"))
    answered_at: array[int] = dataclasses.field(default_factory=lambda: array("q"))
    answered_bytes: array[int] = dataclasses.field(default_factory=lambda: array("q"))

    def append(self, index: LineIndex, position: int, line: bytes, answered_at: int) -> None:
        """Add one answer.

        Parameters
        ----------
        index, position
            Its request.
        line
            The answer's line, without its end.
        answered_at
            Where the line is in the output file.
        """
        self.positions.append(position)
        self.requests.append(signed(index.request_hashes[position]))
        told_apart = 0 if index.deterministic[position] else signed(hash_of(answer_id(line)))
        self.answers.append(told_apart)
        self.asked_at.append(index.offsets[position])
        self.asked_bytes.append(index.lengths[position])
        self.answered_at.append(answered_at)
        self.answered_bytes.append(len(line))

    def to_bytes(self) -> bytes:
        """Write what `from_bytes` reads."""
        columns = (getattr(self, field.name) for field in dataclasses.fields(self))
        header = msgspec.json.encode(_Header(len(self.requests)))
        return b"".join([header, b"\n", *(column.tobytes() for column in columns)])

    @classmethod
    def from_bytes(cls, content: bytes) -> AnswerColumns:
        """Read what `to_bytes` wrote.

        Raises
        ------
        ValueError
            It is damaged.
        """
        header, _, packed = content.partition(b"\n")
        columns, size = cls(), 8 * msgspec.json.decode(header, type=_Header).count
        if len(packed) != size * len(dataclasses.fields(cls)):
            raise ValueError(f"{len(packed):,} bytes are not {len(dataclasses.fields(cls))} columns of {size:,}.")
        for number, field in enumerate(dataclasses.fields(cls)):
            getattr(columns, field.name).frombytes(packed[number * size :][:size])
        return columns


def hash_of(*parts: bytes) -> int:
    """Return a hash of 64 bits, as in the columns of an index."""
    digest = hashlib.blake2b(digest_size=8)
    for part in parts:
        digest.update(part)
    return int.from_bytes(digest.digest())


def signed(hashed: int) -> int:
    """Return the 64 bits of a hash as SQLite has them.

    Examples
    --------
    >>> signed(7), signed((1 << 64) - 1)
    (7, -1)
    """
    return hashed - (1 << 64) if hashed >> 63 else hashed


def repeated(hashes: Iterable[int]) -> frozenset[int]:
    """Return those that occur more than once. Sorting takes a third of the memory of a dict with a million values."""
    return frozenset(one for one, following in itertools.pairwise(sorted(hashes)) if one == following)


def prefix_lengths(texts: Sequence[str]) -> tuple[int, ...]:
    """Choose the lengths, in characters, by which the prompts of a file are compared.

    Parameters
    ----------
    texts
        The beginnings of some of the file's prompts. If they happen to share more than all do, the lengths that are
        counted from the beginning remain.

    Examples
    --------
    >>> prefix_lengths([])
    (64, 128, 256, 512, 1024, 2048, 4096, 8192)
    >>> prefix_lengths(["x" * 1000 + end for end in "ab"])
    (128, 512, 1064, 1256, 2024, 2048, 5096, 8192)
    """
    shared = len(os.path.commonprefix(texts))  # noqa: RUF071 - characters are meant
    return tuple(sorted([*_FROM_THE_BEGINNING, *(shared + length for length in _FROM_THE_DIFFERENCE)]))


def prefix_key(text: str, lengths: Sequence[int]) -> int:
    """Hash the beginning of a prompt: 16 bits for its first characters of each length.

    Parameters
    ----------
    text
        The prompt, at least as much of it as the longest of the lengths.
    lengths
        `LEVELS` of them, the shortest first; the same for all requests that are compared.

    Examples
    --------
    >>> document = "word " * 200
    >>> one, other = (prefix_key(document + ask, prefix_lengths([])) for ask in ("Who?", "Where?"))
    >>> one == other, one >> 64 == other >> 64
    (False, True)
    """
    key = crc = start = 0
    for end in lengths:
        if start < len(text):
            crc = zlib.crc32(text[start:end].encode(), crc)
        key = key << 16 | crc & 0xFFFF
        start = end
    return key


def beginning(turns: Iterable[tuple[str, str]], length: int = _MOST_CHARACTERS) -> str:
    """Return the first `length` characters of a prompt.

    Parameters
    ----------
    turns
        The prompt, as `endpoints.Endpoint.turns` walks it.
    length
        How many characters are needed.

    Examples
    --------
    >>> beginning([("system", "Be brief. "), ("user", "Hello")], 10)
    'Be brief. '
    """
    pieces = []
    for _, text in turns:
        pieces.append(text[:length])
        length -= len(text)
        if length <= 0:
            break
    return "".join(pieces)
