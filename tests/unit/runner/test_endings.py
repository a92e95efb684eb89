"""A batch that is cancelled, expires, changes its owner, loses its engine or has no room."""

from __future__ import annotations

import asyncio
import errno
import time
from collections.abc import Callable

import pytest

from tests.batches import assert_every_request_once, group, hold, open_store
from tests.unit.runner.running import (
    MORE_THAN_RUN,
    WITHOUT_HASTE,
    WitnessEngine,
    a_runner,
    answers,
    batch_of,
    ended,
    errors,
    expected,
    looks,
    on_a_loop,
    until,
)
from vbatch_jupyter.errors import StoreFullError
from vbatch_jupyter.loop import Attempts, in_thread
from vbatch_jupyter.manager import lifecycle
from vbatch_jupyter.protocol.batch import RequestCounts
from vbatch_jupyter.runner import Runner
from vbatch_jupyter.store import Store
from vbatch_jupyter.store.fsck import check
from vbatch_jupyter.store.lease import DISK_FULL_REASON

DAY = 86_400.0
CANCELLED = (None, "batch_cancelled", "This request was not executed: the batch was cancelled before it ran.")
EXPIRED = (None, "batch_expired", "This request could not be executed before the completion window expired.")
MOST_LINES_WAITING = 4096


def half_hanging(requests: int) -> list[str]:
    """Return prompts of which every other hangs."""
    return [f"hang {position}" if position % 2 else f"question {position}" for position in range(requests)]


async def stands_still(count: Callable[[], int]) -> None:
    """Wait until something that grows with nearly every turn of the loop has stopped growing."""
    seen = -1
    while seen != count():
        seen = count()
        for _ in range(100):
            await asyncio.sleep(0.001)


async def refused(store: Store, runner: Runner, batch_id: str) -> int:
    """Wait until tending and then the runner have found the disk full; return the batch's epoch after it."""
    await until(lambda: store.batches.get(batch_id).reason == DISK_FULL_REASON)
    await looks(runner, 1, loop=1)
    await looks(runner, 1)
    await until(lambda: not runner.running)
    return store.batches.get(batch_id).epoch


async def counted(store, batch_id: str, lines: int) -> None:
    await until(lambda: store.batches.get(batch_id).request_counts.completed >= lines)


# ---------------------------------------------------------------------------------------------------- cancel and expiry


@on_a_loop
async def test_a_cancel_keeps_what_is_finished_and_waits_for_nothing_that_runs(store, monkeypatch):
    monkeypatch.setattr("vbatch_jupyter.runner.collector.GROUP_SECONDS", 3600)
    prompts = half_hanging(100)
    engine = WitnessEngine(hanging="hang")
    async with a_runner(store, engine):
        batch_id = batch_of(store, prompts)
        await until(lambda: len(engine.asked) == 100)
        # Finished, but not in the spool yet: it must not be lost.
        store.batches.cancel(batch_id)
        record = await ended(store, batch_id)
    assert record.status == "cancelled"
    assert answers(store, record) == expected(prompts, without=range(1, 100, 2))
    assert errors(store, record) == {f"row-{position}": CANCELLED for position in range(1, 100, 2)}
    assert record.request_counts == RequestCounts(100, 50, 0)
    assert sorted(engine.aborted) == sorted(prompts[1::2])
    assert check(store) == []


@on_a_loop
async def test_a_cancel_does_not_wait_for_room_in_a_window_full_of_long_requests(store):
    engine = WitnessEngine(max_num_seqs=1, hanging="hang")
    async with a_runner(store, engine) as (runner, _):
        first = batch_of(store, ["hang"] * 200)
        await until(lambda: len(engine.asked) == 1 + MORE_THAN_RUN)
        second = batch_of(store, ["question"] * 10)
        await until(lambda: runner.resumed == {first, second})
        for batch_id, requests in ((second, 10), (first, 200)):
            store.batches.cancel(batch_id)
            record = await ended(store, batch_id)
            assert record.status == "cancelled"
            assert errors(store, record) == {f"row-{position}": CANCELLED for position in range(requests)}
            assert record.request_counts == RequestCounts(requests, 0, 0)
    assert engine.aborted == ["hang"] * (1 + MORE_THAN_RUN)


@on_a_loop
async def test_a_batch_that_expires_keeps_what_is_finished(store):
    prompts = half_hanging(60)
    engine = WitnessEngine(hanging="hang")
    async with a_runner(store, engine):
        batch_id = batch_of(store, prompts)
        await counted(store, batch_id, 30)
        store.clock = lambda: time.time() + DAY + 1
        record = await ended(store, batch_id)
    assert record.status == "expired"
    assert answers(store, record) == expected(prompts, without=range(1, 60, 2))
    assert errors(store, record) == {f"row-{position}": EXPIRED for position in range(1, 60, 2)}
    assert record.request_counts == RequestCounts(60, 30, 0)
    assert record.expired_at is not None
    assert record.expires_at is not None
    assert record.expired_at >= record.expires_at
    assert sorted(engine.aborted) == sorted(prompts[1::2])
    assert check(store) == []


