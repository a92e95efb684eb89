"""JupyterLab, driven as a user does: cells are clicked and run, buttons pressed, and what is seen is read."""

from __future__ import annotations

import json
import re
import threading
import time
from collections.abc import Callable, Iterator, Sequence
from contextlib import contextmanager
from pathlib import Path
from typing import Any, Self
from urllib.parse import quote

import nbformat
from playwright.sync_api import Locator, Page, expect

from tests.batches import open_store
from tests.servers import JupyterServer
from tests.waiting import wait_for
from vbatch_jupyter.protocol.batch import BatchRecord

# An engine that says back what it is told: each request takes its time, one that asks for it is held until it is
# cancelled, and another is refused in its own words, as an engine may quote a prompt. Run by every kernel when it
# starts, as a user's own start-up files are.
_ECHO = """
import asyncio
from vbatch_jupyter.session import session
from vbatch_jupyter.engine.base import EngineResponse
from vbatch_jupyter.engine.echo import EchoEngine
from vbatch_jupyter.protocol.lines import error_body

class RefusingEngine(EchoEngine):
    async def _answer(self, path, body, content, *, priority):
        said = content["messages"][-1]["content"]
        if "refuse" in said:
            return EngineResponse.of_json(400, error_body(said, param="messages"))
        if "hold" in said:
            await asyncio.Event().wait()
        return await super()._answer(path, body, content, priority=priority)

session.current()._loader._make_engine = lambda *_, **__: RefusingEngine(["echo"], latency_seconds=LATENCY)
"""

_NOTE_BARS = """() => {
  window.notedBars = [];
  new MutationObserver(() => {
    const bar = document.querySelector(".jp-Notebook [role=img][aria-label*=' completed, ']");
    const label = bar && bar.getAttribute("aria-label");
    if (label && label !== window.notedBars.at(-1)) window.notedBars.push(label);
  }).observe(document.body, {childList: true, subtree: true, attributes: true});
}"""

CANCEL_SECONDS = 10
"""From the click on Cancel to the batch's being so in the store; the time that it took is printed."""

SCREENSHOTS = Path(__file__).parents[2] / "build" / "screenshots"

_NOTE_START = """prompt => {
  window.hasStarted = false;
  new MutationObserver((_, observer) => {
    if (!prompt.textContent.includes("*")) return;
    window.hasStarted = true;
    observer.disconnect();
  }).observe(prompt, {childList: true, subtree: true, characterData: true});
}"""

_NOTE_NOT_IDLE = """() => {
  const bar = document.querySelector("#jp-main-statusbar");
  window.notIdle = false;
  new MutationObserver(() => {
    if (!bar.textContent.includes("| Idle")) window.notIdle = true;
  }).observe(bar, {childList: true, subtree: true, characterData: true});
}"""

# What JupyterLab asks a user at the first visit would lie over the page.
_NO_NEWS = {"disabledExtensions": {"@jupyterlab/apputils-extension:announcements": True}}


def configure(folder: Path) -> None:
    """Let a JupyterLab that will be started in a folder ask nothing."""
    (folder / "config" / "labconfig").mkdir(parents=True)
    (folder / "config" / "labconfig" / "page_config.json").write_text(json.dumps(_NO_NEWS), encoding="utf-8")


def echo_in_every_kernel(folder: Path, *, latency_seconds: float) -> None:
    """Have the kernels of a server that will be started in a folder load the echo engine, whatever they are told."""
    startup = folder / "ipython" / "profile_default" / "startup"
    startup.mkdir(parents=True)
    (startup / "echo.py").write_text(f"LATENCY = {latency_seconds}\n{_ECHO}", encoding="utf-8")


def write_notebook(server: JupyterServer, name: str, cells: Sequence[str]) -> None:
    notebook = nbformat.v4.new_notebook(
        cells=[nbformat.v4.new_code_cell(source) for source in cells],
        metadata={"kernelspec": {"name": "python3", "display_name": "Python 3 (ipykernel)", "language": "python"}},
    )
    nbformat.write(notebook, server.folder / "notebooks" / name)


