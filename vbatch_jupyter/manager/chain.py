"""A batch and the batches that it retries: what the files of a chain hold, line by line.

A retry names the batch it retries in its metadata (``retry_of``), and may be retried itself: together they are a chain,
whose first batch has the input file with every request.
"""

from __future__ import annotations

import contextlib
from collections.abc import Callable, Iterable, Iterator, Mapping
from typing import Any

import msgspec

from vbatch_jupyter.errors import BadRequestError, NotFoundError
from vbatch_jupyter.manager import Manager
from vbatch_jupyter.manager.lifecycle import UNEXECUTED
from vbatch_jupyter.protocol.answer_schema import checker
from vbatch_jupyter.protocol.batch import BatchRecord
from vbatch_jupyter.protocol.endpoints import CHAT, ENDPOINTS
from vbatch_jupyter.protocol.ids import request_id
from vbatch_jupyter.protocol.lines import lines_in, parse_output_line, parse_request_line, unexecuted_line
from vbatch_jupyter.protocol.shapes import Parse, must_call
from vbatch_jupyter.protocol.vectors import reader_of
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
        yield from lines_in(content)


class _Frame(msgspec.Struct):
    schema: dict[str, Any] | None = None


def parsers_of(manager: Manager, root: BatchRecord, *, schemas: bool = True) -> Callable[[bytes], Parse | None]:
    """Return a function that finds how the answer in a line is read, which only its request says.

    Parameters
    ----------
    manager
        OpenAI's verbs over the store.
    root
        The first batch of a chain.
    schemas
        Whether texts are read by the JSON schemas in the requests.
    """
    of_frame = None if root.frame is None else msgspec.json.decode(root.frame, type=_Frame)
    if of_frame is not None and of_frame.schema is not None and schemas:
        parse = _checker(of_frame.schema, has_columns=True)
        return lambda _: parse
    by_name: dict[str, Parse | None] = {}
    # The input file may have been deleted.
    with contextlib.suppress(NotFoundError):
        for line in input_lines(manager, root):
            if any(mark in line for mark in _MARKS):
                request = parse_request_line(line)
                asked = _asked(request.url, msgspec.json.decode(request.body), schemas=schemas)
                if asked is not None and of_frame is not None:
                    return lambda _: asked
                if asked is not None:
                    by_name[request.custom_id] = asked
            if of_frame is not None:
                break  # the requests of a frame differ in their prompts only
    if not by_name:
        return lambda _: None
    return lambda line: by_name.get(parse_output_line(line).custom_id)


_MARKS = (b"json_schema", b"tool_choice", b"embed_dtype", b"endianness")


def _asked(url: str, body: dict[str, Any], *, schemas: bool) -> Parse | None:
    endpoint = ENDPOINTS.get(url, CHAT)
    if not endpoint.generates:
        return reader_of(body)
    schema = endpoint.schema(body) if schemas else None
    if schema is not None:
        return _checker(schema)
    choice = body.get("tool_choice")
    kind = choice.get("mode", choice.get("type")) if isinstance(choice, dict) else choice
    return must_call if kind in _CALLS else None


_CALLS = frozenset({"required", "function", "custom"})
"""What ``tool_choice`` is, or its type or mode, where an answer must be a call."""


def _checker(schema: Any, *, has_columns: bool = False) -> Parse | None:
    # The engine has checked the schema; an answer cannot be checked against one that is not valid.
    with contextlib.suppress(ValueError):
        return checker(schema, has_columns=has_columns)
    return None


def refuse_failed(record: BatchRecord) -> None:
    """Raise an error for a batch that failed validation.

    Raises
    ------
    BadRequestError
        The message has the first reasons.
    """
    if record.status == "failed":
        reasons = "; ".join(
            (f"line {error.line}: " if error.line else "") + error.message for error in record.errors[:3]
        )
        more = f" (and {len(record.errors) - 3:,} more)" if len(record.errors) > 3 else ""  # noqa: PLR2004
        raise BadRequestError(f"Batch {record.id} failed validation and nothing ran. {reasons}{more}")
