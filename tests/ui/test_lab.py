"""JupyterLab in a real browser, with an engine that says back what it is told, slowly, and refuses what asks for it.

What a user does with the real engine is in `test_quickstart`; here is what takes long there, or never happens.
"""

from __future__ import annotations

import re
from collections.abc import Callable, Iterator, Sequence

import pytest
from playwright.sync_api import Page, expect

from tests.servers import JupyterServer
from tests.ui.lab import (
    CANCEL_SECONDS,
    LabNotebook,
    configure,
    echo_in_every_kernel,
    end_kernels,
    press_cancel,
    until,
    watching,
    write_notebook,
)
from vbatch_jupyter.protocol.batch import TERMINAL_STATUSES, BatchRecord

ROWS = 3000
PREPARE = f"""%load_ext vbatch_jupyter
import time
import pandas as pd
import vbatch_jupyter as vb
%vbatch load echo
df = pd.DataFrame({{"n": range({ROWS})}})"""
# The batch does not end before it is cancelled.
PREPARE_HELD = PREPARE.replace(f"range({ROWS})", f"[n if n < {ROWS // 2} else f'hold {{n}}' for n in range({ROWS})]")
# Anew, because the answers of one test would be those of the next.
RUN = "%%vbatch df --fresh -o out\nSay {{ n }}"

Open = Callable[[Sequence[str]], LabNotebook]


@pytest.fixture(scope="module")
def server(tmp_path_factory: pytest.TempPathFactory) -> Iterator[JupyterServer]:
    folder = tmp_path_factory.mktemp("lab")
    configure(folder)
    # Six seconds for all rows: the echo engine answers what is with it at once, which is some 500 requests.
    echo_in_every_kernel(folder, latency_seconds=1.0)
    with JupyterServer(folder, application="lab", base_url="/user/ann/") as server:
        yield server


@pytest.fixture
def open_notebook(server: JupyterServer, page: Page, request: pytest.FixtureRequest) -> Iterator[Open]:
    """Write a notebook and open it; its kernel is gone after the test, so that it runs no other test's batch."""

    def open_it(cells: Sequence[str]) -> LabNotebook:
        name = f"{request.node.name}.ipynb"
        write_notebook(server, name, cells)
        return LabNotebook(page, server, name)

    yield open_it
    end_kernels(server)


def has_ended(record: BatchRecord) -> bool:
    return record.status in TERMINAL_STATUSES


def test_the_bar_moves_and_answers_are_shown_as_they_come(open_notebook: Open, server, page, figures):
    notebook = open_notebook([PREPARE, RUN, "out['response'].iloc[-1], out['error'].notna().sum().item()"])
    notebook.run(0)
    page.evaluate(
        """new MutationObserver(() => {
          const said = document.querySelector(".jp-Notebook").textContent.includes("last answers");
          if (said && !window.answeredAt) window.answeredAt = Date.now() / 1000;
        }).observe(document.body, {childList: true, subtree: true, characterData: true})"""
    )
    with watching(server.store) as watcher:
        notebook.start(1)
        seen: list[list[int]] = []

        def has_answers(enough: int) -> bool:
            counts = notebook.counts(1)
            if counts and (not seen or seen[-1] != counts):
                seen.append(counts)
            return bool(counts and counts[0] >= enough)

        until(lambda: has_answers(1), page)
        # It shows what is finished, and what the engine does.
        expect(notebook.output(1)).to_contain_text("row-")
        expect(notebook.output(1)).to_contain_text("Say ")
        expect(notebook.output(1)).to_contain_text("requests/s")
        until(lambda: has_answers(ROWS), page)
        first = watcher.first(lambda record: record.request_counts.completed > 0)
    assert first is not None
    delay = page.evaluate("window.answeredAt") - first
    figures.append(f"from the first answer to the first shown answer: {delay:.2f} s")
    assert all(sum(counts) == ROWS and counts[1] == 0 for counts in seen), seen
    completed = [counts[0] for counts in seen]
    assert completed == sorted(completed)
    assert len(set(completed)) >= 3
    notebook.wait_for(1)
    expect(notebook.output(1)).to_contain_text("3,000 completed, 0 failed")
    expect(notebook.output(1).get_by_role("button")).to_have_count(0)
    expect(notebook.run(2)).to_contain_text("('Say 2999', 0)")


