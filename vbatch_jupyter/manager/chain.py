"""A batch and the batches that it retries: what the files of a chain hold, line by line.

A retry names the batch it retries in its metadata (``retry_of``), and may be retried itself: together they are a chain,
whose first batch has the input file with every request.
"""

from __future__ import annotations

from collections.abc import Iterable, Iterator, Mapping

from vbatch_jupyter.errors import NotFoundError
from vbatch_jupyter.manager import Manager
from vbatch_jupyter.manager.lifecycle import UNEXECUTED
from vbatch_jupyter.protocol.batch import BatchRecord
from vbatch_jupyter.protocol.ids import request_id
from vbatch_jupyter.protocol.lines import parse_request_line, unexecuted_line
from vbatch_jupyter.records import Timing


def chain_of(manager: Manager, record: BatchRecord) -> list[BatchRecord]:
    """Return the batches that a batch retries, the first of them first, and itself.

    Parameters
    ----------
    manager
        OpenAI's verbs over the store.
    record
        The last batch of the chain.
    """
    chain = [record]
    while before := chain[0].retry_of:
        try:
            chain.insert(0, manager.batches.retrieve(before))
        except NotFoundError:
            # Anyone can write metadata, and a batch may be deleted.
            break
    return chain


def lines_of(manager: Manager, chain: Iterable[BatchRecord]) -> Iterator[bytes]:
    """Return the lines of the output and error files of a chain, those of a retry after those of what it retries.

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


def timed_lines_of(manager: Manager, chain: Iterable[BatchRecord]) -> Iterator[tuple[bytes, Mapping[str, Timing]]]:
    """Return the lines of a chain, as `lines_of` does, each with the timings of its batch by the ids of the lines.

    Parameters
    ----------
    manager
        OpenAI's verbs over the store.
    chain
        Batches that have ended.
    """
    for record in chain:
        kept = enumerate(manager.batches.timings(record.id))
        timings = {request_id(record.id, position): timing for position, timing in kept}
        for line in lines_of(manager, [record]):
            yield line, timings


def _never_validated(manager: Manager, record: BatchRecord) -> Iterator[bytes]:
    # It has no error file, and its requests have the same reason and the same right to a retry.
    code, message = UNEXECUTED["cancelled"]
    for position, name in enumerate(custom_ids_of(manager, record)):
        yield unexecuted_line(id=request_id(record.id, position), custom_id=name, code=code, message=message)


def custom_ids_of(manager: Manager, record: BatchRecord) -> Iterator[str]:
    """Return the custom_ids of a batch's input file, in its order.

    Parameters
    ----------
    manager
        OpenAI's verbs over the store.
    record
        The batch.
    """
    for line in input_lines(manager, record):
        yield parse_request_line(line).custom_id


def input_lines(manager: Manager, record: BatchRecord) -> Iterator[bytes]:
    """Return the lines of a batch's input file without their ends, in order; blank lines are left out.

    Parameters
    ----------
    manager
        OpenAI's verbs over the store.
    record
        The batch.
    """
    with manager.files.content(record.input_file_id) as content:
        yield from (line.rstrip(b"\r\n") for line in content if line.strip())
