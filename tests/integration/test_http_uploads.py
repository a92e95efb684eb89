"""OpenAI's uploads on a real server: a large file in parts, also across a crash of the server."""

from __future__ import annotations

import hashlib
from concurrent.futures import ThreadPoolExecutor

import openai
import pytest
from openai.types import FileObject, Upload
from openai.types.uploads import UploadPart

from tests.servers import assert_envelope, assert_strict
from vbatch_jupyter.store import Store, fsck

MIB = 2**20
LINE = b'{"custom_id":"a","method":"POST","url":"/v1/embeddings","body":{"model":"m","input":"x"}}\n'


@pytest.fixture(scope="module")
def http(openai_http):
    return openai_http


def parts_in(server):
    """Return the names of what the store holds of uploads."""
    return {path.name for path in (server.store / "uploads").iterdir()}


def create(client, size, **arguments):
    fields = {"bytes": size, "filename": "in.jsonl", "mime_type": "application/jsonl", "purpose": "batch"}
    return client.uploads.create(**{**fields, **arguments})


def test_parts_sent_at_once_become_a_file_in_the_order_that_is_named(client, http, server):
    content = b"".join(LINE.replace(b'"a"', b'"%d"' % number) for number in range(60_000))
    pieces = [content[place : place + MIB] for place in range(0, len(content), MIB)]
    others = parts_in(server)
    upload = create(client, len(content))
    with ThreadPoolExecutor(8) as threads:
        parts = list(threads.map(lambda piece: client.uploads.parts.create(upload.id, data=piece).id, pieces))
    digest = hashlib.md5(content).hexdigest()
    done = http.post(f"/uploads/{upload.id}/complete", json={"part_ids": parts, "md5": digest}).json()
    assert_strict(Upload, done)
    assert_strict(FileObject, done["file"])
    assert done["status"] == "completed"
    assert (done["file"]["filename"], done["file"]["bytes"]) == ("in.jsonl", len(content))
    assert client.files.content(done["file"]["id"]).read() == content
    assert parts_in(server) <= others


def test_the_objects_are_openais(client, http):
    body = {"bytes": 5, "filename": "a", "mime_type": "text/plain", "purpose": "user_data"}
    expires_after = {"anchor": "created_at", "seconds": 7200}
    upload = http.post("/uploads", json={**body, "expires_after": expires_after}).json()
    assert_strict(Upload, upload)
    assert upload == {
        "id": upload["id"],
        "object": "upload",
        "bytes": 5,
        "created_at": upload["created_at"],
        "expires_at": upload["created_at"] + 3600,
        "filename": "a",
        "purpose": "user_data",
        "status": "pending",
        "file": None,
    }
    part = http.post(f"/uploads/{upload['id']}/parts", files={"data": b"12345"}).json()
    assert_strict(UploadPart, part)
    assert (part["object"], part["upload_id"]) == ("upload.part", upload["id"])
    done = client.uploads.complete(upload["id"], part_ids=[part["id"]])
    assert done.file is not None
    assert done.file.expires_at == done.file.created_at + 7200
    cancelled = http.post(f"/uploads/{create(client, 1).id}/cancel").json()
    assert_strict(Upload, cancelled)
    assert cancelled["status"] == "cancelled"


def test_the_clients_own_way_to_upload_a_file_in_parts_works(client, tmp_path):
    path = tmp_path / "large.jsonl"
    path.write_bytes(LINE * 30_000)
    upload = client.uploads.upload_file_chunked(
        file=path, mime_type="application/jsonl", purpose="batch", part_size=MIB
    )
    assert upload.status == "completed"
    assert client.files.content(upload.file.id).read() == path.read_bytes()


