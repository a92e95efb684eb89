"""OpenAI's batches on a real server without any kernel: their life, their errors, and many clients at once."""

from __future__ import annotations

import asyncio
import statistics
import sys
import threading
import time
from typing import Any

import openai
import pytest
from openai.types import Batch

from tests.batches import ENDPOINT, group, hold, input_lines
from tests.servers import assert_envelope, assert_strict
from vbatch_jupyter.manager import Manager, lifecycle
from vbatch_jupyter.store import Store, fsck

LINES = b"".join(input_lines(5))
DOWN = (openai.APIConnectionError, openai.InternalServerError)
"""What a client sees of a server that has crashed."""


@pytest.fixture(scope="module")
def http(openai_http):
    return openai_http


@pytest.fixture(scope="module")
def input_file(client):
    return client.files.create(file=LINES, purpose="batch").id


def create(client, input_file, **arguments):
    return client.batches.create(
        **{"input_file_id": input_file, "endpoint": ENDPOINT, "completion_window": "24h", **arguments}
    )


def reach(client, batch_id, *statuses, seconds=20):
    until = time.monotonic() + seconds
    while (batch := client.batches.retrieve(batch_id)).status not in statuses and time.monotonic() < until:
        time.sleep(0.05)
    assert batch.status in statuses
    return batch


# ------------------------------------------------------------------------------------------------------------- the life


def test_a_new_batch_has_every_field(http, input_file):
    body = {
        "input_file_id": input_file,
        "endpoint": ENDPOINT,
        "completion_window": "24h",
        "metadata": {"a": "b"},
        "output_expires_after": {"anchor": "created_at", "seconds": 3600},
    }
    answer = http.post("/batches", json=body)
    batch = answer.json()
    assert_strict(Batch, batch)
    assert answer.headers["x-request-id"].startswith("req_")
    assert batch == {
        **dict.fromkeys(Batch.model_fields),
        "id": batch["id"],
        "object": "batch",
        "endpoint": ENDPOINT,
        "input_file_id": input_file,
        "completion_window": "24h",
        "status": "validating",
        "created_at": batch["created_at"],
        "expires_at": batch["created_at"] + 86400,
        "metadata": {"a": "b"},
        "request_counts": {"total": 0, "completed": 0, "failed": 0},
    }


@pytest.mark.parametrize("metadata", [None, {}, {"k" * 64: "v" * 512}])
def test_metadata_comes_back_as_it_was_sent(client, input_file, metadata):
    batch = create(client, input_file, metadata=metadata)
    assert client.batches.retrieve(batch.id).metadata == metadata


def test_without_a_kernel_a_batch_is_validated_and_waits_with_its_counts_and_model(client, http, input_file):
    batch = reach(client, create(client, input_file).id, "in_progress")
    assert (batch.model, batch.request_counts.total, batch.errors) == ("m", 5, None)
    assert_strict(Batch, http.get(f"/batches/{batch.id}").json())


def test_without_a_kernel_a_wrong_file_fails_with_every_reason(client, http):
    bad = b'{"custom_id":"a"}\nnot json\n'
    batch = reach(client, create(client, client.files.create(file=bad, purpose="batch").id).id, "failed")
    answer = http.get(f"/batches/{batch.id}").json()
    assert_strict(Batch, answer)
    assert [(error["line"], error["code"]) for error in answer["errors"]["data"]] == [
        (1, "missing_required_parameter"),
        (1, "missing_required_parameter"),
        (1, "missing_required_parameter"),
        (2, "invalid_json_line"),
    ]
    missing = reach(client, create(client, "file-" + "0" * 22).id, "failed")
    assert [(error.code, error.param) for error in missing.errors.data] == [("invalid_request", "file_id")]


def test_without_a_kernel_a_batch_is_cancelled_once_and_for_all(client, http, input_file):
    batch = reach(client, create(client, input_file).id, "in_progress")
    answer = http.post(f"/batches/{batch.id}/cancel").json()
    assert_strict(Batch, answer)
    assert answer["status"] == "cancelling"
    assert answer["cancelling_at"] is not None
    ended = reach(client, batch.id, "cancelled")
    assert (ended.output_file_id, ended.request_counts.to_dict()) == (None, {"total": 5, "completed": 0, "failed": 0})
    lines = client.files.content(ended.error_file_id).text.splitlines()
    assert len(lines) == 5
    assert all('"batch_cancelled"' in line for line in lines)
    assert client.batches.cancel(batch.id).to_dict() == ended.to_dict()


