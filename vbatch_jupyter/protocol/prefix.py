"""How a request's prompt begins, as a number: planning puts requests that share a beginning together.

The number has hashes of beginnings of several lengths. The lengths are chosen for each file: most prompts of a
batch begin with the same instructions, so some lengths are counted from where the prompts first differ, and a document
of a few hundred characters differs from another one after instructions of any length. Characters, because tokens cost
a hundred times as much and put requests into no better order: an engine shares whole blocks of 16 tokens or more.
"""

from __future__ import annotations

import os
import zlib
from collections.abc import Iterable, Sequence

LEVELS = 8
"""How many lengths a key has; 16 bits each, the shortest uppermost."""

_FROM_THE_BEGINNING = (128, 512, 2048, 8192)
_FROM_THE_DIFFERENCE = (64, 256, 1024, 4096)
_MOST_CHARACTERS = 1 << 16


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
