"""The stream of events, and whether the server says that it is ready."""

from __future__ import annotations

import contextlib
import json
import socket
import time
from collections.abc import Iterator
from typing import Any

import httpx
import pytest

from tests.batches import begin, group, make_batch
from vbatch_jupyter.manager import lifecycle

WAITS = "No engine has the model 'm' loaded. Load it in a notebook with %vbatch load."


@pytest.fixture(scope="module")
def server(untending_server):
    return untending_server


@contextlib.contextmanager
def listening(http: httpx.Client) -> Iterator[Iterator[tuple[str, Any]]]:
    """Return name and data of each event, as they come."""
    with http.stream("GET", "vbatch/events", timeout=60) as response:
        assert response.headers["content-type"] == "text/event-stream"
        yield events_of(response.iter_lines())


def events_of(lines: Iterator[str]) -> Iterator[tuple[str, Any]]:
    name = ""
    for line in lines:
        if line.startswith("event: "):
            name = line.removeprefix("event: ")
        elif line.startswith("data: "):
            yield name, json.loads(line.removeprefix("data: "))


def next_of(events: Iterator[tuple[str, Any]], batch_id: str, *statuses: str) -> dict[str, Any]:
    until = time.monotonic() + 60
    for name, data in events:
        if name == "batch" and data["batch"]["id"] == batch_id and data["batch"]["status"] in statuses:
            return dict(data)
        assert time.monotonic() < until, data
    raise AssertionError


def problems_of(events: Iterator[tuple[str, Any]]) -> list[dict[str, Any]]:
    """Return the problems that are told next."""
    return next(data["problems"] for name, data in events if name == "problems")


def test_a_snapshot_comes_first_and_then_each_change_with_why_a_batch_waits(http, store):
    old = make_batch(store, 1)
    with listening(http) as events:
        name, snapshot = next(events)
        assert name == "snapshot"
        assert snapshot["engines"] == []
        assert snapshot["store_bytes"] >= store.files.get(old.input_file_id).bytes
        assert snapshot["batches"][0] == {
            "batch": http.get(f"vbatch/v1/batches/{old.id}").json(),
            "progress": "",
            "counts": "0 completed, 0 failed, 0 left",
            "retry_label": "Retry failed",
            "waiting": None,
            "notes": [],
            "requests_per_second": None,
            "seconds_left": None,
            "paused": False,
            "has_unanswered": False,
            "retry_of": None,
            "origin": None,
        }
        with begin(store, 5) as lease:
            assert next_of(events, lease.id, "in_progress")["waiting"] == WAITS
            lease.append(group(lease.id, range(5)))
            ended = lifecycle.finish(store, lease)
        data = next_of(events, lease.id, "completed")
        assert data["waiting"] is None
        assert data["batch"]["output_file_id"] == ended.output_file_id
        assert data["batch"]["request_counts"] == {"total": 5, "completed": 4, "failed": 1}


def test_what_the_server_itself_commits_is_told_to_every_listener(http, store):
    record = make_batch(store, 1)
    with listening(http) as first, listening(http) as second:
        assert [next(events)[0] for events in (first, second)] == ["snapshot", "snapshot"]
        http.post(f"vbatch/v1/batches/{record.id}/cancel")
        for events in (first, second):
            assert next_of(events, record.id, "cancelling", "cancelled")["waiting"] is None


def test_an_engine_is_told_when_it_comes_changes_and_goes(http, store):
    with listening(http) as events:
        next(events)
        record = store.engines.register(kernel_id="k", name="mine")
        name, engine = next(events)
        assert name == "engine"
        assert engine.items() >= {"id": record.id, "name": "mine", "kernel_id": "k", "state": "unloaded"}.items()
        assert not {"secret", "socket"} & engine.keys()
        store.engines.update(record.id, state="ready", models=["a", "b"])
        name, engine = next(events)
        assert (name, engine["state"], engine["models"]) == ("engine", "ready", ["a", "b"])
        store.engines.remove(record.id)
        assert next(events) == ("engine_gone", {"id": record.id})


def test_a_reader_that_does_not_read_is_dropped_and_holds_nobody_up(server, http, store):
    host, port = "127.0.0.1", server.port
    with socket.socket() as slow:
        slow.setsockopt(socket.SOL_SOCKET, socket.SO_RCVBUF, 4096)
        slow.connect((host, port))
        path = httpx.URL(server.root).path + "vbatch/events"
        slow.sendall(f"GET {path} HTTP/1.1\r\nHost: {host}\r\nAuthorization: Bearer {server.token}\r\n\r\n".encode())
        assert slow.recv(1) == b"H"  # it is listening
        record = store.engines.register(kernel_id=None, name="x")
        with listening(http) as events:
            next(events)
            # Far more than the buffers of the sockets take.
            for number in range(16):
                store.engines.update(record.id, state="ready", models=[f"{number}-{'m' * 1_000_000}"])
                assert next(events)[1]["models"][0].startswith(f"{number}-")
        store.engines.remove(record.id)
        received = 0
        slow.settimeout(60)
        with contextlib.suppress(ConnectionResetError):
            while chunk := slow.recv(1 << 20):
                received += len(chunk)
        assert 0 < received < 16_000_000
    assert http.get("vbatch/readyz").json()["status"] == "ready"