class LabNotebook:
    """A notebook that is open in JupyterLab, with its kernel ready.

    Parameters
    ----------
    page
        An empty page.
    server
        A ``jupyter lab``.
    name
        The notebook's, in the server's folder.
    """

    def __init__(self, page: Page, server: JupyterServer, name: str) -> None:
        self.page = page
        self.name = name
        expect.set_options(timeout=60_000)
        self._server = server
        self._url = f"{server.root}lab/tree/{quote(name)}"
        page.goto(f"{self._url}?token={server.token}&reset")
        self.wait_until_idle()

    def wait_until_idle(self) -> Self:
        """Wait until the kernel is there and has nothing to do."""
        # Not the notebook's own sign, which is idle too while there is no kernel yet.
        expect(self.page.locator("#jp-main-statusbar")).to_contain_text("(ipykernel) | Idle", timeout=120_000)
        return self

    def leave(self) -> Self:
        """Leave the page, as a user does who closes the tab."""
        self.page.goto("about:blank")
        return self

    def come_back(self) -> Self:
        """Open the page again."""
        self.page.goto(self._url)
        expect(self.cells.first).to_be_visible()
        return self

    @property
    def cells(self) -> Locator:
        """The code cells."""
        return self.page.locator(".jp-Notebook .jp-CodeCell")

    def cell(self, number: int) -> Locator:
        """Return the code cell of a number, the first being 0."""
        return self.cells.nth(number)

    def output(self, number: int) -> Locator:
        """Return the output of a cell."""
        return self.cell(number).locator(".jp-Cell-outputArea")

    def add(self, source: str) -> int:
        """Type a new cell below the last one; return its number."""
        number = self.cells.count()
        self.cells.last.locator(".jp-InputPrompt").click()
        self.page.keyboard.press("Escape")
        self.page.keyboard.press("b")
        expect(self.cells).to_have_count(number + 1)
        self.cell(number).locator(".jp-InputArea-editor").click()
        # Not typed key by key: the editor would close each quote and bracket by itself.
        self.page.keyboard.insert_text(source)
        return number

    def start(self, number: int) -> Self:
        """Run a cell, and wait until it has begun or is in the queue."""
        self.cell(number).locator(".jp-InputPrompt").evaluate(_NOTE_START)
        self.cell(number).locator(".jp-InputArea-editor").click()
        self.page.keyboard.press("Control+Enter")
        # Until then it may have a number, from before.
        self.page.wait_for_function("window.hasStarted", timeout=60_000)
        return self

    def run(self, number: int, *, timeout: float = 120) -> Locator:
        """Run a cell to its end; return its output."""
        self.start(number).wait_for(number, timeout=timeout)
        return self.output(number)

    def wait_for(self, number: int, *, timeout: float = 120) -> Self:
        """Wait until a cell has its number, and its kernel is idle again."""
        prompt = self.cell(number).locator(".jp-InputPrompt")
        expect(prompt).to_have_text(re.compile(r"\[\d+\]:"), timeout=1000 * timeout)
        return self

    def run_all(self) -> Self:
        """Choose Run, Run All Cells in the menu, and do not wait."""
        self.page.get_by_role("menuitem", name="Run", exact=True).click()
        self.page.get_by_role("menuitem", name="Run All Cells", exact=True).click()
        return self

    def press(self, command: str) -> Self:
        """Press a button of the notebook's toolbar, such as ``"interrupt-kernel"``."""
        self.page.locator(f".jp-NotebookPanel-toolbar [data-command='notebook:{command}']").click()
        return self

    def restart(self) -> Self:
        """Restart the kernel, and say yes when asked."""
        self.page.evaluate(_NOTE_NOT_IDLE)
        self.press("restart-kernel")
        self.page.locator(".jp-Dialog .jp-mod-accept").click()
        # It is idle from before, for a moment.
        self.page.wait_for_function("window.notIdle", timeout=60_000)
        return self.wait_until_idle()

    def save(self) -> Self:
        """Save the notebook, and wait until it is."""
        self.page.keyboard.press("Control+s")
        expect(self.page.locator(".lm-TabBar-tab.jp-mod-current.jp-mod-dirty")).to_have_count(0)
        return self

    def picture(self, name: str, first: int, last: int) -> None:
        """Keep a picture of some cells, with the text above them."""
        self.page.mouse.move(0, 0)  # what it points at looks otherwise
        left, top = self.cell(first).evaluate(
            """cell => {
              const above = cell.previousElementSibling;
              const begin = above && above.classList.contains("jp-MarkdownCell") ? above : cell;
              begin.scrollIntoView();
              const {left, top} = begin.getBoundingClientRect();
              return [left, top];
            }"""
        )
        right, bottom = self.output(last).evaluate(
            "output => { const {right, bottom} = output.getBoundingClientRect(); return [right, bottom]; }"
        )
        self.page.screenshot(
            path=SCREENSHOTS / f"{name}.png",
            clip={"x": left, "y": top, "width": right - left, "height": bottom - top},
        )

    def counts(self, number: int) -> list[int] | None:
        """Return completed, failed and left as the bar below a cell says them; None if there is none."""
        bar = self.output(number).locator("[role=img][aria-label*=' completed, ']")
        label = bar.first.get_attribute("aria-label") if bar.count() else None
        return None if label is None else _numbers(label)

    def note_bars(self) -> Self:
        """Have the page note from now on what its first bar says, each time that it says another thing."""
        self.page.evaluate(_NOTE_BARS)
        return self

    def noted_bars(self) -> list[list[int]]:
        """Return completed, failed and left of each bar that the page has noted."""
        return [_numbers(label) for label in self.page.evaluate("window.notedBars")]