def test_cancel_reaches_the_batch_whatever_the_kernel_does(open_notebook: Open, server, page, figures):
    notebook = open_notebook([PREPARE_HELD, RUN.replace("-o out", "-b -o batch"), "batch", "time.sleep(8)"])
    notebook.run(0)
    for kernel_is in ("free", "sleeping"):
        with watching(server.store) as watcher:
            notebook.run(1)
            notebook.run(2)
            until(lambda: (counts := notebook.counts(2)) and counts[0], page)
            if kernel_is == "sleeping":
                notebook.start(3)
                expect(notebook.cell(3).locator(".jp-InputPrompt")).to_have_text("[*]:")
            delay = press_cancel(page, watcher)
            figures.append(f"Cancel to cancelling ({kernel_is}): {delay:.2f} s")
            assert delay < CANCEL_SECONDS
            expect(notebook.output(2)).to_contain_text(re.compile("cancelled"))
            until(lambda: watcher.newest.status == "cancelled", page)
            counts = watcher.newest.request_counts
        assert 0 < counts.completed < ROWS
        assert counts.failed == 0
        expect(notebook.output(2)).to_contain_text(f"{counts.completed:,} completed")
        expect(notebook.output(2).get_by_role("button", name="Cancel")).to_have_count(0)


def test_the_interrupt_button_cancels_and_the_answers_so_far_are_there(open_notebook: Open, server, page):
    left = "out['error'].notna().sum().item(), out['response'].notna().sum().item()"
    notebook = open_notebook([PREPARE_HELD, RUN, left])
    notebook.run(0)
    with watching(server.store) as watcher:
        notebook.start(1)
        until(lambda: (counts := notebook.counts(1)) and counts[0], page)
        notebook.press("interrupt-kernel").wait_for(1)
        until(lambda: watcher.newest.status == "cancelled", page)
        completed = watcher.newest.request_counts.completed
    assert 0 < completed < ROWS
    expect(notebook.run(2)).to_contain_text(re.compile(rf"\D{ROWS - completed}\D.*\D{completed}\D"))


def test_retry_failed_runs_what_has_no_answer_in_a_new_batch(open_notebook: Open, server, page):
    prepare = PREPARE.replace(f'{{"n": range({ROWS})}}', '{"n": ["a", "refuse me", "c"]}')
    notebook = open_notebook([prepare, RUN, "%vbatch attach"])
    notebook.run(0)
    with watching(server.store) as watcher:
        summary = notebook.run(1)
        expect(summary).to_contain_text("2 completed, 1 failed")
        first = watcher.newest.id
        # The panel names the notebook that made it.
        assert watcher.newest.origin is not None
        assert watcher.newest.origin.endswith("test_retry_failed_runs_what_has_no_answer_in_a_new_batch.ipynb")
        summary.get_by_role("button", name="Retry failed", exact=True).click()
        expect(summary).to_contain_text(re.compile(r"runs as batch_\w+: %vbatch attach batch_\w+"))
        until(lambda: watcher.newest.id != first and has_ended(watcher.newest), page)
        retried = watcher.newest
    assert retried.status == "completed"
    assert retried.to_openai().metadata == {"retry_of": first}
    assert retried.request_counts.total == 1
    expect(summary).to_contain_text(f"%vbatch attach {retried.id}")
    expect(notebook.run(2)).to_contain_text("0 completed, 1 failed")


HARM = "<img src=x onerror=window.harmed=1>"
HOSTILE = f"""%load_ext vbatch_jupyter
import pandas as pd
import vbatch_jupyter as vb
%vbatch load echo
harm = {HARM!r}
texts = [("refuse " if n % 2 else "say ") + harm + str(n) for n in range({ROWS})]
df = pd.DataFrame({{"id": [f"{{n}} {{harm}}" for n in range({ROWS})], "text": texts}})"""


def test_what_clients_and_models_write_is_shown_as_text(open_notebook: Open, page):
    run = "%%vbatch df --custom-id id -o out\n{{ text }}"
    shows = [
        "out",
        "batch = %vbatch attach",
        "batch",
        "batch.errors()",
        "%vbatch show",
        "%vbatch list",
        "vb.compare(batch, batch)",
    ]
    notebook = open_notebook([HOSTILE, run, *shows])
    notebook.run(0)
    notebook.start(1)
    until(lambda: (counts := notebook.counts(1)) and counts[0] and counts[1], page)
    # While it runs: custom_ids, answers and errors in the widget.
    widget = notebook.output(1)
    expect(widget).to_contain_text(f"say {HARM}")
    expect(widget).to_contain_text("refuse <img src=x onerror=window.harmed=")
    expect(widget).to_contain_text(re.compile(rf"\d+ {re.escape(HARM)}"))
    assert_harmless(page)
    notebook.wait_for(1)
    expect(widget).to_contain_text("1,500 completed, 1,500 failed")
    expect(widget).to_contain_text("refuse <img src=x onerror=window.harmed=")
    for number in range(2, 2 + len(shows)):
        notebook.run(number)
        assert_harmless(page)
    for number in (2, 5, 8):
        expect(notebook.output(number)).to_contain_text("<img src=x onerror=")


def assert_harmless(page: Page) -> None:
    assert page.evaluate("window.harmed") is None
    assert page.locator("img[src='x']").count() == 0
