from __future__ import annotations

import errno
import os
import re

import pytest

from tests.batches import (
    ENDPOINT,
    assert_every_request_once,
    begin,
    content,
    custom_ids,
    error_codes,
    group,
    hold,
    input_lines,
    make_batch,
    open_store,
)
from vbatch_jupyter.errors import ConflictError, FencedError, StoreCorruptError, StoreError, StoreFullError
from vbatch_jupyter.loop import Attempts, Backoff
from vbatch_jupyter.manager import Manager, lifecycle
from vbatch_jupyter.manager.waiting import postpone
from vbatch_jupyter.protocol import validation
from vbatch_jupyter.protocol.batch import BatchError, RequestCounts, Usage
from vbatch_jupyter.protocol.ids import request_id, result_file_id
from vbatch_jupyter.store import DISK_FULL_REASON
from vbatch_jupyter.store.fsck import check

DAY = 86_400


@pytest.fixture
def store(tmp_path):
    with open_store(tmp_path / "store", clock=lambda: 1000.0) as store:
        yield store


def make_invalid_batch(store, *lines):
    file = store.files.create([line + b"\n" for line in lines], filename="a", purpose="batch")
    return Manager(store).batches.create(input_file_id=file.id, endpoint=ENDPOINT)


# ---------------------------------------------------------------------------------------------------------- validation


def test_a_valid_batch_is_in_progress_with_its_total_its_model_and_its_index(store):
    batch = make_batch(store, 3)
    store.clock = lambda: 1003.9
    with hold(store, batch.id) as lease:
        record = lifecycle.validate(store, lease)
        assert (record.status, record.in_progress_at, record.model) == ("in_progress", 1003, "m")
        assert (record.request_counts, record.expires_at) == (RequestCounts(3, 0, 0), 1000 + DAY)
        assert len(lease.load_index()) == 3
        assert lifecycle.validate(store, lease) == record


def test_an_invalid_batch_fails_with_every_reason_and_nothing_of_it_remains(store):
    batch = make_invalid_batch(store, b'{"custom_id": "a"}', b"{")
    assert lifecycle.tend(store) == [batch.id]
    record = store.batches.get(batch.id)
    assert (record.status, record.failed_at, record.request_counts) == ("failed", 1000, RequestCounts())
    assert {(error.code, error.line) for error in record.errors} == {
        ("missing_required_parameter", 1),
        ("invalid_json_line", 2),
    }
    assert (record.output_file_id, record.error_file_id) == (None, None)
    assert list(store.batches.directory.iterdir()) == []
    assert check(store) == []


def test_a_batch_whose_input_file_is_not_there_fails_as_openais_does(store):
    missing = "file-" + "0" * 22
    batch = Manager(store).batches.create(input_file_id=missing, endpoint=ENDPOINT)
    lifecycle.tend(store)
    record = store.batches.get(batch.id)
    message = f"Cannot find file {missing}, or organization does not have access to it."
    assert (record.status, record.errors) == ("failed", (BatchError("invalid_request", message, "file_id"),))


def test_a_batch_whose_input_file_lost_its_content_fails_instead_of_waiting_for_ever(store):
    batch = make_batch(store, 1)
    store.files.path(batch.input_file_id).unlink()
    lifecycle.tend(store)
    assert [error.param for error in store.batches.get(batch.id).errors] == ["file_id"]


def test_an_input_file_that_cannot_be_opened_now_fails_no_batch(store, monkeypatch):
    batch = make_batch(store, 1)
    path, open_file = store.files.path(batch.input_file_id), os.open

    def refuse(name, *arguments):
        if name == path:
            raise OSError(errno.EMFILE, "Too many open files")
        return open_file(name, *arguments)

    said: list[str] = []
    other = make_batch(store, 1)
    with monkeypatch.context() as patch:
        patch.setattr(os, "open", refuse)
        attempts = Attempts(Backoff(first=3600, longest=3600))
        assert lifecycle.tend(store, attempts=attempts, say=said.append) == [other.id]
        record = store.batches.get(batch.id)
        assert (record.status, record.paused) == ("validating", False)
        assert record.reason == "OSError: [Errno 24] Too many open files. It is tried again."
        assert said == [f"Batch {batch.id} waits: {record.reason}"]
        epoch = record.epoch
        # Not before its pause is over.
        assert lifecycle.tend(store, attempts=attempts, say=said.append) == []
        assert store.batches.get(batch.id).epoch == epoch
        assert len(said) == 1
    store.batches.resume(batch.id)
    assert lifecycle.tend(store, attempts=attempts) == [batch.id]
    record = store.batches.get(batch.id)
    assert (record.status, record.reason) == ("in_progress", None)