def _numbers(label: str) -> list[int]:
    numbers = [int(number) for number in re.findall(r"\d+", label.replace(",", ""))]
    return numbers if len(numbers) > 2 else [*numbers, 0]


def until(is_so: Callable[[], Any], page: Page, *, timeout: float = 60) -> Any:
    """Wait until something is so; return what it was found to be."""
    # Not time.sleep: the page's events come only while its own wait runs.
    return wait_for(is_so, timeout, pause=lambda: page.wait_for_timeout(50))


def end_kernels(server: JupyterServer) -> None:
    """Shut down all kernels of a server."""
    with server.http() as http:
        for session in http.get("api/sessions").json():
            http.delete(f"api/sessions/{session['id']}").raise_for_status()


def press_cancel(page: Page, watcher: Watcher) -> float:
    """Press the widget's button; give how many seconds later the batch was seen to be cancelling."""
    page.evaluate("document.addEventListener('click', () => window.clickedAt = Date.now() / 1000, true)")
    page.get_by_role("button", name="Cancel", exact=True).click()
    at = until(lambda: watcher.first(_is_cancelled), page)
    return float(at - page.evaluate("window.clickedAt"))


def _is_cancelled(record: BatchRecord) -> bool:
    return record.status in {"cancelling", "cancelled"}


class Watcher:
    """What the newest batch of a store looked like, and when; one that was there before is not looked at.

    Attributes
    ----------
    seen
        Each change with its time, in seconds since the epoch as the browser's clock has them.
    """

    def __init__(self, store_path: Path) -> None:
        self._path = store_path
        self._ready, self._stopped = threading.Event(), threading.Event()
        self._thread = threading.Thread(target=self._watch, daemon=True)
        self.seen: list[tuple[float, BatchRecord]] = []

    def _watch(self) -> None:
        with open_store(self._path) as store:
            before = {record.id for record in store.batches.list(limit=1).data}
            self._ready.set()
            while not self._stopped.wait(0.02):
                found = [record for record in store.batches.list(limit=1).data if record.id not in before]
                if found and (not self.seen or self.seen[-1][1] != found[0]):
                    self.seen.append((time.time(), found[0]))

    def first(self, is_so: Callable[[BatchRecord], bool]) -> float | None:
        """Return when the batch was first seen to be so; None if it was not."""
        return next((at for at, record in list(self.seen) if is_so(record)), None)

    @property
    def newest(self) -> BatchRecord:
        return self.seen[-1][1]

    def start(self) -> Self:
        self._thread.start()
        assert self._ready.wait(60)
        return self

    def stop(self) -> None:
        self._stopped.set()
        self._thread.join()


@contextmanager
def watching(store_path: Path) -> Iterator[Watcher]:
    """Watch the newest batch of a store for a while."""
    watcher = Watcher(store_path).start()
    try:
        yield watcher
    finally:
        watcher.stop()
