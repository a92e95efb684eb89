"""A full disk: on a small file system of its own where one may be mounted, and by a limit on the size of files."""

from __future__ import annotations

import resource
import subprocess

import pytest

from tests.batches import assert_every_request_once, begin, group, hold, input_lines, make_batch, open_store
from vbatch_jupyter.errors import StoreFullError
from vbatch_jupyter.manager import lifecycle
from vbatch_jupyter.protocol.batch import RequestCounts
from vbatch_jupyter.store import DISK_FULL_REASON
from vbatch_jupyter.store.fsck import check

KIB = 1024


class SmallFilesystem:
    """A tmpfs of 4 MiB that is filled to its last byte."""

    def __init__(self, path):
        self.path = path
        self._ballast = path / "ballast"

    def fill(self, *, leave=0):
        with self._ballast.open("ab", buffering=0) as file:
            try:
                while True:
                    file.write(b"\0" * 4096)
            except OSError:
                pass
            file.truncate(file.tell() - leave)

    def free(self):
        self._ballast.unlink()


class FileSizeLimit:
    """No file of this process may grow over a limit, so that writes fail in their middle."""

    def __init__(self, path):
        self.path = path
        self._before = resource.getrlimit(resource.RLIMIT_FSIZE)

    def fill(self, *, leave=0):
        # The database must stay writable: its last page lies below this.
        resource.setrlimit(resource.RLIMIT_FSIZE, (200 * KIB + leave, self._before[1]))

    def free(self):
        resource.setrlimit(resource.RLIMIT_FSIZE, self._before)


@pytest.fixture(params=["small file system", "file size limit"])
def disk(request, tmp_path):
    path = tmp_path / "disk"
    path.mkdir()
    mounted = (
        request.param == "small file system"
        and not subprocess.run(
            ["mount", "-t", "tmpfs", "-o", "size=4m,mode=700", "none", path], check=False, capture_output=True
        ).returncode
    )
    # Where this process may mount nothing, the limit stands in: it is never skipped.
    disk = SmallFilesystem(path) if mounted else FileSizeLimit(path)
    yield disk
    if mounted:
        subprocess.run(["umount", "--lazy", path], check=True)
    else:
        disk.free()


@pytest.fixture
def store(disk):
    with open_store(disk.path / "store", reserve_bytes=64 * KIB) as store:
        yield store


def test_a_group_that_has_no_room_waits_with_a_reason_and_goes_on_when_there_is_room(disk, store):
    lease = begin(store, 200)
    lease.append(group(lease.id, range(20)))
    spool = store.batches.directory / lease.id / "spool-0000000001"
    whole = spool.stat().st_size
    disk.fill()
    for _ in range(2):
        with pytest.raises(StoreFullError, match=r"The disk of the store in .* is full.* VBATCH_STORE"):
            lease.append(group(lease.id, range(20, 120), padding=5000))
    assert spool.stat().st_size == whole
    record = store.batches.get(lease.id)
    assert (record.status, record.reason) == ("in_progress", DISK_FULL_REASON)
    assert record.request_counts == RequestCounts(200, 16, 4)

    disk.free()
    assert lease.append(group(lease.id, range(20, 120), padding=5000)) == RequestCounts(200, 96, 24)
    assert store.batches.get(lease.id).reason is None
    assert (store.path / "reserve").stat().st_size == 64 * KIB
    lease.append(group(lease.id, range(120, 200)))
    record = lifecycle.finish(store, lease)
    lease.release()
    assert_every_request_once(store, record, 200)
    assert check(store) == []


def test_a_batch_can_be_cancelled_on_a_full_disk(disk, store):
    lease = begin(store, 200)
    lease.append(group(lease.id, range(20)))
    disk.fill()
    with pytest.raises(StoreFullError):
        lease.append(group(lease.id, range(20, 120), padding=5000))
    assert store.batches.cancel(lease.id).status == "cancelling"
    lease.release()
    disk.free()
    lifecycle.tend(store)
    record = store.batches.get(lease.id)
    assert record.status == "cancelled"
    assert_every_request_once(store, record, 200)


def test_finalising_waits_for_room_and_leaves_nothing_half_written_meanwhile(disk, store):
    lease = begin(store, 100)
    lease.append(group(lease.id, range(100), padding=9000))
    lease.release()
    disk.fill(leave=300 * KIB)
    for _ in range(2):
        assert lifecycle.tend(store) == ([lease.id] if store.batches.get(lease.id).status == "in_progress" else [])
        record = store.batches.get(lease.id)
        assert (record.status, record.reason) == ("finalizing", DISK_FULL_REASON)
        assert sorted(path.name for path in (store.batches.directory / lease.id).iterdir()) == [
            "index",
            "lock",
            "spool-0000000001",
        ]
    disk.free()
    assert lifecycle.tend(store) == [lease.id]
    record = store.batches.get(lease.id)
    assert (record.status, record.reason) == ("completed", None)
    assert_every_request_once(store, record, 100)
    assert check(store) == []


def test_an_upload_without_room_leaves_nothing(disk, store):
    disk.fill()
    with pytest.raises(StoreFullError):
        store.files.create(input_lines(20_000), filename="a", purpose="batch")
    disk.free()
    assert list(store.files.directory.iterdir()) == []
    assert make_batch(store, 1).status == "validating"


def test_the_floor_is_left_free_by_answers_and_may_be_used_to_finish(tmp_path):
    with open_store(tmp_path / "store") as store:
        lease = begin(store, 2)
        lease.append(group(lease.id, [0, 1]))
        lease.release()
        waiting = make_batch(store, 1)
    with open_store(store.path, floor_bytes=1 << 60) as store:
        with hold(store, waiting.id) as other:
            lifecycle.validate(store, other)
            with pytest.raises(StoreFullError, match="MiB are needed"):
                other.append(group(waiting.id, [0]))
            assert store.batches.get(waiting.id).reason == DISK_FULL_REASON
        assert lifecycle.tend(store) == [lease.id]
        assert store.batches.get(lease.id).status == "completed"
