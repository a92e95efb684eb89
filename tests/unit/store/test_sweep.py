"""What the sweeper removes when its time has come, and what it never touches."""

from __future__ import annotations

import pytest

from tests.batches import begin, content, group, make_batch, open_store
from vbatch_jupyter.errors import NotFoundError
from vbatch_jupyter.manager import Manager, lifecycle
from vbatch_jupyter.store import lease as store_lease

HOUR = 3600
BEGAN = 1_700_000_000


@pytest.fixture
def clock():
    return [float(BEGAN)]


@pytest.fixture
def store(tmp_path, clock):
    with open_store(tmp_path / "store", clock=lambda: clock[0]) as store:
        yield store


def is_there(get, id_):
    try:
        get(id_)
    except NotFoundError:
        return False
    return True


def test_a_batch_and_its_output_go_when_their_time_has_passed_and_others_stay(store, clock):
    kept = begin(store, 2)
    with begin(store, 2, output_expires_after_seconds=HOUR) as lease, kept:
        for each in (lease, kept):
            each.append(group(each.id, range(2)))
        ended, other = lifecycle.finish(store, lease), lifecycle.finish(store, kept)
    clock[0] += HOUR - 1
    assert store.sweep() == []
    assert len(content(store, ended.output_file_id).splitlines()) == 2
    clock[0] += 1
    assert set(store.sweep()) >= {ended.id, ended.output_file_id}
    assert not is_there(store.batches.get, ended.id)
    assert not is_there(store.files.get, ended.output_file_id)
    assert [record.id for record in store.batches.list().data] == [other.id]
    assert len(content(store, other.output_file_id).splitlines()) == 2


def test_a_batch_that_is_begun_while_the_sweep_looks_round_keeps_its_directory(store, monkeypatch):
    begun = []
    look = store.batches.unfinished

    def look_and_begin():
        records = look()
        begun.append(begin(store, 2))
        return records

    monkeypatch.setattr(store.batches, "unfinished", look_and_begin)
    assert store.sweep() == []
    (lease,) = begun
    with lease:
        lease.append(group(lease.id, range(2)))
        assert lifecycle.finish(store, lease).status == "completed"


def test_what_is_kept_of_answers_stays_while_their_batch_is_about_to_end(store, monkeypatch):
    publish = store_lease.Lease.publish
    swept = []

    def sweep_and_publish(lease, *arguments, **keywords):
        swept.extend(store.sweep())
        return publish(lease, *arguments, **keywords)

    monkeypatch.setattr(store_lease.Lease, "publish", sweep_and_publish)
    with begin(store, 2) as lease:
        lease.update(answers_key="an engine")
        lease.append(group(lease.id, range(2)))
        ended = lifecycle.finish(store, lease)
    assert swept == []
    kept = store.path / "answers" / ended.output_file_id
    assert kept.exists()
    store.files.delete(ended.output_file_id)
    assert store.sweep() == [ended.output_file_id, ended.id]
    assert not kept.exists()


def test_a_running_batch_and_the_expired_file_that_it_reads_stay_until_it_has_ended(store, clock):
    manager = Manager(store, profile="local")
    with begin(store, 3, output_expires_after_seconds=HOUR) as lease:
        record = lease.refresh()
        assert is_there(store.files.get, record.input_file_id)
    expiring = manager.files.create([b"{}\n"], filename="x", purpose="batch", expires_after_seconds=HOUR)
    waiting = manager.batches.create(input_file_id=expiring.id, endpoint="/v1/embeddings")
    clock[0] += 20 * HOUR
    assert store.sweep() == []
    assert store.batches.get(record.id).status == "in_progress"
    assert store.batches.get(waiting.id).status == "validating"
    assert content(store, expiring.id) == b"{}\n"
    manager.batches.cancel(waiting.id)
    lifecycle.tend(store)
    assert store.batches.get(waiting.id).status == "cancelled"
    assert store.sweep() == [expiring.id]


def test_a_batch_that_failed_or_was_cancelled_is_kept_for_as_long(store, clock):
    record = make_batch(store, 1, output_expires_after_seconds=HOUR)
    Manager(store).batches.cancel(record.id)
    lifecycle.tend(store)
    clock[0] += HOUR
    assert store.sweep() == [record.id]
    assert store.batches.list().data == ()


def test_the_store_is_swept_as_often_as_is_asked_for(store, clock):
    lifecycle.tend(store, sweep_seconds=3600.0)
    Manager(store).files.create([b"x"], filename="x", purpose="user_data", expires_after_seconds=HOUR)
    clock[0] += HOUR
    lifecycle.tend(store, sweep_seconds=3600.0)
    assert len(store.files.list().data) == 1
    lifecycle.tend(store, sweep_seconds=0.0)
    assert store.files.list().data == ()
