"""The panel in Notebook 7, which has JupyterLab's extensions and pages of its own."""

from __future__ import annotations

from collections.abc import Iterator

import pytest
from playwright.sync_api import expect

from tests.batches import make_batch, open_store
from tests.servers import JupyterServer
from tests.ui.lab import write_notebook


@pytest.fixture(scope="module")
def server(tmp_path_factory: pytest.TempPathFactory) -> Iterator[JupyterServer]:
    with JupyterServer(tmp_path_factory.mktemp("notebook7"), application="notebook") as server:
        yield server


@pytest.mark.parametrize("path", ["tree", "notebooks/reviews.ipynb"])
def test_the_panel_is_beside_the_files_and_beside_a_notebook(server, page, path):
    write_notebook(server, "reviews.ipynb", ["1 + 1"])
    with open_store(server.store) as store:
        batch = make_batch(store, 3)
    page.goto(f"{server.root}{path}?token={server.token}")
    expect(page.locator("#main-panel, #jp-main-content-panel").first).to_be_visible(timeout=60_000)
    page.locator("body").press("Alt+Shift+B")
    panel = page.locator("#vbatch-batches")
    expect(panel).to_be_visible()
    expect(panel.locator(".vb-Connection")).to_have_attribute("data-connection", "live")
    expect(panel.locator(f"[data-batch='{batch.id}']")).to_contain_text("0/3")
