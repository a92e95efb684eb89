"""A process that holds a store, a runner and an echo engine, until it is killed or everything has ended."""

from __future__ import annotations

import asyncio
from pathlib import Path

from tests.batches import open_store
from vbatch_jupyter.engine.echo import EchoEngine
from vbatch_jupyter.runner import Runner
from vbatch_jupyter.store import Store


def run(path: Path) -> None:
    """Run all batches of a store to their ends."""
    with open_store(path) as store:
        asyncio.run(_run(store))


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
