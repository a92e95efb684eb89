"""OpenAI's files on a real server: whole objects, whatever comes in, and how little it takes of the server."""

from __future__ import annotations

import json
import socket
import sys
import threading
import time
from typing import Self

import httpx
import openai
import psutil
import pytest
from openai.types import FileDeleted, FileObject

from tests.servers import JupyterServer, assert_envelope, assert_strict
from tests.waiting import wait_for
from vbatch_jupyter.store import Store, fsck

MIB = 2**20
LINE = b'{"custom_id":"a","method":"POST","url":"/v1/embeddings","body":{"model":"m","input":"x"}}\n'


@pytest.fixture(scope="module")
def server(tmp_path_factory):
    config = {"max_file_bytes": 220 * MIB, "body_idle_seconds": 2.0}
    with JupyterServer(tmp_path_factory.mktemp("files"), config=config) as server:
        yield server


@pytest.fixture(scope="module")
def http(openai_http):
    return openai_http


@pytest.fixture(autouse=True)
def nothing_left_behind(server):
    yield
    assert wait_for(lambda: not arriving(server))


def names(server):
    return sorted(path.name for path in (server.store / "files").iterdir())


def arriving(server):
    return sorted(path.name for path in (server.store / "incoming").glob(".tmp*"))


# ------------------------------------------------------------------------------------------------------------ the verbs


def test_a_file_comes_and_goes_as_openais(client, http, server):
    file = client.files.create(file=LINE, purpose="batch", expires_after={"anchor": "created_at", "seconds": 3600})
    assert (file.filename, file.bytes, file.status) == ("upload", len(LINE), "processed")
    assert file.expires_at == file.created_at + 3600
    answer = http.get(f"/files/{file.id}")
    assert_strict(FileObject, answer.json())
    assert answer.json() == file.to_dict()
    assert answer.headers["x-request-id"].startswith("req_")
    assert client.files.content(file.id).read() == LINE
    deleted = http.delete(f"/files/{file.id}").json()
    assert_strict(FileDeleted, deleted)
    assert deleted == {"id": file.id, "object": "file", "deleted": True}
    assert file.id not in names(server)
    for call in (client.files.retrieve, client.files.content, client.files.delete):
        with pytest.raises(openai.NotFoundError, match=f"No such File object: {file.id}"):
            call(file.id)
    message = assert_envelope(http.get(f"/files/{file.id}"), 404, type="invalid_request_error", param="id", code=None)
    assert message == f"No such File object: {file.id}"


def test_a_file_for_a_batch_lives_30_days_and_any_other_until_it_is_deleted(client):
    file = client.files.create(file=("a.jsonl", LINE), purpose="batch")
    assert file.expires_at == file.created_at + 30 * 86400
    assert client.files.create(file=("a.png", b"\x89PNG"), purpose="vision").expires_at is None


def test_files_are_listed_by_purpose_order_and_page(client, http):
    made = [client.files.create(file=(f"{number}.txt", b"x"), purpose="user_data").id for number in range(5)]
    assert [file.id for file in client.files.list(purpose="user_data")] == made[::-1]
    assert [file.id for file in client.files.list(purpose="user_data", order="asc", limit=2)] == made
    page = http.get("/files", params={"purpose": "user_data", "limit": 2, "after": made[3]}).json()
    assert set(page) == {"object", "data", "first_id", "last_id", "has_more"}
    assert ([file["id"] for file in page["data"]], page["has_more"]) == ([made[2], made[1]], True)
    assert (page["object"], page["first_id"], page["last_id"]) == ("list", made[2], made[1])
    for file in page["data"]:
        assert_strict(FileObject, file)
    empty = http.get("/files", params={"purpose": "fine-tune"}).json()
    assert empty == {"object": "list", "data": [], "first_id": None, "last_id": None, "has_more": False}


@pytest.mark.parametrize(
    ("query", "param", "code"),
    [
        ({"limit": "0"}, "limit", "integer_below_min_value"),
        ({"limit": "10001"}, "limit", "integer_above_max_value"),
        ({"limit": "many"}, "limit", "invalid_type"),
        ({"order": "up"}, "order", "invalid_value"),
    ],
)
def test_a_wrong_query_is_named(http, query, param, code):
    assert_envelope(http.get("/files", params=query), 400, type="invalid_request_error", param=param, code=code)


