"""The processes of a soak: some with a runner and an echo engine, and one that tends and sweeps."""

from __future__ import annotations

import asyncio
import contextlib
import os
import time
from pathlib import Path

from tests.acceptance.runner_owner import as_on_a_disk
from tests.batches import open_store
from vbatch_jupyter.engine.echo import EchoEngine
from vbatch_jupyter.errors import StoreError
from vbatch_jupyter.manager import lifecycle
from vbatch_jupyter.runner import Runner
from vbatch_jupyter.store import Store

SPEED = 60
"""How many seconds pass for the store in one: what is kept for an hour goes in a minute."""

REFUSED = "question 7"
"""What a request has in it that is answered with an error."""


def clock() -> float:
    """Return the time of the store."""
    return time.time() * SPEED


def run_batches(path: Path) -> None:
    """Run the batches of a store until the end of the process."""
    for name in ("fsync", "fdatasync"):
        setattr(os, name, as_on_a_disk(getattr(os, name)))
    asyncio.run(_run(_opened(path)))


async def _run(store: Store) -> None:
    engine = EchoEngine(["m"], latency_seconds=0.01, refusing=REFUSED)
    engine.max_num_seqs = 64
    await engine.start()
    runner = Runner(store, on_notice=lambda _: None)
    while True:
        try:
            await runner.attach(engine)
            break
        except (StoreError, OSError):
            await asyncio.sleep(0.1)
    await runner.run()


def tend_batches(path: Path) -> None:
    """Tend and sweep a store until the end of the process, as a Jupyter server does."""
    store = _opened(path)
    while True:
        with contextlib.suppress(Exception):
            lifecycle.tend(store, sweep_seconds=1.0)
        time.sleep(0.2)


def _opened(path: Path) -> Store:
    while True:
        try:
            return open_store(path, clock=clock)
        except (StoreError, OSError):
            # A kernel's next cell opens it again.
            time.sleep(0.1)
