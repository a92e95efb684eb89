"""An owner of batches that can be killed: what the processes of test_store_kills run."""

from __future__ import annotations

import io
import itertools
import os
import random
import signal
import sqlite3
import time
from collections.abc import Callable, Iterator
from multiprocessing.queues import Queue
from multiprocessing.synchronize import Event
from pathlib import Path
from typing import Any

from tests.batches import ENDPOINT, group, input_lines, make_batch, open_store
from vbatch_jupyter.manager import lifecycle
from vbatch_jupyter.protocol.profiles import PROFILES
from vbatch_jupyter.protocol.validation import validate
from vbatch_jupyter.store import Store

REQUESTS = 20
UPLOAD = b"{}\n" * 100_000

# Every call that changes what is on the disk, or what others may do; a kill falls before each, and so after each too.
_STEPS = (
    "close",
    "fdatasync",
    "fsync",
    "ftruncate",
    "mkdir",
    "open",
    "rename",
    "rmdir",
    "truncate",
    "unlink",
    "write",
)


def advance_all(store: Store, *, group_size: int) -> None:
    """Hold one batch after the other, answer what is unanswered in groups, and finish it."""
    for record in store.batches.unfinished():
        lease = store.batches.acquire(record.id)
        if lease is None:
            continue
        with lease:
            status = lifecycle.validate(store, lease).status
            if status == "in_progress" and not lifecycle.is_expired(record, store.clock()):
                finished = lease.recover().finished
                missing = (position for position, kind in enumerate(finished) if not kind)
                while positions := list(itertools.islice(missing, group_size)):
                    lease.append(group(record.id, positions))
                    if lease.refresh().status == "cancelling":
                        break
            if status != "failed":
                lifecycle.finish(store, lease)


def run(path: Path) -> None:
    """Advance everything, in groups of random sizes."""
    with open_store(path) as store:
        advance_all(store, group_size=random.randint(1, 24))


def run_until_step(path: Path, step: int, seconds_ahead: float) -> None:
    """Advance everything, and die by ``kill -9`` at the given step."""
    with open_store(path, clock=lambda: time.time() + seconds_ahead) as store:
        _die_at(step, store)
        advance_all(store, group_size=2)
        os._exit(0)


def run_batches_until(path: Path, stop: Event) -> None:
    """Make and run one batch after the other, and delete a file of each third."""
    with open_store(path) as store:
        for number in itertools.count():
            if stop.is_set():
                return
            record = make_batch(store, REQUESTS)
            advance_all(store, group_size=5)
            if number % 3 == 2:
                store.files.delete(str(store.batches.get(record.id).output_file_id))


def upload_until_step(path: Path, step: int) -> None:
    """Upload a file, and die by ``kill -9`` at the given step."""
    with open_store(path) as store:
        _die_at(step, store)
        store.files.create([UPLOAD], filename="input.jsonl", purpose="batch")
        os._exit(0)


def sweep_until(path: Path, stop: Event, found: Queue[dict[str, Any]]) -> None:
    """Sweep again and again; say at the end how often, and which files were removed."""
    sweeps, files = 0, []
    with open_store(path) as store:
        while not stop.wait(0.01):
            # What is left of an ended batch's directory may go, and so may a name whose file is in its place by now.
            files += [name for name in store.sweep() if name.startswith("file-")]
            sweeps += 1
    found.put({"sweeps": sweeps, "files": files})


def open_until_step(path: Path, step: int) -> None:
    """Open a store, which brings it up to this release, and die by ``kill -9`` at the given step."""
    _count_steps(step)
    open_store(path)
    os._exit(0)


def search_until_step(path: Path, step: int, key: str, requests: int) -> None:
    """Search known answers, and die by ``kill -9`` at the given step, of which the statements of the index are some."""
    with open_store(path) as store:
        steps, connect = _count_steps(step), sqlite3.connect

        def connect_and_count(*arguments: Any, **keywords: Any) -> sqlite3.Connection:
            connection: sqlite3.Connection = connect(*arguments, **keywords)
            connection.set_trace_callback(lambda _: next(steps))
            return connection

        sqlite3.connect = connect_and_count  # type: ignore[assignment]
        known_answers(store, key, requests)
        os._exit(0)


def known_answers(store: Store, key: str, requests: int) -> list[tuple[int, bytes]]:
    """Search the answers to the requests of a batch that `tests.batches` makes."""
    lines = list(input_lines(requests))
    checked = validate(io.BytesIO(b"".join(lines)), endpoint=ENDPOINT, profile=PROFILES["local"])
    return sorted(store.answers.find(key, checked.index, lines.__getitem__, bytearray(requests)))


def _count_steps(last: int) -> Iterator[int]:
    steps = _steps(last)
    for name in _STEPS:
        setattr(os, name, _stepping(getattr(os, name), steps))
    return steps


def _die_at(step: int, store: Store) -> None:
    steps = _count_steps(step)
    # SQLite's own calls are out of reach; a kill falls before each of its statements, and random ones into them.
    store.database._connection.set_trace_callback(lambda _: next(steps))


def _steps(last: int) -> Iterator[int]:
    yield from range(1, last)
    os.kill(os.getpid(), signal.SIGKILL)


def _stepping(function: Callable[..., Any], steps: Iterator[int]) -> Callable[..., Any]:
    def stepping(*arguments: Any, **keywords: Any) -> Any:
        next(steps)
        return function(*arguments, **keywords)

    return stepping
