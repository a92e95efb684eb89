"""Every loop of the package goes on whatever its step raises, and its problem is seen until a step succeeds."""

from __future__ import annotations

import asyncio
import contextlib
import functools
from collections.abc import AsyncIterator, Callable
from types import SimpleNamespace
from typing import Any, NamedTuple

import pytest
from jupyter_server.services.kernels.kernelmanager import AsyncMappingKernelManager

from tests.batches import make_batch, open_store
from tests.unit.engine.test_remote_engine import served
from tests.unit.runner.running import on_a_loop
from tests.unit.session_surface import open_session
from vbatch_jupyter.display.progress import Snapshot
from vbatch_jupyter.engine.listener import Verbs, make_socket_path
from vbatch_jupyter.engine.thread import EngineThread
from vbatch_jupyter.errors import StoreError
from vbatch_jupyter.loop import Loop, in_thread
from vbatch_jupyter.records import EngineStats
from vbatch_jupyter.runner import Runner
from vbatch_jupyter.server.backend import Backend
from vbatch_jupyter.server.events import Events
from vbatch_jupyter.server.kernels import EngineKernels
from vbatch_jupyter.server.metrics import VBatchCollector
from vbatch_jupyter.server.views import BatchWatch
from vbatch_jupyter.server.watch import EngineWatch
from vbatch_jupyter.session.presence import Presence
from vbatch_jupyter.store import Store
from vbatch_jupyter.targets.target_runner import TargetRunner
from vbatch_jupyter.widgets.live import Live


class Owner(NamedTuple):
    """A loop with its owner, and the call of its step that is made to fail."""

    loop: Loop
    object: Any
    method: str


Say = Callable[[str], None]


@contextlib.asynccontextmanager
async def runner(store: Store, say: Say) -> AsyncIterator[Owner]:
    runner = Runner(store, on_notice=say)
    running = asyncio.create_task(runner.run())
    yield Owner(runner.loops[0], store.batches, "unfinished")
    await runner.stop()
    await running


@contextlib.asynccontextmanager
async def tending_in_a_kernel(store: Store, say: Say) -> AsyncIterator[Owner]:
    runner = Runner(store, on_notice=say)
    running = asyncio.create_task(runner.run())
    yield Owner(runner.loops[1], store, "sweep")
    await runner.stop()
    await running


@contextlib.asynccontextmanager
async def target_runner(store: Store, say: Say) -> AsyncIterator[Owner]:
    runner = TargetRunner(store, on_notice=say)
    running = asyncio.create_task(runner.run())
    yield Owner(runner.loop, store.batches, "unfinished")
    await runner.stop()
    await running


@contextlib.asynccontextmanager
async def server(store: Store, say: Say) -> AsyncIterator[Backend]:
    backend = Backend(functools.partial(open_store, store.path), profile="openai", say=say)
    yield backend
    await backend.close()


@contextlib.asynccontextmanager
async def tending(store: Store, say: Say) -> AsyncIterator[Owner]:
    async with server(store, say) as backend:
        backend.tend(every_seconds=1.0, sweep_seconds=0.0)
        yield Owner(backend.loops[0], backend.store, "sweep")


@contextlib.asynccontextmanager
async def engine_kernels(store: Store, say: Say) -> AsyncIterator[Owner]:
    async with server(store, say) as backend:
        kernels = EngineKernels(
            backend,
            EngineWatch(backend),
            kernel_manager=AsyncMappingKernelManager(),
            models={"small": "ann/small"},
            idle_seconds=0.0,
            load_wait_seconds=1.0,
            activity={},
        )
        kernels.start()
        yield Owner(backend.loops[-1], backend.store.engines, "live")
        await kernels.stop()


@contextlib.asynccontextmanager
async def events(store: Store, say: Say) -> AsyncIterator[Owner]:
    async with server(store, say) as backend:
        watch = EngineWatch(backend)
        events = Events(backend, watch, BatchWatch(backend, watch))
        await events.subscribe()
        yield Owner(backend.loops[-1], backend.store, "version")
        await events.stop()


@contextlib.asynccontextmanager
async def metrics(store: Store, say: Say) -> AsyncIterator[Owner]:
    async with server(store, say) as backend:
        collector = VBatchCollector(backend, EngineWatch(backend))
        collector.start()
        yield Owner(backend.loops[-1], backend.store.batches, "totals")
        await collector.stop()


