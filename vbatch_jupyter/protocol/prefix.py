"""How a request's prompt begins, as a number that sorts: planning puts requests that share a beginning together."""

from __future__ import annotations

import zlib
from collections.abc import Iterator, Mapping
from typing import Any

_LEVELS = (128, 512, 2048, 8192)
"""Characters of the prompt that each 16 bits of the key cover."""


def prefix_key(body: Mapping[str, Any]) -> int:
    """Hash the beginning of a prompt: 16 bits for its first 128, 512, 2,048 and 8,192 characters each.

    Parameters
    ----------
    body
        The request's body, of any endpoint; one without text has the key of an empty prompt.

    Examples
    --------
    >>> document = "word " * 200
    >>> one, other = (prefix_key({"prompt": document + question}) for question in ("Who?", "Where?"))
    >>> one == other, one >> 32 == other >> 32
    (False, True)
    """
    text = _beginning(body)
    key = crc = start = 0
    for end in _LEVELS:
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


def _beginning(body: Mapping[str, Any]) -> str:
    pieces = []
    room = _LEVELS[-1]
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
                yield " ".join(map(str, item[: _LEVELS[-1]]))
            elif isinstance(item, int):
                # One token of a prompt given as tokens; the space keeps 1, 23 and 12, 3 apart.
                yield f"{item} "


def _content(content: object) -> Iterator[str]:
    for part in content if isinstance(content, list) else [content]:
        if isinstance(part, str):
            yield part
        elif isinstance(part, dict) and isinstance(part.get("text"), str):
            yield part["text"]