def test_a_file_that_never_was_is_no_cursor(http):
    assert_envelope(http.get("/files", params={"after": "file-" + "0" * 22}), 404)


def test_content_is_data_and_never_a_page(client, http):
    page = b"<script>alert(1)</script>"
    file = client.files.create(file=("x.html", page, "text/html"), purpose="user_data")
    for accept in ("application/binary", "*/*", "text/html", "image/png"):
        answer = http.get(f"/files/{file.id}/content", headers={"Accept": accept, "Origin": "http://evil.example"})
        assert (answer.status_code, answer.content) == (200, page)
        assert answer.headers["content-type"] == "application/octet-stream"
        assert answer.headers["content-disposition"] == 'attachment; filename="x.html"'
        assert answer.headers["x-content-type-options"] == "nosniff"
        assert answer.headers["content-security-policy"] == "default-src 'none'; sandbox"
        assert answer.headers["content-length"] == str(len(page))


@pytest.mark.parametrize(
    "filename", ["../../etc/passwd", "/etc/passwd", "a" * 4000, "\u202egnp.exe", "a b.jsonl", "sn\N{SNOWMAN}w", "C:x"]
)
def test_a_filename_is_data_and_never_a_path(client, http, server, filename):
    file = client.files.create(file=(filename, b"x"), purpose="user_data")
    assert client.files.retrieve(file.id).filename == filename
    disposition = http.get(f"/files/{file.id}/content").headers["content-disposition"]
    assert disposition in {f'attachment; filename="{filename}"', f'attachment; filename="{file.id}"'}
    assert file.id in names(server)


@pytest.mark.parametrize("file_id", ["..%2f..%2fvbatch.sqlite3", "file-%00", "file-x", "file-" + "A" * 5000])
def test_an_id_that_is_none_is_not_found(http, file_id):
    for path in (f"/files/{file_id}", f"/files/{file_id}/content"):
        assert_envelope(http.get(path), 404)
    assert_envelope(http.delete(f"/files/{file_id}"), 404)


# ------------------------------------------------------------------------------------------------ what must not come in


def form(*parts: tuple[str, bytes], boundary: bytes = b"b") -> bytes:
    body = b"".join(
        b"--" + boundary + b"\r\nContent-Disposition: form-data; " + head.encode() + b"\r\n\r\n" + content + b"\r\n"
        for head, content in parts
    )
    return body + b"--" + boundary + b"--\r\n"


FILE = ('name="file"; filename="a"', b"x")
PURPOSE = ('name="purpose"', b"user_data")
CONTENT_TYPE = "multipart/form-data; boundary=b"


def post(http, body, content_type=CONTENT_TYPE, **headers):
    return http.post("/files", content=body, headers={"Content-Type": content_type, **headers})


def test_fields_may_come_after_the_file_and_in_chunks_of_any_size(http):
    body = form(
        FILE, PURPOSE, ('name="expires_after[anchor]"', b"created_at"), ('name="expires_after[seconds]"', b"3600")
    )
    answer = post(http, (body[place : place + 1] for place in range(len(body))))
    assert answer.status_code == 200, answer.text
    assert answer.json()["expires_at"] == answer.json()["created_at"] + 3600


