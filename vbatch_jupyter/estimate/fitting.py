"""Which requests of an input file the engine here cannot answer, because they are beyond what it can do at all.

Counting tokens takes the engine's time. A token has at least a byte, so only lines that have more bytes than the model
takes tokens can be too long: in most files none. Of these the longest are counted, until they are far from the limit.
"""

from __future__ import annotations

import contextlib
import heapq
import operator
from collections.abc import Callable, Iterable, Iterator, Sequence
from typing import BinaryIO

from vbatch_jupyter.errors import BadRequestError, VBatchError
from vbatch_jupyter.protocol.endpoints import ENDPOINTS
from vbatch_jupyter.protocol.lines import decode_request_line
from vbatch_jupyter.protocol.notes import Notes
from vbatch_jupyter.protocol.profiles import PROFILES, Profile
from vbatch_jupyter.protocol.requests import decode_strictly, quoted
from vbatch_jupyter.protocol.validation import input_lines
from vbatch_jupyter.records import EngineLimits

CountTokens = Callable[[Sequence[bytes]], Sequence[int]]
"""Returns the prompt tokens of each of some bodies."""

_COUNTED_LINES = 256
_COUNTED_BYTES = 8 * 1024 * 1024
_AT_ONCE = 32
_NAMED = 3
_FAR = 0.5
"""Lines that are shorter than some of at most this part of the limit are not counted: they would need twice as many
tokens a byte."""


def unfit(
    file: BinaryIO, limits: EngineLimits, *, count_tokens: CountTokens | None, looks_at_keys: bool
) -> Iterator[str]:
    """Yield what requests would be answered with an error for, in sentences.

    Parameters
    ----------
    file
        The input file, open for reading bytes, at its beginning.
    limits
        The engine's.
    count_tokens
        Counts; None if the engine cannot.
    looks_at_keys
        Whether keys of the bodies are looked at; those of a frame have been.
    """
    rules = PROFILES["local"]
    if looks_at_keys:
        yield from _beyond_limits(file, rules, limits)
        file.seek(0)
    if limits.max_model_len is not None and count_tokens is not None:
        lines = _lines_of(file, rules.max_line_bytes)
        long = too_long(file, lines, count_tokens=count_tokens, max_model_len=limits.max_model_len)
        yield from [] if long is None else [long]


def _lines_of(file: BinaryIO, longest: int) -> Iterator[tuple[int, int]]:
    """Yield size and offset of each line; a line that is longer than is held at once comes in parts."""
    offset = 0
    while size := len(file.readline(longest)):
        yield size, offset
        offset += size


def too_long(
    file: BinaryIO, lines: Iterable[tuple[int, int]], *, count_tokens: CountTokens, max_model_len: int
) -> str | None:
    """Return a sentence about the requests whose prompts have more tokens than the model takes; None if none has.

    Parameters
    ----------
    file
        The input file, seekable.
    lines
        Size and offset of each of its lines.
    count_tokens
        Counts.
    max_model_len
        The most tokens that the model takes.
    """
    may_be = (line for line in lines if line[0] > max_model_len)
    left = heapq.nlargest(_COUNTED_LINES + 1, may_be, key=operator.itemgetter(0))
    found: dict[int, str] = {}
    lines_left, bytes_left, most = _COUNTED_LINES, _COUNTED_BYTES, 1.0
    while left and most > _FAR and lines_left > 0 and bytes_left > 0:
        group, most = left[:_AT_ONCE] if left[0][0] < _COUNTED_BYTES // _AT_ONCE else left[:1], 0.0
        left = left[len(group) :]
        lines_left -= len(group)
        bytes_left -= sum(size for size, _ in group)
        for offset, custom_id, share in _counted(file, group, count_tokens, max_model_len):
            most = max(most, share)
            if share > 1:
                found[offset] = custom_id
    if not found:
        return None
    names = [quoted(found[offset]) for offset in sorted(found)[:_NAMED]]
    listed = ", ".join(names) + (", …" if len(found) > len(names) else "")
    who = "1 request has" if len(found) == 1 else f"{len(found):,} requests have"
    more = "At least " if left and most > _FAR else ""
    message = f"{more}{who} more tokens than the model takes ({max_model_len:,}) and would be answered with an error"
    return f"{message}: {listed}"


def _counted(
    file: BinaryIO, lines: Iterable[tuple[int, int]], count_tokens: CountTokens, max_model_len: int
) -> Iterator[tuple[int, str, float]]:
    """Yield the offset and the custom_id of each request, and its tokens as a part of what the model takes."""
    asked, bodies = [], []
    for size, offset in lines:
        file.seek(offset)
        # What is not a request is for validation, and what vLLM cuts is never too long.
        with contextlib.suppress(BadRequestError, LookupError, TypeError, AttributeError):
            request = decode_request_line(file.read(size))
            endpoint = ENDPOINTS[request.url]
            if request.body.get("truncate_prompt_tokens") is None:
                bodies.append(endpoint.countable(request.body))
                asked.append((offset, request.custom_id, max_model_len - endpoint.generates))
    # A note must not keep a batch from running.
    with contextlib.suppress(VBatchError):
        for (offset, custom_id, most), tokens in zip(asked, count_tokens(bodies), strict=True):
            yield offset, custom_id, tokens / most


def _beyond_limits(file: BinaryIO, profile: Profile, limits: EngineLimits) -> Sequence[str]:
    notes = Notes(profile, limits)
    for line in input_lines(file, profile.max_line_bytes):
        # What is not a request is for validation.
        with contextlib.suppress(BadRequestError, LookupError, TypeError):
            request = decode_strictly(line.line or b"")
            notes.see(request["url"], {**request["body"]}, request["custom_id"])
    return notes.sentences()
