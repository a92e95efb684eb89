from __future__ import annotations

from collections.abc import Callable, Iterator
from pathlib import Path

import pytest

from tests.kernels import NotebookKernel

_figures: list[str] = []


@pytest.fixture
def figures() -> list[str]:
    """Return where a test puts what it has measured; it is printed after the run."""
    return _figures


def pytest_terminal_summary(terminalreporter: pytest.TerminalReporter) -> None:
    for figure in _figures:
        terminalreporter.write_line(f"engine: {figure}")


@pytest.fixture(scope="module")
def new_kernel() -> Iterator[Callable[[Path], NotebookKernel]]:
    """Start kernels on a store, and end them with the module."""
    kernels: list[NotebookKernel] = []

    def start(store: Path) -> NotebookKernel:
        kernels.append(NotebookKernel(store))
        kernels[-1].run("%load_ext vbatch_jupyter\nimport vbatch_jupyter as vb").checked()
        return kernels[-1]

    yield start
    for kernel in kernels:
        kernel.close()
