"""How a request's prompt begins, as a number: planning puts requests that share a beginning together.

The number holds hashes of the prompt's first so many characters. How many is chosen for each file: most prompts of a
batch begin with the same instructions, so some lengths are counted from where the prompts first differ, and a document
of a few hundred characters is told from another one behind instructions of any length. Characters, because tokens cost
a hundred times as much and put requests into no better order: an engine shares whole blocks of 16 tokens or more.
"""

from __future__ import annotations

import os
import zlib
from collections.abc import Iterator, Mapping, Sequence
from typing import Any

LEVELS = 8
"""How many lengths a key has; 16 bits each, the shortest uppermost."""

_FROM_THE_BEGINNING = (128, 512, 2048, 8192)
_FROM_THE_DIFFERENCE = (64, 256, 1024, 4096)
_MOST_CHARACTERS = 1 << 16


def prefix_lengths(bodies: Sequence[Mapping[str, Any]]) -> tuple[int, ...]:
    """Choose the lengths, in characters, by which the prompts of a file are compared.

    Parameters
    ----------
    bodies
        Some of the file's requests; where they happen to share more than all do, the lengths that are counted from
        the beginning remain.

    Examples
    --------
    >>> prefix_lengths([])
    (64, 128, 256, 512, 1024, 2048, 4096, 8192)
    >>> prefix_lengths([{"prompt": "x" * 1000 + end} for end in "ab"])
    (128, 512, 1064, 1256, 2024, 2048, 5096, 8192)
    """
    texts = [_beginning(body, _MOST_CHARACTERS) for body in bodies]
    shared = len(os.path.commonprefix(texts))  # noqa: RUF071 - characters are meant
    return tuple(sorted([*_FROM_THE_BEGINNING, *(shared + length for length in _FROM_THE_DIFFERENCE)]))


def prefix_key(body: Mapping[str, Any], lengths: Sequence[int]) -> int:
    """Hash the beginning of a prompt: 16 bits for its first characters of each length.

    Parameters
    ----------
    body
        The request's body, of any endpoint; one without text has the key of an empty prompt.
    lengths
        `LEVELS` of them, the shortest first; the same for all requests that are compared.

    Examples
    --------
    >>> document = "word " * 200
    >>> one, other = (prefix_key({"prompt": document + ask}, prefix_lengths([])) for ask in ("Who?", "Where?"))
    >>> one == other, one >> 64 == other >> 64
    (False, True)
    """
    text = _beginning(body, lengths[-1])
    key = crc = start = 0
    for end in lengths:
        if start < len(text):
            crc = zlib.crc32(text[start:end].encode(), crc)
        key = key << 16 | crc & 0xFFFF
        start = end
    return key


def prompt_text(body: Mapping[str, Any]) -> str:
    r"""Give all text of a prompt, in the order in which chat templates put it.

    Parameters
    ----------
    body
        The request's body, of any endpoint.

    Examples
    --------
    >>> prompt_text({"messages": [{"content": "Be brief."}, {"content": [{"text": "Hello"}]}]})
    'Be brief.\nHello'
    """
    return "\n".join(_texts(body))


def _beginning(body: Mapping[str, Any], room: int) -> str:
    pieces = []
    for piece in _texts(body):
        pieces.append(piece[:room])
        room -= len(piece)
        if room <= 0:
            break
    return "".join(pieces)


def _texts(body: Mapping[str, Any]) -> Iterator[str]:
    """Walk the prompt's texts in the order in which chat templates put them, whatever else stands between."""
    if isinstance(instructions := body.get("instructions"), str):
        yield instructions
    for key in ("messages", "prompt", "input"):
        value = body.get(key)
        for item in value if isinstance(value, list) else [value]:
            if isinstance(item, dict):
                yield from _content(item.get("content"))
            elif isinstance(item, str):
                yield item
            elif isinstance(item, list):
                yield " ".join(map(str, item[:_MOST_CHARACTERS]))
            elif isinstance(item, int):
                # One token of a prompt given as tokens; the space keeps 1, 23 and 12, 3 apart.
                yield f"{item} "


def _content(content: object) -> Iterator[str]:
    for part in content if isinstance(content, list) else [content]:
        if isinstance(part, str):
            yield part
        elif isinstance(part, dict) and isinstance(part.get("text"), str):
            yield part["text"]
