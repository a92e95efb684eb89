from __future__ import annotations

import hashlib
import threading

import pytest

from tests.batches import content
from vbatch_jupyter.errors import BadRequestError, ConflictError, NotFoundError, TooLargeError
from vbatch_jupyter.manager import Manager
from vbatch_jupyter.store import fsck


@pytest.fixture
def uploads(store):
    store.clock = lambda: 1000.5
    return Manager(store).uploads


def create(uploads, size, **arguments):
    fields = {"bytes": size, "filename": "in.jsonl", "mime_type": "application/jsonl", "purpose": "batch"}
    return uploads.create(**{**fields, **arguments})


def names(store):
    return sorted(path.name for path in store.uploads.directory.iterdir())


def test_parts_become_a_file_in_the_order_that_is_named(uploads, store):
    upload = create(uploads, 10, expires_after_seconds=7200)
    assert (upload.status, upload.expires_at - upload.created_at) == ("pending", 3600)
    second = uploads.add_part(upload.id, [b'"b"', b"}\n"])
    first = uploads.add_part(upload.id, [b'{"a":'])
    assert names(store) == sorted([first.id, second.id])
    assert fsck.check(store) == []
    digest = hashlib.md5(b'{"a":"b"}\n').hexdigest().upper()
    ended, file = uploads.complete(upload.id, part_ids=[first.id, second.id], md5=digest)
    assert content(store, file.id) == b'{"a":"b"}\n'
    assert (file.filename, file.purpose, file.expires_at) == ("in.jsonl", "batch", 8200)
    assert (ended.status, ended.file_id) == ("completed", file.id)
    assert names(store) == []
    assert fsck.check(store) == []


def test_a_complete_that_is_sent_again_gives_the_same_file_and_another_one_is_refused(uploads):
    upload = create(uploads, 4)
    parts = [uploads.add_part(upload.id, [text]).id for text in (b"{", b"}", b"\n", b"\n")]
    made = uploads.complete(upload.id, part_ids=parts)
    assert uploads.complete(upload.id, part_ids=parts) == made
    with pytest.raises(ConflictError, match="its status is 'completed'"):
        uploads.complete(upload.id, part_ids=parts[::-1])
    for verb in (uploads.cancel, uploads.begin_part):
        with pytest.raises(ConflictError, match="its status is 'completed'"):
            verb(upload.id)


@pytest.mark.parametrize(
    ("arguments", "param", "message"),
    [
        ({"part_ids": None}, "part_ids", "Missing required parameter"),
        ({"part_ids": "part_0"}, "part_ids", "expected an array, but got a string"),
        ({"part_ids": [1]}, "part_ids[0]", "expected a string"),
        ({"part_ids": []}, "part_ids", "at least one part"),
        ({"part_ids": ["A", "part_0"]}, "part_ids[1]", "has no part 'part_0'"),
        ({"part_ids": ["A", "A"]}, "part_ids", "Each part can be in 'part_ids' only once"),
        ({"part_ids": ["A"]}, "part_ids", "have 2 bytes, but the upload was created for 5"),
        ({"part_ids": ["A", "B"], "md5": "0" * 32}, "md5", "The md5 of the parts is"),
        ({"part_ids": ["B", "A"]}, None, "Must be .jsonl"),
    ],
)
def test_a_complete_that_does_not_fit_changes_nothing(uploads, store, arguments, param, message):
    upload = create(uploads, 5)
    ids = {"A": uploads.add_part(upload.id, [b"{}"]).id, "B": uploads.add_part(upload.id, [b"\nx\n"]).id}
    if isinstance(arguments["part_ids"], list):
        arguments = {**arguments, "part_ids": [ids.get(name, name) for name in arguments["part_ids"]]}
    with pytest.raises(BadRequestError, match=r".") as caught:
        uploads.complete(upload.id, **arguments)
    assert (caught.value.param, message in str(caught.value)) == (param, True)
    assert store.files.list().data == ()
    assert uploads.complete(upload.id, part_ids=[ids["A"], ids["B"]])[0].status == "completed"


def test_a_cancelled_upload_has_no_parts_and_stays_cancelled(uploads, store):
    upload = create(uploads, 2)
    part = uploads.add_part(upload.id, [b"{}"])
    arriving = uploads.begin_part(upload.id)
    arriving.write(b"{}")
    assert uploads.cancel(upload.id).status == "cancelled"
    assert uploads.cancel(upload.id).status == "cancelled"
    with pytest.raises(ConflictError, match="its status is 'cancelled'"):
        uploads.keep_part(upload.id, arriving)
    with pytest.raises(ConflictError, match="its status is 'cancelled'"):
        uploads.complete(upload.id, part_ids=[part.id])
    assert names(store) == []


