"""New batches with some requests of another, which never changes: its retry, and a second run of what has answers."""

from __future__ import annotations

import contextlib
import itertools
from collections.abc import Collection, Iterator, Sequence
from http import HTTPStatus
from typing import Any, NamedTuple

from vbatch_jupyter.errors import ConflictError, EngineNotLoadedError, VBatchError
from vbatch_jupyter.manager import Manager
from vbatch_jupyter.manager.chain import chain_of, input_lines, lines_of, parsers_of
from vbatch_jupyter.protocol.batch import TERMINAL_STATUSES, BatchRecord
from vbatch_jupyter.protocol.endpoints import CHAT, ENDPOINTS
from vbatch_jupyter.protocol.lines import parse_request_line
from vbatch_jupyter.protocol.shapes import Parse

_ANSWERS_READ = 10_000

_KEPT_SECONDS = 3600
"""The shortest time that a batch may be kept after its end."""


class Unanswered(NamedTuple):
    """A request without an answer.

    Parameters
    ----------
    custom_id
        The request's.
    status_code
        The response's; None if the request was not run.
    error
        Why there is no answer.
    """

    custom_id: str
    status_code: int | None
    error: str


def unanswered(manager: Manager, chain: Sequence[BatchRecord], *, parse: Parse | None = None) -> list[Unanswered]:
    """Return the requests of a chain that have no answer; every face lists these, and runs these again.

    An answer that does not fit its schema is not an answer: the schema that the frame was sent with, or else the JSON
    schema in the request.

    Parameters
    ----------
    manager
        OpenAI's verbs over the store.
    chain
        Batches that have ended, as `chain_of` returns them.
    parse
        Reads answers by more than a JSON schema, as a pydantic class does. What it finds is kept with the batch, and
        counts wherever the class is not known.
    """
    root = chain[0]
    read = ENDPOINTS.get(root.endpoint, CHAT).read
    parser_of = parsers_of(manager, root) if parse is None else lambda _: parse
    failed: dict[str, Unanswered] = {}
    answered: set[str] = set()
    for line in lines_of(manager, chain):
        reading = read(line, parser_of(line))
        if reading.answer.error is None:
            answered.add(reading.custom_id)
        else:
            failed[reading.custom_id] = Unanswered(reading.custom_id, reading.status_code, reading.answer.error)
    found = {name: failure for name, failure in failed.items() if name not in answered}
    if parse is None:
        for name, error in manager.batches.misfits(chain[-1]).items():
            found.setdefault(name, Unanswered(name, HTTPStatus.OK, error))
    elif root.retry_of is None:  # a whole chain
        kept = {failure.custom_id: failure.error for failure in found.values() if failure.status_code == HTTPStatus.OK}
        manager.batches.keep_misfits(chain[-1], kept)
    return list(found.values())


def has_unanswered(manager: Manager, record: BatchRecord) -> bool:
    """Return whether a retry of a batch would run a request again; every face that offers one asks this.

    Where all requests have completed, the answers are compared with their schemas: the first 10,000, once.

    Parameters
    ----------
    manager
        OpenAI's verbs over the store.
    record
        The batch.
    """
    if record.status not in TERMINAL_STATUSES or record.status == "failed":
        return False
    if record.request_counts.completed < record.request_counts.total or manager.batches.misfits(record):
        return True
    # A batch that has ended never changes.
    known = manager.batches.have_misfits
    if record.id not in known:
        try:
            known[record.id] = _has_misfit(manager, record)
        except OSError:
            return False
        except (VBatchError, ValueError):
            # A file that is damaged or was deleted must not keep a batch, and all others, from being shown.
            known[record.id] = False
    return known[record.id]


def _has_misfit(manager: Manager, record: BatchRecord) -> bool:
    return next(_misfits(manager, record, None), None) is not None


def _misfits(manager: Manager, record: BatchRecord, parse: Parse | None) -> Iterator[Unanswered]:
    root = chain_of(manager, record)[0]
    read = ENDPOINTS.get(root.endpoint, CHAT).read
    parser_of = parsers_of(manager, root) if parse is None else lambda _: parse
    for line in itertools.islice(lines_of(manager, [record]), _ANSWERS_READ):
        reading = read(line, parser_of(line))
        if reading.answer.error is not None and reading.status_code == HTTPStatus.OK:
            yield Unanswered(reading.custom_id, reading.status_code, reading.answer.error)


