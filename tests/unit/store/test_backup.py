"""A backup is the store as it was at one moment, made while the store is used."""

from __future__ import annotations

import stat

import pytest

from tests.batches import assert_every_request_once, begin, content, group, hold, make_batch, open_store
from vbatch_jupyter.errors import StoreError
from vbatch_jupyter.manager import Manager, lifecycle
from vbatch_jupyter.store.backup import backup
from vbatch_jupyter.store.fsck import check


def finished(store, requests=4):
    with begin(store, requests) as lease:
        lease.update(answers_key="an engine")
        lease.append(group(lease.id, range(requests)))
        return lifecycle.finish(store, lease)


def test_a_copy_has_every_file_and_goes_on_with_what_was_not_finished(store, tmp_path):
    ended, waiting = finished(store), make_batch(store, 2)
    gone = Manager(store).files.create([b"x"], filename="x", purpose="user_data")
    store.files.delete(gone.id)
    with begin(store, 4) as lease:
        lease.append(group(lease.id, [0, 3]))
        copied = backup(store, tmp_path / "copy")
    assert stat.S_IMODE((tmp_path / "copy").stat().st_mode) == 0o700
    with open_store(tmp_path / "copy") as copy:
        assert check(copy) == []
        assert copied.files == 9
        assert [record.id for record in copy.batches.list().data] == [lease.id, waiting.id, ended.id]
        for file_id in (ended.input_file_id, ended.output_file_id, ended.error_file_id):
            assert content(copy, file_id) == content(store, file_id)
        assert len(copy.files.timings(copy.batches.get(ended.id))) == 4
        with hold(copy, lease.id) as continued:
            assert bytes(continued.recover().finished) == bytes([1, 0, 0, 2])
            continued.append(group(lease.id, [1, 2]))
            assert_every_request_once(copy, lifecycle.finish(copy, continued), 4)
        assert check(copy) == []


def test_what_ends_or_is_deleted_while_the_files_are_copied_is_as_it_was_or_deleted(store, tmp_path):
    deleted, lease = finished(store), begin(store, 4)
    lease.append(group(lease.id, range(3)))
    done = []

    def meanwhile(number, _total):
        if number == 0:
            lease.append(group(lease.id, [3]))
            done.append(lifecycle.finish(store, lease))
            store.files.delete(done[0].input_file_id)
            store.files.delete(deleted.output_file_id)
            done.append(finished(store))

    backup(store, tmp_path / "copy", on_progress=meanwhile)
    assert done[0].status == done[1].status == "completed"
    with open_store(tmp_path / "copy") as copy:
        assert check(copy) == []
        assert [record.id for record in copy.batches.list().data] == [lease.id, deleted.id]
        assert copy.files.alive([deleted.input_file_id, deleted.output_file_id]) == {deleted.input_file_id}
        # It had not ended at that moment.
        with hold(copy, lease.id) as continued:
            assert bytes(continued.recover().finished) == bytes([1, 1, 1, 0])
            continued.append(group(lease.id, [3]))
            assert_every_request_once(copy, lifecycle.finish(copy, continued), 4)


def test_engines_and_unfinished_uploads_stay_with_their_owners(store, tmp_path):
    manager = Manager(store)
    upload = manager.uploads.create(bytes=2, filename="x", mime_type="text/plain", purpose="user_data")
    manager.uploads.add_part(upload.id, [b"x"])
    socket = tmp_path / "socket"
    engine = store.engines.register(kernel_id=None, name=None, socket=str(socket))
    backup(store, tmp_path / "copy")
    with open_store(tmp_path / "copy") as copy:
        assert check(copy) == []
        assert copy.engines.live() == []
        assert copy.uploads.get(upload.id).status == "cancelled"
        assert list((copy.path / "uploads").iterdir()) == []
    assert [record.id for record in store.engines.live()] == [engine.id]
    assert store.uploads.get(upload.id).status == "pending"
    store.engines.close()


def test_a_directory_with_something_in_it_is_refused_and_one_of_a_backup_that_broke_off_holds_no_store(store, tmp_path):
    finished(store)

    def interrupt(_number, _total):
        raise KeyboardInterrupt

    with pytest.raises(KeyboardInterrupt):
        backup(store, tmp_path / "copy", on_progress=interrupt)
    with pytest.raises(StoreError, match="There is no store in"):
        open_store(tmp_path / "copy", must_exist=True)
    with pytest.raises(StoreError, match="not empty"):
        backup(store, tmp_path / "copy")
    assert check(store) == []