@on_a_loop
async def test_a_batch_is_not_ended_by_what_the_store_said_before_it_began(store, monkeypatch):
    engine = WitnessEngine(hanging="hang")
    async with a_runner(store, engine) as (runner, _):
        batch_id = batch_of(store, ["hang"] * 3)
        before = store.batches.unfinished()
        assert [record.status for record in before] == ["validating"]
        monkeypatch.setattr(store.batches, "unfinished", lambda: before)
        await until(lambda: len(engine.asked) == 3)
        await looks(runner)
        assert (store.batches.get(batch_id).status, engine.aborted) == ("in_progress", [])
        monkeypatch.undo()
        engine.released.set()
        assert (await ended(store, batch_id)).request_counts == RequestCounts(3, 3, 0)


# ---------------------------------------------------------------------------------------------------- without an engine


@on_a_loop
async def test_a_runner_without_an_engine_does_what_needs_none(store):
    with hold(store, batch_of(store, ["a", "b"])) as answered:
        lifecycle.validate(store, answered)
        answered.append(group(answered.id, [0, 1]))
    waiting = batch_of(store, ["a", "b"])
    async with a_runner(store) as (runner, notices):
        valid, invalid = batch_of(store, ["a", "b"]), batch_of(store, ["a", "b"], stream=3, model=7)
        assert (await ended(store, answered.id)).status == "completed"
        assert (await ended(store, invalid)).status == "failed"
        await until(lambda: store.batches.get(valid).status == store.batches.get(waiting).status == "in_progress")
        await until(lambda: not runner.running)
        store.batches.cancel(valid)
        cancelled = await ended(store, valid)
        store.clock = lambda: time.time() + DAY + 1
        expired = await ended(store, waiting)
    assert errors(store, cancelled) == {"row-0": CANCELLED, "row-1": CANCELLED}
    assert errors(store, expired) == {"row-0": EXPIRED, "row-1": EXPIRED}
    assert (cancelled.status, expired.status) == ("cancelled", "expired")
    assert notices == []
    assert check(store) == []


@on_a_loop
async def test_a_cancel_without_an_engine_does_not_wait_for_the_next_tending(store, monkeypatch):
    monkeypatch.setattr("vbatch_jupyter.runner.runner._TEND_SECONDS", 3600)
    async with a_runner(store) as (runner, _):
        batch_id = batch_of(store, ["a", "b"])
        await until(lambda: store.batches.get(batch_id).status == "in_progress" and not runner.running)
        store.batches.cancel(batch_id)
        record = await ended(store, batch_id)
    assert record.status == "cancelled"
    assert errors(store, record) == {"row-0": CANCELLED, "row-1": CANCELLED}


@on_a_loop
async def test_a_batch_for_another_model_waits_and_is_not_touched(store):
    engine = WitnessEngine(served_model_names=["other"])
    async with a_runner(store, engine) as (runner, _):
        batch_id = batch_of(store, ["a"])
        await until(lambda: store.batches.get(batch_id).status == "in_progress" and not runner.running)
        # What tends may have been about to validate it too.
        await looks(runner, loop=1)
        epoch = store.batches.get(batch_id).epoch
        await looks(runner)
        assert store.batches.get(batch_id).epoch == epoch
    assert engine.asked == []


@on_a_loop
async def test_a_batch_goes_on_with_the_next_engine_and_says_so(store):
    prompts = half_hanging(40)
    first, second = WitnessEngine(hanging="hang"), WitnessEngine()
    async with a_runner(store, first) as (runner, notices):
        batch_id = batch_of(store, prompts)
        await until(lambda: len(first.asked) == 40)
        await runner.detach()
        # What was finished is on the disk when the call returns, and what was not is with nobody.
        record = store.batches.get(batch_id)
        assert (record.status, record.owner) == ("in_progress", None)
        assert record.request_counts == RequestCounts(40, 20, 0)
        assert sorted(first.aborted) == sorted(prompts[1::2])
        await looks(runner)
        assert runner.running == frozenset()
        assert notices == []
        await second.start()
        await runner.attach(second)
        record = await ended(store, batch_id)
    assert notices == [f"Resuming batch {batch_id}: 20 of 40 requests are answered."]
    assert sorted(second.asked) == sorted(prompts[1::2])
    assert answers(store, record) == expected(prompts)
    assert record.request_counts == RequestCounts(40, 40, 0)