@contextlib.asynccontextmanager
async def presence(store: Store, say: Say) -> AsyncIterator[Owner]:
    thread = EngineThread()
    engine: Any = SimpleNamespace(describe=lambda: ("ready", ("small",)))
    verbs = Verbs(
        engine=lambda: None,
        stats=lambda: EngineStats(model="", state="unloaded"),
        loops=lambda: (),
        wake=lambda: None,
        load=lambda *_: None,
        unload=lambda: None,
    )
    describe = lambda: engine.describe()  # noqa: E731, PLW0108 - it is replaced
    presence = Presence(store, thread, make_socket_path(store.path), verbs, describe=describe, say=say)
    yield Owner(presence.loop, engine, "describe")
    await in_thread(presence.close, 10.0)
    thread.stop()


@contextlib.asynccontextmanager
async def remote_figures(_: Store, say: Say) -> AsyncIterator[Owner]:
    async with served(say=say) as (_server, engine):
        (loop,) = engine.loops
        yield Owner(loop, engine.figures, "observe")


@contextlib.asynccontextmanager
async def live_widget(store: Store, _: Say) -> AsyncIterator[Owner]:
    batch_id = make_batch(store, 2).id
    manager = SimpleNamespace(snapshot=lambda: Snapshot(time=0.0, batch=store.batches.get(batch_id)))
    live = Live(batch_id, snapshot=lambda: manager.snapshot(), cancel=bool, resume=bool, on_end=print)  # noqa: PLW0108 - it is replaced
    live.start()
    yield Owner(live.loop, manager, "snapshot")
    await in_thread(live.stop)


OWNERS = [
    runner,
    tending_in_a_kernel,
    target_runner,
    tending,
    engine_kernels,
    events,
    metrics,
    presence,
    remote_figures,
    live_widget,
]


@pytest.mark.parametrize(
    ("error", "text"),
    [
        (OSError(24, "Too many open files"), "OSError: [Errno 24] Too many open files"),
        (ValueError("could not convert"), "ValueError: could not convert"),
        (StoreError("The database cannot be used."), "The database cannot be used."),
    ],
    ids=["OSError", "ValueError", "StoreError"],
)
@pytest.mark.parametrize("owner", OWNERS, ids=lambda owner: owner.__name__)
@on_a_loop
async def test_a_loop_whose_step_fails_says_so_once_and_takes_the_next_step(tmp_path, monkeypatch, owner, error, text):
    calls: list[str] = []
    said: list[str] = []

    def fail(*_: object, **__: object) -> None:
        calls.append("failed")
        raise error

    with open_store(tmp_path / "store") as store:
        async with owner(store, said.append) as (loop, called, method):
            await in_thread(loop.looked)
            assert (loop.last_problem, loop.problems) == (None, 0)
            with monkeypatch.context() as patch:
                patch.setattr(called, method, fail)
                await in_thread(loop.looked)
                await in_thread(loop.looked)
                assert loop.last_problem is not None
                assert (loop.last_problem.loop, loop.last_problem.text) == (loop.name, text)
                assert loop.last_problem.times == loop.problems >= 2
                assert len(calls) >= 2
            await in_thread(loop.looked)
            assert loop.last_problem is None
    if owner is not live_widget:
        # The widget says it where it is looked at.
        assert said.count(f"The {loop.name} loop failed and will try again: {text}") == 1


@on_a_loop
async def test_the_server_tells_what_fails_in_a_kernel(tmp_path, monkeypatch):
    def fail() -> None:
        raise OSError(24, "Too many open files")

    session = await in_thread(open_session, tmp_path)
    try:
        async with server(session.store, print) as backend:
            watch = EngineWatch(backend)
            await watch.look()
            assert watch.problems() == []
            names = {(loop["loop"], loop["problem"]) for loop in watch.loops()}
            assert names == {(name, None) for name in ("tending", "runner", "target runner", "presence")}
            with monkeypatch.context() as patch:
                patch.setattr(session.store.batches, "unfinished", fail)
                await in_thread(session.loops()[0].looked)
                (view,) = await watch.look()
                problems = watch.problems()
                told = {problem["loop"]: (problem["text"], problem["kernel_id"]) for problem in problems}
                assert told["runner"] == ("OSError: [Errno 24] Too many open files", view.id)
            await in_thread(session.loops()[0].looked)
            await watch.look()
            assert "runner" not in {problem["loop"] for problem in watch.problems()}
            await watch.close()
    finally:
        await in_thread(session.close)
