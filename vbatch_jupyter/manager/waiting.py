"""What is said of a batch: how far it is, and why it does not advance; every face of a batch asks here.

A batch whose requests have all failed is ``completed``. So its failed requests are named wherever its status is.
"""

from __future__ import annotations

from collections.abc import Iterable
from typing import Protocol

from vbatch_jupyter.errors import EngineNotLoadedError
from vbatch_jupyter.protocol.batch import TERMINAL_STATUSES, BatchRecord
from vbatch_jupyter.records import EngineState
from vbatch_jupyter.store import Store


class Holder(Protocol):
    """The part of an engine's row that is needed here."""

    @property
    def models(self) -> tuple[str, ...]:
        """The served names."""

    @property
    def state(self) -> EngineState:
        """Whether it can answer."""

    @property
    def note(self) -> str | None:
        """What a Jupyter server does to start it."""


def held_models(engines: Iterable[Holder]) -> set[str]:
    """Return the models of all engines, also of those that are loading or would be started."""
    return {model for engine in engines for model in engine.models}


def models_for(target: str, store: Store) -> set[str] | None:
    """Return the models that an input file for a target may name; None if any may be named.

    Parameters
    ----------
    target
        As for a check: ``"local"`` is an engine here.
    store
        The store.
    """
    return held_models(store.engines.live(planned=True)) if target == "local" else None


def refuse_to_wait(model: str | None, engines: Iterable[Holder]) -> None:
    """Raise an error if no engine has the model.

    Parameters
    ----------
    model
        The model's name; None if the requests have none, which validation reports.
    engines
        The engines of all processes on the store, and those that a Jupyter server would start.

    Raises
    ------
    EngineNotLoadedError
        Names what is served, and what to do.
    """
    held = held_models(engines)
    if model is None or model in held:
        return
    served = f"The engine here serves {' and '.join(map(repr, sorted(held)))}, not" if held else "No engine here serves"
    message = f"{served} {model!r}. Load that model first, or use submit or -b to make a batch that waits for it."
    raise EngineNotLoadedError(message)


def needs_engine(record: BatchRecord) -> bool:
    """Return whether a batch can only advance on an engine with its model."""
    return record.status == "in_progress" and record.reason is None and record.target is None


def why_waiting(record: BatchRecord, engines: Iterable[Holder]) -> str | None:
    """Return why a batch does not advance; None if it advances or has ended.

    Parameters
    ----------
    record
        The batch.
    engines
        The engines of all processes on the store, and those that a Jupyter server would start.

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
        return "Its requests name several models, but an engine has only one. Split the input file by model."
    holders = [engine for engine in engines if record.model in engine.models]
    states = {engine.state for engine in holders}
    if "ready" in states:
        return None
    if "loading" in states:
        return f"An engine is loading the model '{record.model}'."
    model = f"the model '{record.model}'"
    problem = f"The engine with {model} has died." if "dead" in states else f"No engine has {model} loaded."
    advice = f"{problem} Load it in a notebook with %vbatch load."
    return next((engine.note for engine in holders if engine.note is not None), advice)


def status_text(record: BatchRecord) -> str:
    """Return the status of a batch, with the requests that failed and, once it has ended, those that did not run.

    Parameters
    ----------
    record
        The batch.

    Examples
    --------
    >>> from vbatch_jupyter.protocol.batch import RequestCounts
    >>> record = BatchRecord(
    ...     id="batch_0",
    ...     endpoint="/v1/embeddings",
    ...     input_file_id="",
    ...     created_at=0,
    ...     status="cancelled",
    ...     request_counts=RequestCounts(total=20, completed=3, failed=2),
    ... )
    >>> status_text(record), progress_text(record), counts_text(record)
    ('cancelled, 2 failed, 15 not run', '3/20 completed, 2 failed, 15 not run', '3 completed, 2 failed, 15 not run')
    """
    return ", ".join([record.status, *_faults(record)])


def progress_text(record: BatchRecord) -> str:
    """Return how many of a batch's requests have completed, of how many; empty before they are counted.

    Parameters
    ----------
    record
        The batch.
    """
    counts = record.request_counts
    if not counts.total:
        return ""
    return ", ".join([f"{counts.completed:,}/{counts.total:,} completed", *_faults(record)])


def counts_text(record: BatchRecord) -> str:
    """Return how many requests have completed and failed, and how many are left or, at the end, did not run.

    Parameters
    ----------
    record
        The batch.
    """
    counts = record.request_counts
    said = [f"{counts.completed:,} completed", f"{counts.failed:,} failed"]
    if record.status not in TERMINAL_STATUSES:
        said.append(f"{counts.left:,} left")
    elif counts.left:
        said.append(f"{counts.left:,} not run")
    return ", ".join(said)


def _faults(record: BatchRecord) -> list[str]:
    counts, faults = record.request_counts, []
    if counts.failed:
        faults.append(f"{counts.failed:,} failed")
    if counts.left and record.status in TERMINAL_STATUSES:
        faults.append(f"{counts.left:,} not run")
    return faults


def retry_label(record: BatchRecord) -> str:
    """Return what the button says that runs the requests without an answer; no request may have failed.

    Parameters
    ----------
    record
        The batch.
    """
    counts = record.request_counts
    return "Run the rest" if counts.left and not counts.failed else "Retry failed"