@on_a_loop
async def test_a_batch_goes_on_in_the_next_process_and_says_so(tmp_path):
    prompts = half_hanging(40)
    with open_store(tmp_path / "store") as store:
        engine = WitnessEngine(hanging="hang")
        async with a_runner(store, engine):
            batch_id = batch_of(store, prompts)
            await counted(store, batch_id, 20)
    with open_store(tmp_path / "store") as store:
        engine = WitnessEngine()
        async with a_runner(store, engine) as (_, notices):
            record = await ended(store, batch_id)
        assert notices == [f"Resuming batch {batch_id}: 20 of 40 requests are answered."]
        assert sorted(engine.asked) == sorted(prompts[1::2])
        assert answers(store, record) == expected(prompts)
        assert check(store) == []


# --------------------------------------------------------------------------------------------------------------- fenced


def taken_over(other, runner, batch_id: str):
    """Take a batch from a runner that lives, as happens to one that was stopped for an hour."""
    runner._fed[batch_id]._lease._file_lock.release()
    return hold(other, batch_id)


@on_a_loop
async def test_a_fenced_runner_publishes_and_counts_nothing_more(store):
    prompts = half_hanging(40)
    engine = WitnessEngine(hanging="hang")
    with open_store(store.path) as other:
        async with a_runner(store, engine) as (runner, _):
            batch_id = batch_of(store, prompts)
            await counted(store, batch_id, 20)
            with taken_over(other, runner, batch_id) as lease:
                assert lease.recover().counts == RequestCounts(40, 20, 0)
                seen = lease.refresh()
                engine.released.set()
                await until(lambda: not runner.running)
                await looks(runner)
                assert lease.refresh() == seen
                assert len(other.files.list().data) == 1
                # What it still wrote into its own segment counts for nothing: the successor's lines do.
                lease.append(group(batch_id, range(1, 40, 2)))
                record = lifecycle.finish(other, lease)
        assert_every_request_once(other, record, 40)
        assert record.request_counts == RequestCounts(40, 20 + 16, 4)
        assert check(other) == []


@on_a_loop
async def test_a_fenced_runner_aborts_what_runs(store):
    engine = WitnessEngine(hanging="hang")
    with open_store(store.path) as other:
        async with a_runner(store, engine) as (runner, _):
            batch_id = batch_of(store, ["hang"] * 3)
            await until(lambda: len(engine.asked) == 3)
            with taken_over(other, runner, batch_id):
                await until(lambda: not runner.running)
                assert engine.aborted == ["hang"] * 3


# ------------------------------------------------------------------------------------------------------------ full disk


@on_a_loop
async def test_a_full_disk_stops_the_feed_and_the_batch_goes_on_when_there_is_room(store):
    prompts = [f"question {position}" for position in range(6000)]
    engine = WitnessEngine(max_num_seqs=16)
    batch_id = batch_of(store, prompts)
    free = store.space.free
    async with a_runner(store, engine) as (runner, _):
        await until(lambda: len(engine.asked) > 0)
        store.space.free = lambda: 0
        await until(lambda: store.batches.get(batch_id).reason == DISK_FULL_REASON)
        await stands_still(lambda: len(engine.asked))
        record = store.batches.get(batch_id)
        assert record.status == "in_progress"
        written = record.request_counts.completed
        # At most two loads of lines wait in memory, the group that is being written and the next, and the window's.
        assert len(engine.asked) <= written + 2 * MOST_LINES_WAITING + 16 + MORE_THAN_RUN
        asked = len(engine.asked)
        await looks(runner)
        assert (len(engine.asked), store.batches.get(batch_id).request_counts.completed) == (asked, written)
        store.space.free = free
        record = await ended(store, batch_id)
    assert (record.status, record.reason) == ("completed", None)
    assert answers(store, record) == expected(prompts)
    assert set(engine.times_asked.values()) == {1}
    assert check(store) == []


@pytest.mark.parametrize(
    ("error", "text"),
    [
        (StoreFullError("There is no room."), "There is no room."),
        (OSError(errno.ENOSPC, "No space left on device"), "OSError: [Errno 28] No space left on device"),
        (OSError(errno.EMFILE, "Too many open files"), "OSError: [Errno 24] Too many open files"),
    ],
)
@on_a_loop
async def test_a_runner_that_cannot_take_a_lease_says_so_once_and_runs_the_batch_later(store, monkeypatch, error, text):
    def fail(_: str) -> None:
        raise error

    async with a_runner(store, WitnessEngine()) as (runner, notices):
        looking, _ = runner.loops
        with monkeypatch.context() as patch:
            patch.setattr(store.batches, "acquire", fail)
            batch_id = batch_of(store, ["a", "b"])
            for _ in range(3):
                runner.wake()
                await in_thread(looking.looked)
            assert looking.last_problem is not None
            assert (looking.last_problem.text, looking.last_problem.times) == (text, looking.problems)
        record = await ended(store, batch_id)
        assert next(loop.last_problem for loop in runner.loops) is None
    assert [notice for notice in notices if "runner" in notice] == [
        f"The runner loop failed and will try again: {text}"
    ]
    assert answers(store, record) == expected(["a", "b"])


