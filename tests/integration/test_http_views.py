"""The list of all batches as they are shown, page by page."""

from __future__ import annotations

from collections.abc import Iterator
from typing import TYPE_CHECKING

import pytest

from tests.batches import ENDPOINT, begin, input_lines, make_batch, open_store
from tests.servers import JupyterServer, assert_envelope
from vbatch_jupyter.manager import Manager
from vbatch_jupyter.store import Store

if TYPE_CHECKING:
    import httpx


@pytest.fixture(scope="module")
def server(tmp_path_factory: pytest.TempPathFactory) -> Iterator[JupyterServer]:
    # It leaves the batches to the tests, which take their leases.
    with JupyterServer(tmp_path_factory.mktemp("views"), config={"tend_seconds": 3600.0}) as server:
        yield server


@pytest.fixture(scope="module")
def http(server: JupyterServer) -> Iterator[httpx.Client]:
    with server.http() as client:
        yield client


@pytest.fixture
def store(server: JupyterServer) -> Iterator[Store]:
    with open_store(server.store) as store:
        yield store


def test_pages_give_every_batch_once_the_newest_first_and_how_many_there_are(http, store):
    made = [make_batch(store, 1).id for _ in range(5)]
    first = http.get("vbatch/batches", params={"limit": 3}).json()
    ids = [view["batch"]["id"] for view in first["data"]]
    assert (first["total"], first["has_more"]) == (5, True)
    rest = http.get("vbatch/batches", params={"limit": 3, "after": ids[-1]}).json()
    ids += [view["batch"]["id"] for view in rest["data"]]
    assert ids == made[::-1]
    assert (rest["total"], rest["has_more"]) == (5, False)


def test_a_batch_says_which_notebook_made_it_and_why_it_waits(http, store):
    notebook = Manager(store, profile="local", origin="work/reviews.ipynb").batches
    file = Manager(store).files.create(input_lines(1), filename="in.jsonl", purpose="batch")
    record = notebook.create(input_file_id=file.id, endpoint=ENDPOINT)
    (view,) = http.get("vbatch/batches", params={"limit": 1}).json()["data"]
    assert view == {
        "batch": http.get(f"vbatch/v1/batches/{record.id}").json(),
        "waiting": None,
        "paused": False,
        "origin": "work/reviews.ipynb",
    }
    with begin(store, 1):
        (view,) = http.get("vbatch/batches", params={"limit": 1}).json()["data"]
    assert (view["origin"], view["waiting"]) == (
        None,
        "No engine holds the model 'm': load it in a notebook with %vbatch load.",
    )


@pytest.mark.parametrize("limit", [0, 1001])
def test_a_page_has_its_bounds(http, limit):
    response = http.get("vbatch/batches", params={"limit": limit})
    message = assert_envelope(response, 400, param="limit")
    assert message == f"Invalid 'limit': expected at least 1 and at most 1,000, but got {limit}."