def test_an_error_that_has_come_back_for_long_pauses_its_batch_until_it_is_resumed(store):
    batch, now = make_batch(store, 1), [0.0]
    path = store.files.path(batch.input_file_id)
    content, attempts = path.read_bytes(), Attempts(stays_after_seconds=3600, clock=lambda: now[0])
    path.unlink()
    path.mkdir()
    times = 0
    while not store.batches.get(batch.id).paused:
        lifecycle.tend(store, attempts=attempts)
        now[0] += attempts.pause(batch.id)
        times += 1
    # 0.1 s and so on to 5 minutes, and then each 5 minutes for an hour.
    assert (times, now[0] >= 3600) == (24, True)
    record = store.batches.get(batch.id)
    assert re.fullmatch(
        r"IsADirectoryError: \[Errno 21\] Is a directory.* "
        rf"When the cause is gone, resume the batch: %vbatch resume {batch.id}",
        str(record.reason),
    )
    now[0] += 3600
    lifecycle.tend(store, attempts=attempts)
    assert store.batches.get(batch.id).epoch == record.epoch
    path.rmdir()
    path.write_bytes(content)
    store.batches.resume(batch.id)
    assert lifecycle.tend(store, attempts=attempts) == [batch.id]
    assert store.batches.get(batch.id).status == "in_progress"


def test_a_full_disk_pauses_no_batch_however_long_it_is_full(store):
    batch, now = make_batch(store, 1), [0.0]
    attempts = Attempts(stays_after_seconds=3600, clock=lambda: now[0])
    with hold(store, batch.id) as lease:
        for _ in range(3):
            postpone(lease, StoreFullError("full"), attempts)
            now[0] += 3600
    record = store.batches.get(batch.id)
    assert (record.paused, record.reason) == (False, DISK_FULL_REASON)


def test_what_another_process_has_validated_is_not_paused_any_more(store):
    batch = make_batch(store, 1)
    with hold(store, batch.id) as lease:
        postpone(lease, ValueError("unknown"), Attempts())
        assert lease.refresh().paused
        record = lifecycle.validate(store, lease)
    assert (record.status, record.paused, record.reason) == ("in_progress", False, None)


def test_a_batch_is_never_paused_without_a_reason(store):
    with begin(store, 1) as lease:
        with pytest.raises(StoreError, match="a paused batch has a reason"):
            lease.update(paused=True)
        lease.update(paused=True, reason="why")
        assert not lease.update(reason=None).paused


def test_a_batch_cancelled_before_validation_has_no_requests_and_no_files(store):
    batch = make_batch(store, 3)
    store.batches.cancel(batch.id)
    assert lifecycle.tend(store) == [batch.id]
    record = store.batches.get(batch.id)
    assert (record.status, record.request_counts) == ("cancelled", RequestCounts())
    assert (record.output_file_id, record.error_file_id, record.usage) == (None, None, None)
    assert check(store) == []


@pytest.mark.parametrize("valid", [True, False])
def test_a_cancel_during_validation_wins(store, monkeypatch, valid):
    batch = make_batch(store, 3) if valid else make_invalid_batch(store, b"{")
    validate = validation.validate

    def cancelled_at_the_end(*arguments, **keywords):
        result = validate(*arguments, **keywords)
        store.batches.cancel(batch.id)
        return result

    monkeypatch.setattr(validation, "validate", cancelled_at_the_end)
    with hold(store, batch.id) as lease:
        assert lifecycle.validate(store, lease).status == "cancelling"
        assert lifecycle.finish(store, lease).status == "cancelled"