def test_who_does_not_listen_is_given_the_same_snapshot(http, store):
    with begin(store, 3) as lease, listening(http) as events:
        name, snapshot = next(events)
        assert name == "snapshot"
        assert http.get("vbatch/snapshot").json() == snapshot
        assert snapshot["batches"][0]["batch"]["id"] == lease.id
        lease.append(group(lease.id, range(3)))
        lifecycle.finish(store, lease)
        # The listener misses nothing that another was given meanwhile.
        assert http.get("vbatch/snapshot").json()["batches"][0]["batch"]["status"] == "completed"
        assert next_of(events, lease.id, "completed")["batch"]["request_counts"]["completed"] == 3


# Late: its hundred batches are tended when another test cancels one.
def test_an_old_batch_that_ends_is_told_though_a_hundred_newer_ones_are_shown(http, store):
    with begin(store, 2) as lease:
        for _ in range(100):
            make_batch(store, 1)
        with listening(http) as events:
            name, snapshot = next(events)
            assert name == "snapshot"
            assert [view["batch"]["id"] for view in snapshot["batches"][100:]].count(lease.id) == 1
            lease.append(group(lease.id, range(2)))
            lifecycle.finish(store, lease)
            assert next_of(events, lease.id, "completed")["batch"]["request_counts"]["completed"] == 2


def test_the_stream_needs_the_key(server):
    response = httpx.get(f"{server.root}vbatch/events")
    assert (response.status_code, response.json()["error"]["code"]) == (401, "invalid_api_key")


def test_ready_says_that_the_store_can_be_written_and_what_the_engines_do(http, store):
    record = store.engines.register(kernel_id=None, name="mine")
    store.engines.update(record.id, state="ready", models=["m"])
    response = http.get("vbatch/readyz")
    store.engines.remove(record.id)
    assert response.status_code == 200
    answer = response.json()
    assert answer["status"] == "ready"
    assert answer["store"]["writable"] is True
    assert answer["store"]["free_bytes"] > 0
    assert {"name": "mine", "models": ["m"], "state": "ready"} in answer["engines"]


def test_a_loop_that_fails_is_seen_everywhere_until_it_works_again(server, http, store):
    first, second = make_batch(store, 1), make_batch(store, 1)
    batches, aside = server.store / "batches", server.store / "aside"

    def figure(name: str) -> float:
        begin = f'{name}{{kernel_id="",loop="tending"}} '
        (line,) = [line for line in http.get("metrics").text.splitlines() if line.startswith(begin)]
        return float(line.removeprefix(begin))

    with listening(http) as events:
        assert next(events)[1]["problems"] == []
        assert figure("vbatch_loop_failing") == 0
        before = figure("vbatch_loop_problems_total")
        batches.rename(aside)
        try:
            batches.touch()
            http.post(f"vbatch/v1/batches/{first.id}/cancel")
            problems = problems_of(events)
            assert [(problem["loop"], problem["kernel_id"]) for problem in problems] == [("tending", None)]
            assert "Not a directory" in problems[0]["text"]
            response = http.get("vbatch/readyz")
            assert (response.status_code, response.json()["status"]) == (503, "not_ready")
            assert response.json()["problems"] == problems
            assert http.get("vbatch/snapshot").json()["problems"] == problems
            assert figure("vbatch_loop_failing") == 1
            # Each poke takes a step, and each of them fails: it is counted, and said once.
            assert figure("vbatch_loop_problems_total") >= before + 1
            assert server.log().count("The tending loop failed and will try again: ") == 1
        finally:
            batches.unlink()
            aside.rename(batches)
        http.post(f"vbatch/v1/batches/{second.id}/cancel")
        assert problems_of(events) == []
        assert http.get("vbatch/readyz").json()["status"] == "ready"
        assert figure("vbatch_loop_failing") == 0
        failures = figure("vbatch_loop_problems_total")
        for batch in (first, second):
            assert http.get(f"vbatch/v1/batches/{batch.id}").json()["status"] == "cancelled"
        assert figure("vbatch_loop_problems_total") == failures


def test_a_stream_ends_with_the_server(server):
    with server.http() as client, listening(client) as events:
        assert next(events)[0] == "snapshot"
        server.stop()
        try:
            with contextlib.suppress(httpx.RemoteProtocolError):
                assert all(name in {"batch", "engine"} for name, _ in events)
        finally:
            server.start()
    assert "Traceback" not in server.log()
