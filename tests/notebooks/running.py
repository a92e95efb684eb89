"""Runs a notebook from top to bottom as ``make demo`` does, and reads what its cells show."""

from __future__ import annotations

import html
import re
import shutil
import subprocess
import sys
import tempfile
from collections.abc import Mapping
from pathlib import Path
from typing import Any

import nbformat
import pandas as pd

from tests.kernels import CORES

NOTEBOOKS = Path(__file__).parents[2] / "notebooks"
CELL_SECONDS = 300


class Executed:
    """A notebook that has been run.

    Parameters
    ----------
    path
        The notebook with its outputs.
    """

    def __init__(self, path: Path) -> None:
        self._cells = {cell.id: cell for cell in nbformat.read(path, as_version=4).cells}

    def text(self, cell_id: str) -> str:
        """Return what a cell shows where nothing but text is shown; of a line drawn over itself, the last."""
        shown = "".join(_text(output) for output in self._cells[cell_id].outputs)
        lines = [line.rstrip("\r").rpartition("\r")[2].rstrip() for line in shown.split("\n")]
        return "\n".join(lines).strip()

    def frame(self, cell_id: str) -> pd.DataFrame:
        """Read the frame that a cell shows out of its HTML."""
        (table,) = [output.data["text/html"] for output in self._cells[cell_id].outputs if "text/html" in _data(output)]
        return _read_table(table)


def _data(output: Any) -> dict[str, Any]:
    return dict(output.get("data", {}))


def _text(output: Any) -> str:
    if output.output_type == "stream":
        return str(output.text)
    if output.output_type == "error":
        return f"{output.ename}: {output.evalue}\n"
    return str(_data(output).get("text/plain", "")) + "\n"


def _read_table(text: str) -> pd.DataFrame:
    rows = [
        [
            html.unescape(re.sub(r"<[^>]*>", "", cell)).strip()
            for cell in re.findall(r"<t[hd][^>]*>(.*?)</t[hd]>", row, re.DOTALL)
        ]
        for row in re.findall(r"<tr[^>]*>(.*?)</tr>", text, re.DOTALL)
    ]
    # The row of the index's name, where it has one, says nothing else.
    header, *body = [row for row in rows if any(row[1:])]
    return pd.DataFrame(body, columns=header).set_index(header[0])


def run(name: str, folder: Path, *, cores: str, environment: Mapping[str, str]) -> Executed:
    """Run one notebook in a folder, with a store and cores of its own, where no Jupyter server runs."""
    shutil.copy(NOTEBOOKS / name, folder)
    saved = folder / "saved.ipynb"
    words = [str(NOTEBOOKS.parent / "tools" / "run_notebook.py"), str(folder / name), "--save", str(saved)]
    # A socket's path must be short.
    with tempfile.TemporaryDirectory(prefix="vb") as runtime:
        done = subprocess.run(
            [sys.executable, *words, "--timeout", str(CELL_SECONDS)],
            env={
                **environment,
                "VBATCH_STORE": str(folder / "store"),
                CORES: cores,
                "JUPYTER_RUNTIME_DIR": runtime,
                "JUPYTER_CONFIG_DIR": str(folder / "config"),
                "IPYTHONDIR": str(folder / "ipython"),
            },
            cwd=folder,
            stdin=subprocess.DEVNULL,
            capture_output=True,
            text=True,
            timeout=2 * CELL_SECONDS,
            check=False,
        )
    assert done.returncode == 0, done.stdout + done.stderr
    # ipykernel may be ended while it answers a message, and asyncio says so; nobody else may say anything.
    assert not [line for line in done.stderr.splitlines() if not _is_of_ipykernels_end(line)], done.stderr
    return Executed(saved)


def _is_of_ipykernels_end(line: str) -> bool:
    return line == "Task was destroyed but it is pending!" or "coro=<Kernel.dispatch_control()" in line