def test_an_upload_expires_after_an_hour_and_a_sweep_removes_its_parts(uploads, store):
    upload = create(uploads, 2)
    part = uploads.add_part(upload.id, [b"{}"])
    store.clock = lambda: 4600.5
    with pytest.raises(ConflictError, match="its status is 'expired'"):
        uploads.complete(upload.id, part_ids=[part.id])
    with pytest.raises(ConflictError, match="its status is 'expired'"):
        uploads.begin_part(upload.id)
    with pytest.raises(ConflictError, match="its status is 'expired'"):
        uploads.cancel(upload.id)
    assert names(store) == [part.id]
    assert store.sweep() == [part.id]
    assert (names(store), store.uploads.get(upload.id).status) == ([], "expired")


def test_a_sweep_leaves_a_part_that_is_arriving_and_takes_what_a_kill_left(uploads, store):
    upload = create(uploads, 2)
    left = store.uploads.directory / ".tmp-left"
    left.write_bytes(b"x")
    arriving = uploads.begin_part(upload.id)
    arriving.write(b"{}")
    assert store.sweep() == [".tmp-left"]
    part = uploads.keep_part(upload.id, arriving)
    assert store.sweep() == []
    assert names(store) == [part.id]
    (store.uploads.path(part.id)).write_bytes(b"{")
    assert fsck.check(store) == [f"upload {upload.id}: its part {part.id} has 1 bytes, but its row says 2"]


def test_a_part_above_64_mib_is_refused(uploads, store):
    upload = create(uploads, 100)
    with pytest.raises(TooLargeError, match="67,108,864 bytes"):
        uploads.add_part(upload.id, (b"x" * 2**20 for _ in range(65)))
    assert names(store) == []


def test_twenty_parts_at_once_and_two_completes_make_one_file(uploads, store):
    upload = create(uploads, 40)
    ids = {}

    def add(number):
        ids[number] = uploads.add_part(upload.id, [b"{}"]).id

    threads = [threading.Thread(target=add, args=(number,)) for number in range(20)]
    for thread in threads:
        thread.start()
    for thread in threads:
        thread.join()
    outcomes = []

    def complete():
        try:
            outcomes.append(uploads.complete(upload.id, part_ids=list(ids.values()))[1].id)
        except ConflictError:
            outcomes.append(None)

    threads = [threading.Thread(target=complete) for _ in range(4)]
    # "{}{}…" is not a line of JSON.
    with pytest.raises(BadRequestError, match="jsonl"):
        uploads.complete(upload.id, part_ids=list(ids.values()))
    store.database.write(lambda connection: connection.execute("UPDATE upload SET purpose = 'user_data'").close())
    for thread in threads:
        thread.start()
    for thread in threads:
        thread.join()
    assert len(set(outcomes) - {None}) == 1
    assert [file.bytes for file in store.files.list().data] == [40]
    assert fsck.check(store) == []


@pytest.mark.parametrize("upload_id", ["upload_", "upload_" + "0" * 32, "../x", "\ud800"])
def test_an_unknown_upload_is_not_found(uploads, upload_id):
    for verb in (uploads.cancel, uploads.begin_part, lambda unknown: uploads.complete(unknown, part_ids=["a"])):
        with pytest.raises(NotFoundError, match=r"^No such Upload object: "):
            verb(upload_id)


@pytest.mark.parametrize(
    ("arguments", "param"),
    [
        ({"bytes": 0}, "bytes"),
        ({"bytes": 8 * 1024**3 + 1}, "bytes"),
        ({"bytes": None}, "bytes"),
        ({"filename": None}, "filename"),
        ({"mime_type": None}, "mime_type"),
        ({"purpose": "x"}, "purpose"),
        ({"expires_after_seconds": 1}, "expires_after.seconds"),
    ],
)
def test_a_wrong_parameter_of_a_create_is_named(uploads, arguments, param):
    with pytest.raises(BadRequestError, match=r".") as caught:
        create(
            uploads, **{"size": 1, **{"size" if name == "bytes" else name: value for name, value in arguments.items()}}
        )
    assert caught.value.param == param
