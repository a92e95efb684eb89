"""What a batch needs besides an engine: validation, expiry, cancelling, recovery and finishing.

Any process that holds a batch's lease may do it, a Jupyter server without an engine as well as a kernel's runner; it
promises that a kill at any moment is redone by the next one that does, with the same ids and the same outcome.
"""

from __future__ import annotations

import contextlib
import dataclasses
import math
from array import array
from collections.abc import Callable, Iterator, Sequence
from typing import Literal

import msgspec

from vbatch_jupyter.errors import (
    ConflictError,
    FencedError,
    NotFoundError,
    StoreBusyError,
    StoreCorruptError,
    StoreError,
    StoreFullError,
)
from vbatch_jupyter.loop import Attempts
from vbatch_jupyter.manager.waiting import is_due, postpone
from vbatch_jupyter.protocol import validation
from vbatch_jupyter.protocol.batch import BatchRecord, RequestCounts, Usage
from vbatch_jupyter.protocol.ids import request_id
from vbatch_jupyter.protocol.index import AnswerColumns, LineIndex
from vbatch_jupyter.protocol.lines import parse_request_line, unexecuted_line
from vbatch_jupyter.protocol.profiles import HERE, PROFILES
from vbatch_jupyter.protocol.reading import usage_of
from vbatch_jupyter.store import DISK_FULL_REASON, Lease, Store
from vbatch_jupyter.store.files import Sidecar
from vbatch_jupyter.store.spool import pack_timings

SWEEP_SECONDS = 600.0
"""How often a store is swept."""

UNEXECUTED = {
    "expired": ("batch_expired", "This request could not be executed before the completion window expired."),
    "cancelled": ("batch_cancelled", "This request was not executed: the batch was cancelled before it ran."),
}
"""OpenAI's codes and sentences for requests that never ran (contract §1.5), by the batch's status."""


def is_expired(record: BatchRecord, now: float) -> bool:
    """Return whether a batch's completion window has passed.

    Parameters
    ----------
    record
        The batch.
    now
        Unix seconds.

    Examples
    --------
    >>> record = BatchRecord(
    ...     id="batch_0", endpoint="/v1/embeddings", input_file_id="file-0", created_at=0, expires_at=86400
    ... )
    >>> is_expired(record, 86399.9), is_expired(record, 86400)
    (False, True)
    """
    return record.expires_at is not None and now >= record.expires_at


def validate(store: Store, lease: Lease) -> BatchRecord:
    """Validate a batch's input file: the batch is in progress after it, or has failed with the reasons.

    A cancel meanwhile ends the pass; the batch is then ``cancelling``. A batch that is past validation is left as it
    is.

    Parameters
    ----------
    store
        Holds the batch.
    lease
        On the batch.

    Raises
    ------
    StoreFullError
        There is no room for the index; the batch stays as it is.
    FencedError
        Another owner has taken the batch over.
    """
    record = lease.refresh()
    if record.status != "validating":
        return record
    try:
        result = _validation_of(store, lease, record)
    except (NotFoundError, StoreCorruptError):
        # A file without content is as good as deleted: there is nothing to run.
        missing = validation.missing_input_file(record.input_file_id)
        result = validation.Validation((missing,), LineIndex(), None)
    if result.stopped:
        return lease.refresh()
    try:
        if result.errors:
            return lease.update(status="failed", errors=result.errors)
        # Before the status: a batch in progress has its index.
        lease.save_index(result.index)
        _keep_notes(store, record, result.notes)
        counts = RequestCounts(total=len(result.index))
        return lease.update(status="in_progress", request_counts=counts, model=result.model, reason=None)
    except ConflictError:
        # Cancelled since the pass ended.
        return lease.refresh()


def load_index(store: Store, lease: Lease) -> LineIndex:
    """Read a batch's index, or make it again if it is damaged: the input file never changes.

    Raises
    ------
    StoreCorruptError
        The input file itself is damaged.
    """
    try:
        return lease.load_index()
    except StoreCorruptError:
        record = lease.refresh()
        result = _validation_of(store, lease, dataclasses.replace(record, status="validating"))
        if result.errors or len(result.index) != record.request_counts.total:
            raise
        lease.save_index(result.index)
        return result.index