def misfits(manager: Manager, record: BatchRecord, *, parse: Parse | None = None) -> list[Unanswered]:
    """Return the completed requests whose answers cannot be used, among the first 10,000 lines.

    OpenAI counts them as completed; in a result they are rows with an error.

    Parameters
    ----------
    manager, parse
        As for `unanswered`.
    record
        A batch that has ended.
    """
    found: dict[str, Unanswered] = {}
    # A file may be damaged, or was deleted; the batch is shown all the same.
    with contextlib.suppress(OSError, VBatchError, ValueError):
        found.update((misfit.custom_id, misfit) for misfit in _misfits(manager, record, parse))
        kept = {} if parse else manager.batches.misfits(record)
        found |= {name: Unanswered(name, HTTPStatus.OK, kept[name]) for name in kept.keys() - found.keys()}
    return list(found.values())


def retry(
    manager: Manager, batch_id: str, *, parse: Parse | None = None, models: Sequence[str] | None = None
) -> BatchRecord:
    """Make a batch of the requests that have no answer, as `unanswered` finds them.

    Parameters
    ----------
    manager
        OpenAI's verbs over the store.
    batch_id
        A batch that has ended; it may be a retry itself.
    parse
        As for `unanswered`.
    models
        The models that an engine here may be asked for; any by default.

    Raises
    ------
    NotFoundError
        There is no such batch, or its input file was deleted.
    ConflictError
        The batch has not ended, failed validation, or every request has its answer.
    """
    chain = chain_of(manager, manager.batches.retrieve(batch_id))
    root, record = chain[0], chain[-1]
    if record.status not in TERMINAL_STATUSES:
        message = f"Batch {record.id} is {record.status}. Retry it when it has ended."
        raise ConflictError(message, id=record.id, status=record.status)
    if record.status == "failed":
        message = f"Batch {record.id} failed validation and nothing ran. Correct its input file and make a new batch."
        raise ConflictError(message, id=record.id, status=record.status)
    wanted = {failure.custom_id for failure in unanswered(manager, chain, parse=parse)}
    if not wanted:
        message = f"There is nothing to retry: every request of batch {record.id} has an answer."
        raise ConflictError(message, id=record.id, status=record.status)
    return _batch_of(
        manager,
        root,
        wanted,
        filename=f"{record.id}_retry.jsonl",
        metadata=root.metadata,
        retry_of=record.id,
        output_expires_after_seconds=root.output_expires_after_seconds,
        frame=root.frame,
        models=models if root.target is None else None,
    )


def run_again(manager: Manager, root: BatchRecord, custom_ids: Collection[str]) -> BatchRecord:
    """Make a batch of some requests of another, to see whether they have the same answers once more.

    It is removed an hour after its end. Until then its caller should delete its files, or the answers are reused.

    Parameters
    ----------
    manager
        OpenAI's verbs over the store.
    root
        The batch that has the requests.
    custom_ids
        Their names.

    Raises
    ------
    NotFoundError
        Its input file was deleted.
    EngineNotLoadedError
        No engine serves its model.
    """
    if root.target is None and not manager.batches.is_served(root.model):
        message = f"Requests of batch {root.id} would run again, and no engine serves {root.model!r}. Load that model"
        raise EngineNotLoadedError(f"{message} first.")
    return _batch_of(
        manager, root, custom_ids, filename=f"{root.id}_again.jsonl", output_expires_after_seconds=_KEPT_SECONDS
    )


def _batch_of(
    manager: Manager, root: BatchRecord, wanted: Collection[str], *, filename: str, **fields: Any
) -> BatchRecord:
    chosen = (line + b"\n" for line in input_lines(manager, root) if parse_request_line(line).custom_id in wanted)
    file = manager.files.create(chosen, filename=filename, purpose="batch")
    return manager.batches.create(
        input_file_id=file.id,
        endpoint=root.endpoint,
        profile=root.profile,
        # Answers are known, also those that do not fit their schema, and would only come again.
        fresh=True,
        target=root.target,
        **fields,
    )
