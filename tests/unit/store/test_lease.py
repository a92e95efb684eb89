from __future__ import annotations

import errno
import os
import sqlite3

import pytest

from tests.batches import (
    assert_every_request_once,
    begin,
    content,
    custom_ids,
    group,
    hold,
    is_error,
    line,
    make_batch,
    open_store,
)
from vbatch_jupyter.errors import (
    ConflictError,
    FencedError,
    StoreBusyError,
    StoreCorruptError,
    StoreError,
)
from vbatch_jupyter.manager import lifecycle
from vbatch_jupyter.protocol.batch import RequestCounts, Usage
from vbatch_jupyter.protocol.ids import result_file_id
from vbatch_jupyter.protocol.index import LineIndex
from vbatch_jupyter.records import Timing
from vbatch_jupyter.store import SpoolRecord, disk
from vbatch_jupyter.store.fsck import check


def die(lease):
    """Leave the lease as ``kill -9`` does: the lock is gone, and nothing was said."""
    lease._file_lock.release()


def taken_over(store, lease):
    die(lease)
    return hold(store, lease.id)


def spool(store, lease, epoch=1):
    return store.batches.directory / lease.id / f"spool-{epoch:010d}"


def positions(lease):
    return [record.position for record in lease.records()]


# ------------------------------------------------------------------------------------------------------------- the row


def test_a_new_status_is_stamped_and_a_repeated_one_is_not(store):
    store.clock = lambda: 100.7
    lease = hold(store, make_batch(store, 2).id)
    record = lease.update(status="in_progress", request_counts=RequestCounts(2), model="m")
    assert (record.in_progress_at, record.request_counts, record.model) == (100, RequestCounts(2), "m")
    store.clock = lambda: 200
    assert lease.update(status="in_progress").in_progress_at == 100
    assert lease.refresh() == store.batches.get(lease.id)
    lease.release()


def test_a_status_that_may_not_follow_is_a_conflict_and_changes_nothing(store):
    with begin(store, 1) as lease:
        store.batches.cancel(lease.id)
        with pytest.raises(ConflictError, match=r"cannot go from status 'cancelling' to 'finalizing'"):
            lease.update(status="finalizing", model="other")
        assert (lease.refresh().status, lease.refresh().model) == ("cancelling", "m")


def test_a_field_that_a_batch_does_not_have_is_an_error(store):
    with begin(store, 1) as lease, pytest.raises(TypeError, match="no field 'colour'"):
        lease.update(colour="red")


def test_counts_that_do_not_add_up_are_refused_by_the_schema(store):
    with begin(store, 2) as lease, pytest.raises(StoreError, match="CHECK constraint failed"):
        lease.update(request_counts=RequestCounts(2, 2, 1))


def test_who_comes_for_a_batch_that_ends_at_that_moment_leaves_no_directory(store, monkeypatch):
    with begin(store, 2) as lease:
        before = store.batches.get(lease.id)
        lease.append(group(lease.id, range(2)))
        lifecycle.finish(store, lease)
    monkeypatch.setattr(store.batches, "get", lambda _: before)
    assert store.batches.acquire(before.id) is None
    assert list(store.batches.directory.iterdir()) == []
    monkeypatch.undo()
    assert check(store) == []


def test_an_ended_batch_takes_no_change_and_its_directory_is_gone(store):
    lease = hold(store, make_batch(store, 1).id)
    lease.update(status="failed")
    assert list(store.batches.directory.iterdir()) == []
    with pytest.raises(ConflictError, match="cannot change any more: its status is 'failed'"):
        lease.update(reason="late")
    lease.release()
    assert store.batches.get(lease.id).owner is None


def test_a_former_owner_can_neither_update_nor_append_nor_publish(store):
    zombie = begin(store, 3)
    zombie.append(group(zombie.id, [0]))
    owner = taken_over(store, zombie)
    with zombie.new_result_file("output") as output:
        output.write(b"a zombie's file\n")
        for act in (
            zombie.refresh,
            lambda: zombie.update(reason="mine"),
            lambda: zombie.append(group(zombie.id, [1])),
            lambda: zombie.publish("expired", output=output),
        ):
            with pytest.raises(FencedError, match=f"Batch {zombie.id} no longer belongs to this owner .epoch 1.,"):
                act()
    assert owner.refresh().request_counts == RequestCounts(3, 1, 0)
    assert list(store.files.directory.glob(result_file_id(zombie.id, "output"))) == []
    zombie.release()
    assert owner.refresh().owner is not None
    owner.release()


