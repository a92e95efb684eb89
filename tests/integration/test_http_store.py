"""A Jupyter server whose store is held by another process, damaged, foreign or replaced, and then well again."""

from __future__ import annotations

import contextlib
import os
import shutil
import sqlite3
import subprocess
import sys
from collections.abc import Callable, Iterator
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path
from typing import TYPE_CHECKING

import pytest

from tests.batches import make_batch, open_store
from tests.servers import JupyterServer, assert_envelope
from tests.waiting import wait_for
from vbatch_jupyter.protocol.ids import new_batch_id, new_file_id
from vbatch_jupyter.store.upgrades import SCHEMA_VERSION

if TYPE_CHECKING:
    import httpx

LINE = b'{"custom_id":"a"}\n'
DATABASE = "vbatch.sqlite3"


def routes(file_id: str, batch_id: str) -> list[tuple[str, str, object]]:
    """Return every request that needs the store."""
    chat = {"model": "m", "messages": [{"role": "user", "content": "Hi"}]}
    upload = {"bytes": 18, "filename": "in.jsonl", "mime_type": "text/jsonl", "purpose": "batch"}
    batch = {"input_file_id": file_id, "endpoint": "/v1/chat/completions", "completion_window": "24h"}
    return [
        ("GET", "v1/files", None),
        ("GET", f"v1/files/{file_id}", None),
        ("GET", f"v1/files/{file_id}/content", None),
        ("DELETE", f"v1/files/{file_id}", None),
        ("GET", f"files/{file_id}/lines", None),
        ("POST", "v1/uploads", upload),
        ("GET", "v1/batches", None),
        ("POST", "v1/batches", batch),
        ("GET", f"v1/batches/{batch_id}", None),
        ("POST", f"v1/batches/{batch_id}/cancel", None),
        ("POST", f"batches/{batch_id}/retry", None),
        ("GET", "batches", None),
        ("GET", "snapshot", None),
        ("GET", "events", None),
        ("GET", "engines", None),
        ("POST", "engines/one/unload", None),
        ("GET", "v1/models", None),
        ("GET", "v1/models/m", None),
        ("POST", "v1/chat/completions", chat),
        ("POST", "check", {"file_id": file_id}),
    ]


def newer(path: Path) -> None:
    open_store(path).close()
    with contextlib.closing(sqlite3.connect(path / DATABASE)) as database:
        database.execute(f"PRAGMA user_version = {SCHEMA_VERSION + 1}")


def random_bytes(path: Path) -> None:
    path.mkdir(mode=0o700)
    (path / DATABASE).write_bytes(os.urandom(8192))


