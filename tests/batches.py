"""Batches to test with: small input files, the lines that answer them, and what a finished batch holds."""

from __future__ import annotations

from collections.abc import Iterable, Iterator
from pathlib import Path

from tests.waiting import wait_for
from vbatch_jupyter.manager import Manager, lifecycle
from vbatch_jupyter.protocol.batch import BatchRecord
from vbatch_jupyter.protocol.ids import request_id
from vbatch_jupyter.protocol.lines import encode_request_line, error_body, output_line, parse_output_line
from vbatch_jupyter.store import Lease, SpoolRecord, Store

ENDPOINT = "/v1/chat/completions"


def open_store(path: Path, **arguments) -> Store:
    """Open a store that asks for no free room, whatever the machine that runs the tests has left."""
    return Store(path, **{"floor_bytes": 0, "reserve_bytes": 0, **arguments})


def input_lines(requests: int) -> Iterator[bytes]:
    for position in range(requests):
        body = {"model": "m", "messages": [{"role": "user", "content": f"question {position}"}]}
        yield encode_request_line(f"row-{position}", ENDPOINT, body) + b"\n"


def make_batch(store: Store, requests: int, **arguments) -> BatchRecord:
    """Upload an input file and create a batch of it, as a client would."""
    manager = Manager(store, profile="local")
    file = manager.files.create(input_lines(requests), filename="input.jsonl", purpose="batch")
    return manager.batches.create(input_file_id=file.id, endpoint=ENDPOINT, **arguments)


def is_error(position: int) -> bool:
    return position % 5 == 3


def line(batch_id: str, position: int, *, padding: int = 0) -> SpoolRecord:
    """Answer one request: every fifth with an HTTP error, the others with 2 tokens for 3."""
    body = b'{"choices":[{"message":{"content":"answer %d%b"}}],"usage":{"prompt_tokens":3,"completion_tokens":2}}' % (
        position,
        b"." * padding,
    )
    if is_error(position):
        body = error_body(f"error {position}", code="server_error")
    finished = output_line(
        id=request_id(batch_id, position),
        custom_id=f"row-{position}",
        status_code=500 if is_error(position) else 200,
        request_id=f"req-{position}",
        body=body,
    )
    return SpoolRecord(position, is_error(position), finished)


def group(batch_id: str, positions: Iterable[int], *, padding: int = 0) -> list[SpoolRecord]:
    return [line(batch_id, position, padding=padding) for position in positions]


def hold(store: Store, batch_id: str) -> Lease:
    """Take the lease of a batch that nobody else keeps; a runner or a server may just be validating it."""
    lease: Lease = wait_for(lambda: store.batches.acquire(batch_id))
    return lease


def begin(store: Store, requests: int, **arguments) -> Lease:
    """Make a batch, take its lease and validate it."""
    lease = hold(store, make_batch(store, requests, **arguments).id)
    assert lifecycle.validate(store, lease).status == "in_progress"
    return lease


def content(store: Store, file_id: str | None) -> bytes:
    if file_id is None:
        return b""
    with store.files.open(file_id) as file:
        return file.read()


def custom_ids(store: Store, file_id: str | None) -> list[str]:
    return [parse_output_line(line).custom_id for line in content(store, file_id).splitlines()]


def error_codes(store: Store, record: BatchRecord) -> dict[str, str | None]:
    """Return for each request that never ran the code that its line in the error file has."""
    lines = [parse_output_line(line) for line in content(store, record.error_file_id).splitlines()]
    return {line.custom_id: line.code for line in lines if line.error is not None}


def assert_every_request_once(store: Store, record: BatchRecord, requests: int) -> None:
    found = custom_ids(store, record.output_file_id) + custom_ids(store, record.error_file_id)
    assert sorted(found) == sorted(f"row-{position}" for position in range(requests))