def test_what_a_former_owner_wrote_after_the_take_over_is_not_finalised_by_the_new_one(store):
    zombie = begin(store, 4)
    zombie.append(group(zombie.id, [0]))
    owner = taken_over(store, zombie)
    owner.append(group(zombie.id, [1]))
    with pytest.raises(FencedError):
        zombie.append(group(zombie.id, [2]))
    assert positions(owner) == [0, 1]
    assert owner.recover().counts == RequestCounts(4, 2, 0)
    owner.release()
    # It was computed and written all the same: the next owner finds it.
    with hold(store, zombie.id) as third:
        assert third.recover().counts == RequestCounts(4, 3, 0)


def test_a_released_lease_is_no_longer_its_owners(store):
    with begin(store, 1) as lease:
        pass
    with pytest.raises(FencedError, match="but to nobody"):
        lease.append(group(lease.id, [0]))


# ----------------------------------------------------------------------------------------------------------- the index


def test_the_index_comes_back_and_a_torn_one_says_so(store):
    with begin(store, 3) as lease:
        index = lease.load_index()
        assert len(index) == 3
        path = store.batches.directory / lease.id / "index"
        path.write_bytes(path.read_bytes()[:-1])
        with pytest.raises(StoreCorruptError, match="Validate the batch again"):
            lease.load_index()
        path.unlink()
        with pytest.raises(StoreCorruptError, match=f"Batch {lease.id} has no index"):
            lease.load_index()
        lease.save_index(index)
        assert lease.load_index() == index
        lease.save_index(LineIndex())
        assert len(lease.load_index()) == 0


# ----------------------------------------------------------------------------------------------------------- the spool


def test_finished_lines_come_back_in_the_order_they_were_written_with_their_counts(store):
    with begin(store, 8) as lease:
        assert lease.recover().counts == RequestCounts(8, 0, 0)
        assert lease.append(group(lease.id, [5, 3])) == RequestCounts(8, 1, 1)
        assert lease.append(group(lease.id, [0])) == RequestCounts(8, 2, 1)
        assert store.batches.get(lease.id).request_counts == RequestCounts(8, 2, 1)
    with hold(store, lease.id) as again:
        recovered = again.recover()
        assert recovered.finished == bytearray([1, 0, 0, 2, 0, 1, 0, 0])
        assert recovered.counts == RequestCounts(8, 2, 1)
        again.append(group(lease.id, [7]))
        assert list(again.records()) == group(lease.id, [5, 3, 0, 7])


def test_when_an_answer_came_outlives_its_owner_and_is_kept_beside_the_batch(store):
    with begin(store, 3) as lease:
        mine = line(lease.id, 0)._replace(finished_at=1764000000.25, latency=0.5)
        reused = line(lease.id, 1)._replace(finished_at=1764000001.5)
        lease.append([mine, reused])
        die(lease)
    with hold(store, lease.id) as again:
        assert list(again.records()) == [mine, reused]
        store.batches.cancel(lease.id)
        lifecycle.finish(store, again)
    assert store.files.timings(store.batches.get(lease.id)) == [
        Timing(1764000000.25, 0.5),
        Timing(1764000001.5, None),
        Timing(None, None),
    ]
    store.files.delete(store.batches.get(lease.id).output_file_id)
    assert store.files.timings(store.batches.get(lease.id)) == []


def test_the_first_line_of_a_request_stays_its_line(store):
    with begin(store, 2) as lease:
        first = line(lease.id, 0)
        other = SpoolRecord(0, is_error=True, line=b"another answer")
        lease.append([first, other])
        assert lease.append([other]) == RequestCounts(2, 1, 0)
        assert list(lease.records()) == [first]


@pytest.mark.parametrize("cut", range(1, 40, 3))
def test_a_torn_tail_is_cut_off_and_only_its_request_is_unanswered(store, cut):
    lease = begin(store, 3)
    lease.append(group(lease.id, [0, 1]))
    path = spool(store, lease)
    whole = path.stat().st_size
    lease.append(group(lease.id, [2]))
    os.truncate(path, path.stat().st_size - cut)
    with taken_over(store, lease) as owner:
        assert owner.recover().finished == bytearray([1, 1, 0])
        assert path.stat().st_size == whole
        assert owner.refresh().request_counts == RequestCounts(3, 2, 0)
        owner.append(group(lease.id, [2]))
        assert list(owner.records()) == group(lease.id, [0, 1, 2])


