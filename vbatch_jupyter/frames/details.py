"""What the lines of a batch have besides the answers, as the columns of ``results(full=True)``.

=====================  ===========  ===========================================================================
column                 dtype        holds
=====================  ===========  ===========================================================================
``status_code``        ``Int64``    of the response; missing if the request was not run
``finish_reason``      text         of the answer; all of them, with commas, if ``n`` > 1 and they differ
``prompt_tokens``      ``Int64``    as in the response
``completion_tokens``  ``Int64``    likewise
``cached_tokens``      ``Int64``    those of the prompt that the engine took from its prefix cache
``latency``            ``Float64``  seconds from handing the request to the engine to its answer
``reused``             ``boolean``  whether the answer was known, from an earlier batch or from an equal request of
                                    this one, so that the engine was not asked; its latency is missing
=====================  ===========  ===========================================================================

Text has the dtype of the frame's own text, as `results` says. A reused answer keeps the counts of the response that it
came with. What a batch service ran has neither ``latency`` nor ``reused``.
"""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any

from vbatch_jupyter.protocol.reading import Reading
from vbatch_jupyter.records import Timing

TimedLine = tuple[bytes, Mapping[str, Timing]]
"""A line of an output or error file, and when the lines of its batch came, by their ids."""


DETAILS: Mapping[str, str] = {
    "status_code": "Int64",
    "finish_reason": "str",
    "prompt_tokens": "Int64",
    "completion_tokens": "Int64",
    "cached_tokens": "Int64",
    "latency": "Float64",
    "reused": "boolean",
}
"""The dtypes of the columns by their names, which the module describes; ``str`` stands for that of text."""

_SUCCESS = 2


def detail_of(reading: Reading, timing: Timing | None = None) -> dict[str, Any]:
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
    >>> detail_of(reading, Timing(1764000000.0, 0.25))["finish_reason"]
    'length'
    """
    latency = None if timing is None else timing.latency
    status, usage = reading.status_code, reading.usage
    was_answered = status is not None and status // 100 == _SUCCESS
    return {
        "status_code": status,
        "finish_reason": reading.answer.finish_reason,
        "prompt_tokens": usage.read,
        "completion_tokens": usage.written,
        "cached_tokens": usage.cached,
        "latency": latency,
        "reused": None if timing is None else latency is None and was_answered,
    }
