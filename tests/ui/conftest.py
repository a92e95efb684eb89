"""A browser, and where its screenshots go."""

from __future__ import annotations

import os
from collections.abc import Iterator

import pytest
from playwright.sync_api import Browser, Page, sync_playwright

from tests.ui.lab import SCREENSHOTS
from tools import bring_chromium

REQUIRED = "VBATCH_TEST_BROWSER"
"""Set where a missing browser is a failure and no reason to skip a test."""

_figures: list[str] = []


@pytest.fixture
def figures() -> list[str]:
    """Return where a test puts what it has measured; it is printed after the run."""
    return _figures


@pytest.fixture(scope="module")
def browser() -> Iterator[Browser]:
    path = bring_chromium.find()
    if path is None:
        if os.environ.get(REQUIRED):
            pytest.fail(bring_chromium.MISSING)
        pytest.skip(bring_chromium.MISSING)
    with sync_playwright() as playwright:
        # Its sandbox needs rights that root in a container has not.
        browser = playwright.chromium.launch(executable_path=path, args=["--no-sandbox", "--disable-gpu"])
        yield browser
        browser.close()


@pytest.fixture
def page(browser: Browser, request: pytest.FixtureRequest) -> Iterator[Page]:
    """Return a page of a fresh visitor; what it shows at the end of the test is kept as a picture."""
    page = browser.new_page(viewport={"width": 1280, "height": 1400})
    page.set_default_timeout(60_000)
    SCREENSHOTS.mkdir(parents=True, exist_ok=True)
    yield page
    page.screenshot(path=SCREENSHOTS / f"{request.node.name.replace('/', '-')}.png")
    page.close()


def pytest_terminal_summary(terminalreporter: pytest.TerminalReporter) -> None:
    for figure in _figures:
        terminalreporter.write_line(f"JupyterLab: {figure}")
    if SCREENSHOTS.is_dir():
        terminalreporter.write_line(f"JupyterLab: screenshots are in {SCREENSHOTS}")
