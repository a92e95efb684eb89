"""JupyterLab in a real browser, with an engine that says back what it is told: watching, cancelling, coming back."""

from __future__ import annotations

import re
from collections.abc import Callable, Iterator, Sequence

import pytest
from playwright.sync_api import Page, expect

from tests.servers import JupyterServer
from tests.ui.lab import (
    LabNotebook,
    Watcher,
    configure,
    echo_in_every_kernel,
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
# Anew, because the answers of one test would be those of the next.
RUN = "%%vbatch df --fresh -o out\nSay {{ n }}"
CANCEL_SECONDS = 0.5

Open = Callable[[Sequence[str]], LabNotebook]


@pytest.fixture(scope="module")
def server(tmp_path_factory: pytest.TempPathFactory) -> Iterator[JupyterServer]:
    folder = tmp_path_factory.mktemp("lab")
    configure(folder)
    # Ten seconds for all rows: the echo engine answers 256 at a time.
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
    with server.http() as http:
        for session in http.get("api/sessions").json():
            http.delete(f"api/sessions/{session['id']}").raise_for_status()


def is_cancelled(record: BatchRecord) -> bool:
    return record.status in {"cancelling", "cancelled"}


def has_ended(record: BatchRecord) -> bool:
    return record.status in TERMINAL_STATUSES


def press_cancel(page: Page, watcher: Watcher) -> float:
    """Press the widget's button; give how many seconds later the batch was seen to be cancelling."""
    page.evaluate("document.addEventListener('click', () => window.clickedAt = Date.now() / 1000, true)")
    page.get_by_role("button", name="Cancel", exact=True).click()
    at = until(lambda: watcher.first(is_cancelled), page)
    return float(at - page.evaluate("window.clickedAt"))


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
        # What is finished stands there, and what the engine does.
        expect(notebook.output(1)).to_contain_text("row-")
        expect(notebook.output(1)).to_contain_text("Say ")
        expect(notebook.output(1)).to_contain_text("requests/s")
        until(lambda: has_answers(ROWS), page)
        first = watcher.first(lambda record: record.request_counts.completed > 0)
    assert first is not None
    delay = page.evaluate("window.answeredAt") - first
    figures.append(f"from the first answer to the first shown answer: {delay:.2f} s")
    assert delay < 1
    assert all(sum(counts) == ROWS and counts[1] == 0 for counts in seen), seen
    completed = [counts[0] for counts in seen]
    assert completed == sorted(completed)
    assert len(set(completed)) >= 5
    notebook.wait_for(1)
    expect(notebook.output(1)).to_contain_text("3,000 completed, 0 failed, 0 left")
    expect(notebook.output(1).get_by_role("button")).to_have_count(0)
    expect(notebook.run(2)).to_contain_text("('Say 2999', 0)")


@pytest.mark.parametrize("where", ["blocked", "sleeping", "free"])
def test_cancel_reaches_the_batch(open_notebook: Open, server, page, figures, where):
    in_background = [RUN.replace("-o out", "-b -o batch"), "batch", "time.sleep(8)"]
    notebook = open_notebook([PREPARE, *([RUN] if where == "blocked" else in_background)])
    notebook.run(0)
    shown = 1
    with watching(server.store) as watcher:
        if where == "blocked":
            notebook.start(1)
        else:
            notebook.run(1)
            notebook.run(2)
            shown = 2
        until(lambda: (counts := notebook.counts(shown)) and counts[0], page)
        if where == "sleeping":
            notebook.start(3)
            expect(notebook.cell(3).locator(".jp-InputPrompt")).to_have_text("[*]:")
        delay = press_cancel(page, watcher)
        figures.append(f"Cancel to cancelling ({where}): {delay:.2f} s")
        assert delay < CANCEL_SECONDS
        if where == "blocked":
            notebook.wait_for(1)
        expect(notebook.output(shown)).to_contain_text(re.compile("cancelled"), timeout=15_000)
        until(lambda: watcher.newest.status == "cancelled", page)
        counts = watcher.newest.request_counts
    assert 0 < counts.completed < ROWS
    assert counts.failed == 0
    expect(notebook.output(shown)).to_contain_text(f"{counts.completed:,} completed")
    expect(notebook.output(shown).get_by_role("button", name="Cancel")).to_have_count(0)


def test_the_interrupt_button_cancels_and_the_answers_so_far_are_there(open_notebook: Open, server, page):
    left = "out['error'].notna().sum().item(), out['response'].notna().sum().item()"
    notebook = open_notebook([PREPARE, RUN, left])
    notebook.run(0)
    with watching(server.store) as watcher:
        notebook.start(1)
        until(lambda: (counts := notebook.counts(1)) and counts[0], page)
        notebook.press("interrupt-kernel").wait_for(1)
        until(lambda: watcher.newest.status == "cancelled", page)
        completed = watcher.newest.request_counts.completed
    assert 0 < completed < ROWS
    expect(notebook.run(2)).to_contain_text(re.compile(rf"\D{ROWS - completed}\D.*\D{completed}\D"))


def test_a_batch_outlives_a_restart_is_attached_and_its_summary_stays(open_notebook: Open, server, page):
    notebook = open_notebook([PREPARE, RUN, "%vbatch attach", "%vbatch results -d df -o out\nout['response'].iloc[-1]"])
    notebook.run(0)
    with watching(server.store) as watcher:
        notebook.start(1)
        until(lambda: (counts := notebook.counts(1)) and counts[0], page)
        notebook.restart()
        assert watcher.first(has_ended) is None
        left = ROWS - watcher.newest.request_counts.completed
        assert 0 < left < ROWS
        expect(notebook.run(0)).to_contain_text(f"Resuming batch {watcher.newest.id}")
        notebook.start(2)
        until(lambda: (counts := notebook.counts(2)) and counts[2], page)
        notebook.wait_for(2)
        until(lambda: watcher.first(has_ended), page)
        batch_id = watcher.newest.id
    expect(notebook.output(2)).to_contain_text(batch_id)
    expect(notebook.output(2)).to_contain_text("3,000 completed, 0 failed, 0 left")
    expect(notebook.run(3)).to_contain_text("Say 2999")

    # Saved, closed and opened again, without a kernel to ask.
    notebook.save()
    with server.http() as http:
        for session in http.get("api/sessions").json():
            http.delete(f"api/sessions/{session['id']}").raise_for_status()
    notebook.visit_again()
    expect(notebook.output(2)).to_contain_text("3,000 completed, 0 failed, 0 left")


def test_a_batch_is_built_by_clicks_and_can_be_kept_as_a_cell(open_notebook: Open, page):
    prepare = PREPARE.replace(f"range({ROWS})", "range(20)")
    notebook = open_notebook([prepare, "%vbatch build df", "len(out), out['response'].iloc[-1]"])
    notebook.run(0)
    builder = notebook.run(1)
    prompt = builder.get_by_label("prompt", exact=True)
    expect(builder.get_by_role("button", name="Run all")).to_be_disabled()
    prompt.fill("Say")
    builder.get_by_role("button", name="n", exact=True).click()
    expect(prompt).to_have_value("Say {{ n }}")
    for row in range(3):
        expect(builder).to_contain_text(f"Say {row}")
    expect(builder).to_contain_text("2 prompt tokens")
    builder.get_by_role("button", name="Run a sample of 5").click()
    expect(builder).to_contain_text("5 completed, 0 failed, 0 left")
    expect(builder.locator("tbody tr")).to_have_count(5)
    builder.get_by_role("button", name="Run all").click()
    expect(builder).to_contain_text("20 completed, 0 failed, 0 left")
    expect(builder).to_contain_text("20 rows, in the variable out")
    expect(builder.get_by_label("as a cell")).to_have_value(re.compile(r"%%vbatch df -o out.*\nSay \{\{ n \}\}\s*"))
    expect(notebook.run(2)).to_contain_text("(20, 'Say 19')")


HARM = "<img src=x onerror=window.harmed=1>"
HOSTILE = f"""%load_ext vbatch_jupyter
import pandas as pd
import vbatch_jupyter as vb
%vbatch load echo
harm = {HARM!r}
texts = [("refuse " if n % 2 else "say ") + harm + str(n) for n in range(800)]
df = pd.DataFrame({{"id": [f"{{n}} {{harm}}" for n in range(800)], "text": texts}})"""


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
    expect(widget).to_contain_text(f"refuse {HARM}")
    expect(widget).to_contain_text(re.compile(rf"\d+ {re.escape(HARM)}"))
    assert_harmless(page)
    notebook.wait_for(1)
    expect(widget).to_contain_text("400 completed, 400 failed, 0 left")
    expect(widget).to_contain_text(f"refuse {HARM}")
    for number in range(2, 2 + len(shows)):
        notebook.run(number)
        assert_harmless(page)
    for number in (2, 5, 8):
        expect(notebook.output(number)).to_contain_text("<img src=x onerror=")


def assert_harmless(page: Page) -> None:
    assert page.evaluate("window.harmed") is None
    assert page.locator("img[src='x']").count() == 0
