"""One moment of a batch and of its engine; everything that is shown is drawn from it."""

from __future__ import annotations

import dataclasses
from collections.abc import Mapping

from vbatch_jupyter.protocol.batch import BatchRecord
from vbatch_jupyter.records import EngineStats


@dataclasses.dataclass(frozen=True, slots=True, kw_only=True)
class Snapshot:
    """One moment of a batch and of the engine it runs on.

    Parameters
    ----------
    time
        Monotonic seconds.
    batch
        The batch as the store has it.
    waiting
        Why it does not advance; None if it advances.
    engine
        The engine that runs it, if one does.
    answers
        The last lines of its output file that this process has seen, newest first.
    errors
        How often this process has seen each error message.
    """

    time: float
    batch: BatchRecord
    waiting: str | None = None
    engine: EngineStats | None = None
    answers: tuple[bytes, ...] = ()
    errors: Mapping[str, int] = dataclasses.field(default_factory=dict)
