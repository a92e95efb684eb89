"""The fault matrix: one error at each file system call of a small batch's life, and what must be so afterwards.

``python -m tests.acceptance.fault_matrix`` runs all of it, says what is wrong, and ends with one line of counts;
``--every N`` runs each N-th case, ``--only runner`` or ``--only server`` one of the two lives.
"""

from __future__ import annotations

import argparse
import contextlib
import functools
import os
import shutil
import subprocess
import sys
import tempfile
import time
from collections import Counter
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import NamedTuple, Protocol, TypeVar

import msgspec
import openai

from tests.acceptance.batch_life import BATCHES, REFUSED, REQUESTS, Told
from tests.acceptance.faults import ERRORS, Faults, Seen
from tests.batches import custom_ids, group, input_lines, is_error, open_store
from tests.servers import JupyterServer
from vbatch_jupyter.protocol.batch import BatchRecord
from vbatch_jupyter.store import Store
from vbatch_jupyter.store.fsck import check

T = TypeVar("T")

_MOST_SECONDS = 120


class Case(NamedTuple):
    """One error at one call.

    Parameters
    ----------
    error
        Its name.
    at
        The number of the call among those that can return it; 0 for no error.
    """

    error: str
    at: int


class Result(NamedTuple):
    """What a case came to.

    Parameters
    ----------
    case
        The case.
    seen
        What was counted, and where the error fell.
    errors
        What the user's own calls raised.
    wrong
        What is not as it must be; empty if all is well.
    """

    case: Case
    seen: Seen
    errors: list[str]
    wrong: list[str]

    def __str__(self) -> str:
        return f"{self.case.error} at call {self.case.at}, {self.seen}: {'; '.join(self.wrong)} {self.errors or ''}"


class Lives(Protocol):
    """A process that lives a batch's life again and again."""

    def run(self, case: Case) -> Result:
        """Live a life with an error in it, and look at what it has left."""


def cases(lives: Lives) -> list[Case]:
    """Return the whole matrix."""
    # The first life does what is done once in a process.
    lives.run(Case(ERRORS[0], 0))
    return [Case(error, number) for error in ERRORS for number in range(1, lives.run(Case(error, 0)).seen.calls + 1)]


# ---------------------------------------------------------------------------------------------------------- in a runner


class RunnerLives:
    """The lives of `batch_life`, each in a store of its own.

    Parameters
    ----------
    folder
        Where the stores are, one after the other.
    process
        Is `batch_life`, and has been started with the environment of the faults.
    faults
        Its errors.
    """

    def __init__(self, folder: Path, process: subprocess.Popen[bytes], faults: Faults) -> None:
        self._folder = folder
        self._process = process
        self._faults = faults

    def run(self, case: Case) -> Result:
        """Live a life with an error in it, and look at what it has left."""
        assert self._process.stdin is not None
        assert self._process.stdout is not None
        path = self._folder / "store"
        self._faults.arm(path, case.error, case.at)
        self._process.stdin.write(f"{path}\n".encode())
        self._process.stdin.flush()
        told = msgspec.json.decode(self._process.stdout.readline(), type=Told)
        seen = self._faults.disarm()
        if told.failure is None:
            with open_store(path) as store:
                wrong = wrong_in(store)
        else:
            wrong = [told.failure]
        shutil.rmtree(path)
        wrong += [f"not clear: {error}" for error in told.errors if not error.split(": ")[1].startswith("Store")]
        return Result(case, seen, told.errors, wrong)


@contextlib.contextmanager
def runner_lives(folder: Path) -> Iterator[RunnerLives]:
    """Start the process of the lives."""
    faults = Faults(folder)
    process = subprocess.Popen(
        [sys.executable, "-m", "tests.acceptance.batch_life"],
        stdin=subprocess.PIPE,
        stdout=subprocess.PIPE,
        env={**os.environ, **faults.environment},
    )
    with process:
        yield RunnerLives(folder, process, faults)


