"""What the sweeper removes when its time has come, and what it never touches."""

from __future__ import annotations

import os
import time

import pytest

from tests.batches import assert_every_request_once, begin, content, group, make_batch, open_store
from vbatch_jupyter.errors import NotFoundError
from vbatch_jupyter.manager import Manager, lifecycle
from vbatch_jupyter.protocol.ids import result_file_id

HOUR = 3600
BEGAN = 1_700_000_000


@pytest.fixture
def clock():
    return [float(BEGAN)]


@pytest.fixture
def store(tmp_path, clock):
    with open_store(tmp_path / "store", clock=lambda: clock[0]) as store:
        yield store


def files(store):
    return sorted(path.name for path in store.files.directory.iterdir())


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
    known = store.batches.known

    def look_and_begin(ids):
        found = known(ids)
        begun.append(begin(store, 2))
        return found

    monkeypatch.setattr(store.batches, "known", look_and_begin)
    assert store.sweep() == []
    (lease,) = begun
    with lease:
        lease.append(group(lease.id, range(2)))
        assert lifecycle.finish(store, lease).status == "completed"


def test_a_file_stays_that_gets_its_row_after_the_first_look_and_so_does_one_that_is_made_after_it(store, monkeypatch):
    def make():
        return Manager(store).files.create([b"x"], filename="x", purpose="user_data")

    kept, known = [make()], store.files.known

    def look(ids):
        if len(kept) == 2:
            return known(ids)
        # The first look was before the row of the first file, and the second file was made right after it.
        kept.append(make())
        return set()

    monkeypatch.setattr(store.files, "known", look)
    assert store.sweep() == []
    assert [content(store, record.id) for record in kept] == [b"x", b"x"]


@pytest.fixture
def sweep_within_transactions(store):
    """Sweep, as another process does, before each row of a file or a part is inserted; list what was removed."""
    swept = []
    with open_store(store.path, clock=store.clock) as other:

        def sweep(statement):
            if statement.startswith(("INSERT INTO file", "INSERT INTO upload_part")):
                swept.append(other.sweep())

        store.database._connection.set_trace_callback(sweep)
        yield swept
        store.database._connection.set_trace_callback(None)


def test_a_file_and_a_part_stay_while_they_have_no_row_yet(store, sweep_within_transactions):
    manager = Manager(store)
    file = manager.files.create([b"{}\n"], filename="x", purpose="user_data")
    upload = manager.uploads.create(bytes=2, filename="x", mime_type="text/plain", purpose="user_data")
    part = manager.uploads.add_part(upload.id, [b"{}"])
    _, joined = manager.uploads.complete(upload.id, part_ids=[part.id])
    assert [content(store, each.id) for each in (file, joined)] == [b"{}\n", b"{}"]
    assert sweep_within_transactions == [[], [], []]


def test_the_files_of_a_batch_and_their_sidecars_stay_while_it_ends(store, sweep_within_transactions):
    with begin(store, 4) as lease:
        lease.update(answers_key="an engine")
        lease.append(group(lease.id, range(4)))
        ended = lifecycle.finish(store, lease)
    assert sweep_within_transactions == [[], [], []]
    assert_every_request_once(store, ended, 4)
    assert files(store) == sorted(
        [
            ended.input_file_id,
            f"{ended.output_file_id}",
            f"{ended.output_file_id}.answers",
            f"{ended.output_file_id}.timings",
            f"{ended.error_file_id}",
        ]
    )


@pytest.mark.parametrize("how", ["deleted", "expired"])
def test_the_sidecars_of_a_file_go_with_it(store, clock, how):
    with begin(store, 4, output_expires_after_seconds=HOUR) as lease:
        lease.update(answers_key="an engine")
        lease.append(group(lease.id, range(4)))
        ended = lifecycle.finish(store, lease)
    if how == "deleted":
        store.files.delete(ended.output_file_id)
        assert files(store) == sorted([ended.input_file_id, f"{ended.error_file_id}"])
    else:
        clock[0] += HOUR
        assert store.sweep() == [ended.output_file_id, ended.error_file_id, ended.id]
        assert files(store) == [ended.input_file_id]
    assert store.sweep() == []


def test_the_sidecars_of_a_file_that_a_kill_has_deleted_in_part_are_swept(store):
    output_file_id = result_file_id("batch_0", "output")
    (store.files.directory / f"{output_file_id}.answers").write_bytes(b"x")
    (store.files.directory / f"{output_file_id}.timings").write_bytes(b"x")
    assert store.sweep() == [f"{output_file_id}.answers", f"{output_file_id}.timings"]


def test_what_a_killed_owner_gave_to_the_output_stays_until_its_batch_ends_and_is_replaced(store):
    with begin(store, 2) as lease:
        path = store.files.path(result_file_id(lease.id, "output"))
        path.write_bytes(b"of a kill before the commit")
        assert store.sweep() == []
        lease.append(group(lease.id, range(2)))
        assert_every_request_once(store, lifecycle.finish(store, lease), 2)


def test_what_one_sweep_removes_another_does_not_trip_over(store, monkeypatch):
    known = store.files.known
    (store.files.directory / ".tmp-abc").write_bytes(b"x")
    with open_store(store.path) as other:
        monkeypatch.setattr(store.files, "known", lambda ids: (other.sweep(), known(ids))[1])
        assert store.sweep() == []
    assert files(store) == []


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


def leave_behind(store):
    """Leave what a kill at different moments leaves; return the names."""
    kept = Manager(store).files.create([b"x"], filename="x", purpose="user_data")
    written = store.files.incoming / ".tmp-abc"
    sidecar = store.files.directory / f"{kept.id}.notes.123"
    placed = store.files.path(result_file_id("batch_0", "output"))
    for path in (written, sidecar, placed):
        path.write_bytes(b"of a kill")
    return written.name, {sidecar.name, placed.name}


def test_the_sweeps_that_come_often_list_all_files_once_a_day_and_what_is_being_written_each_time(store):
    assert store.sweep(at_most_every_seconds=1e-9) == []
    written, others = leave_behind(store)
    assert store.sweep(at_most_every_seconds=1e-9) == [written]
    (store.path / "listed").touch()
    yesterday = time.time() - 86_401
    os.utime(store.path / "listed", (yesterday, yesterday))
    assert set(store.sweep(at_most_every_seconds=1e-9)) == others
    assert time.time() - (store.path / "listed").stat().st_mtime < 86_400


def test_a_sweep_that_is_asked_for_lists_everything_and_leaves_what_is_being_written(store):
    written, others = leave_behind(store)
    with store.files.begin() as incoming:
        incoming.write_all([b"x"])
        assert set(store.sweep()) == {written, *others}
        record = store.files.keep(incoming, filename="x", purpose="user_data")
    assert content(store, record.id) == b"x"
    assert list(store.files.incoming.iterdir()) == []
