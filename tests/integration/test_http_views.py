"""The list of all batches as they are shown, page by page."""

from __future__ import annotations

import pytest

from tests.batches import ENDPOINT, begin, input_lines, make_batch
from tests.servers import assert_envelope
from vbatch_jupyter.manager import Manager


@pytest.fixture(scope="module")
def server(untending_server):
    return untending_server


def test_pages_give_every_batch_once_the_newest_first_and_how_many_there_are(http, store):
    total = http.get("vbatch/batches").json()["total"] + 5
    made = [make_batch(store, 1).id for _ in range(5)]
    pages = [http.get("vbatch/batches", params={"limit": 3}).json()]
    while pages[-1]["has_more"]:
        after = pages[-1]["data"][-1]["batch"]["id"]
        pages.append(http.get("vbatch/batches", params={"limit": 3, "after": after}).json())
    ids = [view["batch"]["id"] for page in pages for view in page["data"]]
    assert ids[:5] == made[::-1]
    assert len(ids) == len(set(ids)) == total
    assert [page["total"] for page in pages] == [total] * len(pages)
    assert [len(page["data"]) for page in pages[:-1]] == [3] * (len(pages) - 1)


def test_a_batch_says_which_notebook_made_it_and_why_it_waits(http, store):
    notebook = Manager(store, profile="local", origin="work/reviews.ipynb").batches
    file = Manager(store).files.create(input_lines(1), filename="in.jsonl", purpose="batch")
    record = notebook.create(input_file_id=file.id, endpoint=ENDPOINT)
    (view,) = http.get("vbatch/batches", params={"limit": 1}).json()["data"]
    assert view == {
        "batch": http.get(f"vbatch/v1/batches/{record.id}").json(),
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
        "origin": "work/reviews.ipynb",
    }
    with begin(store, 1):
        (view,) = http.get("vbatch/batches", params={"limit": 1}).json()["data"]
    assert (view["origin"], view["waiting"]) == (
        None,
        "No engine has the model 'm' loaded. Load it in a notebook with %vbatch load.",
    )


@pytest.mark.parametrize("limit", [0, 1001])
def test_a_page_has_its_bounds(http, limit):
    response = http.get("vbatch/batches", params={"limit": limit})
    message = assert_envelope(response, 400, param="limit")
    assert message == f"Invalid 'limit': expected at least 1 and at most 1,000, but got {limit}."