def test_a_cancel_stops_the_pass_over_a_large_file(store):
    file = store.files.create([b'{"custom_id": 1}\n'] * 600_000, filename="a", purpose="batch")
    batch = Manager(store, profile="local").batches.create(input_file_id=file.id, endpoint=ENDPOINT)
    with hold(store, batch.id) as lease:
        store.batches.cancel(batch.id)
        # In this order, so that the pass itself has to notice.
        record = store.batches.get(batch.id)
        assert lifecycle._validation_of(store, lease, type(record)(**{**vars(record), "status": "validating"})).stopped


def test_validation_without_room_waits_with_a_reason(store, monkeypatch):
    batch = make_batch(store, 3)
    with hold(store, batch.id) as lease:

        def full(index):
            raise StoreFullError("full")

        with monkeypatch.context() as patch:
            patch.setattr(lease, "save_index", full)
            with pytest.raises(StoreFullError) as raised:
                lifecycle.validate(store, lease)
        assert postpone(lease, raised.value, Attempts()) == f"Batch {batch.id} waits: {DISK_FULL_REASON}"
        record = store.batches.get(batch.id)
        assert (record.status, record.reason) == ("validating", DISK_FULL_REASON)
        assert lifecycle.validate(store, lease).status == "in_progress"
        lease.append(group(lease.id, [0]))
        assert store.batches.get(batch.id).reason is None


# ----------------------------------------------------------------------------------------------------------------- ends


def test_a_batch_with_all_its_lines_completes(store):
    with begin(store, 5) as lease:
        lease.append(group(lease.id, [4, 3, 2]))
        lease.append(group(lease.id, [1, 0]))
        store.clock = lambda: 2000
        record = lifecycle.finish(store, lease)
    assert (record.status, record.finalizing_at, record.completed_at) == ("completed", 2000, 2000)
    assert (record.request_counts, record.usage) == (RequestCounts(5, 4, 1), Usage(12, 0, 8, 0))
    assert record.output_file_id == result_file_id(record.id, "output")
    outputs = [line.line for line in group(lease.id, [4, 2, 1, 0])]
    assert content(store, record.output_file_id) == b"".join(line + b"\n" for line in outputs)
    assert content(store, record.error_file_id) == group(lease.id, [3])[0].line + b"\n"
    assert check(store) == []


@pytest.mark.parametrize(("positions", "output", "error"), [([3], None, "error"), ([0], "output", None)])
def test_a_file_without_lines_is_none(store, positions, output, error):
    with begin(store, 1) as lease:
        lease.append([line._replace(position=0) for line in group(lease.id, positions)])
        record = lifecycle.finish(store, lease)
    assert record.output_file_id == (output and result_file_id(lease.id, output))
    assert record.error_file_id == (error and result_file_id(lease.id, error))


def test_a_batch_with_requests_left_cannot_end(store):
    with begin(store, 2) as lease:
        lease.append(group(lease.id, [0]))
        with pytest.raises(ConflictError, match=f"Batch {lease.id} with status 'in_progress' cannot end"):
            lifecycle.finish(store, lease)
        assert lease.refresh().status == "in_progress"


def test_a_cancelled_batch_keeps_what_was_finished_and_lists_the_rest_uncounted(store):
    with begin(store, 5) as lease:
        lease.append(group(lease.id, [0, 3]))
    store.batches.cancel(lease.id)
    store.clock = lambda: 1500
    assert lifecycle.tend(store) == [lease.id]
    record = store.batches.get(lease.id)
    assert (record.status, record.cancelling_at, record.cancelled_at) == ("cancelled", 1000, 1500)
    assert record.request_counts == RequestCounts(5, 1, 1)
    assert custom_ids(store, record.output_file_id) == ["row-0"]
    assert custom_ids(store, record.error_file_id) == ["row-3", "row-1", "row-2", "row-4"]
    assert error_codes(store, record) == dict.fromkeys(["row-1", "row-2", "row-4"], "batch_cancelled")
    last = content(store, record.error_file_id).splitlines()[-1]
    assert last == (
        b'{"id":"%b","custom_id":"row-4","response":null,"error":{"code":"batch_cancelled",'
        b'"message":"This request was not executed: the batch was cancelled before it ran."}}'
        % request_id(lease.id, 4).encode()
    )
    assert check(store) == []


