"""Why a batch does not advance, in one sentence; every face of a batch asks here."""

from __future__ import annotations

from collections.abc import Iterable, Mapping
from types import MappingProxyType
from typing import Protocol

from vbatch_jupyter.protocol.batch import TERMINAL_STATUSES, BatchRecord
from vbatch_jupyter.records import EngineState


class Holder(Protocol):
    """An engine, as far as it says which models it holds."""

    @property
    def models(self) -> tuple[str, ...]:
        """The served names."""

    @property
    def state(self) -> EngineState:
        """Whether it can answer."""


def needs_engine(record: BatchRecord) -> bool:
    """Return whether nothing but an engine that holds its model can advance a batch."""
    return record.status == "in_progress" and record.reason is None and record.target is None


def why_waiting(
    record: BatchRecord, engines: Iterable[Holder], *, notes: Mapping[str, str] = MappingProxyType({})
) -> str | None:
    """Return why a batch does not advance; None if nothing is in its way or it has ended.

    Parameters
    ----------
    record
        The batch.
    engines
        The engines of all processes on the store.
    notes
        By model, what a Jupyter server does about one that no engine holds.

    Examples
    --------
    >>> record = BatchRecord(
    ...     id="batch_0", endpoint="/v1/embeddings", input_file_id="", created_at=0, model="m", status="in_progress"
    ... )
    >>> why_waiting(record, [])
    "No engine has the model 'm' loaded. Load it in a notebook with %vbatch load."
    """
    if not needs_engine(record):
        return None if record.status in TERMINAL_STATUSES else record.reason
    if record.model is None:
        return "Its requests name several models, and an engine here serves one: split its input file by model."
    states = {engine.state for engine in engines if record.model in engine.models}
    if "ready" in states:
        return None
    if "loading" in states:
        return f"An engine is loading the model '{record.model}'."
    model = f"the model '{record.model}'"
    problem = f"The engine with {model} has died." if "dead" in states else f"No engine has {model} loaded."
    return notes.get(record.model, f"{problem} Load it in a notebook with %vbatch load.")