def wrong_in(store: Store) -> list[str]:
    """Return what is not as the batches of `batch_life` must leave it."""
    # It is swept by the next process that opens it anyway.
    store.sweep()
    wrong = check(store)
    records = store.batches.list().data
    if len(records) != BATCHES:
        wrong.append(f"there are {len(records)} batches")
    answered = [f"row-{position}" for position in range(REQUESTS) if position != REFUSED]
    for record in records:
        wrong += wrong_of(store, record, answered, [f"row-{REFUSED}"])
    files = store.files.list().data
    if len(files) != 1 + 2 * BATCHES:
        wrong.append(f"there are {len(files)} files")
    return wrong + left_over(store)


def wrong_of(store: Store, record: BatchRecord, output: list[str], error: list[str]) -> list[str]:
    """Return what is wrong with one batch: it is complete, and has each request once."""
    if record.status != "completed":
        return [f"{record.id} is {record.status}: {record.reason or record.errors}"]
    found = sorted(custom_ids(store, record.output_file_id)), sorted(custom_ids(store, record.error_file_id))
    counts = record.request_counts
    counted = counts.total, counts.completed, counts.failed
    wrong = [] if found == (output, error) else [f"{record.id} has the lines {found}"]
    expected = len(output) + len(error), len(output), len(error)
    return wrong + ([] if counted == expected else [f"{record.id} counts {counted}"])


def left_over(store: Store) -> list[str]:
    """Return what a sweep should have removed."""
    return [
        f"left over: {path.relative_to(store.path)}"
        for place in (store.files, store.batches)
        for path in place.directory.iterdir()
        if not place.known([path.name.partition(".")[0]])
    ]


# ---------------------------------------------------------------------------------------------------------- in a server


class ServerLives:
    """Lives over HTTP: a server keeps the files, validates, ends and deletes; the answers come from this process.

    Parameters
    ----------
    server
        It runs, and has been started with the environment of the faults; it tends all the time.
    faults
        Its errors.
    store
        Its store, opened by this process.
    """

    def __init__(self, server: JupyterServer, faults: Faults, store: Store) -> None:
        self._server = server
        self._client = server.client()
        self._faults = faults
        self._store = store
        self._errors: list[str] = []
        self._wrong: list[str] = []

    def run(self, case: Case) -> Result:
        """Live a life with an error in it, and look at what it has left."""
        self._errors, self._wrong = [], []
        self._faults.arm(self._server.store, case.error, case.at, pid=self._server.pid)
        try:
            self._live()
        except Exception as error:  # noqa: BLE001 - told
            self._wrong.append(f"{type(error).__name__}: {error}")
        seen = self._faults.disarm()
        self._store.sweep()
        wrong = self._wrong + check(self._store) + left_over(self._store)
        for batch in self._store.batches.unfinished():
            wrong.append(f"left over: {batch.id}")
            # Or it would be found by the next case, too.
            self._store.batches.resume(batch.id)
            self._until(batch.id, "completed")
        return Result(case, seen, self._errors, wrong)

    def _live(self) -> None:
        lines = b"".join(input_lines(REQUESTS))
        before = self._store.batches.count(), len(self._store.files.list().data)
        file = self._called(lambda: self._client.files.create(file=lines, purpose="batch"))
        made = self._called(
            lambda: self._client.batches.create(
                input_file_id=file.id, endpoint="/v1/chat/completions", completion_window="24h"
            )
        )
        self._until(made.id, "in_progress")
        self._answer(made.id)
        batch = self._until(made.id, "completed")
        self._wrong += wrong_of(
            self._store,
            self._store.batches.get(made.id),
            [f"row-{position}" for position in range(REQUESTS) if not is_error(position)],
            [f"row-{position}" for position in range(REQUESTS) if is_error(position)],
        )
        content = self._called(lambda: self._client.files.content(batch.output_file_id or "").content)
        with self._store.files.open(batch.output_file_id or "") as kept:
            if content != kept.read():
                self._wrong.append("the server's content is not that of the file")
        after = self._store.batches.count(), len(self._store.files.list().data)
        if after != (before[0] + 1, before[1] + 3):
            self._wrong.append(f"batches and files were {before}, and are {after}")
        for file_id in (file.id, batch.output_file_id, batch.error_file_id):
            self._called(functools.partial(self._client.files.delete, file_id or ""))

    def _called(self, function: Callable[[], T]) -> T:
        """Call what a client calls; where it gets an error, once more, as a client would."""
        try:
            return function()
        except openai.APIStatusError as error:
            self._errors.append(str(error))
            body = error.body if isinstance(error.body, dict) else {}
            if error.status_code < 500 or set(body) != {"message", "type", "param", "code"}:
                self._wrong.append(f"not OpenAI's envelope: {error}")
            if body.get("code") == "internal_error":
                self._wrong.append(f"not clear: {error}")
            return function()

    def _until(self, batch_id: str, status: str) -> openai.types.Batch:
        until = time.monotonic() + _MOST_SECONDS
        while (batch := self._called(lambda: self._client.batches.retrieve(batch_id))).status != status:
            record = self._store.batches.get(batch_id)
            if record.paused or time.monotonic() > until:
                kind = "paused" if record.paused else "stuck"
                raise AssertionError(f"{kind}: {record.status}: {record.reason or record.errors}")
            time.sleep(0.01)
        return batch

    def _answer(self, batch_id: str) -> None:
        until = time.monotonic() + _MOST_SECONDS
        while (lease := self._store.batches.acquire(batch_id)) is None:
            assert time.monotonic() < until, "the server does not release the batch"
            time.sleep(0.005)
        with lease:
            lease.append(group(batch_id, range(REQUESTS)))


