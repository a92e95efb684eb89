"""Retries: a new batch with the requests of another that have no answer; a finished batch never changes.

A retry names the batch it retries in its metadata (``retry_of``), and may be retried itself: together they are a chain,
whose first batch has the input file with every request.
"""

from __future__ import annotations

from collections.abc import Collection, Iterable, Iterator

from vbatch_jupyter.errors import ConflictError, NotFoundError
from vbatch_jupyter.manager import Manager
from vbatch_jupyter.manager.lifecycle import UNEXECUTED
from vbatch_jupyter.protocol.batch import TERMINAL_STATUSES, BatchRecord
from vbatch_jupyter.protocol.ids import request_id
from vbatch_jupyter.protocol.lines import parse_output_line, parse_request_line, unexecuted_line
from vbatch_jupyter.records import Timing

_SUCCESS = 2


def chain_of(manager: Manager, batch_id: str) -> list[BatchRecord]:
    """Give the batches that a batch retries, the first of them first, and itself.

    Parameters
    ----------
    manager
        OpenAI's verbs over the store.
    batch_id
        The last batch of the chain.

    Raises
    ------
    NotFoundError
        There is no such batch.
    """
    chain = [manager.batches.retrieve(batch_id)]
    while before := (chain[0].metadata or {}).get("retry_of"):
        try:
            chain.insert(0, manager.batches.retrieve(before))
        except NotFoundError:
            # Metadata is anybody's to write: then it names no batch of this store.
            break
    return chain


def lines_of(manager: Manager, chain: Iterable[BatchRecord]) -> Iterator[bytes]:
    """Give the lines of the output and error files of a chain, those of a retry after those of what it retries.

    Parameters
    ----------
    manager
        OpenAI's verbs over the store.
    chain
        Batches that have ended.
    """
    for record in chain:
        if record.status == "cancelled" and record.in_progress_at is None:
            yield from _never_validated(manager, record)
        for file_id in (record.output_file_id, record.error_file_id):
            if file_id is not None:
                with manager.files.content(file_id) as content:
                    yield from content


def timed_lines_of(manager: Manager, chain: Iterable[BatchRecord]) -> Iterator[tuple[bytes, Timing | None]]:
    """Give the lines of a chain, as `lines_of` does, each with its timing; None where none was kept.

    Parameters
    ----------
    manager
        OpenAI's verbs over the store.
    chain
        Batches that have ended.
    """
    for record in chain:
        timings = manager.batches.timings(record.id)
        positions = {name: place for place, name in enumerate(custom_ids_of(manager, record))} if timings else {}
        for line in lines_of(manager, [record]):
            place = positions.get(parse_output_line(line).custom_id)
            yield line, None if place is None else timings[place]


def _never_validated(manager: Manager, record: BatchRecord) -> Iterator[bytes]:
    # It has no error file, and its requests have the same reason and the same right to a retry.
    code, message = UNEXECUTED["cancelled"]
    for position, name in enumerate(custom_ids_of(manager, record)):
        yield unexecuted_line(id=request_id(record.id, position), custom_id=name, code=code, message=message)


def custom_ids_of(manager: Manager, record: BatchRecord) -> Iterator[str]:
    """Give the custom_ids of a batch's input file, in its order.

    Parameters
    ----------
    manager
        OpenAI's verbs over the store.
    record
        The batch.
    """
    for line in _input_lines(manager, record):
        yield parse_request_line(line.rstrip(b"\r\n")).custom_id


def _input_lines(manager: Manager, record: BatchRecord) -> Iterator[bytes]:
    with manager.files.content(record.input_file_id) as content:
        yield from (line for line in content if line.strip())


def unanswered(output_lines: Iterable[bytes]) -> set[str]:
    """Give the custom_ids that have no answer with a 2xx status.

    Parameters
    ----------
    output_lines
        As `lines_of` gives them; a request has its answer when any of its lines has one.

    Examples
    --------
    >>> expired = b'{"custom_id":"a","response":null,"error":{"code":"batch_expired","message":"Too late."}}'
    >>> answered = b'{"custom_id":"a","response":{"status_code":200,"body":{}},"error":null}'
    >>> unanswered([expired]), unanswered([expired, answered])
    ({'a'}, set())
    """
    failed, answered = set[str](), set[str]()
    for text in output_lines:
        line = parse_output_line(text)
        success = line.response is not None and line.response.status_code // 100 == _SUCCESS
        (answered if success else failed).add(line.custom_id)
    return failed - answered


def retry(manager: Manager, batch_id: str, *, names: Collection[str] | None = None) -> BatchRecord:
    """Make a batch of the requests that have no answer, with ``retry_of`` in its metadata.

    Parameters
    ----------
    manager
        OpenAI's verbs over the store.
    batch_id
        A batch that has ended; it may be a retry itself.
    names
        The custom_ids to run again; by default those without an answer with a 2xx status.

    Raises
    ------
    NotFoundError
        There is no such batch, or its input file was deleted.
    ConflictError
        The batch has not ended, failed validation, or every request has its answer.
    """
    chain = chain_of(manager, batch_id)
    root, record = chain[0], chain[-1]
    if record.status not in TERMINAL_STATUSES:
        message = f"Batch {record.id} is {record.status}; it can be retried when it has ended."
        raise ConflictError(message, id=record.id, status=record.status)
    if record.status == "failed":
        message = f"Batch {record.id} failed validation, and nothing ran. Correct its input file and make a new batch."
        raise ConflictError(message, id=record.id, status=record.status)
    wanted = unanswered(lines_of(manager, chain)) if names is None else set(names)
    if not wanted:
        message = f"Batch {record.id} has no request without an answer, so there is nothing to retry."
        raise ConflictError(message, id=record.id, status=record.status)
    chosen = (
        line.rstrip(b"\r\n") + b"\n"
        for line in _input_lines(manager, root)
        if parse_request_line(line.rstrip(b"\r\n")).custom_id in wanted
    )
    file = manager.files.create(chosen, filename=f"{record.id}_retry.jsonl", purpose="batch")
    return manager.batches.create(
        input_file_id=file.id,
        endpoint=root.endpoint,
        metadata={**(root.metadata or {}), "retry_of": record.id},
        output_expires_after_seconds=root.output_expires_after_seconds,
        profile=root.profile,
        # An answer that does not fit the schema is known as well, and would only come again.
        fresh=True,
        frame=root.frame,
        target=root.target,
    )
