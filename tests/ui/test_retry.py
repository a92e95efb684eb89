"""The button that a summary has where the page can use it."""

from __future__ import annotations

import re
from collections.abc import Iterator
from pathlib import Path

import pytest
from playwright.sync_api import Page, expect

from tests.batches import open_store
from tests.servers import JupyterServer
from tests.ui.lab import LabNotebook, configure, echo_in_every_kernel, until, watching, write_notebook

PREPARE = """%load_ext vbatch_jupyter
import pandas as pd
%vbatch load echo
df = pd.DataFrame({"text": ["a", "refuse me", "c"]})"""


@pytest.fixture(scope="module")
def server(tmp_path_factory: pytest.TempPathFactory) -> Iterator[JupyterServer]:
    folder = tmp_path_factory.mktemp("lab")
    configure(folder)
    echo_in_every_kernel(folder, latency_seconds=0.1)
    with JupyterServer(folder, application="lab") as server:
        yield server


def test_retry_failed_runs_what_has_no_answer_in_a_new_batch(server: JupyterServer, page: Page) -> None:
    write_notebook(server, "retry.ipynb", [PREPARE, "%%vbatch df -o out\n{{ text }}", "%vbatch attach"])
    notebook = LabNotebook(page, server, "retry.ipynb")
    notebook.run(0)
    summary = notebook.run(1)
    expect(summary).to_contain_text("2 completed, 1 failed, 0 left")
    with open_store(server.store) as store:
        (record,) = store.batches.list().data
    first = record.id
    # The panel names the notebook that made it.
    assert record.origin is not None
    assert Path(record.origin).name == "retry.ipynb"
    with watching(server.store) as watcher:
        summary.get_by_role("button", name="Retry failed", exact=True).click()
        expect(summary).to_contain_text(re.compile(r"runs as batch_\w+: %vbatch attach batch_\w+"))
        until(lambda: watcher.seen and watcher.newest.status == "completed", page)
        retried = watcher.newest
    assert retried.metadata == {"retry_of": first}
    assert retried.request_counts.total == 1
    expect(summary).to_contain_text(f"%vbatch attach {retried.id}")
    expect(notebook.run(2)).to_contain_text("0 completed, 1 failed, 0 left")
