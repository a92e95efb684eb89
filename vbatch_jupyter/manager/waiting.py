"""What is said of a batch: how far it is, and why it does not advance; every face of a batch asks here.

A batch whose requests have all failed is ``completed``. So its failed requests are named wherever its status is.
"""

from __future__ import annotations

import functools
from collections.abc import Iterable
from typing import Any, Protocol

import msgspec

from vbatch_jupyter.errors import (
    BadRequestError,
    ConflictError,
    EngineNotLoadedError,
    FencedError,
    StoreBusyError,
    StoreCorruptError,
    StoreError,
    StoreFullError,
    StoreVersionError,
    VBatchError,
)
from vbatch_jupyter.loop import Attempts
from vbatch_jupyter.protocol.batch import TERMINAL_STATUSES, BatchRecord
from vbatch_jupyter.records import EngineState
from vbatch_jupyter.store import DISK_FULL_REASON, Lease, Store


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
    if "not responding" in states:
        return f"The engine with {model} does not respond. The batch continues when it does, or when it is rebuilt."
    problem = f"The engine with {model} has died." if "dead" in states else f"No engine has {model} loaded."
    advice = f"{problem} Load it in a notebook with %vbatch load."
    return next((engine.note for engine in holders if engine.note is not None), advice)


def sentence_of(error: BaseException) -> str:
    """Return an error as a sentence; what is not ours with its type."""
    said = str(error) if isinstance(error, VBatchError) and not isinstance(error, BadRequestError) else ""
    return said or f"{type(error).__name__}: {error}."


def why_again(error: BaseException) -> str:
    """Return the reason of a batch that waits because of a temporary error."""
    return DISK_FULL_REASON if isinstance(error, StoreFullError) else f"{sentence_of(error)} It is tried again."


def why_paused(batch_id: str, error: BaseException) -> str:
    """Return the reason of a batch that is paused because of an error that stays."""
    return f"{sentence_of(error)} When the cause is gone, resume the batch: %vbatch resume {batch_id}"


def lasts(error: BaseException, batch_id: str = "", attempts: Attempts | None = None) -> bool:
    """Return whether it is of no use to try a batch again.

    An error of the store or of the operating system may be temporary. It lasts if it has come back for an hour
    (`Attempts`), except where the disk is full or another process holds the store: these are tried until they work.
    Damage, and any error that we do not know, lasts.

    Parameters
    ----------
    error
        What ended the last attempt.
    batch_id
        The batch.
    attempts
        Those of this process; by default the error is the first one.

    Examples
    --------
    >>> [lasts(error) for error in (OSError(24, "Too many files"), StoreCorruptError("lost"))]
    [False, True]
    """
    if isinstance(error, StoreFullError | StoreBusyError):
        return False
    if isinstance(error, FencedError | StoreCorruptError | StoreVersionError):
        return True
    is_known = isinstance(error, StoreError | OSError | MemoryError)
    return not is_known or (attempts is not None and attempts.stays(batch_id))


def postpone(lease: Lease, error: Exception, attempts: Attempts) -> str | None:
    """Let a batch wait for the next attempt, or pause it if its error lasts; return what has not been said before.

    Parameters
    ----------
    lease
        On the batch.
    error
        What ended the attempt.
    attempts
        Those of this process.
    """
    if isinstance(error, FencedError | ConflictError):
        # Another owner has it, or it was cancelled meanwhile: the next look finds out.
        return None
    failure, is_paused = attempts.failed(lease.id), lasts(error, lease.id, attempts)
    reason = why_paused(lease.id, error) if is_paused else why_again(error)
    is_new = lease.reason != reason if is_paused else failure.times == 1
    # If a pause cannot be written, the batch is tried again.
    if lease.note_waiting(reason, paused=is_paused):
        attempts.remember(lease.id, lease.epoch)
    return f"Batch {lease.id} {'is paused' if is_paused else 'waits'}: {reason}" if is_new else None


def is_due(record: BatchRecord, attempts: Attempts) -> bool:
    """Return whether a batch may be tried: it has not failed here, its pause is over, or it was resumed since.

    Parameters
    ----------
    record
        The batch.
    attempts
        Those of this process.
    """
    epoch = attempts.mark(record.id)
    # A record that is older than the reason has an owner, or an epoch from before.
    if epoch is not None and record.reason is None and record.owner is None and record.epoch >= epoch:
        attempts.forget(record.id)
    return attempts.is_due(record.id)


def status_text(record: BatchRecord) -> str:
    """Return the status of a batch, with what failed, what did not run once it has ended, and what was never sent.

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
    if rows := sum(unrendered_rows(record).values()):
        faults.append(f"{rows:,} {'row' if rows == 1 else 'rows'} could not be rendered")
    return faults


class _Frame(msgspec.Struct):
    """What is read here of `FrameDescription`, without pandas."""

    unrendered: dict[str, list[Any]] = {}


def unrendered_rows(record: BatchRecord) -> dict[str, int]:
    """Return how many rows of a batch's frame have no request, by the reason.

    Parameters
    ----------
    record
        The batch.
    """
    return {} if record.frame is None else _unrendered_in(record.frame)


@functools.lru_cache(maxsize=128)
def _unrendered_in(frame: str) -> dict[str, int]:
    return {reason: len(rows) for reason, rows in msgspec.json.decode(frame, type=_Frame).unrendered.items()}


def retry_label(record: BatchRecord) -> str:
    """Return what the button says that runs the requests without an answer; no request may have failed.

    Parameters
    ----------
    record
        The batch.
    """
    counts = record.request_counts
    return "Run the rest" if counts.left and not counts.failed else "Retry failed"