def test_an_expired_batch_keeps_what_was_finished_and_lists_the_rest_uncounted(store):
    with begin(store, 4) as lease:
        lease.append(group(lease.id, [1]))
    store.clock = lambda: 1000 + DAY - 1
    assert lifecycle.tend(store) == []
    store.clock = lambda: 1000 + DAY
    assert lifecycle.tend(store) == [lease.id]
    record = store.batches.get(lease.id)
    assert (record.status, record.expired_at, record.finalizing_at) == ("expired", 1000 + DAY, None)
    assert (record.request_counts, record.usage) == (RequestCounts(4, 1, 0), Usage(3, 0, 2, 0))
    assert error_codes(store, record) == dict.fromkeys(["row-0", "row-2", "row-3"], "batch_expired")
    assert_every_request_once(store, record, 4)


def test_a_batch_that_expires_before_it_was_validated_is_validated_and_then_expires(store):
    batch = make_batch(store, 2)
    store.clock = lambda: 1000 + DAY
    lifecycle.tend(store)
    record = store.batches.get(batch.id)
    assert (record.status, record.request_counts) == ("expired", RequestCounts(2, 0, 0))
    assert error_codes(store, record) == {"row-0": "batch_expired", "row-1": "batch_expired"}


def test_a_batch_with_all_its_lines_completes_though_its_window_has_passed(store):
    with begin(store, 1) as lease:
        lease.append(group(lease.id, [0]))
        store.clock = lambda: 1000 + DAY
        assert lifecycle.finish(store, lease).status == "completed"


@pytest.mark.parametrize(("left", "end"), [(0, "cancelled"), (1, "cancelled")])
def test_a_cancel_at_the_last_moment_ends_the_batch_as_cancelled(store, monkeypatch, left, end):
    with begin(store, 2) as lease:
        lease.append(group(lease.id, range(2 - left)))
        if left:
            store.clock = lambda: 1000 + DAY
        recover = lease.recover

        def cancelled_meanwhile():
            if store.batches.get(lease.id).status == "in_progress":
                store.batches.cancel(lease.id)
            return recover()

        monkeypatch.setattr(lease, "recover", cancelled_meanwhile)
        record = lifecycle.finish(store, lease)
    assert record.status == end
    assert_every_request_once(store, record, 2)
    assert record.request_counts == RequestCounts(2, 2 - left, 0)


def test_the_end_of_a_batch_is_written_again_in_the_same_bytes_under_the_same_ids(store, monkeypatch):
    with begin(store, 3) as lease:
        lease.append(group(lease.id, [2, 0]))
    store.batches.cancel(lease.id)
    write = store.database.write

    def die(function):
        if "publish" in function.__qualname__:
            write(lambda connection: (function(connection), connection.execute("ROLLBACK")))
        return write(function)

    with hold(store, lease.id) as first, monkeypatch.context() as patch:
        patch.setattr(store.database, "write", die)
        with pytest.raises(Exception, match="no transaction is active"):
            lifecycle.finish(store, first)
    left_behind = {path.name: path.read_bytes() for path in store.files.directory.glob("file-*")}
    assert store.batches.get(lease.id).status == "cancelling"
    lifecycle.tend(store)
    record = store.batches.get(lease.id)
    assert record.status == "cancelled"
    for file_id in (record.output_file_id, record.error_file_id):
        assert file_id is not None
        assert content(store, file_id) == left_behind[file_id]


def test_a_former_owner_cannot_finish_a_batch(store):
    zombie = begin(store, 1)
    zombie.append(group(zombie.id, [0]))
    zombie._file_lock.release()
    with hold(store, zombie.id):
        with pytest.raises(FencedError):
            lifecycle.finish(store, zombie)
        with pytest.raises(FencedError):
            lifecycle.validate(store, zombie)
    zombie.release()