def test_without_a_kernel_a_batch_expires_with_what_was_answered(client, input_file, store, server):
    batch = Manager(store).batches.create(input_file_id=input_file, endpoint=ENDPOINT)
    reach(client, batch.id, "in_progress")
    with hold(store, batch.id) as lease:
        lease.append(group(batch.id, [0, 3]))
    # Its window is a day, and it is over.
    store.database.write(
        lambda database: database.execute("UPDATE batch SET expires_at = 1 WHERE id = ?", (batch.id,)).close()
    )
    ended = reach(client, batch.id, "expired", seconds=30)
    assert ended.request_counts.to_dict() == {"total": 5, "completed": 1, "failed": 1}
    assert client.files.content(ended.output_file_id).text.count("\n") == 1
    assert client.files.content(ended.error_file_id).text.count("batch_expired") == 3
    assert client.files.retrieve(ended.output_file_id).purpose == "batch_output"
    with pytest.raises(openai.ConflictError, match="Cannot cancel a batch with status 'expired'"):
        client.batches.cancel(batch.id)


def test_a_batch_that_another_process_finishes_completes_at_once_and_whole(client, http, input_file, store):
    batch = reach(client, create(client, input_file).id, "in_progress")
    seen: list[dict[str, Any]] = []

    def watch():
        while not seen or seen[-1]["status"] != "completed":
            seen.append(http.get(f"/batches/{batch.id}").json())

    watcher = threading.Thread(target=watch)
    watcher.start()
    with hold(store, batch.id) as lease:
        lease.append(group(batch.id, range(5)))
        lifecycle.finish(store, lease)
    watcher.join(20)
    for answer in seen:
        assert_strict(Batch, answer)
        assert (answer["output_file_id"] is not None) == (answer["status"] == "completed")
    last = seen[-1]
    assert last["request_counts"] == {"total": 5, "completed": 4, "failed": 1}
    assert last["usage"] == {
        "input_tokens": 12,
        "input_tokens_details": {"cached_tokens": 0, "cache_write_tokens": 0},
        "output_tokens": 8,
        "output_tokens_details": {"reasoning_tokens": 0},
        "total_tokens": 20,
    }
    answer = http.post(f"/batches/{batch.id}/cancel")
    message = assert_envelope(answer, 409, type="invalid_request_error", param=None, code=None)
    assert message == "Cannot cancel a batch with status 'completed'."
    assert answer.headers["x-should-retry"] == "false"
    output = client.files.retrieve(last["output_file_id"])
    assert output.expires_at == output.created_at + 30 * 86400


def test_batches_are_listed_newest_first_and_paged_by_id(client, http, input_file, store):
    made = [create(client, input_file).id for _ in range(4)]
    made.append(Manager(store).batches.create(input_file_id=input_file, endpoint=ENDPOINT).id)
    page = http.get("/batches", params={"limit": 2}).json()
    assert set(page) == {"object", "data", "first_id", "last_id", "has_more"}
    assert ([batch["id"] for batch in page["data"]], page["has_more"]) == (made[:2:-1], True)
    assert (page["object"], page["first_id"], page["last_id"]) == ("list", made[4], made[3])
    for batch in page["data"]:
        assert_strict(Batch, batch)
    assert [batch.id for batch in client.batches.list(limit=2, after=made[3]).data] == [made[2], made[1]]
    everything = [batch.id for batch in client.batches.list(limit=3)]
    assert everything[:5] == made[::-1]
    assert len(everything) == len(set(everything)) > 5


# ----------------------------------------------------------------------------------------------------------- the errors


