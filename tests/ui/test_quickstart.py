"""The quick start in JupyterLab, in a real browser, on the real engine: one visit from the first cell to the last."""

from __future__ import annotations

import re
import shutil
from collections.abc import Iterator
from pathlib import Path

import pytest
from playwright.sync_api import Page, expect

from tests.batches import open_store
from tests.servers import JupyterServer
from tests.ui.lab import CANCEL_SECONDS, LabNotebook, configure, end_kernels, press_cancel, until, watching
from vbatch_jupyter.engine.demo_model import demo_model_path

NOTEBOOK = Path(__file__).parents[2] / "notebooks" / "01_quickstart.ipynb"
EXTENSION, LOAD, REVIEWS, ASK, LABELLED, SHOW, ENGINE, UNLOAD = range(8)
"""Its code cells."""

ALL, SOME = 6000, 1200
MANY = """import pandas as pd
many = pd.concat([reviews] * 500, ignore_index=True)
len(many)"""
# Answers of one length, a few hundred at a time: on any machine some are there soon, and others are left.
ASK_MANY = """%%vbatch many --fresh -o out --endpoint completions --max-tokens 4 --body '{"ignore_eos": true}'
Two words for a {{ product }}:"""
HEADER = ["", "product", "text", "response", "error"]

pytestmark = pytest.mark.timeout(1200)


@pytest.fixture(scope="module")
def server(tmp_path_factory: pytest.TempPathFactory) -> Iterator[JupyterServer]:
    folder = tmp_path_factory.mktemp("lab")
    configure(folder)
    # The server has a data directory of its own; the model need not be made again for it.
    (folder / "data").mkdir()
    (folder / "data" / "vbatch-models").symlink_to(demo_model_path().parent)
    server = JupyterServer(folder, application="lab")
    shutil.copy(NOTEBOOK, folder / "notebooks")
    with server:
        yield server


def test_the_quick_start_is_run_cancelled_restarted_attached_and_built_on(server: JupyterServer, page: Page, figures):
    notebook = LabNotebook(page, server, NOTEBOOK.name)
    page.keyboard.press("Control+b")  # the files aside, for the picture
    run_the_quick_start(notebook)
    expect(notebook.run(notebook.add(MANY))).to_contain_text(str(ALL))
    cancel_in_a_blocked_cell(notebook, server, figures)
    attached = restart_in_the_middle(notebook, server)
    see_the_end_after_coming_back(notebook, server, attached)
    build_a_batch(notebook)
    see_what_is_left_without_a_kernel(notebook, server, attached)


def run_the_quick_start(notebook: LabNotebook) -> None:
    notebook.run(EXTENSION)
    expect(notebook.run(LOAD, timeout=400)).to_contain_text("demo: ready in")
    notebook.run(REVIEWS)
    notebook.note_bars().run(ASK)
    bars = notebook.noted_bars()
    assert bars[0][2] > 0
    assert bars[-1] == [12, 0, 0]
    assert all(sum(bar) == 12 for bar in bars)
    assert bars == sorted(bars)
    expect(notebook.output(ASK)).to_contain_text("12 completed, 0 failed")
    expect(notebook.output(ASK)).to_contain_text("generation tokens")
    expect(notebook.output(ASK).get_by_role("button")).to_have_count(0)
    frame = notebook.run(LABELLED)
    expect(frame.locator("thead th")).to_have_text(HEADER)
    expect(frame.locator("tbody tr")).to_have_count(12)
    answers = frame.locator("tbody td:nth-of-type(3)").all_inner_texts()
    assert sum("customer" in answer for answer in answers) >= 6
    expect(frame.locator("tbody td:nth-of-type(4)")).to_have_text(["NaN"] * 12)
    expect(notebook.run(SHOW)).to_contain_text('"status": "completed"')
    expect(notebook.run(ENGINE)).to_contain_text(re.compile("generation tokens +[1-9]"))
    notebook.picture("quickstart", ASK, LABELLED)


