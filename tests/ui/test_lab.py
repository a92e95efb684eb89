"""JupyterLab in a real browser, with an engine that says back what it is told, slowly, and refuses what asks for it.

What a user does with the real engine is in `test_quickstart`; here is what takes long there, or never happens.
"""

from __future__ import annotations

import re
from collections.abc import Callable, Iterator, Sequence

import pytest
from nbconvert import HTMLExporter
from playwright.sync_api import Page, expect

from tests.servers import JupyterServer
from tests.ui.lab import (
    CANCEL_SECONDS,
    SCREENSHOTS,
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


PRICES = "Pay $5 or $6 for \\\\(x_1\\\\), not $7_000"
FORMULA = "from IPython.display import HTML\nHTML('$x_1$')"


def test_nothing_that_is_shown_is_drawn_as_a_formula(open_notebook: Open, page):
    """JupyterLab 4.6 with MathJax 3 draws what is between two dollar signs in HTML, unless its class says otherwise."""
    prepare = f"{PREPARE}\ndf = pd.DataFrame({{'text': ['{PRICES}', 'refuse {PRICES}']}})"
    run = "%%vbatch df --max-tokens 9{} -o out\n{{{{ text }}}}"
    cells = [run.format(" --dry-run").replace(" -o out", ""), run.format(""), "%vbatch list"]
    notebook = open_notebook([prepare, FORMULA, *cells])
    notebook.run(0)
    # What is drawn here would be drawn there.
    expect(notebook.run(1).locator("mjx-container")).to_have_count(1)
    dry, ended, listed = (notebook.run(number) for number in (2, 3, 4))
    for said in ("Pay $5 or $6 for \\(x_1\\), not $7_000", "gpt-4.1-nano", "$0."):
        expect(dry).to_contain_text(said)
    expect(dry.locator("table").last.locator("thead th")).to_have_text(["service", "model", "price"])
    # Numbers may differ from row to row, so a group of errors leaves them out only if they do.
    expect(ended).to_contain_text("refuse Pay $5 or $6 for \\(x_1\\), not $7_000")
    expect(listed).to_contain_text("1/2 completed, 1 failed")
    expect(notebook.output(1).locator("mjx-container")).to_have_count(1)
    expect(page.locator(".jp-Notebook mjx-container")).to_have_count(1)
    notebook.picture("dry_run", 2, 3)


def test_without_its_kernel_a_widget_is_a_sentence_in_the_page_and_in_the_notebook_that_is_saved(
    open_notebook: Open, server, page
):
    """Without us ipywidgets 8.1.9 leaves dead buttons in JupyterLab 4.6.6, and nbconvert 7.17.2 shows a Python repr."""
    notebook = open_notebook([PREPARE, RUN.replace("-o out", "-b"), "%vbatch build df"])
    for number in range(3):
        notebook.run(number)
    until(lambda: (counts := notebook.counts(1)) and counts[0], page)
    notebook.restart()
    for number, sentence, call in (
        (1, "had not ended when this was shown.", re.compile(r"%vbatch attach batch_\w+ shows this batch again")),
        (2, "Here was a builder of batches, which needs its kernel.", "%vbatch build df opens this builder again"),
    ):
        output = notebook.output(number)
        expect(output.locator(".vbatch-left")).to_contain_text(sentence)
        expect(output).to_contain_text(call)
        expect(output.locator(".jupyter-widgets-disconnected:visible")).to_have_count(0)
        expect(output.get_by_role("button")).to_have_count(0)
        expect(output).not_to_contain_text("running")
    notebook.picture("restarted", 1, 2)
    notebook.save()
    path = server.folder / "notebooks" / notebook.name
    drawn = HTMLExporter().from_filename(str(path))[0]
    for written in (path.read_text(encoding="utf-8"), drawn):
        assert "had not ended when this was shown." in written
        assert "Here was a builder of batches" in written
        assert "VBox(" not in written
    # Opened again, JupyterLab draws the widget of the file, and its models are gone.
    notebook.leave().come_back()
    for number, sentence in ((1, "had not ended when this was shown."), (2, "Here was a builder of batches")):
        output = notebook.output(number)
        expect(output.get_by_text("Error displaying widget: model not found")).to_have_count(1)
        expect(output.get_by_text("Error displaying widget: model not found")).to_be_hidden()
        expect(output.get_by_text(sentence).locator("visible=true")).to_have_count(1)
    notebook.picture("opened_again", 1, 2)
    with server.client() as client:
        client.batches.cancel(client.batches.list().data[0].id)


def test_the_panel_unloads_the_model_of_a_notebook_and_loads_it_again(open_notebook: Open, page):
    notebook = open_notebook([PREPARE, RUN.replace("df ", "df --sample 3 "), "out['response'].iloc[-1]"])
    notebook.run(0)
    page.locator(".jp-SideBar .lm-TabBar-tab[data-id='vbatch-batches']").click()
    engine = page.locator("#vbatch-batches .vb-Engine")
    expect(engine).to_have_attribute("data-state", "ready")
    engine.get_by_role("button", name="Unload echo").click()
    page.locator(".jp-Dialog .jp-mod-accept").click()
    expect(engine).to_have_attribute("data-state", "unloaded")
    expect(engine).to_contain_text("no model")
    page.screenshot(path=SCREENSHOTS / "panel_unloaded.png")
    engine.get_by_role("button", name="Load a model in").click()
    expect(page.locator(".jp-Dialog input")).to_have_value("echo")
    page.locator(".jp-Dialog .jp-mod-accept").click()
    expect(engine).to_have_attribute("data-state", "ready")
    expect(page.get_by_text("could not parse")).to_have_count(0)
    notebook.run(1)
    expect(notebook.run(2)).to_contain_text("Say 2")


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
