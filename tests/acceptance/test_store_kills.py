"""A process that holds a store, a lease and unwritten answers is killed with -9: nothing is lost, nothing doubled."""

from __future__ import annotations

import functools
import multiprocessing
import random
import signal
import time

import pytest

from tests.acceptance import store_owner
from tests.batches import (
    assert_every_request_once,
    begin,
    custom_ids,
    error_codes,
    group,
    is_error,
    make_batch,
    open_store,
)
from tests.fixtures.make_store import unpack
from vbatch_jupyter.manager import lifecycle
from vbatch_jupyter.protocol.ids import result_file_id
from vbatch_jupyter.store.fsck import check

KILLS = 60
REQUESTS = 300
DAY = 86_400.0
KEY = "an engine"


@pytest.fixture(scope="module")
def processes():
    """Start processes in milliseconds: they are forked from one that has everything imported and nothing opened."""
    context = multiprocessing.get_context("forkserver")
    context.set_forkserver_preload([store_owner.__name__])
    return context


def test_sixty_kills_at_random_moments_lose_and_double_nothing(tmp_path, processes):
    kills = 0
    batch_ids: list[str] = []
    cancelled: set[str] = set()
    with open_store(tmp_path / "store") as store:
        while kills < KILLS:
            if len(store.batches.unfinished()) < 2:
                batch_ids.append(make_batch(store, REQUESTS).id)
            owner = processes.Process(target=store_owner.run, args=(store.path,))
            owner.start()
            owner.join(timeout=random.expovariate(1 / 0.12))
            if owner.exitcode is None:
                owner.kill()  # nothing happens where it has just ended by itself
                owner.join()
            assert owner.exitcode in {0, -signal.SIGKILL}
            kills += owner.exitcode == -signal.SIGKILL
            running = [record.id for record in store.batches.unfinished() if record.status == "in_progress"]
            if running and kills % 20 == 19:
                cancelled.add(store.batches.cancel(running[0]).id)
            if kills % 10 == 5:
                lifecycle.tend(store)
        store_owner.advance_all(store, group_size=16)
        lifecycle.tend(store)
        store.sweep()

        assert len(batch_ids) >= 2
        for batch_id in batch_ids:
            record = store.batches.get(batch_id)
            assert record.status == ("cancelled" if batch_id in cancelled else "completed")
            assert_every_request_once(store, record, REQUESTS)
            assert record.request_counts.total == REQUESTS
            if batch_id not in cancelled:
                assert record.request_counts.failed == REQUESTS // 5
                assert record.usage is not None
                assert record.usage.output_tokens == 2 * (REQUESTS - REQUESTS // 5)
        assert check(store) == []


@pytest.mark.parametrize("end", ["completed", "cancelled", "expired"])
def test_a_kill_at_each_step_to_the_end_of_a_batch_is_redone_with_the_same_ids(tmp_path, processes, end):
    with open_store(tmp_path / "store") as store:
        for step in range(1, 1000):
            batch_id = _batch_to_be_ended(store, end)
            ahead = 2 * DAY if end == "expired" else 0.0
            owner = processes.Process(target=store_owner.run_until_step, args=(store.path, step, ahead))
            owner.start()
            owner.join()
            assert owner.exitcode in {0, -signal.SIGKILL}

            store.clock = functools.partial(_time_ahead, ahead)
            store_owner.advance_all(store, group_size=2)
            store.sweep()
            store.clock = time.time

            record = store.batches.get(batch_id)
            _assert_ended(store, record, end)
            if owner.exitcode == 0:
                break
        # Fewer would mean that the steps are no longer seen.
        assert step > 40
        assert check(store) == []


def _time_ahead(seconds):
    return time.time() + seconds


def _batch_to_be_ended(store, end):
    if end == "completed":
        return make_batch(store, 4).id
    with begin(store, 4) as lease:
        lease.append(group(lease.id, [0, 3]))
    if end == "cancelled":
        store.batches.cancel(lease.id)
    return lease.id


def _assert_ended(store, record, end):
    assert record.status == end
    assert_every_request_once(store, record, 4)
    assert record.output_file_id == result_file_id(record.id, "output")
    assert record.error_file_id == result_file_id(record.id, "error")
    answered = range(4) if end == "completed" else [0, 3]
    outputs = [f"row-{position}" for position in answered if not is_error(position)]
    assert custom_ids(store, record.output_file_id) == outputs
    assert (record.request_counts.completed, record.request_counts.failed) == (len(outputs), 1)
    left = {} if end == "completed" else {"row-1": f"batch_{end}", "row-2": f"batch_{end}"}
    assert error_codes(store, record) == left


def test_a_kill_at_each_step_of_an_upgrade_is_made_good_by_whoever_opens_the_store_next(tmp_path, processes):
    contents = []
    for step in range(1, 1000):
        path = unpack(tmp_path / f"store-{step}")
        owner = processes.Process(target=store_owner.open_until_step, args=(path, step))
        owner.start()
        owner.join()
        assert owner.exitcode in {0, -signal.SIGKILL}
        open_store(path).close()
        files = (each for each in path.rglob("*-*") if each.is_file())
        contents.append({str(each.relative_to(path)): each.read_bytes() for each in files})
        if owner.exitcode == 0:
            break
    assert step > 20
    assert sum(name.endswith((".answers", ".timings")) for name in contents[-1]) == 9
    assert [found for found in contents if found != contents[-1]] == []


def test_a_kill_at_each_step_of_an_upload_leaves_the_whole_file_or_none(tmp_path, processes):
    with open_store(tmp_path / "store") as store:
        files = store.files.list().data
        for step in range(1, 200):
            known = len(files)
            owner = processes.Process(target=store_owner.upload_until_step, args=(store.path, step))
            owner.start()
            owner.join()
            store.sweep()
            files = store.files.list().data
            assert len(files) - known in {0, 1}
            if owner.exitcode == 0:
                break
        assert step > 10
        assert check(store) == []
        assert files[0].bytes == len(store_owner.UPLOAD)


def test_a_kill_at_each_step_of_a_search_leaves_an_index_with_every_known_answer(tmp_path, processes):
    with open_store(tmp_path / "store") as store:
        for step in range(1, 1000):
            if step % 7 == 1:
                # From nothing, as well as from where the search before has left it.
                (store.path / "answers.sqlite3").unlink(missing_ok=True)
            with begin(store, 3) as lease:
                lease.update(answers_key=KEY)
                lease.append(group(lease.id, range(3)))
                ended = lifecycle.finish(store, lease)
            if step % 5 == 0:
                # The search meets its answers in the index, and drops them.
                assert len(store_owner.known_answers(store, KEY, 3)) == 3
                store.files.delete(str(ended.output_file_id))
            owner = processes.Process(target=store_owner.search_until_step, args=(store.path, step, KEY, 3))
            owner.start()
            owner.join()
            assert owner.exitcode in {0, -signal.SIGKILL}

            found = store_owner.known_answers(store, KEY, 4)
            assert [position for position, _ in found] == [0, 1, 2]
            assert all(b"answer %d" % position in line for position, line in found)
            if owner.exitcode == 0:
                break
        assert step > 20