def cancel_in_a_blocked_cell(notebook: LabNotebook, server: JupyterServer, figures: list[str]) -> None:
    asked = notebook.add(ASK_MANY)
    counted = notebook.add("out['error'].notna().sum().item(), out['response'].notna().sum().item()")
    with watching(server.store) as watcher:
        notebook.start(asked)
        until(lambda: (counts := notebook.counts(asked)) and counts[0], notebook.page)
        expect(notebook.output(asked)).to_contain_text("last answers")
        notebook.picture("live", asked, asked)
        delay = press_cancel(notebook.page, watcher)
        figures.append(f"Cancel to cancelling (the real engine, blocked): {delay:.2f} s")
        assert delay < CANCEL_SECONDS
        notebook.wait_for(asked)
        completed = watcher.newest.request_counts.completed
        assert watcher.newest.status == "cancelled"
    assert 0 < completed < ALL
    expect(notebook.output(asked)).to_contain_text(f"{ALL - completed:,} not run demo {watcher.newest.id}")
    expect(notebook.output(asked)).to_contain_text(f"{completed:,} completed")
    expect(notebook.run(counted)).to_contain_text(f"({ALL - completed}, {completed})")


def restart_in_the_middle(notebook: LabNotebook, server: JupyterServer) -> int:
    """Restart while a batch runs, and attach to it; return the number of the cell that does."""
    asked = notebook.add(ASK_MANY.replace("-o out", f"-b --sample {SOME}"))
    attached = notebook.add("%vbatch attach")
    with watching(server.store) as watcher:
        notebook.run(asked)
        until(lambda: (counts := notebook.counts(asked)) and counts[0], notebook.page)
        notebook.restart()
        assert 0 < watcher.newest.request_counts.completed < SOME
        notebook.run(EXTENSION)
        expect(notebook.run(LOAD, timeout=400)).to_contain_text(f"Resuming batch {watcher.newest.id}")
        notebook.start(attached)
        until(lambda: (counts := notebook.counts(attached)) and counts[0], notebook.page)
        assert watcher.newest.status == "in_progress"
    expect(notebook.output(attached)).to_contain_text(f"%vbatch attach {watcher.newest.id} shows this batch again")
    return attached


def see_the_end_after_coming_back(notebook: LabNotebook, server: JupyterServer, attached: int) -> None:
    """Close the page while a cell waits for a batch, and open it when both have ended."""
    notebook.save().leave()
    with open_store(server.store) as store:
        until(lambda: store.batches.list(limit=1).data[0].status == "completed", notebook.page, timeout=120)
    notebook.come_back()
    ended = f"{SOME:,} completed, 0 failed"
    expect(notebook.output(attached)).to_contain_text(ended)
    notebook.wait_until_idle()
    again = notebook.add("%vbatch attach")
    expect(notebook.run(again)).to_contain_text(ended)
    rows = notebook.add("%vbatch results -o out\nlen(out), out['error'].notna().sum().item()")
    expect(notebook.run(rows)).to_contain_text(f"({SOME}, 0)")


def build_a_batch(notebook: LabNotebook) -> None:
    notebook.run(REVIEWS)
    builder = notebook.run(notebook.add("%vbatch build reviews"))
    prompt = builder.get_by_label("prompt", exact=True)
    expect(builder.get_by_role("button", name="Run all")).to_be_disabled()
    prompt.fill("Say in three words:")
    builder.get_by_role("button", name="text", exact=True).click()
    expect(prompt).to_have_value("Say in three words: {{ text }}")
    builder.get_by_label("max_tokens", exact=True).fill("8")
    expect(builder).to_contain_text("Say in three words: The lid broke after two weeks")
    expect(builder).to_contain_text(re.compile(r"row-2 · \d\d prompt tokens"))
    builder.get_by_role("button", name="Run a sample of 5").click()
    expect(builder).to_contain_text("5 completed, 0 failed")
    expect(builder.locator("tbody tr")).to_have_count(5)
    builder.get_by_role("button", name="Run all").click()
    expect(builder).to_contain_text("12 completed, 0 failed")
    expect(builder).to_contain_text("12 rows, in the variable out")
    cell = builder.get_by_label("as a cell").input_value()
    assert re.fullmatch(r"%%vbatch reviews -o out .*--max-tokens 8\nSay in three words: \{\{ text \}\}\s*", cell)
    # What was clicked, kept as code, is the same batch: each answer is known.
    kept = notebook.run(notebook.add(cell))
    expect(kept).to_contain_text("12 of 12 answers are reused")


def see_what_is_left_without_a_kernel(notebook: LabNotebook, server: JupyterServer, attached: int) -> None:
    notebook.save()
    end_kernels(server)
    notebook.leave().come_back()
    expect(notebook.output(ASK)).to_contain_text("12 completed, 0 failed")
    expect(notebook.output(attached)).to_contain_text(re.compile(r"%vbatch attach batch_\w+ shows this batch again"))
    expect(notebook.output(attached + 1)).to_contain_text(f"{SOME:,} completed, 0 failed")
