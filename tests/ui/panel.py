"""The panel of batches in JupyterLab, used as a user does."""

from __future__ import annotations

import json
from collections.abc import Iterable
from pathlib import Path
from typing import Any, Self

from playwright.sync_api import Locator, Page, expect

from tests.servers import JupyterServer


def write_requests(path: Path, prompts: Iterable[str], **body: Any) -> None:
    """Write an input file: one chat a prompt, whose custom_id is its place among them."""
    lines = [
        {
            "custom_id": f"row-{number}",
            "method": "POST",
            "url": "/v1/chat/completions",
            "body": {"model": "tiny", "messages": [{"role": "user", "content": prompt}], **body},
        }
        for number, prompt in enumerate(prompts)
    ]
    path.write_text("".join(json.dumps(line) + "\n" for line in lines), encoding="utf-8")


class LabPanel:
    """JupyterLab with the panel open.

    Parameters
    ----------
    page
        An empty page.
    server
        A ``jupyter lab``.
    path
        What is opened next to it, in the server's folder.
    """

    def __init__(self, page: Page, server: JupyterServer, path: str = "") -> None:
        expect.set_options(timeout=30_000)
        self.page = page
        place = f"lab/tree/{path}" if path else "lab"
        page.goto(f"{server.root}{place}?token={server.token}&reset")
        self.node = page.locator("#vbatch-batches")
        self.details = self.node.locator(".vb-Details")
        self.open()

    def open(self) -> Self:
        """Open the panel with the button in the side bar."""
        tab = self.page.locator(".jp-SideBar .lm-TabBar-tab[data-id='vbatch-batches']")
        expect(tab).to_be_visible(timeout=60_000)
        if not self.node.is_visible():
            tab.click()
        expect(self.node).to_be_visible()
        expect(self.node.locator(".vb-Connection")).to_have_attribute("data-connection", "live")
        return self

    def run_file(self, name: str) -> Locator:
        """Choose "Run as Batch…" in a file's menu; return the dialog when the file has been checked."""
        self.page.locator(".jp-SideBar .lm-TabBar-tab[data-id='filebrowser']").click()
        self.page.locator(f".jp-DirListing-item[data-file-type='jsonl'] >> text={name}").click(button="right")
        self.page.locator(".lm-Menu-itemLabel", has_text="Run as Batch…").click()
        dialog = self.page.locator(".jp-Dialog")
        expect(dialog.locator(".vb-Run")).to_have_attribute("data-would-run", "true")
        return dialog

    def row(self, batch_id: str) -> Locator:
        """Return a batch's row."""
        return self.node.locator(f"[data-batch='{batch_id}']")

    def choose(self, batch_id: str) -> Locator:
        """Choose a batch; return what is said of it."""
        self.row(batch_id).click()
        expect(self.details.locator("h2")).to_have_text(batch_id)
        return self.details

    def press(self, name: str) -> Self:
        """Press a button of the batch that is chosen."""
        self.details.get_by_role("button", name=name, exact=True).click()
        return self

    def table(self, lines: int) -> Locator:
        """Return the table that is seen, once it has so many lines."""
        table = self.page.locator(".vb-Table:visible")
        expect(table).to_have_attribute("data-total", str(lines))
        return table

    def choose_line(self, place: int) -> Self:
        """Choose a line of the table, by its place among those that are seen."""
        grid = self.page.locator(".vb-Table:visible .lm-DataGrid")
        grid.click(position={"x": 200, "y": 14 + 24 * place})
        return self
