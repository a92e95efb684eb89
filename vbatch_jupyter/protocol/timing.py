"""When a request's answer came, and how long it took: what OpenAI's lines have no place for."""

from __future__ import annotations

from typing import NamedTuple


class Timing(NamedTuple):
    """When one request's answer came.

    Parameters
    ----------
    finished_at
        Unix seconds; None where the request was not run.
    latency
        Seconds from handing it to the engine to its answer; None where the engine was not asked, because the answer
        was known.
    """

    finished_at: float | None
    latency: float | None
