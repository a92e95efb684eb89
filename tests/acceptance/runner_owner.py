"""A process that holds a store, a runner and an echo engine, until it is killed or everything has ended."""

from __future__ import annotations

import asyncio
import os
import time
from collections.abc import Callable
from pathlib import Path
from typing import Any

from tests.batches import open_store
from vbatch_jupyter.engine.echo import EchoEngine
from vbatch_jupyter.runner import Runner
from vbatch_jupyter.store import Store

DISK_SECONDS = 0.01
"""A file system in memory is written in no time, and a kill would not fall into the moments that a disk has."""


def run(path: Path) -> None:
    """Run all batches of a store to their ends."""
    for name in ("fsync", "fdatasync"):
        setattr(os, name, as_on_a_disk(getattr(os, name)))
    with open_store(path) as store:
        asyncio.run(_run(store))


def as_on_a_disk(sync: Callable[[Any], None]) -> Callable[[Any], None]:
    """Return what takes as long as on a disk."""

    def slow(descriptor: Any) -> None:
        sync(descriptor)
        time.sleep(DISK_SECONDS)

    return slow


async def _run(store: Store) -> None:
    engine = EchoEngine(["m"], latency_seconds=0.02, refusing="question 7")
    engine.max_num_seqs = 32
    await engine.start()
    runner = Runner(store)
    await runner.attach(engine)
    running = asyncio.create_task(runner.run())
    while store.batches.unfinished():  # noqa: ASYNC110 - the store has no event
        await asyncio.sleep(0.01)
    await runner.stop()
    await running
