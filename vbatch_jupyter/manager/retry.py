"""Retries: a new batch with the requests of another that have no answer; a finished batch never changes."""

from __future__ import annotations

from collections.abc import Collection, Iterable

from vbatch_jupyter.errors import ConflictError
from vbatch_jupyter.manager import Manager
from vbatch_jupyter.manager.chain import chain_of, input_lines, lines_of
from vbatch_jupyter.protocol.batch import TERMINAL_STATUSES, BatchRecord
from vbatch_jupyter.protocol.lines import parse_output_line, parse_request_line

_SUCCESS = 2


def unanswered(output_lines: Iterable[bytes]) -> set[str]:
    """Return the custom_ids that have no answer with a 2xx status.

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
    chain = chain_of(manager, manager.batches.retrieve(batch_id))
    root, record = chain[0], chain[-1]
    if record.status not in TERMINAL_STATUSES:
        message = f"Batch {record.id} is {record.status}. Retry it when it has ended."
        raise ConflictError(message, id=record.id, status=record.status)
    if record.status == "failed":
        message = f"Batch {record.id} failed validation and nothing ran. Correct its input file and make a new batch."
        raise ConflictError(message, id=record.id, status=record.status)
    wanted = unanswered(lines_of(manager, chain)) if names is None else set(names)
    if not wanted:
        message = f"There is nothing to retry: every request of batch {record.id} has an answer."
        raise ConflictError(message, id=record.id, status=record.status)
    chosen = (
        line.rstrip(b"\r\n") + b"\n"
        for line in input_lines(manager, root)
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
