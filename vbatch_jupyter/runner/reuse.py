"""Reuses answers that the same engine has given before, so that running a cell again costs nothing."""

from __future__ import annotations

from collections.abc import Iterator

from vbatch_jupyter.protocol.batch import BatchRecord
from vbatch_jupyter.protocol.ids import request_id
from vbatch_jupyter.protocol.index import LineIndex
from vbatch_jupyter.protocol.lines import output_line, parse_output_line, parse_request_line
from vbatch_jupyter.protocol.reading import usage_of
from vbatch_jupyter.store import Lease, SpoolRecord, Store
from vbatch_jupyter.store.sidecars import find_answers

_GROUP_LINES = 4096
_GROUP_BYTES = 8 * 1024 * 1024
"""Groups are large because each waits for the disk; losing one costs only another lookup."""

SEVERAL_ENGINES = ""
"""The answers key of a batch that more than one engine has answered: its answers cannot be reused."""


def take_answers(store: Store, lease: Lease, record: BatchRecord, index: LineIndex, answers_key: str) -> int:
    """Put known answers into the spool; return their number.

    Parameters
    ----------
    store, lease, record, index
        The batch. Only batches of this machine's own take part (profile ``local``): a client of OpenAI's endpoints
        expects a new answer to a new batch.
    answers_key
        The engine's; the batch remembers it.
    """
    if record.profile != "local":
        return 0
    if record.answers_key is None:
        lease.update(answers_key=answers_key)
    elif record.answers_key != answers_key:
        lease.update(answers_key=SEVERAL_ENGINES)
    if record.fresh:
        return 0
    count = size = 0
    group: list[SpoolRecord] = []
    for known in _known(store, record, index, lease.recover().finished, answers_key):
        group.append(known)
        count += 1
        size += len(known.line)
        if len(group) == _GROUP_LINES or size >= _GROUP_BYTES:
            lease.append(group)
            group, size = [], 0
    if group:
        lease.append(group)
    return count


def _known(
    store: Store, record: BatchRecord, index: LineIndex, finished: bytearray, answers_key: str
) -> Iterator[SpoolRecord]:
    with store.files.open(record.input_file_id) as input_file:

        def read(position: int) -> bytes:
            input_file.seek(index.offsets[position])
            return input_file.read(index.lengths[position])

        for position, line in find_answers(store, answers_key, index, read, finished):
            response = parse_output_line(line).response
            if response is None:
                continue
            name = request_id(record.id, position)
            answer_line = output_line(
                id=name,
                custom_id=parse_request_line(read(position)).custom_id,
                status_code=response.status_code,
                request_id=response.request_id or name,
                body=bytes(response.body),
            )
            yield SpoolRecord(position, False, answer_line, store.clock(), usage=usage_of(line))
