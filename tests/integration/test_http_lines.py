"""A file's lines over HTTP, page by page, and the retry of a batch."""

from __future__ import annotations

import json

import pytest

from tests.batches import begin, custom_ids, group, is_error, make_batch, open_store
from vbatch_jupyter.manager import Manager, lifecycle
from vbatch_jupyter.store import Store


@pytest.fixture(scope="module")
def server(untending_server):
    return untending_server


def keep(store: Store, content: bytes) -> str:
    return Manager(store).files.create([content], filename="x.jsonl", purpose="user_data").id


def test_every_line_of_50_000_is_found_by_its_number(http, store):
    file_id = keep(store, b"".join(b'{"n": %d, "pad": "%b"}\n' % (n, b"x" * (n % 90)) for n in range(1, 50_001)))
    for start in (1, 2, 64, 65, 66, 4_097, 49_901):
        page = http.get(f"vbatch/files/{file_id}/lines", params={"start": start, "limit": 100}).json()
        assert [item["number"] for item in page["data"]] == list(range(start, start + 100))
        assert [item["json"]["n"] for item in page["data"]] == list(range(start, start + 100))
        assert (page["total"], page["has_more"]) == (50_000, start < 49_901)
    assert http.get(f"vbatch/files/{file_id}/lines?start=50001").json()["data"] == []
    assert http.get(f"vbatch/files/{file_id}/lines?start={10**30}").json()["data"] == []
    assert len(http.get(f"vbatch/files/{file_id}/lines").json()["data"]) == 100


def test_a_line_is_json_or_the_text_that_is_there_and_a_long_one_is_cut(http, store):
    long = b'{"text": "%b"}' % (b"y" * 3_000_000)
    content = b'\xef\xbb\xbf{"n": 1.50}\n\nnot json \xff\n' + long + b'\n[NaN]\r\n"the last"'
    page = http.get(f"vbatch/files/{keep(store, content)}/lines").json()
    assert page["total"] == 6
    assert page["data"] == [
        {"number": 1, "json": {"n": 1.5}, "text": None, "truncated": False},
        {"number": 2, "json": None, "text": "", "truncated": False},
        {"number": 3, "json": None, "text": "not json \ufffd", "truncated": False},
        {"number": 4, "json": None, "text": long[: 64 * 1024].decode(), "truncated": True},
        {"number": 5, "json": None, "text": "[NaN]\r", "truncated": False},
        {"number": 6, "json": "the last", "text": None, "truncated": False},
    ]


def test_a_page_of_long_lines_ends_early_and_the_next_goes_on(http, store):
    file_id = keep(store, b"".join(b"%d %b\n" % (n, b"z" * 100_000) for n in range(1, 101)))
    page = http.get(f"vbatch/files/{file_id}/lines").json()
    assert len(page["data"]) == 64
    assert page["has_more"] is True
    rest = http.get(f"vbatch/files/{file_id}/lines?start=65").json()
    assert [item["text"].split()[0] for item in rest["data"]] == [str(n) for n in range(65, 101)]
    assert rest["has_more"] is False


def test_an_empty_file_has_no_lines(http, store):
    page = http.get(f"vbatch/files/{keep(store, b'')}/lines").json()
    assert page == {"object": "list", "data": [], "total": 0, "has_more": False}


@pytest.mark.parametrize(
    ("query", "param"), [("start=0", "start"), ("limit=0", "limit"), ("limit=1001", "limit"), ("start=x", "start")]
)
def test_a_page_out_of_range_is_refused(http, store, query, param):
    response = http.get(f"vbatch/files/{keep(store, b'x')}/lines?{query}")
    assert (response.status_code, response.json()["error"]["param"]) == (400, param)


def test_a_deleted_file_has_no_lines_though_they_were_read_before(http, store):
    file_id = keep(store, b"x\n")
    assert http.get(f"vbatch/files/{file_id}/lines").json()["total"] == 1
    Manager(store).files.delete(file_id)
    response = http.get(f"vbatch/files/{file_id}/lines")
    assert (response.status_code, response.json()["error"]["message"]) == (404, f"No such File object: {file_id}")


def test_a_retry_is_a_batch_of_the_requests_without_an_answer(http, store):
    with begin(store, 10) as lease:
        lease.append(group(lease.id, range(10)))
        ended = lifecycle.finish(store, lease)
    batch = http.post(f"vbatch/batches/{ended.id}/retry").json()
    assert (batch["object"], batch["metadata"]) == ("batch", {"retry_of": ended.id})
    lines = http.get(f"vbatch/files/{batch['input_file_id']}/lines").json()["data"]
    assert [line["json"]["custom_id"] for line in lines] == [f"row-{n}" for n in range(10) if is_error(n)]
    assert custom_ids(store, ended.error_file_id) == ["row-3", "row-8"]
    assert json.loads(http.get(f"vbatch/v1/batches/{batch['id']}").content)["id"] == batch["id"]


def test_a_batch_that_has_not_ended_or_has_every_answer_cannot_be_retried(http, store):
    with begin(store, 3) as lease:
        response = http.post(f"vbatch/batches/{lease.id}/retry")
        assert response.status_code == 409
        assert response.json()["error"]["message"].endswith("is in_progress. Retry it when it has ended.")
        lease.append(group(lease.id, range(3)))
        lifecycle.finish(store, lease)
    response = http.post(f"vbatch/batches/{lease.id}/retry")
    assert response.status_code == 409
    assert "nothing to retry" in response.json()["error"]["message"]
    assert http.post("vbatch/batches/batch_0/retry").status_code == 404


def test_a_retry_without_its_input_file_says_which_is_missing(http, store):
    record = make_batch(store, 2)
    http.post(f"vbatch/v1/batches/{record.id}/cancel")
    with open_store(store.path) as other:
        while other.batches.get(record.id).status != "cancelled":
            lifecycle.tend(other)
    Manager(store).files.delete(record.input_file_id)
    response = http.post(f"vbatch/batches/{record.id}/retry")
    assert (response.status_code, record.input_file_id in response.json()["error"]["message"]) == (404, True)
