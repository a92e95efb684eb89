from __future__ import annotations

import os
import re
import socket

import pytest

from tests.batches import begin, group, hold, make_batch, open_store
from vbatch_jupyter.errors import ConflictError, NotFoundError, StoreFullError
from vbatch_jupyter.protocol.batch import BatchError, BatchRecord, RequestCounts, Usage
from vbatch_jupyter.protocol.ids import new_batch_id, new_file_id

UNKNOWN = "batch_" + "0" * 32


def end(store, batch_id):
    store.batches.cancel(batch_id)
    with hold(store, batch_id) as lease:
        lease.publish("cancelled")


def test_a_batch_comes_back_with_every_field_as_it_was(store):
    record = BatchRecord(
        id=new_batch_id(),
        endpoint="/v1/embeddings",
        input_file_id=new_file_id(),
        created_at=10,
        completion_window="1h",
        model="m",
        errors=(BatchError("invalid_url", "a\u2028b", "url", 3), BatchError("empty_file", "c")),
        expires_at=20,
        request_counts=RequestCounts(5, 2, 1),
        usage=Usage(1, 2, 3, 4),
        metadata={"a": "\N{SNOWMAN}", "b": '"'},
        output_expires_after_seconds=3600,
        profile="parasail",
        epoch=7,
        owner="host:1",
        reason="because",
        paused=True,
        deaths=2,
        careful=True,
        frame='{"rows": 5}',
    )
    assert store.batches.create(record) == record
    assert store.batches.get(record.id) == record


@pytest.mark.parametrize("batch_id", [UNKNOWN, "batch_", "../x", "", "\ud800"])
def test_an_unknown_batch_is_not_found(store, batch_id):
    for verb in (store.batches.get, store.batches.cancel, store.batches.resume, store.batches.acquire):
        with pytest.raises(NotFoundError) as caught:
            verb(batch_id)
        assert str(caught.value) == f"No batch found with id '{batch_id}'."
    assert list(store.batches.directory.iterdir()) == []


def test_a_list_is_newest_first_and_the_unfinished_are_oldest_first(store):
    ids = [make_batch(store, 1).id for _ in range(5)]
    end(store, ids[2])
    page = store.batches.list(limit=2)
    assert ([record.id for record in page.data], page.has_more) == ([ids[4], ids[3]], True)
    page = store.batches.list(limit=3, after=page.last_id)
    assert ([record.id for record in page.data], page.has_more) == ([ids[2], ids[1], ids[0]], False)
    assert [record.id for record in store.batches.unfinished()] == [ids[0], ids[1], ids[3], ids[4]]
    with pytest.raises(NotFoundError):
        store.batches.list(after=UNKNOWN)


def test_a_batch_that_the_disk_has_no_room_for_is_not_created(tmp_path):
    with open_store(tmp_path / "store") as store:
        batch = make_batch(store, 1)
    with open_store(store.path, floor_bytes=1 << 60) as store:
        with pytest.raises(StoreFullError, match=r"is full\. .* MiB are needed, [\d.,]+ MiB are free"):
            store.batches.create(BatchRecord(**{**batch.__dict__, "id": new_batch_id()}))
        assert len(store.batches.list().data) == 1


def test_a_cancel_is_stamped_once_and_says_the_same_thing_twice(store):
    batch = make_batch(store, 1)
    store.clock = lambda: 50
    first = store.batches.cancel(batch.id)
    assert (first.status, first.cancelling_at, first.cancelled_at) == ("cancelling", 50, None)
    store.clock = lambda: 60
    assert store.batches.cancel(batch.id) == first
    with hold(store, batch.id) as lease:
        ended = lease.publish("cancelled")
    assert (ended.status, ended.cancelling_at, ended.cancelled_at) == ("cancelled", 50, 60)
    assert store.batches.cancel(batch.id) == ended


def test_a_batch_that_is_being_finalised_completes_in_spite_of_a_cancel(store):
    with begin(store, 1) as lease:
        lease.append(group(lease.id, [0]))
        finalizing = lease.update(status="finalizing")
        assert store.batches.cancel(lease.id) == finalizing


@pytest.mark.parametrize("status", ["completed", "failed", "expired"])
def test_a_batch_that_has_ended_otherwise_cannot_be_cancelled(store, status):
    lease = hold(store, make_batch(store, 1).id)
    if status == "failed":
        lease.update(status="failed")
    else:
        lease.update(status="in_progress")
        if status == "completed":
            lease.update(status="finalizing")
        lease.publish(status)
    lease.release()
    with pytest.raises(ConflictError) as caught:
        store.batches.cancel(lease.id)
    assert str(caught.value) == f"Cannot cancel a batch with status '{status}'."
    assert (caught.value.id, caught.value.status) == (lease.id, status)


def test_resume_clears_what_paused_a_batch_and_leaves_an_ended_one_alone(store):
    with begin(store, 1) as lease:
        lease.update(paused=True, reason="three deaths", deaths=3, careful=True)
        record = store.batches.resume(lease.id)
        assert (record.paused, record.reason, record.deaths, record.careful) == (False, None, 0, False)
    end(store, lease.id)
    assert store.batches.resume(lease.id).status == "cancelled"


def test_one_live_owner_holds_a_batch_and_the_next_has_a_higher_epoch(store):
    batch = make_batch(store, 1)
    with open_store(store.path) as other:
        first = hold(store, batch.id)
        assert store.batches.acquire(batch.id) is None
        assert other.batches.acquire(batch.id) is None
        assert store.batches.get(batch.id).owner == f"{socket.gethostname()}:{os.getpid()}"
        first.release()
        assert store.batches.get(batch.id).owner is None
        second = hold(other, batch.id)
        assert (first.epoch, second.epoch) == (1, 2)
        second.release()


def test_a_batch_that_has_ended_cannot_be_held_and_leaves_no_directory(store):
    batch = make_batch(store, 1)
    end(store, batch.id)
    assert store.batches.acquire(batch.id) is None
    assert list(store.batches.directory.iterdir()) == []


def test_an_epoch_is_never_given_again_though_the_database_forgot_it(store):
    with begin(store, 2) as lease:
        lease.append(group(lease.id, [0]))
    # A database restored from a backup is behind its spools; the trigger would forbid it.
    store.database.write(lambda connection: connection.execute("DROP TRIGGER epoch_rises"))
    store.database.write(lambda connection: connection.execute("UPDATE batch SET epoch = 0"))
    with hold(store, lease.id) as again:
        assert again.epoch == lease.epoch + 1
        assert again.append(group(lease.id, [1])) == RequestCounts(2, 2, 0)


def test_the_sweep_removes_directories_of_ended_batches_only(store):
    ended, running = make_batch(store, 1), make_batch(store, 1)
    end(store, ended.id)
    for name in (ended.id, running.id, UNKNOWN):
        (store.batches.directory / name).mkdir()
        (store.batches.directory / name / "spool-0000000001").write_bytes(b"x")
    assert sorted(store.sweep()) == sorted([ended.id, UNKNOWN])
    assert [path.name for path in store.batches.directory.iterdir()] == [running.id]


def test_the_sweep_can_be_asked_for_often_and_done_rarely(store):
    store.sweep()
    (store.batches.directory / UNKNOWN).mkdir()
    assert store.sweep(at_most_every_seconds=60) == []
    assert store.sweep() == [UNKNOWN]


def test_a_lease_shows_itself(store):
    with hold(store, make_batch(store, 1).id) as lease:
        assert re.fullmatch(r"<Lease of batch_[0-9a-f]{32}, epoch 1>", repr(lease))
    assert repr(lease).endswith("epoch 1, released>")
