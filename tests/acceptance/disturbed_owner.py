"""A process that holds a store, a runner and an echo engine, and tells what its runner says."""

from __future__ import annotations

import asyncio
import contextlib
import ctypes
import os
from multiprocessing.connection import Connection
from pathlib import Path

from tests.batches import open_store
from tests.unit.runner.running import WitnessEngine
from vbatch_jupyter.errors import StoreError
from vbatch_jupyter.loop import Attempts, Backoff
from vbatch_jupyter.runner import Runner
from vbatch_jupyter.store import Store

_CAPABILITY_VERSION = 0x20080522


class _Header(ctypes.Structure):
    _fields_ = (("version", ctypes.c_uint32), ("pid", ctypes.c_int))


def as_an_ordinary_user() -> None:
    """Let the modes of files and directories hold also for root; before the first thread is started."""
    if os.geteuid() == 0:
        none = (ctypes.c_uint32 * 6)()
        assert ctypes.CDLL(None).capset(ctypes.byref(_Header(_CAPABILITY_VERSION, 0)), none) == 0


def run(path: Path, told: Connection) -> None:
    """Run all batches of a store to their ends.

    Parameters
    ----------
    path
        The store's.
    told
        Where it says "open", waits to be told to start, and says what the runner does. A second word lets go the
        answers to the questions whose numbers begin with 9.
    """
    as_an_ordinary_user()
    with open_store(path) as store:
        asyncio.run(_run(store, told))


async def _run(store: Store, told: Connection) -> None:
    engine = WitnessEngine(served_model_names=["m"], max_num_seqs=32, hanging="question 9")
    await engine.start()

    def let_go() -> None:
        asyncio.get_running_loop().remove_reader(told.fileno())
        told.recv()
        engine.released.set()

    told.send("open")
    told.recv()
    # Not `told.poll`, which is not allowed to a process without descriptors.
    asyncio.get_running_loop().add_reader(told.fileno(), let_go)
    # Short pauses, or the test would wait for them.
    runner = Runner(store, on_notice=told.send, attempts=Attempts(Backoff(first=0.05, longest=0.2)))
    await runner.attach(engine)
    running = asyncio.create_task(runner.run())
    while True:
        with contextlib.suppress(StoreError, OSError):
            if not store.batches.unfinished():
                break
        await asyncio.sleep(0.02)
    await runner.stop()
    await running