def test_what_does_not_fit_is_said_and_the_upload_goes_on(client, http):
    upload = create(client, len(LINE) + 1)
    part = client.uploads.parts.create(upload.id, data=LINE).id
    complete = f"/uploads/{upload.id}/complete"
    message = assert_envelope(http.post(complete, json={"part_ids": [part]}), 400, param="part_ids")
    assert message.startswith(f"The parts have {len(LINE)} bytes, but the upload was created for {len(LINE) + 1}.")
    assert_envelope(http.post(complete, json={"part_ids": ["part_x"]}), 400, param="part_ids[0]")
    assert_envelope(http.post(complete, json={}), 400, param="part_ids", code="missing_required_parameter")
    last = client.uploads.parts.create(upload.id, data=b"\n").id
    answer = http.post(complete, json={"part_ids": [part, last], "md5": "0" * 32})
    assert_envelope(answer, 400, param="md5")
    assert client.uploads.complete(upload.id, part_ids=[part, last]).status == "completed"


def test_an_upload_that_has_ended_takes_nothing(client, http):
    upload = create(client, 2)
    client.uploads.cancel(upload.id)
    assert client.uploads.cancel(upload.id).status == "cancelled"
    answer = http.post(f"/uploads/{upload.id}/parts", files={"data": b"{}"})
    message = assert_envelope(answer, 409, type="invalid_request_error")
    assert message.startswith(f"Upload '{upload.id}' cannot continue: its status is 'cancelled'")
    assert answer.headers["x-should-retry"] == "false"
    assert_envelope(http.post(f"/uploads/{upload.id}/complete", json={"part_ids": ["part_x"]}), 409)


def test_an_unknown_upload_is_not_found(client, http):
    for path, body in (
        ("parts", {"files": {"data": b"x"}}),
        ("complete", {"json": {"part_ids": ["a"]}}),
        ("cancel", {}),
    ):
        message = assert_envelope(http.post(f"/uploads/upload_x/{path}", **body), 404, param="id")
        assert message == "No such Upload object: upload_x"
    with pytest.raises(openai.NotFoundError):
        client.uploads.cancel("upload_" + "0" * 32)


def test_a_part_of_more_than_64_mib_is_refused(client, http, server):
    upload = create(client, 1)
    others = parts_in(server)

    def body():
        yield b'--b\r\nContent-Disposition: form-data; name="data"; filename="a"\r\n\r\n'
        for _ in range(65):
            yield b"x" * MIB
        yield b"\r\n--b--\r\n"

    headers = {"Content-Type": "multipart/form-data; boundary=b"}
    assert_envelope(http.post(f"/uploads/{upload.id}/parts", content=body(), headers=headers), 413)
    assert parts_in(server) <= others


@pytest.mark.parametrize(
    ("change", "param", "code"),
    [
        ({"bytes": None}, "bytes", "invalid_type"),
        ({"bytes": 8 * 2**30 + 1}, "bytes", "integer_above_max_value"),
        ({"purpose": "batch_output"}, "purpose", "invalid_value"),
        ({"mime_type": None}, "mime_type", "missing_required_parameter"),
        ({"filename": 5}, "filename", "invalid_type"),
        ({"expires_after": {"anchor": "now", "seconds": 3600}}, "expires_after.anchor", "invalid_value"),
        ({"expires_after": 3600}, "expires_after", "invalid_type"),
    ],
)
def test_a_wrong_parameter_of_a_create_is_named(http, change, param, code):
    body = {"bytes": 5, "filename": "a", "mime_type": "text/plain", "purpose": "user_data", **change}
    assert_envelope(http.post("/uploads", json=body), 400, param=param, code=code)


def test_parts_outlive_a_server_that_is_killed(client, server):
    upload = create(client, 2 * len(LINE))
    first = client.uploads.parts.create(upload.id, data=LINE).id
    server.kill()
    server.start()
    second = client.uploads.parts.create(upload.id, data=LINE).id
    done = client.uploads.complete(upload.id, part_ids=[first, second])
    assert client.files.content(done.file.id).read() == LINE * 2
    with Store(server.store, floor_bytes=0) as store:
        assert fsck.check(store) == []