def _validation_of(store: Store, lease: Lease, record: BatchRecord) -> validation.Validation:
    def has_changed() -> bool:
        return record.status == "validating" and lease.refresh().status == "cancelling"

    profile = HERE[record.profile] if record.target is None else PROFILES[record.profile].without_limits_of_files()
    with store.files.open(record.input_file_id) as input_file:
        return validation.validate(
            input_file,
            endpoint=record.endpoint,
            profile=profile,
            models=record.models,
            should_stop=has_changed,
        )


def _keep_notes(store: Store, record: BatchRecord, notes: Sequence[str]) -> None:
    # A service's findings were said before anything was sent to it; and a batch runs where there is no room for notes.
    if notes and record.target is None:
        with contextlib.suppress(StoreError, OSError):
            kept = store.files.notes(record.input_file_id) | {record.id: list(notes)}
            store.files.keep_sidecar(record.input_file_id, "notes", msgspec.json.encode(kept))


def finish(store: Store, lease: Lease) -> BatchRecord:
    """Bring a batch to its end: ``completed``, ``expired`` or ``cancelled``, with its output and error file.

    Requests that never ran become lines of the error file and are not counted as failed. A batch that was cancelled
    before it was validated has no files and no requests.

    Parameters
    ----------
    store
        Holds the batch.
    lease
        On the batch.

    Raises
    ------
    ConflictError
        The batch is not ready: requests have no line yet, and it has neither expired nor been cancelled.
    StoreFullError
        There is no room for the files; the batch stays as it is.
    StoreCorruptError
        A request would be missing from the files.
    FencedError
        Another owner has taken the batch over.
    """
    while True:
        record = lease.refresh()
        try:
            return _end(store, lease, record)
        except ConflictError:
            # Cancelled since its status was read: then it ends as cancelled.
            if lease.refresh().status == record.status:
                raise


def _end(store: Store, lease: Lease, record: BatchRecord) -> BatchRecord:
    if record.status == "in_progress":
        if not lease.recover().counts.left:
            record = lease.update(status="finalizing")
        elif is_expired(record, store.clock()):
            return _publish(store, lease, record, "expired")
    if record.status == "finalizing":
        return _publish(store, lease, record, "completed")
    if record.status == "cancelling":
        return _publish(store, lease, record, "cancelled")
    message = f"Batch {record.id} with status '{record.status}' cannot end: requests are left, or it has already ended."
    raise ConflictError(message, id=record.id, status=record.status)


def _publish(
    store: Store, lease: Lease, record: BatchRecord, status: Literal["completed", "expired", "cancelled"]
) -> BatchRecord:
    if record.in_progress_at is None:
        return lease.publish(status)
    recovered = lease.recover()
    with lease.new_result_file("output") as output, lease.new_result_file("error") as error:
        written = bytearray(len(recovered.finished))
        index, answers = _index_for_answers(store, lease, record), AnswerColumns()
        finished_at, latencies = array("d", bytes(8 * len(written))), array("d", [math.nan]) * len(written)
        usage = Usage()
        for position, is_error, line, finished, latency, used, _ in lease.records():
            written[position] += 1
            finished_at[position] = finished
            if latency is not None:
                latencies[position] = latency
            if not is_error:
                usage += usage_of(line) if used is None else used
                if index is not None:
                    answers.append(index, position, line, output.bytes)
            file = error if is_error else output
            file.write(line + b"\n")
        if status in UNEXECUTED:
            for position, line in _unexecuted(store, lease, record, written, status):
                written[position] += 1
                error.write(line + b"\n")
        _check_once(record, written)
        sidecars: dict[Sidecar, bytes] = {}
        if record.target is None:
            sidecars["timings"] = pack_timings(finished_at, latencies)
        if index is not None and output.bytes:
            sidecars["answers"] = answers.to_bytes()
        return lease.publish(
            status, output=output, error=error, sidecars=sidecars, counts=recovered.counts, usage=usage
        )


def _index_for_answers(store: Store, lease: Lease, record: BatchRecord) -> LineIndex | None:
    """Return the index of a batch whose answers can be reused."""
    # A batch ends also where there is no room to make it again.
    with contextlib.suppress(StoreFullError, OSError):
        return load_index(store, lease) if record.answers_key else None
    return None