@pytest.mark.parametrize(
    ("body", "content_type", "status", "param", "code"),
    [
        (form(FILE, PURPOSE), "application/json", 400, None, "invalid_content_type"),
        (form(FILE, PURPOSE), "multipart/form-data", 400, None, "invalid_content_type"),
        (form(FILE, PURPOSE), "multipart/form-data; boundary=" + "b" * 300, 400, None, "invalid_multipart"),
        (form(FILE, PURPOSE, boundary=b"other"), CONTENT_TYPE, 400, None, "invalid_multipart"),
        (form(FILE, PURPOSE)[:-6], CONTENT_TYPE, 400, None, "incomplete_upload"),
        (form(FILE, PURPOSE)[:60], CONTENT_TYPE, 400, None, "incomplete_upload"),
        (b"", CONTENT_TYPE, 400, None, "incomplete_upload"),
        (form(PURPOSE), CONTENT_TYPE, 400, "file", "missing_required_parameter"),
        (form(FILE), CONTENT_TYPE, 400, "purpose", "missing_required_parameter"),
        (form(FILE, FILE, PURPOSE), CONTENT_TYPE, 400, "file", "invalid_value"),
        (form(FILE, ('name="purpose"', b"batch_output")), CONTENT_TYPE, 400, "purpose", "invalid_value"),
        (form(FILE, ('name="purpose"', b"batch")), CONTENT_TYPE, 400, None, None),
        (form(FILE, ('name="purpose"', b"x" * 100_000)), CONTENT_TYPE, 413, "purpose", None),
        (form(*[PURPOSE] * 10_000), CONTENT_TYPE, 400, None, "too_many_parts"),
        (form((FILE[0] + "; x=" + "y" * MIB, b"x")), CONTENT_TYPE, 400, None, "invalid_multipart"),
        (
            form(FILE, PURPOSE, ('name="expires_after[seconds]"', b"3600")),
            CONTENT_TYPE,
            400,
            "expires_after.anchor",
            "missing_required_parameter",
        ),
        (
            form(FILE, PURPOSE, ('name="expires_after[anchor]"', b"created_at")),
            CONTENT_TYPE,
            400,
            "expires_after.seconds",
            "missing_required_parameter",
        ),
        (
            form(FILE, PURPOSE, ('name="expires_after[anchor]"', b"now"), ('name="expires_after[seconds]"', b"3600")),
            CONTENT_TYPE,
            400,
            "expires_after.anchor",
            "invalid_value",
        ),
        (
            form(
                FILE,
                PURPOSE,
                ('name="expires_after[anchor]"', b"created_at"),
                ('name="expires_after[seconds]"', b"soon"),
            ),
            CONTENT_TYPE,
            400,
            "expires_after.seconds",
            "invalid_type",
        ),
    ],
)
def test_a_form_that_is_none_is_refused_in_a_sentence(http, server, *, body, content_type, status, param, code):
    before, log = names(server), len(server.log())
    assert_envelope(post(http, body, content_type), status, type="invalid_request_error", param=param, code=code)
    assert names(server) == before
    assert len(server.log()) - log < 5000


@pytest.mark.parametrize("content", [b"", b"\n\n", b"col1,col2\n1,2\n", b"not json\n{}"])
def test_a_file_for_a_batch_must_begin_with_json(client, content):
    with pytest.raises(openai.BadRequestError) as caught:
        client.files.create(file=content, purpose="batch")
    assert caught.value.body == {
        "message": "Invalid file format for Batch API. Must be .jsonl",
        "type": "invalid_request_error",
        "param": None,
        "code": None,
    }


def test_a_body_that_is_packed_is_refused_before_it_is_read(http):
    answer = post(http, form(FILE, PURPOSE), **{"Content-Encoding": "gzip"})
    assert_envelope(answer, 415, code="unsupported_content_encoding")


def pieces(mib: int, piece: bytes = b"x" * MIB):
    yield b'--b\r\nContent-Disposition: form-data; name="purpose"\r\n\r\nuser_data\r\n'
    yield b'--b\r\nContent-Disposition: form-data; name="file"; filename="a"\r\n\r\n'
    for _ in range(mib):
        yield piece
    yield b"\r\n--b--\r\n"


def test_a_file_that_is_too_large_is_refused_while_it_comes_and_the_client_hears_of_it(http, server):
    before = names(server)
    message = assert_envelope(post(http, pieces(230)), 413, type="invalid_request_error", param="file")
    assert message == "The file is too large: the maximum is 230,686,720 bytes."
    assert names(server) == before