@pytest.mark.parametrize(
    ("change", "param", "code", "begins"),
    [
        (
            {"endpoint": "/v1/invalid/endpoint"},
            "endpoint",
            "invalid_value",
            "Invalid value: '/v1/invalid/endpoint'. Supported values are: '/v1/chat/completions', ",
        ),
        ({"endpoint": None}, "endpoint", "missing_required_parameter", "Missing required parameter: 'endpoint'."),
        ({"completion_window": "1h"}, "completion_window", "invalid_value", "Invalid value for 'completion_window'"),
        ({"completion_window": ""}, "completion_window", "invalid_value", "Invalid value for 'completion_window'"),
        ({"completion_window": None}, "completion_window", "missing_required_parameter", "Missing required"),
        ({"input_file_id": None}, "input_file_id", "missing_required_parameter", "Missing required"),
        ({"input_file_id": 5}, "input_file_id", "invalid_type", "Invalid type for 'input_file_id'"),
        ({"metadata": "x"}, "metadata", "invalid_type", "Invalid type for 'metadata'"),
        (
            {"metadata": {"tags": ["a"]}},
            "metadata.tags",
            "invalid_type",
            "Invalid type for 'metadata.tags': expected a string, but got an array instead.",
        ),
        ({"metadata": {str(number): "" for number in range(17)}}, "metadata", "object_above_max_properties", "Invalid"),
        ({"metadata": {"k" * 65: ""}}, "metadata", "string_above_max_length", "Invalid property name"),
        ({"metadata": {"k": "v" * 513}}, "metadata.k", "string_above_max_length", "Invalid 'metadata.k'"),
        (
            {"output_expires_after": {"anchor": "created_at", "seconds": 3599}},
            "output_expires_after.seconds",
            "integer_below_min_value",
            "Invalid",
        ),
        (
            {"output_expires_after": {"anchor": "created_at", "seconds": 2_592_001}},
            "output_expires_after.seconds",
            "integer_above_max_value",
            "Invalid",
        ),
        (
            {"output_expires_after": {"anchor": "now", "seconds": 3600}},
            "output_expires_after.anchor",
            "invalid_value",
            "Invalid value: 'now'.",
        ),
        ({"output_expires_after": {"seconds": 3600}}, "output_expires_after.anchor", "missing_required_parameter", ""),
    ],
)
def test_a_wrong_parameter_is_named_in_openais_words(http, input_file, *, change, param, code, begins):
    body = {"input_file_id": input_file, "endpoint": ENDPOINT, "completion_window": "24h", **change}
    message = assert_envelope(
        http.post("/batches", json=body), 400, type="invalid_request_error", param=param, code=code
    )
    assert message.startswith(begins)


@pytest.mark.parametrize(
    "body",
    [b"", b"{", b"[]", b"5", b"\xff", b"[" * 100_000, b'{"metadata": 1e999999}', b'{"input_file_id": "\\ud800"}'],
)
def test_a_body_that_is_no_object_is_the_clients_mistake(http, body):
    assert_envelope(http.post("/batches", content=body), 400, type="invalid_request_error")


def test_a_body_above_a_mebibyte_is_too_large(http):
    assert_envelope(http.post("/batches", content=b'{"metadata": "' + b"x" * 2**21), 413)


@pytest.mark.parametrize("batch_id", ["batch_x", "batch_" + "0" * 32, "..%2fx", "batch_%00"])
def test_an_unknown_batch_is_not_found(http, batch_id):
    for answer in (http.get(f"/batches/{batch_id}"), http.post(f"/batches/{batch_id}/cancel")):
        assert assert_envelope(answer, 404, type="invalid_request_error", param="id").startswith("No batch found")
    assert_envelope(http.get("/batches", params={"after": batch_id}), 404)


@pytest.mark.parametrize("limit", ["0", "101", "-1", "x", "9" * 30])
def test_a_limit_out_of_range_is_named(http, limit):
    assert_envelope(http.get("/batches", params={"limit": limit}), 400, param="limit")


def test_a_verb_that_is_none_of_openais_is_refused_in_the_envelope(http):
    assert_envelope(http.delete("/batches/batch_x"), 405)
    assert_envelope(http.get("/nothing"), 404, code="unknown_url")


# -------------------------------------------------------------------------------------------------- sent more than once


