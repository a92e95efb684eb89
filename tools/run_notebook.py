"""Run a notebook through a real Jupyter kernel and print what its tagged cells show.

A cell tagged ``frame``, ``batch`` or ``throughput`` is part of the answer; a notebook without any such cell, or whose
tagged cell shows nothing, has failed, as has one whose cell raises or whose kernel dies.
"""

from __future__ import annotations

import argparse
import re
import sys
import tempfile
import time
from collections.abc import Callable, Sequence
from pathlib import Path
from typing import Any

import nbformat
from jupyter_client.kernelspec import KernelSpecManager
from jupyter_client.manager import AsyncKernelManager
from nbclient import NotebookClient
from nbclient.exceptions import CellExecutionError, CellTimeoutError, DeadKernelError

HEADINGS = {"frame": "The result frame", "batch": "The finished batch", "throughput": "Tokens per second"}


class NotebookError(Exception):
    """The notebook did not run to its end, or did not show what it must; the message says where."""


def run(path: Path, *, timeout_seconds: int, say: Callable[[str], None], save: Path | None = None) -> dict[str, str]:
    """Run a notebook in a fresh kernel of this interpreter; the file is not changed.

    Parameters
    ----------
    path
        The notebook; its folder is the kernel's.
    timeout_seconds
        How long one cell may take.
    say
        Is given one line when a cell starts and when it ends.
    save
        Where to write the notebook with its outputs, also when it has stopped.

    Returns
    -------
    dict
        For each of `HEADINGS` that the notebook has cells for, what these showed.

    Raises
    ------
    NotebookError
        A cell raised or took too long, the kernel died, or a tagged cell showed nothing.
    """
    notebook = nbformat.read(path, as_version=4)
    count = sum(cell.cell_type == "code" for cell in notebook.cells)
    started: dict[int, float] = {}

    def start(cell: Any, cell_index: int) -> None:
        if cell.cell_type == "code":
            started[cell_index] = time.monotonic()
            say(f"[{len(started)}/{count}] {_first_line(cell)}")

    def end(cell: Any, cell_index: int, execute_reply: Any) -> None:
        del cell, execute_reply
        say(f"      {time.monotonic() - started[cell_index]:.1f} s")

    # A socket's path must be short: it is not next to the notebook.
    with tempfile.TemporaryDirectory(prefix="vb") as sockets:
        client = NotebookClient(
            notebook,
            km=_kernel_manager(Path(sockets)),
            timeout=timeout_seconds,
            resources={"metadata": {"path": str(path.parent)}},
            on_cell_start=start,
            on_cell_executed=end,
        )
        try:
            # A kernel that comes from outside is shut down only where that is asked for.
            client.execute(cleanup_kc=True)
        except (CellExecutionError, CellTimeoutError, DeadKernelError) as error:
            raise NotebookError(f"{path} stopped:\n{_plain(str(error))}") from error
        finally:
            if save is not None:
                nbformat.write(notebook, save)
    shown = {tag: text for tag in HEADINGS if (text := _shown(notebook, tag, path)) is not None}
    if not shown:
        raise NotebookError(f"{path} has no cell tagged {', '.join(HEADINGS)}: it has no answer to print.")
    return shown


def _kernel_manager(sockets: Path) -> AsyncKernelManager:
    # Without kernel folders, python3 is this very interpreter, not whichever kernel somebody installed for the user.
    return AsyncKernelManager(
        kernel_name="python3",
        kernel_spec_manager=KernelSpecManager(kernel_dirs=[]),
        transport="ipc",
        ip=str(sockets / "kernel"),
    )


def _shown(notebook: Any, tag: str, path: Path) -> str | None:
    cells = [cell for cell in notebook.cells if tag in cell.metadata.get("tags", ())]
    if not cells:
        return None
    parts = []
    for cell in cells:
        # Drawn when joined: each flush of a cell's stream is an output of its own.
        text = _drawn("".join(_text(output) for output in cell.outputs)).strip("\n")
        if not text.strip():
            raise NotebookError(f"The cell tagged {tag!r} in {path} shows nothing: {_first_line(cell)}")
        parts.append(text)
    return "\n".join(parts)


def _text(output: Any) -> str:
    if output.output_type == "stream":
        return _plain(str(output.text))
    return str(output.get("data", {}).get("text/plain", "")) + "\n"


def _drawn(text: str) -> str:
    """Return lines as a front end shows them: of what is drawn over itself, the last."""
    lines = [line.rstrip("\r").rpartition("\r")[2].rstrip() if "\r" in line else line for line in text.split("\n")]
    return "\n".join(lines)


def _plain(text: str) -> str:
    return re.sub(r"\x1b\[[0-9;]*m", "", text)


def _first_line(cell: Any) -> str:
    return str(cell.source).strip().partition("\n")[0]


def main(arguments: Sequence[str] | None = None) -> int:
    """Run the command line; give its exit status.

    Parameters
    ----------
    arguments
        Those of the process by default.
    """
    parser = argparse.ArgumentParser(description="Run a notebook and print what its tagged cells show.")
    parser.add_argument("notebook", type=Path)
    parser.add_argument("--timeout", type=int, default=600, help="seconds that one cell may take (default 600)")
    parser.add_argument("--save", type=Path, metavar="FILE", help="write the notebook with its outputs there")
    options = parser.parse_args(arguments)
    began = time.monotonic()
    try:
        shown = run(options.notebook.absolute(), timeout_seconds=options.timeout, say=_say, save=options.save)
    except (NotebookError, OSError) as error:
        print(error, file=sys.stderr)
        return 1
    for tag, text in shown.items():
        heading = HEADINGS[tag]
        _say(f"\n{heading}\n{'-' * len(heading)}\n{text}")
    _say(f"\n{options.notebook} ran through in {time.monotonic() - began:.0f} s.")
    return 0


def _say(line: str) -> None:
    print(line, flush=True)


if __name__ == "__main__":
    sys.exit(main())