@on_a_loop
async def test_a_batch_whose_lease_cannot_be_taken_keeps_no_other_back(store, monkeypatch):
    broken = batch_of(store, ["a"])
    acquire = store.batches.acquire

    def fail_for_one(id_: str):
        if id_ == broken:
            raise PermissionError(errno.EACCES, "Permission denied")
        return acquire(id_)

    monkeypatch.setattr(store.batches, "acquire", fail_for_one)
    async with a_runner(store, WitnessEngine()) as (runner, _):
        record = await ended(store, batch_of(store, ["b"]))
        assert (problem := runner.loops[0].last_problem) is not None
        assert problem.text == "PermissionError: [Errno 13] Permission denied"
    assert answers(store, record) == expected(["b"])
    assert store.batches.get(broken).status == "validating"


@on_a_loop
async def test_a_runner_stops_at_once_on_a_full_disk_and_the_lines_without_room_run_again(store):
    prompts = half_hanging(40)
    engine = WitnessEngine(hanging="hang")
    batch_id = batch_of(store, prompts)
    free = store.space.free
    async with a_runner(store, engine, Attempts(WITHOUT_HASTE)) as (runner, _):
        await until(lambda: len(engine.asked) == 40)
        store.space.free = lambda: 0
        await until(lambda: store.batches.get(batch_id).reason == DISK_FULL_REASON)
        await runner.detach()
        assert store.batches.get(batch_id).request_counts == RequestCounts(40, 0, 0)
        store.space.free = free
        engine = WitnessEngine()
        await engine.start()
        await runner.attach(engine)
        record = await ended(store, batch_id)
    assert answers(store, record) == expected(prompts)
    assert len(engine.asked) == 40


@on_a_loop
async def test_a_batch_that_has_no_room_to_be_finished_is_tried_again_without_haste(store):
    engine = WitnessEngine(hanging="hang")
    batch_id = batch_of(store, ["a", "b"])
    free = store.space.free
    with hold(store, batch_id) as lease:
        lifecycle.validate(store, lease)
        lease.append(group(batch_id, [0, 1]))
    store.space.free = lambda: 0
    async with a_runner(store, engine, Attempts(WITHOUT_HASTE)) as (runner, _):
        epoch = await refused(store, runner, batch_id)
        await looks(runner, 5)
        await looks(runner, 5, loop=1)
        # Not at each look: it is tried again after an hour, or when it is resumed.
        assert store.batches.get(batch_id).epoch == epoch
        store.space.free = free
        store.batches.resume(batch_id)
        record = await ended(store, batch_id)
    assert (record.status, record.reason) == ("completed", None)
    assert_every_request_once(store, record, 2)


@on_a_loop
async def test_a_batch_that_has_no_room_to_begin_is_tried_again_without_haste(store):
    engine = WitnessEngine()
    async with a_runner(store, engine):
        await ended(store, batch_of(store, ["a", "b"]))
    batch_id = batch_of(store, ["a", "b"])
    free, store.space.free = store.space.free, lambda: 0
    async with a_runner(store, engine, Attempts(WITHOUT_HASTE)) as (runner, _):
        # The answers are known, and there is no room to take them again.
        epoch = await refused(store, runner, batch_id)
        await looks(runner, 5)
        assert store.batches.get(batch_id).epoch == epoch
        store.space.free = free
        store.batches.resume(batch_id)
        record = await ended(store, batch_id)
    assert (record.status, record.reason) == ("completed", None)
    assert answers(store, record) == expected(["a", "b"])
    assert engine.asked == ["a", "b"]


# --------------------------------------------------------------------------------------------------------------- damage


@pytest.mark.parametrize("damage", [b"", b"x" * 400])
@on_a_loop
async def test_a_batch_whose_input_file_is_damaged_is_paused_with_the_reason(store, damage):
    batch_id = batch_of(store, ["a", "b"])
    with hold(store, batch_id) as lease:
        lifecycle.validate(store, lease)
    store.files.path(store.batches.get(batch_id).input_file_id).write_bytes(damage)
    async with a_runner(store, WitnessEngine()) as (runner, notices):
        await until(lambda: store.batches.get(batch_id).paused and not runner.running)
        record = store.batches.get(batch_id)
        assert record.status == "in_progress"
        assert record.reason is not None
        assert record.reason.startswith("BadRequestError: This line is not a request: ")
        assert notices == [f"Batch {batch_id} is paused: {record.reason}"]
