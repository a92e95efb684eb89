"""A temporary error of the store or of the operating system makes a batch wait, and costs it nothing."""

from __future__ import annotations

import errno
import os

import pytest

from tests.batches import assert_every_request_once, group, hold
from tests.unit.runner.running import (
    WITHOUT_HASTE,
    WitnessEngine,
    a_runner,
    answers,
    batch_of,
    ended,
    expected,
    looks,
    on_a_loop,
    paused,
    until,
)
from vbatch_jupyter.errors import EngineLoadError, StoreError
from vbatch_jupyter.loop import Attempts
from vbatch_jupyter.manager import lifecycle
from vbatch_jupyter.store.fsck import check

BROKEN = OSError(errno.EIO, "Input/output error")
SAID = "Input/output error. It is tried again."


def failing(times, function, *, error=BROKEN):
    """Return a function that fails the first times, and the list of its calls."""
    calls: list[object] = []

    def fail(*arguments, **keywords):
        calls.append(arguments)
        if len(calls) <= times:
            raise error
        return function(*arguments, **keywords)

    return fail, calls


@on_a_loop
async def test_lines_that_the_disk_did_not_take_are_kept_and_written_and_no_request_is_asked_twice(store, monkeypatch):
    prompts = [f"question {position}" for position in range(40)]
    fail, calls = failing(3, os.fdatasync)
    monkeypatch.setattr(os, "fdatasync", fail)
    engine = WitnessEngine()
    async with a_runner(store, engine) as (_, notices):
        batch_id = batch_of(store, prompts)
        record = await ended(store, batch_id)
    assert answers(store, record) == expected(prompts)
    assert set(engine.times_asked.values()) == {1}
    assert len(calls) >= 4
    # Said once.
    (notice,) = notices
    assert notice.startswith(f"Batch {batch_id} waits: The store cannot write to ")
    assert notice.endswith(SAID)
    assert (record.paused, record.reason) == (False, None)
    assert check(store) == []


@on_a_loop
async def test_why_lines_wait_is_said_until_they_are_written_and_resume_does_not_wait(store, monkeypatch):
    fail, _ = failing(1, os.fdatasync)
    monkeypatch.setattr(os, "fdatasync", fail)
    engine = WitnessEngine()
    async with a_runner(store, engine, Attempts(WITHOUT_HASTE)) as (runner, _):
        batch_id = batch_of(store, ["a", "b"])
        await until(lambda: str(store.batches.get(batch_id).reason).endswith(SAID))
        await looks(runner)
        assert store.batches.get(batch_id).request_counts.completed == 0
        store.batches.resume(batch_id)
        record = await ended(store, batch_id)
    assert answers(store, record) == expected(["a", "b"])
    assert engine.asked == ["a", "b"]


@on_a_loop
async def test_an_input_file_that_cannot_be_read_for_a_while_ends_nothing(store, monkeypatch):
    fail, calls = failing(3, os.pread)
    monkeypatch.setattr(os, "pread", fail)
    async with a_runner(store, WitnessEngine()) as (_, notices):
        batch_id = batch_of(store, ["a"])
        record = await ended(store, batch_id)
    assert answers(store, record) == expected(["a"])
    waits = [notice for notice in notices if "waits" in notice]
    assert waits == [f"Batch {batch_id} waits: OSError: [Errno 5] {SAID}"]
    assert len(calls) == 4


@pytest.mark.parametrize("error", [BROKEN, StoreError("The database cannot be used."), MemoryError("no memory")])
@pytest.mark.parametrize("step", ["validate", "load_index", "finish"])
@on_a_loop
async def test_each_step_of_a_batch_is_tried_again(store, monkeypatch, step, error):
    fail, calls = failing(2, getattr(lifecycle, step), error=error)
    monkeypatch.setattr(lifecycle, step, fail)
    async with a_runner(store, WitnessEngine()):
        batch_id = batch_of(store, ["a", "b"])
        record = await ended(store, batch_id)
    assert answers(store, record) == expected(["a", "b"])
    assert len(calls) >= 3
    assert check(store) == []


@on_a_loop
async def test_an_unreadable_input_file_stops_its_own_batch_and_no_other(store):
    broken = batch_of(store, ["a"])
    path = store.files.path(store.batches.get(broken).input_file_id)
    content = path.read_bytes()
    path.unlink()
    path.mkdir()
    async with a_runner(store, WitnessEngine()) as (runner, _):
        await until(lambda: store.batches.get(broken).reason is not None)
        for prompts in (["b"], ["c", "d"]):
            assert answers(store, await ended(store, batch_of(store, prompts))) == expected(prompts)
        await looks(runner)
        await looks(runner, loop=1)
        # The batch says it; no loop is held up by it.
        assert [loop.last_problem for loop in runner.loops] == [None, None]
        assert not store.batches.get(broken).paused
        path.rmdir()
        path.write_bytes(content)
        store.batches.resume(broken)
        assert answers(store, await ended(store, broken)) == expected(["a"])


@on_a_loop
async def test_an_engine_that_comes_while_the_store_cannot_be_read_resumes_its_batches(store, monkeypatch):
    with hold(store, batch_of(store, ["a", "b"])) as lease:
        lifecycle.validate(store, lease)
        lease.append(group(lease.id, [0]))
        lease.update(paused=True, reason="The engine died.")
    fail, calls = failing(2, store.batches.unfinished)
    monkeypatch.setattr(store.batches, "unfinished", fail)
    async with a_runner(store, WitnessEngine()):
        record = await ended(store, lease.id)
    assert_every_request_once(store, record, 2)
    assert len(calls) > 2


@on_a_loop
async def test_a_batch_that_is_resumed_has_its_lost_engine_loaded_again(store):
    class Broken(WitnessEngine):
        is_repaired = False

        async def start(self) -> None:
            if self.lives and not self.is_repaired:
                self.lives += 1
                raise EngineLoadError("no memory")
            await super().start()

    engine = Broken(dies_at=[1])
    async with a_runner(store, engine) as (_, notices):
        batch_id = batch_of(store, ["a", "b"])
        await paused(store, batch_id)
        lives = engine.lives
        store.batches.resume(batch_id)
        await until(lambda: engine.lives > lives)
        await paused(store, batch_id)
        engine.is_repaired = True
        store.batches.resume(batch_id)
        record = await ended(store, batch_id)
    assert answers(store, record) == expected(["a", "b"])
    assert len([notice for notice in notices if "is paused" in notice]) == 2