def test_blank_lines_and_a_byte_order_mark_do_not_shift_who_is_left(store):
    lines = [b"\xef\xbb\xbf", *input_lines(3)]
    lines.insert(2, b"\r\n\n")
    file = store.files.create(lines, filename="a", purpose="batch")
    batch = Manager(store).batches.create(input_file_id=file.id, endpoint=ENDPOINT)
    with hold(store, batch.id) as lease:
        assert lifecycle.validate(store, lease).request_counts.total == 3
        lease.append(group(lease.id, [1]))
        store.batches.cancel(batch.id)
        record = lifecycle.finish(store, lease)
    assert error_codes(store, record) == {"row-0": "batch_cancelled", "row-2": "batch_cancelled"}
    assert_every_request_once(store, record, 3)
    assert check(store) == []


# --------------------------------------------------------------------------------------------------------------- damage


def test_a_lost_index_is_made_anew_from_the_input_file(store):
    with begin(store, 3) as lease:
        index = lease.load_index()
        (store.batches.directory / lease.id / "index").write_bytes(b"torn")
        assert lifecycle.load_index(store, lease) == index
        assert lease.load_index() == index


def test_an_index_cannot_be_made_anew_from_a_damaged_input_file(store):
    with begin(store, 3) as lease:
        (store.batches.directory / lease.id / "index").unlink()
        path = store.files.path(lease.refresh().input_file_id)
        path.write_bytes(b"{\n")
        with pytest.raises(StoreCorruptError, match="has no index"):
            lifecycle.load_index(store, lease)


def test_a_batch_that_cannot_be_finished_for_damage_is_paused_and_says_why(store):
    with begin(store, 3) as lease:
        lease.append(group(lease.id, [0]))
        lease.update(status="finalizing")
    other = make_batch(store, 1)
    assert lifecycle.tend(store) == [other.id]
    record = store.batches.get(lease.id)
    assert (record.status, record.paused) == ("finalizing", True)
    assert record.reason == (
        f"Batch {lease.id} cannot end: 2 of its requests would not be in its files exactly once; request 1 would "
        "be there 0 times. Run `python -m vbatch_jupyter fsck`. When the cause is gone, resume the batch: "
        f"%vbatch resume {lease.id}"
    )
    epoch = record.epoch
    lifecycle.tend(store)
    assert store.batches.get(lease.id).epoch == epoch


# -------------------------------------------------------------------------------------------------------------- tending


def test_tending_does_what_needs_no_engine_and_leaves_the_rest(store):
    fresh = make_batch(store, 2)
    with begin(store, 2) as waiting:
        waiting.append(group(waiting.id, [0]))
    with begin(store, 2) as complete:
        complete.append(group(complete.id, [0, 1]))
    held = begin(store, 2)
    store.batches.cancel(held.id)
    assert lifecycle.tend(store) == [fresh.id, complete.id]
    statuses = {record.id: record.status for record in store.batches.list().data}
    assert statuses == {
        fresh.id: "in_progress",
        waiting.id: "in_progress",
        complete.id: "completed",
        held.id: "cancelling",
    }
    held.release()
    assert lifecycle.tend(store) == [held.id]


def test_tending_a_batch_that_waits_for_an_engine_writes_nothing(store):
    with begin(store, 2) as waiting:
        waiting.append(group(waiting.id, [0]))
    with open_store(store.path, clock=lambda: 1000) as other:
        lifecycle.tend(other)
        before = store.database.data_version()
        for _ in range(3):
            assert lifecycle.tend(other) == []
        assert store.database.data_version() == before


def test_tending_finds_lines_that_a_kill_left_uncounted_and_completes_the_batch(store):
    lease = begin(store, 2)
    lease.append(group(lease.id, [0]))
    assert lease._spool is not None
    lease._spool.append(group(lease.id, [1]))
    lease._file_lock.release()
    assert store.batches.get(lease.id).request_counts == RequestCounts(2, 1, 0)
    assert lifecycle.tend(store) == [lease.id]
    record = store.batches.get(lease.id)
    assert (record.status, record.request_counts) == ("completed", RequestCounts(2, 2, 0))
    lease.release()