@pytest.mark.parametrize(
    "tail", [b"\0" * 4096, b"\xff" * 4096, b"\xff\xff\xff\x7f" + b"\0" * 9, b"\1"], ids=["zeros", "ones", "huge", "one"]
)
def test_garbage_after_the_last_line_is_cut_off(store, tail):
    lease = begin(store, 2)
    lease.append(group(lease.id, [0]))
    path = spool(store, lease)
    whole = path.stat().st_size
    with path.open("ab") as file:
        file.write(tail)
    with taken_over(store, lease) as owner:
        assert owner.recover().finished == bytearray([1, 0])
        assert path.stat().st_size == whole


def test_a_flipped_bit_is_noticed_and_its_request_is_answered_again(store):
    lease = begin(store, 3)
    lease.append(group(lease.id, [0, 1]))
    path = spool(store, lease)
    data = bytearray(path.read_bytes())
    data[-1] ^= 1
    path.write_bytes(data)
    with taken_over(store, lease) as owner:
        assert owner.recover().finished == bytearray([1, 0, 0])


def test_lines_that_were_written_but_not_counted_are_found(store):
    lease = begin(store, 3)
    lease.append(group(lease.id, [0]))
    assert not store.batches.has_uncounted(lease.id)
    assert lease._spool is not None
    lease._spool.append(group(lease.id, [1, 2]))
    assert store.batches.has_uncounted(lease.id)
    with taken_over(store, lease) as owner:
        assert owner.recover().counts == RequestCounts(3, 3, 0)
        assert owner.refresh().request_counts == RequestCounts(3, 3, 0)
        assert not store.batches.has_uncounted(lease.id)


def test_a_group_that_could_not_be_counted_may_be_given_again(tmp_path):
    path = tmp_path / "store"
    with open_store(path, wait_seconds=0.01) as store, open_store(path) as rival, begin(store, 2) as lease:
        lease.append(group(lease.id, [0]))

        def while_locked(connection):
            with pytest.raises(StoreError, match="locked"):
                lease.append(group(lease.id, [1]))

        rival.database.write(while_locked)
        assert lease.append(group(lease.id, [1])) == RequestCounts(2, 2, 0)
        assert positions(lease) == [0, 1]


@pytest.mark.parametrize("position", [-1, 2])
def test_a_line_of_a_request_that_is_none_is_not_taken(store, position):
    with begin(store, 2) as lease:
        with pytest.raises(ValueError, match=f"There is no request {position}: the batch has 2"):
            lease.append([SpoolRecord(position, is_error=False, line=b"{}")])
        assert lease.recover().counts == RequestCounts(2, 0, 0)


def test_an_interrupt_in_the_middle_of_a_group_does_not_damage_the_next_one(store, monkeypatch):
    with begin(store, 3) as lease:
        lease.append(group(lease.id, [0]))
        write = os.write

        def half(descriptor, data):
            write(descriptor, bytes(data)[:20])
            raise KeyboardInterrupt

        with monkeypatch.context() as patch:
            patch.setattr(os, "write", half)
            with pytest.raises(KeyboardInterrupt):
                lease.append(group(lease.id, [1]))
        assert lease.append(group(lease.id, [2])) == RequestCounts(3, 2, 0)
        assert positions(lease) == [0, 2]


@pytest.mark.parametrize("code", [errno.EIO, errno.ENOSPC])
def test_a_group_that_the_disk_did_not_take_is_written_to_another_segment(store, monkeypatch, code):
    lease = begin(store, 9)
    lease.append(group(lease.id, range(3)))
    synced: list[int] = []

    def fail(descriptor):
        synced.append(os.fstat(descriptor).st_ino)
        raise OSError(code, os.strerror(code))

    with monkeypatch.context() as patch:
        patch.setattr(os, "fdatasync", fail)
        for _ in range(2):
            with pytest.raises(StoreError):
                lease.append(group(lease.id, range(3, 6)))
    lease.append(group(lease.id, range(3, 6)))
    lease.append(group(lease.id, range(6, 9)))
    directory = store.batches.directory / lease.id
    segments = sorted(directory.glob("spool-*"))
    assert [path.name for path in segments] == [f"spool-0000000001{part}" for part in ("", "-0001", "-0002")]
    # No file was synced again after it had failed.
    assert synced == [path.stat().st_ino for path in segments[:2]]
    assert segments[1].stat().st_size == 0
    assert positions(lease) == list(range(9))
    with taken_over(store, lease) as successor:
        assert successor.epoch == 2
        assert positions(successor) == list(range(9))
        assert_every_request_once(store, lifecycle.finish(store, successor), 9)
    lease.release()
    assert check(store) == []


