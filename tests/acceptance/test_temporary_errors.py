"""What fails for a while does not end a batch: afterwards it goes on, and ends with every line, without a person."""

from __future__ import annotations

import contextlib
import multiprocessing
import resource
from collections.abc import Callable, Iterator
from contextlib import AbstractContextManager
from pathlib import Path
from typing import Any

import pytest

from tests.acceptance import disturbed_owner
from tests.batches import ENDPOINT, assert_every_request_once, input_lines, make_batch, open_store
from tests.servers import JupyterServer, assert_envelope
from tests.waiting import wait_for
from vbatch_jupyter.protocol.batch import RequestCounts
from vbatch_jupyter.store.fsck import check

REQUESTS = 600
ENGINE_HOLDS = 11
"""Those whose numbers begin with 9."""
KIB = 1024


@contextlib.contextmanager
def limited(pid: int, kind: int, most: int) -> Iterator[None]:
    before = resource.prlimit(pid, kind)
    resource.prlimit(pid, kind, (most, before[1]))
    yield
    resource.prlimit(pid, kind, before)


def without_descriptors(pid: int, _: Path) -> AbstractContextManager[None]:
    """Let a process open nothing more."""
    return limited(pid, resource.RLIMIT_NOFILE, 0)


def on_a_full_disk(pid: int, _: Path) -> AbstractContextManager[None]:
    """Let a process make no file larger than the database is; a real full disk needs a file system of its own."""
    return limited(pid, resource.RLIMIT_FSIZE, 40 * KIB)


@contextlib.contextmanager
def read_only(_: int, path: Path) -> Iterator[None]:
    """Make all directories of the store unwritable."""
    directories = [path, *(each for each in path.rglob("*") if each.is_dir())]
    for directory in directories:
        directory.chmod(0o500)
    yield
    for directory in directories:
        directory.chmod(0o700)


@contextlib.contextmanager
def moved_away(_: int, path: Path) -> Iterator[None]:
    path.rename(path.with_name("away"))
    yield
    path.with_name("away").rename(path)


@pytest.fixture(scope="module")
def processes() -> Any:
    context = multiprocessing.get_context("forkserver")
    context.set_forkserver_preload([disturbed_owner.__name__])
    return context


@pytest.mark.parametrize("when", ["before its runner starts", "while it runs"])
@pytest.mark.parametrize(
    "disturb",
    [without_descriptors, on_a_full_disk, read_only, moved_away],
    ids=lambda function: function.__name__,
)
def test_a_batch_goes_on_by_itself_after(
    tmp_path: Path,
    processes: Any,
    disturb: Callable[[int, Path], AbstractContextManager[None]],
    when: str,
) -> None:
    ours, theirs = processes.Pipe()
    with open_store(tmp_path / "store") as store:
        batch = make_batch(store, REQUESTS)
        owner = processes.Process(target=disturbed_owner.run, args=(store.path, theirs))
        owner.start()
        theirs.close()
        assert ours.recv() == "open"
        if when == "while it runs":
            ours.send("start")
            wait_for(lambda: store.batches.get(batch.id).request_counts.left == ENGINE_HOLDS)
        with disturb(owner.pid, store.path):
            if when != "while it runs":
                ours.send("start")
            ours.send("let go")
            # The error is said, as a loop's or as the batch's.
            said = [ours.recv()]
        owner.join(timeout=120)
        with contextlib.suppress(EOFError):
            while True:
                said.append(ours.recv())
        assert owner.exitcode == 0, said
        assert not [notice for notice in said if "paused" in notice]
        record = store.batches.get(batch.id)
        assert (record.status, record.paused, record.reason) == ("completed", False, None), said
        assert record.request_counts == RequestCounts(REQUESTS, REQUESTS, 0)
        assert_every_request_once(store, record, REQUESTS)
        assert check(store) == []


def test_a_server_goes_on_by_itself_when_it_has_descriptors_again_and_with_another_store(tmp_path: Path) -> None:
    with JupyterServer(tmp_path, config={"tend_seconds": 0.1}) as server, server.http() as http:
        with open_store(server.store) as store:
            with limited(server.pid, resource.RLIMIT_NOFILE, 0):
                batch = make_batch(store, 3)
                wait_for(lambda: "tending loop failed" in server.log())
            wait_for(lambda: store.batches.get(batch.id).status == "in_progress")
            wait_for(lambda: http.get("vbatch/readyz").status_code == 200)
        server.store.rename(tmp_path / "away")
        answer = http.get("vbatch/v1/batches")
        gone = assert_envelope(answer, answer.status_code, type="server_error")
        assert f"The store's database {server.store / 'vbatch.sqlite3'} is gone. Put it back" in gone
        with open_store(server.store) as other:
            assert http.get("vbatch/v1/batches").json()["data"] == []
            lines = b"".join(input_lines(2))
            file = http.post("vbatch/v1/files", data={"purpose": "batch"}, files={"file": ("in.jsonl", lines)}).json()
            asked = {"input_file_id": file["id"], "endpoint": ENDPOINT, "completion_window": "24h"}
            made = http.post("vbatch/v1/batches", json=asked).json()
            wait_for(lambda: other.batches.get(made["id"]).status == "in_progress")
            views = http.get("vbatch/batches").json()["data"]
            assert [view["batch"]["id"] for view in views] == [made["id"]]
        server.store.rename(tmp_path / "other")
        (tmp_path / "away").rename(server.store)
        views = wait_for(lambda: http.get("vbatch/batches").json().get("data"))
        assert [view["batch"]["id"] for view in views] == [batch.id]
        assert http.get("vbatch/snapshot").json()["batches"][0]["batch"]["id"] == batch.id
