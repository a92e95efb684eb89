from __future__ import annotations

import hashlib
import os
import threading

import pytest

from tests.batches import begin, content, make_batch
from vbatch_jupyter.errors import ConflictError, NotFoundError, StoreCorruptError, TooLargeError

UNKNOWN = "file-" + "0" * 22


def upload(store, *chunks, **arguments):
    return store.files.create(chunks, **{"filename": "a.jsonl", "purpose": "batch", **arguments})


def names(store):
    return sorted(path.name for path in store.files.directory.iterdir())


def test_a_file_comes_back_byte_for_byte_with_its_size_and_digest(store):
    store.clock = lambda: 1234.9
    chunks = [os.urandom(700_000), b"", os.urandom(1_500_000)]
    record = upload(store, *chunks, filename="../../x\x00\N{SNOWMAN}", expires_at=99_999)
    assert content(store, record.id) == b"".join(chunks)
    assert record == store.files.get(record.id)
    assert record.sha256 == hashlib.sha256(b"".join(chunks)).hexdigest()
    assert (record.bytes, record.created_at, record.expires_at) == (2_200_000, 1234, 99_999)
    assert record.filename == "../../x\x00\N{SNOWMAN}"
    assert names(store) == [record.id]


def test_an_upload_that_breaks_off_leaves_nothing(store):
    def breaking():
        yield b"a" * 3_000_000
        raise ConnectionResetError

    with pytest.raises(ConnectionResetError):
        store.files.create(breaking(), filename="a", purpose="batch")
    assert names(store) == []
    assert store.files.list().data == ()


def test_a_file_over_the_limit_is_refused_and_not_kept(store):
    with store.files.begin(max_bytes=3) as incoming:
        incoming.write(b"12")
        with pytest.raises(TooLargeError, match="the maximum is 3 bytes"):
            incoming.write(b"34")
    assert names(store) == []
    with store.files.begin(max_bytes=3) as incoming:
        incoming.write(b"123")
        assert store.files.keep(incoming, filename="a", purpose="batch").bytes == 3


@pytest.mark.parametrize(
    "file_id", [UNKNOWN, "file-", "../vbatch.sqlite3", "", "file-../../../etc/passwd", "\ud800", "a\0"]
)
def test_an_unknown_id_is_not_found_and_never_a_path(store, file_id):
    for verb in (store.files.get, store.files.open, store.files.delete):
        with pytest.raises(NotFoundError) as caught:
            verb(file_id)
        assert str(caught.value) == f"No such File object: {file_id}"


def test_a_list_is_newest_first_and_paged_by_the_last_id(store):
    ids = [upload(store, b"x", purpose="batch" if number % 2 else "evals").id for number in range(5)]
    assert [record.id for record in store.files.list().data] == ids[::-1]
    page = store.files.list(limit=2, order="asc")
    assert (page.first_id, page.last_id, page.has_more) == (ids[0], ids[1], True)
    page = store.files.list(limit=3, order="asc", after=ids[1])
    assert ([record.id for record in page.data], page.has_more) == (ids[2:], False)
    assert [record.id for record in store.files.list(after=ids[3], limit=2).data] == [ids[2], ids[1]]
    assert [record.id for record in store.files.list(purpose="evals").data] == [ids[4], ids[2], ids[0]]
    assert store.files.list(purpose="vision").first_id is None
    with pytest.raises(NotFoundError):
        store.files.list(after=UNKNOWN)


def test_a_deleted_file_is_gone_but_still_serves_as_a_cursor(store):
    ids = [upload(store, b"x").id for _ in range(3)]
    assert store.files.delete(ids[1]).id == ids[1]
    assert names(store) == sorted([ids[0], ids[2]])
    assert [record.id for record in store.files.list(after=ids[1]).data] == [ids[0]]
    with pytest.raises(NotFoundError):
        store.files.delete(ids[1])


def test_a_reader_is_not_disturbed_by_the_deletion(store):
    record = upload(store, b"still here")
    with store.files.open(record.id) as reader:
        store.files.delete(record.id)
        assert reader.read() == b"still here"


def test_a_file_that_an_unfinished_batch_reads_cannot_be_deleted(store):
    batch = make_batch(store, 1)
    message = f"Cannot delete file '{batch.input_file_id}': it is used by batch '{batch.id}' with status 'validating'"
    with pytest.raises(ConflictError, match=message):
        store.files.delete(batch.input_file_id)
    store.batches.cancel(batch.id)
    with store.batches.acquire(batch.id) as lease:
        lease.publish("cancelled")
    assert store.files.delete(batch.input_file_id).id == batch.input_file_id


def test_of_two_who_delete_one_wins(store):
    for _ in range(20):
        record = upload(store, b"x")
        outcomes: list[str] = []

        def delete(file_id=record.id, outcomes=outcomes):
            try:
                outcomes.append(store.files.delete(file_id).id)
            except NotFoundError:
                outcomes.append("not found")

        threads = [threading.Thread(target=delete) for _ in range(3)]
        for thread in threads:
            thread.start()
        for thread in threads:
            thread.join()
        assert sorted(outcomes) == [record.id, "not found", "not found"]


def test_a_link_in_the_place_of_a_file_is_not_followed(store, tmp_path):
    record = upload(store, b"x")
    (tmp_path / "secret").write_text("secret")
    store.files.path(record.id).unlink()
    store.files.path(record.id).symlink_to(tmp_path / "secret")
    with pytest.raises(StoreCorruptError, match=f"content of file {record.id} cannot be read"):
        store.files.open(record.id)
    store.files.delete(record.id)
    assert (tmp_path / "secret").read_text() == "secret"


def test_the_sweep_removes_what_a_kill_left_and_nothing_else(store):
    record = upload(store, b"x")
    (store.files.directory / ".tmp-abc").write_bytes(b"half")
    (store.files.directory / UNKNOWN).write_bytes(b"renamed, but never known")
    assert sorted(store.sweep()) == [".tmp-abc", UNKNOWN]
    assert names(store) == [record.id]
    assert store.sweep() == []


def test_the_sweep_leaves_alone_what_a_live_process_is_writing(store):
    def chunks():
        yield b"first"
        assert store.sweep() == []
        yield b"second"

    record = store.files.create(chunks(), filename="a", purpose="batch")
    assert content(store, record.id) == b"firstsecond"


def test_the_sweep_deletes_expired_files_but_none_that_a_batch_reads(store):
    store.clock = lambda: 1000
    expired = upload(store, b"x", expires_at=1500)
    kept = upload(store, b"x", expires_at=2001)
    lease = begin(store, 1)
    input_file_id = lease.refresh().input_file_id
    store.database.write(lambda connection: connection.execute("UPDATE file SET expires_at = 1500 WHERE number = 3"))
    store.clock = lambda: 2000
    assert store.sweep() == [expired.id]
    assert names(store) == sorted([kept.id, input_file_id])
    lease.release()