def test_a_segment_whose_name_did_not_reach_the_disk_is_left_for_another(store, monkeypatch):
    with begin(store, 2) as lease:
        with monkeypatch.context() as patch:
            patch.setattr(os, "fsync", lambda _: os.read(-1, 1))
            with pytest.raises(StoreError, match="Bad file descriptor"):
                lease.append(group(lease.id, [0]))
        assert lease.append(group(lease.id, [0])) == RequestCounts(2, 1, 0)
        names = sorted(path.name for path in (store.batches.directory / lease.id).glob("spool-*"))
        assert names == ["spool-0000000001", "spool-0000000001-0001"]
        assert not store.batches.has_uncounted(lease.id)


def test_a_result_whose_name_did_not_reach_the_disk_is_written_again(store, monkeypatch):
    with begin(store, 1) as lease:
        lease.append(group(lease.id, [0]))
        lease.update(status="finalizing")
        sync, synced = disk.sync_directory, []

        def fail_once(path):
            synced.append(path.name)
            if synced == ["files"]:
                raise OSError(errno.ENOSPC, "No space left on device")
            sync(path)

        monkeypatch.setattr(disk, "sync_directory", fail_once)
        # The reserve is spent, and the transaction is run again: the same rename must not pass as durable.
        store.space.spend_reserve = lambda: True
        with pytest.raises(StoreError, match="could not be put on the disk"):
            lifecycle.finish(store, lease)
        assert store.batches.get(lease.id).status == "finalizing"
        record = lifecycle.finish(store, lease)
    assert_every_request_once(store, record, 1)


def test_a_directory_that_did_not_reach_the_disk_is_made_again(store, monkeypatch):
    batch_id = make_batch(store, 1).id
    with monkeypatch.context() as patch:
        patch.setattr(os, "fsync", lambda _: os.read(-1, 1))
        with pytest.raises(StoreError, match="Bad file descriptor"):
            store.batches.acquire(batch_id)
    assert not (store.batches.directory / batch_id).exists()
    hold(store, batch_id).release()


def test_an_error_while_a_lease_is_released_keeps_no_one_else_from_the_batch(store, monkeypatch):
    lease = begin(store, 2)
    lease.append(group(lease.id, [0]))
    close = os.close

    def fail(descriptor):
        close(descriptor)
        raise OSError(errno.EIO, "Input/output error")

    with monkeypatch.context() as patch:
        patch.setattr(os, "close", fail)
        lease.release()
    hold(store, lease.id).release()


def test_a_line_of_a_request_that_is_none_is_damage_that_names_the_place(store):
    lease = begin(store, 2)
    lease.append(group(lease.id, [0, 1]))
    store.database.write(
        lambda connection: connection.execute("UPDATE batch SET total = 1, completed = 0 WHERE id = ?", (lease.id,))
    )
    with (
        taken_over(store, lease) as owner,
        pytest.raises(StoreCorruptError, match=r"spool-0000000001 has a line for request 1 at byte \d+, .* 1 requests"),
    ):
        owner.recover()


@pytest.mark.parametrize("status", ["validating", "finalizing"])
def test_lines_are_taken_only_while_the_batch_is_in_progress_or_being_cancelled(store, status):
    if status == "validating":
        lease = hold(store, make_batch(store, 1).id)
    else:
        lease = begin(store, 1)
        lease.update(status="finalizing")
    with lease, pytest.raises(ConflictError, match=f"cannot change any more: its status is '{status}'"):
        lease.append(group(lease.id, [0]))


def test_a_batch_that_is_being_cancelled_still_takes_the_lines_of_what_ran(store):
    with begin(store, 2) as lease:
        store.batches.cancel(lease.id)
        assert lease.append(group(lease.id, [0])) == RequestCounts(2, 1, 0)


# --------------------------------------------------------------------------------------------------------- the results


