"""What the lines of a batch have besides the answers, as the columns of ``results(full=True)``.

=====================  ===========  ===========================================================================
column                 dtype        holds
=====================  ===========  ===========================================================================
``status_code``        ``Int64``    of the response; missing if the request was not run
``finish_reason``      ``string``   of the answer; all of them, with commas, if ``n`` > 1 and they differ
``prompt_tokens``      ``Int64``    as in the response
``completion_tokens``  ``Int64``    likewise
``cached_tokens``      ``Int64``    those of the prompt that the engine took from its prefix cache
``latency``            ``Float64``  seconds from handing the request to the engine to its answer
``reused``             ``boolean``  whether the answer was known, from an earlier batch or from an equal request of
                                    this one, so that the engine was not asked; its latency is missing
=====================  ===========  ===========================================================================

A reused answer keeps the counts of the response that it came with. What a batch service ran has neither ``latency`` nor
``reused``.
"""

from __future__ import annotations

from collections.abc import Collection, Mapping, Sequence
from typing import Any, NamedTuple

import pandas as pd

from vbatch_jupyter.protocol.reading import Reading
from vbatch_jupyter.records import Timing

TimedLine = tuple[bytes, Timing | None]
"""A line of an output or error file, and when it came."""


class Detail(NamedTuple):
    """What one line has besides its answer. The fields are described in the module's docstring."""

    status_code: int | None = None
    finish_reason: str | None = None
    prompt_tokens: int | None = None
    completion_tokens: int | None = None
    cached_tokens: int | None = None
    latency: float | None = None
    reused: bool | None = None


_DTYPES: Mapping[str, str] = {
    "status_code": "Int64",
    "finish_reason": "string",
    "prompt_tokens": "Int64",
    "completion_tokens": "Int64",
    "cached_tokens": "Int64",
    "latency": "Float64",
    "reused": "boolean",
}
_SUCCESS = 2


def detail_of(reading: Reading, timing: Timing | None = None) -> Detail:
    """Return what one line of an output or error file has besides its answer.

    Parameters
    ----------
    reading
        The line.
    timing
        When it came, if it is known.

    Examples
    --------
    >>> from vbatch_jupyter.protocol.endpoints import CHAT
    >>> body = b'{"choices":[{"finish_reason":"length"}],"usage":{"prompt_tokens":5,"completion_tokens":2}}'
    >>> reading = CHAT.read(b'{"custom_id":"a","response":{"status_code":200,"body":%b}}' % body)
    >>> detail_of(reading, Timing(1764000000.0, 0.25))[:4]
    (200, 'length', 5, 2)
    """
    latency = None if timing is None else timing.latency
    status, usage = reading.status_code, reading.usage
    was_answered = status is not None and status // 100 == _SUCCESS
    return Detail(
        status_code=status,
        finish_reason=reading.answer.finish_reason,
        prompt_tokens=usage.read,
        completion_tokens=usage.written,
        cached_tokens=usage.cached,
        latency=latency,
        reused=None if timing is None else latency is None and was_answered,
    )


def detail_arrays(details: Sequence[Detail | None]) -> dict[str, Any]:
    """Return the columns by name, a missing detail as a missing value in each.

    Parameters
    ----------
    details
        One for each row.

    Examples
    --------
    >>> detail_arrays([Detail(status_code=200), None])["status_code"].tolist()
    [200, <NA>]
    """
    rows = [detail or Detail() for detail in details]
    return {
        name: pd.array([getattr(row, name) for row in rows], dtype=dtype)  # type: ignore[call-overload]  # a name
        for name, dtype in _DTYPES.items()
    }


def detail_names() -> Collection[str]:
    """Return the names of the columns."""
    return _DTYPES.keys()