def truncated(path: Path) -> None:
    with open_store(path) as store:
        make_batch(store, 50)
    os.truncate(path / DATABASE, (path / DATABASE).stat().st_size // 2)


def emptied(path: Path) -> None:
    with open_store(path) as store:
        make_batch(store, 1)
    os.truncate(path / DATABASE, 0)


def without_database(path: Path) -> None:
    with open_store(path) as store:
        make_batch(store, 1)
    (path / DATABASE).unlink()


def of_another_program(path: Path) -> None:
    path.mkdir(mode=0o700)
    with contextlib.closing(sqlite3.connect(path / DATABASE)) as database:
        database.execute("CREATE TABLE bookmarks (url)")


def of_another_program_and_of_our_version(path: Path) -> None:
    of_another_program(path)
    with contextlib.closing(sqlite3.connect(path / DATABASE)) as database:
        database.execute(f"PRAGMA user_version = {SCHEMA_VERSION}")


def foreign_folder(path: Path) -> None:
    path.mkdir(mode=0o700)
    (path / "thesis.tex").write_text("Chapter 1")


def file_for_the_directory(path: Path) -> None:
    path.write_text("not a directory")


def directory_for_the_database(path: Path) -> None:
    (path / DATABASE).mkdir(parents=True)
    path.chmod(0o700)


def file_for_a_folder_of_it(path: Path) -> None:
    path.mkdir(mode=0o700)
    (path / "batches").write_text("not a directory")


def nothing(path: Path) -> None:
    """Leave nothing there."""


DAMAGES: dict[Callable[[Path], None], str] = {
    newer: "was written by a newer vbatch-jupyter",
    random_bytes: "is damaged (file is not a database)",
    truncated: "is damaged (database disk image is malformed)",
    emptied: "is missing or empty, but",
    without_database: "is gone. Put it back",
    of_another_program: "belongs to another program",
    of_another_program_and_of_our_version: "belongs to another program",
    foreign_folder: "is gone. Put it back",
    file_for_the_directory: "cannot be used: Not a directory",
    directory_for_the_database: "it is not a file",
    file_for_a_folder_of_it: "is gone. Put it back",
    nothing: "is gone. Put it back",
}


@pytest.fixture(scope="module")
def server(tmp_path_factory) -> Iterator[JupyterServer]:
    """Start a server whose store's path is a file."""
    server = JupyterServer(tmp_path_factory.mktemp("broken"), config={"store_wait_seconds": 1.0, "tend_seconds": 0.1})
    file_for_the_directory(server.store)
    with server:
        yield server
    assert "Traceback" not in server.log()


def assert_refused(http: httpx.Client, reason: str, file_id: str, batch_id: str) -> None:
    for method, path, body in routes(file_id, batch_id):
        answer = http.request(method, f"vbatch/{path}", json=body)
        message = assert_envelope(answer, 503, type="server_error", code="store_unavailable", param=None)
        assert reason in message, (path, message)
        assert int(answer.headers["retry-after"]) > 0
    upload = http.post("vbatch/v1/files", data={"purpose": "batch"}, files={"file": ("in.jsonl", LINE)})
    assert reason in assert_envelope(upload, 503, code="store_unavailable")
    ready = http.get("vbatch/readyz")
    assert (ready.status_code, ready.json()["status"]) == (503, "not_ready")
    assert reason in ready.json()["store"]["reason"]


@contextlib.contextmanager
def put_aside(store: Path, well: Path) -> Iterator[None]:
    """Move a store away, and back to where it was."""
    store.rename(well)
    try:
        yield
    finally:
        if store.is_dir():
            shutil.rmtree(store)
        store.unlink(missing_ok=True)
        well.rename(store)


def content_of(path: Path) -> dict[str, bytes]:
    """Return what is in a folder, but for the reserve, which is made and removed as there is room."""
    files = (each for each in path.rglob("*") if each.is_file() and each.name != "reserve") if path.is_dir() else ()
    return {str(each): each.read_bytes() for each in files}


def test_a_server_starts_without_its_store_and_takes_it_up_when_it_is_there(server, http):
    assert_refused(http, "File exists", new_file_id(), new_batch_id())
    server.store.unlink()
    assert http.get("vbatch/v1/batches").json()["data"] == []
    wait_for(lambda: http.get("vbatch/readyz").json()["status"] == "ready")


@pytest.mark.parametrize("damage", DAMAGES)
def test_a_store_that_is_damaged_under_a_server_is_named_until_it_is_well_again(server, http, tmp_path, damage):
    with server.client() as client:
        file = client.files.create(file=("in.jsonl", LINE), purpose="batch")
        batch = client.batches.create(input_file_id=file.id, endpoint="/v1/chat/completions", completion_window="24h")
        with put_aside(server.store, tmp_path / "well"):
            damage(tmp_path / "damaged")
            # At once, so that the server never finds it before it is damaged.
            if (tmp_path / "damaged").exists():
                (tmp_path / "damaged").rename(server.store)
            before = content_of(server.store)
            assert_refused(http, DAMAGES[damage], file.id, batch.id)
            assert content_of(server.store).items() >= before.items()
        assert client.files.content(file.id).read() == LINE
        # The server tends it again, too: this input file is not valid.
        wait_for(lambda: client.batches.retrieve(batch.id).status == "failed")
        wait_for(lambda: http.get("vbatch/readyz").json()["status"] == "ready")


HOLD = """
import sqlite3, sys
database = sqlite3.connect(sys.argv[1], isolation_level=None)
database.execute("BEGIN EXCLUSIVE")
print("held", flush=True)
sys.stdin.read()
"""


@contextlib.contextmanager
def held(path: Path) -> Iterator[None]:
    """Hold a store's database in another process."""
    with subprocess.Popen(
        [sys.executable, "-c", HOLD, str(path / DATABASE)], stdin=subprocess.PIPE, stdout=subprocess.PIPE
    ) as holder:
        assert holder.stdout is not None
        assert holder.stdout.readline() == b"held\n"
        try:
            yield
        finally:
            holder.communicate()


def test_a_store_that_another_process_holds_is_busy_and_files_and_engines_are_still_served(server, http):
    with server.client() as client:
        file = client.files.create(file=("in.jsonl", LINE), purpose="batch")
        with open_store(server.store) as store:
            engine = store.engines.register(kernel_id=None, name="one", models=["m"])
            wait_for(lambda: [each["id"] for each in http.get("vbatch/engines").json()["data"]] == [engine.id])
            with held(server.store), ThreadPoolExecutor(20) as threads:
                asked = [
                    (path, threads.submit(http.request, method, f"vbatch/{path}", json=body))
                    for method, path, body in routes(file.id, new_batch_id())
                    if path.startswith(("v1/uploads", "v1/batches", "batches", "snapshot", "events"))
                    or path in ("v1/files", f"v1/files/{file.id}")
                ]
                for path, answer in asked:
                    reason = assert_envelope(answer.result(), 503, type="server_error", code="store_busy")
                    assert reason.startswith(("Another process keeps the database", "The server is busy")), path
                    assert int(answer.result().headers["retry-after"]) > 0
                ready = http.get("vbatch/readyz")
                assert ready.status_code == 503
                assert ready.json()["store"]["reason"].startswith("Another process keeps the database")
                assert client.files.content(file.id).read() == LINE
                assert http.get(f"vbatch/files/{file.id}/lines").json()["total"] == 1
                assert [each["id"] for each in http.get("vbatch/engines").json()["data"]] == [engine.id]
                nobody = http.get(f"vbatch/v1/files/{new_file_id()}/content")
                assert_envelope(nobody, 503, code="store_busy")
            wait_for(lambda: http.get("vbatch/readyz").json()["status"] == "ready")
        assert client.files.delete(file.id).deleted


def test_requests_that_wait_for_threads_get_the_same_answer_as_those_that_have_one(server):
    """Ask more at once than there are threads."""
    with server.http() as http, server.http(timeout=30) as patient:
        file_id = patient.post("vbatch/v1/files", data={"purpose": "batch"}, files={"file": ("in.jsonl", LINE)}).json()[
            "id"
        ]
        with held(server.store), ThreadPoolExecutor(100) as threads:
            # One after another by the threads there are, they would be answered later than a client waits.
            asked = [threads.submit(patient.get, f"vbatch/v1/files/{file_id}") for _ in range(60)]
            assert http.get(f"vbatch/v1/files/{file_id}/content").content == LINE
            for answer in asked:
                assert_envelope(answer.result(), 503, code="store_busy")