def test_publishing_shows_files_status_counts_and_usage_together(store):
    store.clock = lambda: 500
    lease = begin(store, 2, output_expires_after_seconds=3600)
    lease.update(status="finalizing", reason="nearly")
    store.clock = lambda: 600
    with lease.new_result_file("output") as output, lease.new_result_file("error") as error:
        output.write(b"an output line\n")
        error.write(b"an error line\n")
        record = lease.publish(
            "completed", output=output, error=error, counts=RequestCounts(2, 1, 1), usage=Usage(3, 0, 2, 0)
        )
    lease.release()
    assert record == store.batches.get(lease.id)
    assert (record.status, record.completed_at, record.finalizing_at) == ("completed", 600, 500)
    assert (record.request_counts, record.usage) == (RequestCounts(2, 1, 1), Usage(3, 0, 2, 0))
    assert (record.owner, record.reason) == (None, None)
    assert content(store, record.output_file_id) == b"an output line\n"
    assert content(store, record.error_file_id) == b"an error line\n"
    file = store.files.get(record.output_file_id)
    assert (file.purpose, file.filename) == ("batch_output", f"{lease.id}_output.jsonl")
    assert (file.created_at, file.expires_at) == (600, 4200)
    assert list(store.batches.directory.iterdir()) == []


def test_a_batch_whose_end_could_not_be_committed_ends_at_the_next_try(tmp_path):
    path = tmp_path / "store"
    with open_store(path, wait_seconds=0.01) as store, begin(store, 4) as lease:
        lease.append(group(lease.id, range(4)))
        reader = sqlite3.connect(path / "vbatch.sqlite3", isolation_level=None)
        reader.execute("BEGIN")
        lease.update(status="finalizing")

        def read_meanwhile(statement):
            # A reader in the middle of its transaction lets nobody commit, and the transaction is tried again.
            if statement.startswith("INSERT INTO file"):
                reader.execute("SELECT * FROM batch").fetchall()

        store.database._connection.set_trace_callback(read_meanwhile)
        with pytest.raises(StoreBusyError):
            lifecycle.finish(store, lease)
        store.database._connection.set_trace_callback(None)
        reader.close()
        assert store.sweep() == []
        assert_every_request_once(store, lifecycle.finish(store, lease), 4)
        assert check(store) == []


def test_an_empty_file_is_no_file(store):
    with begin(store, 1) as lease, lease.new_result_file("output") as output, lease.new_result_file("error") as error:
        error.write(b"x\n")
        record = lease.publish("expired", output=output, error=error)
    assert (record.output_file_id, record.error_file_id) == (None, result_file_id(lease.id, "error"))
    assert len(list(store.files.directory.glob("file-*"))) == 2


def test_a_status_that_may_not_end_the_batch_publishes_nothing(store):
    with begin(store, 1) as lease, lease.new_result_file("output") as output:
        output.write(b"x\n")
        with pytest.raises(ConflictError, match="cannot go from status 'in_progress' to 'completed'"):
            lease.publish("completed", output=output)
        assert lease.refresh().output_file_id is None
        assert not store.files.path(result_file_id(lease.id, "output")).exists()


def test_what_a_dead_owner_was_finalising_is_cleared_away(store):
    lease = begin(store, 1)
    lease.append(group(lease.id, [0]))
    unfinished = lease.new_result_file("output")
    unfinished.write(b"half")
    with taken_over(store, lease) as owner:
        owner.recover()
        assert sorted(path.name for path in (store.batches.directory / lease.id).iterdir()) == [
            "index",
            "lock",
            "spool-0000000001",
        ]
    unfinished.__exit__(None, None, None)


def test_the_bytes_written_are_about_twice_the_bytes_published(store):
    requests = 512
    lease = begin(store, requests)
    for start in range(0, requests, 256):
        lease.append(group(lease.id, range(start, start + 256), padding=1000))
    spooled = spool(store, lease).stat().st_size
    with lease.new_result_file("output") as output, lease.new_result_file("error") as error:
        for record in lease.records():
            (error if is_error(record.position) else output).write(record.line + b"\n")
        lease.update(status="finalizing")
        published = output.bytes + error.bytes
        ended = lease.publish("completed", output=output, error=error)
    lease.release()
    assert (spooled + published) / published < 2.05
    assert len(custom_ids(store, ended.output_file_id)) == 410
