"""The life of two small batches in one process, from the opening of their store to its closing.

``python -m tests.acceptance.batch_life`` has everything imported, and lives a life in a fork of itself for each line
that it reads, which is a store's path. It answers with one line of JSON, the fields of `Told`.
"""

from __future__ import annotations

import asyncio
import contextlib
import ctypes
import os
import signal
import sys
import traceback
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import TypeVar

import msgspec

from tests.batches import ENDPOINT, input_lines, open_store
from vbatch_jupyter.engine.echo import EchoEngine
from vbatch_jupyter.manager import Manager
from vbatch_jupyter.protocol.batch import TERMINAL_STATUSES, BatchRecord
from vbatch_jupyter.runner import Runner
from vbatch_jupyter.store import Store

T = TypeVar("T")

REQUESTS = 6
REFUSED = 3
"""The position of the request that is answered with an error."""

BATCHES = 2
"""How many batches of the same input file are run; the second one finds the answers of the first."""

_MOST_SECONDS = 120


class Told(msgspec.Struct):
    """What a life tells when it is over.

    Parameters
    ----------
    failure
        Why it ended before its time; None if it did not.
    errors
        What the user's own calls raised: the call, the class and the message.
    """

    failure: str | None = None
    errors: list[str] = msgspec.field(default_factory=list)


class PausedError(Exception):
    """A batch waits for a person."""


class _Life:
    def __init__(self, path: Path, told: Told) -> None:
        self._path = path
        self._told = told

    async def run(self) -> None:
        store = self._called("open", lambda: open_store(self._path))
        manager = Manager(store, profile="local")
        file = self._called(
            "files.create",
            lambda: manager.files.create(input_lines(REQUESTS), filename="input.jsonl", purpose="batch"),
        )
        engine = EchoEngine(["m"], refusing=f"question {REFUSED}")
        engine.max_num_seqs = 4
        await engine.start()
        runner = Runner(store)
        running = asyncio.create_task(runner.run())
        await self._attach(runner, engine)
        for _ in range(BATCHES):
            batch = self._called(
                "batches.create", lambda: manager.batches.create(input_file_id=file.id, endpoint=ENDPOINT)
            )
            runner.wake()
            while (record := _looked_at(store, batch.id)) is None or record.status not in TERMINAL_STATUSES:
                if record is not None and record.paused:
                    raise PausedError(f"{record.status}: {record.reason}")
                if running.done():
                    running.result()
                await asyncio.sleep(0.005)
        await runner.stop()
        await running
        self._called("close", store.close)

    async def _attach(self, runner: Runner, engine: EchoEngine) -> None:
        try:
            await runner.attach(engine)
        except Exception as error:  # noqa: BLE001 - told
            self._note("attach", error)
            await runner.attach(engine)

    def _called(self, call: str, function: Callable[[], T]) -> T:
        """Call what a user calls; where it raises, once more, as a user would."""
        try:
            return function()
        except Exception as error:  # noqa: BLE001 - told
            self._note(call, error)
            return function()

    def _note(self, call: str, error: Exception) -> None:
        self._told.errors.append(f"{call}: {type(error).__name__}: {error}")


def _looked_at(store: Store, batch_id: str) -> BatchRecord | None:
    with _exempt(), contextlib.suppress(Exception):
        return store.batches.get(batch_id)
    return None


@contextlib.contextmanager
def _exempt() -> Iterator[None]:
    """Count no calls of this thread meanwhile: how often it looks is not the batch's life."""
    library = ctypes.CDLL(None)
    library.faults_exempt(1)
    try:
        yield
    finally:
        library.faults_exempt(0)


def _lived(path: Path) -> Told:
    told = Told()
    try:
        asyncio.run(_Life(path, told).run())
    except PausedError as error:
        told.failure = f"paused: {error}"
    except BaseException as error:  # noqa: BLE001 - told
        told.failure = "".join(traceback.format_exception(error))
    return told


def main() -> None:
    """Live a life for each line of the standard input."""
    for line in sys.stdin:
        read, write = os.pipe()
        if not (pid := os.fork()):
            signal.alarm(_MOST_SECONDS)
            os.write(write, msgspec.json.encode(_lived(Path(line.strip()))))
            os._exit(0)
        os.close(write)
        with os.fdopen(read, "rb") as answer:
            told = answer.read()
        _, status = os.waitpid(pid, 0)
        told = told or msgspec.json.encode(Told(f"killed, or not over after {_MOST_SECONDS} s: status {status}"))
        sys.stdout.buffer.write(told + b"\n")
        sys.stdout.buffer.flush()


if __name__ == "__main__":
    main()