@contextlib.contextmanager
def server_lives(folder: Path) -> Iterator[ServerLives]:
    """Start the server of the lives."""
    faults = Faults(folder)
    config = {"tend_seconds": 0.05, "sweep_seconds": 1.0}
    with (
        JupyterServer(folder, config=config, environment=faults.environment) as server,
        open_store(server.store) as store,
    ):
        yield ServerLives(server, faults, store)


LIVES: dict[str, Callable[[Path], contextlib.AbstractContextManager[Lives]]] = {
    "runner": runner_lives,
    "server": server_lives,
}
"""Starts the process of each kind of life, in a folder of its own."""


def main() -> int:
    """Run the matrix; return whether anything is wrong."""
    parser = argparse.ArgumentParser(description="Run the fault matrix.")
    parser.add_argument("--every", type=int, default=1)
    parser.add_argument("--from", type=int, default=0, dest="first")
    parser.add_argument("--only", choices=list(LIVES))
    chosen = parser.parse_args()
    totals: list[str] = []
    wrong = 0
    with contextlib.ExitStack() as stack:
        for kind, started in LIVES.items():
            if chosen.only not in (None, kind):
                continue
            folder = Path(stack.enter_context(tempfile.TemporaryDirectory(dir=_memory(), prefix="faults-")))
            lives = stack.enter_context(started(folder))
            fell = Counter[str]()
            for case in cases(lives)[chosen.first :: chosen.every]:
                result = lives.run(case)
                fell[case.error] += result.seen.failed
                wrong += bool(result.wrong)
                if result.wrong:
                    print(result, flush=True)
            totals.append(f"{kind}: {', '.join(f'{count:,} {error}' for error, count in fell.items())}")
    print(f"faults: {'; '.join(totals)}; wrong: {wrong}")
    return bool(wrong)


def _memory() -> str | None:
    return "/dev/shm" if os.access("/dev/shm", os.W_OK) else None


if __name__ == "__main__":
    sys.exit(main())