class Connection:
    """A client that sends what it likes."""

    def __init__(self, server, *, length: int | None = None, token: str | None = None, expect: str = "") -> None:
        self.socket = socket.create_connection(("127.0.0.1", server.port), timeout=60)
        size = "Transfer-Encoding: chunked" if length is None else f"Content-Length: {length}"
        self.socket.sendall(
            f"POST {httpx.URL(server.url).path}/files HTTP/1.1\r\nHost: 127.0.0.1:{server.port}\r\n{size}\r\n{expect}"
            f"Authorization: Bearer {token or server.token}\r\nContent-Type: {CONTENT_TYPE}\r\n\r\n".encode()
        )

    def __enter__(self) -> Self:
        return self

    def __exit__(self, *_error: object) -> None:
        self.socket.close()

    def answer(self) -> tuple[int, dict[str, str]]:
        data = b""
        while b"\r\n\r\n" not in data or not data.endswith(b"}}"):
            received = self.socket.recv(65536)
            assert received, data
            data += received
        head, _, body = data.partition(b"\r\n\r\n")
        return int(head.split()[1]), json.loads(body)["error"]


def test_a_terabyte_is_refused_before_its_first_byte(server):
    with Connection(server, length=10**12) as connection:
        status, error = connection.answer()
        assert (status, error["param"]) == (413, "file")
    with Connection(server, length=10**12, expect="Expect: 100-continue\r\n") as connection:
        assert connection.answer()[0] == 413
        assert connection.socket.recv(1) == b""


def test_a_wrong_key_is_refused_before_the_first_byte_and_while_the_client_sends(server):
    with Connection(server, length=10**9, token="wrong") as connection:
        for _ in range(20):
            connection.socket.sendall(b"x" * MIB)
        status, error = connection.answer()
        assert (status, error["code"]) == (401, "invalid_api_key")


def test_a_client_that_stops_sending_is_told_so(server):
    before = names(server)
    with Connection(server, length=1000) as connection:
        connection.socket.sendall(form(FILE, PURPOSE)[:70])
        began = time.monotonic()
        status, error = connection.answer()
    assert (status, error["code"]) == (408, "request_timeout")
    assert error["message"] == "No byte of the request's body arrived for 2 s. Send the request again."
    assert time.monotonic() - began > 1.5
    assert names(server) == before


def test_a_client_that_leaves_at_99_percent_leaves_nothing(server):
    body = b"".join(pieces(20))
    with Connection(server, length=len(body)) as connection:
        connection.socket.sendall(body[: len(body) * 99 // 100])
        assert wait_for(lambda: arriving(server))
    assert wait_for(lambda: not arriving(server))
    with Store(server.store, floor_bytes=0) as store:
        assert fsck.check(store) == []


# ----------------------------------------------------------------------------------------------------------- how little


def upload_and_download(http, server):
    """Send 200 MB up and down; give by how many bytes the server grew, and its slowest answer meanwhile in seconds."""
    process = psutil.Process(server.pid)
    before = process.memory_info().rss
    peak, lags, done = [before], [0.0], threading.Event()

    def watch():
        with server.http() as other:
            while not done.is_set():
                began = time.monotonic()
                assert other.get("vbatch/healthz").text == "ok"
                lags.append(time.monotonic() - began)
                peak.append(process.memory_info().rss)
                time.sleep(0.005)

    watcher = threading.Thread(target=watch)
    watcher.start()
    line = LINE[:-1].replace(b'"x"', b'"' + b"x" * 2000 + b'"') + b"\n"
    piece = line * (MIB // len(line))
    try:
        answer = post(http, pieces(200, piece))
        assert answer.status_code == 200, answer.text
        received = 0
        with http.stream("GET", f"/files/{answer.json()['id']}/content") as content:
            for chunk in content.iter_bytes():
                received += len(chunk)
    finally:
        done.set()
        watcher.join()
    assert received == answer.json()["bytes"] == 200 * len(piece)
    return max(peak) - before, max(lags)


def test_200_mb_up_and_down_take_little_memory_and_never_block_the_server(http, server, record_property):
    post(http, pieces(2))  # what is loaded at the first upload is not the upload's
    figures = ""
    for _ in range(3):
        growth, worst = upload_and_download(http, server)
        figures = f"200 MB up and down: +{growth / MIB:.1f} MiB, slowest answer meanwhile {worst * 1000:.0f} ms"
        record_property("upload", figures)
        sys.stdout.write(figures + "\n")
        assert growth < 64 * MIB
        # A busy machine is not a blocked server, which would be seen every time.
        if worst < 1:
            return
    pytest.fail(figures)