def test_a_create_that_is_sent_again_under_its_key_makes_one_batch(client, http, input_file, server):
    key = {"Idempotency-Key": "a-key"}
    made = set()

    def send():
        made.add(create(server.client(), input_file, extra_headers=key).id)

    senders = [threading.Thread(target=send) for _ in range(8)]
    for sender in senders:
        sender.start()
    for sender in senders:
        sender.join()
    assert len(made) == 1
    assert create(client, input_file).id not in made
    body = {"input_file_id": input_file, "endpoint": "/v1/embeddings", "completion_window": "24h"}
    answer = http.post("/batches", json=body, headers=key)
    message = assert_envelope(answer, 400, param="Idempotency-Key", code="idempotency_key_in_use")
    assert made.pop() in message
    assert_envelope(http.post("/batches", json=body, headers={"Idempotency-Key": "k" * 256}), 400)


# --------------------------------------------------------------------------------------------------------- many at once


def test_a_batch_is_retrieved_quickly(http, client, input_file, record_property):
    batch = create(client, input_file)
    times = []
    for _ in range(500):
        began = time.perf_counter()
        assert http.get(f"/batches/{batch.id}").status_code == 200
        times.append(1000 * (time.perf_counter() - began))
    quantiles = statistics.quantiles(times, n=100)
    figures = f"GET /batches/{{id}}: p50 {quantiles[49]:.1f} ms, p99 {quantiles[98]:.1f} ms"
    record_property("retrieve", figures)
    sys.stdout.write(figures + "\n")
    assert quantiles[49] < 500


class Crowd:
    """Ten threads and ten coroutines that create, poll and cancel batches until they are told to stop.

    Attributes
    ----------
    acknowledged
        The batches that the server has said it made, and of each whether it has said that it is cancelled.
    failures
        What should not have happened.
    """

    def __init__(self, server, input_file) -> None:
        self.acknowledged: dict[str, bool] = {}
        self.failures: list[BaseException] = []
        self._server, self._input_file = server, input_file
        self._stop = False
        workers = [*((self._work, number) for number in range(10)), (self._work_async,)]
        self._threads = [threading.Thread(target=self._guarded, args=worker) for worker in workers]

    def start(self) -> None:
        for thread in self._threads:
            thread.start()

    def stop(self) -> None:
        self._stop = True
        for thread in self._threads:
            thread.join()

    def wait_for(self, batches: int) -> None:
        until = time.monotonic() + 60
        while len(self.acknowledged) < batches and time.monotonic() < until and not self.failures:
            time.sleep(0.05)
        assert len(self.acknowledged) >= batches, self.failures

    def _guarded(self, function, *arguments) -> None:
        try:
            function(*arguments)
        except BaseException as error:  # noqa: BLE001 - a thread's failure is the test's
            self.failures.append(error)

    def _work(self, number) -> None:
        client = self._server.client()
        while not self._stop:
            try:
                batch = create(client, self._input_file)
                self.acknowledged[batch.id] = False
                assert client.batches.retrieve(batch.id).id == batch.id
                if number % 2:
                    self.acknowledged[client.batches.cancel(batch.id).id] = True
                assert client.batches.list(limit=5).data
            except DOWN:
                time.sleep(0.2)

    def _work_async(self) -> None:
        async def work(client, number):
            while not self._stop:
                try:
                    batch = await create(client, self._input_file)
                    self.acknowledged[batch.id] = False
                    assert (await client.batches.retrieve(batch.id)).id == batch.id
                    if number % 2:
                        self.acknowledged[(await client.batches.cancel(batch.id)).id] = True
                except DOWN:
                    await asyncio.sleep(0.2)

        async def all_of_them():
            async with self._server.async_client() as client:
                await asyncio.gather(*(work(client, number) for number in range(10)))

        asyncio.run(all_of_them())


def test_twenty_clients_and_a_crash_lose_nothing(server, input_file):
    crowd = Crowd(server, input_file)
    crowd.start()
    try:
        crowd.wait_for(40)
        server.kill()
        server.start()
        crowd.wait_for(len(crowd.acknowledged) + 40)
    finally:
        crowd.stop()
    assert crowd.failures == []
    client = server.client()
    found = {batch.id for batch in client.batches.list(limit=100)}
    assert crowd.acknowledged.keys() <= found
    for batch_id, cancelled in crowd.acknowledged.items():
        # A cancel whose answer the crash has swallowed may have been made all the same.
        reach(client, batch_id, *(["cancelled"] if cancelled else ["in_progress", "cancelled"]), seconds=60)
    with Store(server.store, floor_bytes=0, reserve_bytes=0) as store:
        assert fsck.check(store) == []