def _unexecuted(
    store: Store, lease: Lease, record: BatchRecord, written: bytearray, status: str
) -> Iterator[tuple[int, bytes]]:
    """Return position and line of each request that is not written yet."""
    if 0 not in written:
        return
    code, message = UNEXECUTED[status]
    index = load_index(store, lease)
    with store.files.open(record.input_file_id) as input_file:
        position = -1
        while (position := written.find(0, position + 1)) >= 0:
            input_file.seek(index.offsets[position])
            request = parse_request_line(input_file.read(index.lengths[position]))
            line_id = request_id(record.id, position)
            yield position, unexecuted_line(id=line_id, custom_id=request.custom_id, code=code, message=message)


def _check_once(record: BatchRecord, written: bytearray) -> None:
    once = written.count(1)
    if once != record.request_counts.total:
        position = next(position for position, times in enumerate(written) if times != 1)
        message = (
            f"Batch {record.id} cannot end: {len(written) - once:,} of its requests would not be in its files "
            f"exactly once; request {position} would be there {written[position]} times. Run "
            "`python -m vbatch_jupyter fsck`."
        )
        raise StoreCorruptError(message)


def tend(
    store: Store,
    *,
    sweep_seconds: float = SWEEP_SECONDS,
    attempts: Attempts | None = None,
    say: Callable[[str], object] = lambda _: None,
) -> list[str]:
    """Do what needs no engine for every batch without an owner; return the ids of the batches that advanced.

    It validates new batches and ends those that were cancelled, have expired, or have all their lines. A problem with
    one batch does not hold up the others.

    Parameters
    ----------
    store
        The store to tend; kernels and Jupyter servers do it repeatedly.
    sweep_seconds
        How long ago this process must have swept it to sweep it again.
    attempts
        Which batches have failed here, and when to try them again.
    say
        Called with a sentence when a batch has to wait or is paused.
    """
    attempts = attempts or Attempts()
    advanced: list[str] = []
    problem: Exception | None = None
    try:
        store.sweep(at_most_every_seconds=sweep_seconds)
    except (StoreError, OSError) as error:
        problem = error
    for record in store.batches.unfinished():
        try:
            # What runs at a batch service is advanced by the kernels that have its key.
            if record.target is None and not _must_wait(store, record, attempts):
                _tend_one(store, record, attempts, advanced, say)
        except (FencedError, StoreBusyError, StoreFullError):
            # Another owner advances it, or the next round tries again.
            continue
        except Exception as error:  # noqa: BLE001 - raised when the others have had their turn
            problem = error
    if problem is not None:
        raise problem
    return advanced


def _must_wait(store: Store, record: BatchRecord, attempts: Attempts) -> bool:
    return not is_due(record, attempts) or _waits_for_engine(store, record) or _is_stuck(store, record)


def _tend_one(
    store: Store, record: BatchRecord, attempts: Attempts, advanced: list[str], say: Callable[[str], object]
) -> None:
    lease = store.batches.acquire(record.id)
    if lease is None:
        return
    with lease:
        try:
            if _advance(store, lease) != record.status:
                advanced.append(record.id)
            attempts.forget(record.id)
        except Exception as error:  # noqa: BLE001 - the batch says it
            if (said := postpone(lease, error, attempts)) is not None:
                say(said)


def _waits_for_engine(store: Store, record: BatchRecord) -> bool:
    """Return whether only an engine can help, without taking the lease: this is asked of each batch very often."""
    return (
        record.status == "in_progress"
        and not is_expired(record, store.clock())
        and record.request_counts.left > 0
        and not store.batches.has_uncounted(record.id)
    )


def _is_stuck(store: Store, record: BatchRecord) -> bool:
    """Return whether trying again would not help: the batch is paused, or its disk is still full."""
    if record.paused:
        return not is_expired(record, store.clock())
    return record.reason == DISK_FULL_REASON and not store.batches.has_room_to_finish(record.id)


def _advance(store: Store, lease: Lease) -> str:
    record = validate(store, lease)
    if (
        record.status in {"cancelling", "finalizing"}
        or is_expired(record, store.clock())
        or (record.status == "in_progress" and not lease.recover().counts.left)
    ):
        record = finish(store, lease)
    return record.status
