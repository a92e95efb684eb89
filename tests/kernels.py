"""A real Jupyter kernel, driven cell by cell."""

from __future__ import annotations

import contextlib
import dataclasses
import os
import re
import tempfile
import time
from collections.abc import Callable
from pathlib import Path
from queue import Empty
from typing import Any

import psutil
from jupyter_client.kernelspec import KernelSpecManager
from jupyter_client.manager import KernelManager

CORES = "VLLM_CPU_OMP_THREADS_BIND"
"""The variable that names the cores of an engine; without it all engines of a machine compute on the same."""

BEGIN_BATCH = """
import json, threading, time
import pandas as pd
import vbatch_jupyter as vb
rounds = iter(range(1_000_000))

def begin(rows):
    # Other words each time: nothing is known, and no prefix is cached.
    df = pd.DataFrame({"n": range(rows)})
    batch = vb.submit(df, "%d Say {{ n }} again and again." % next(rounds), max_tokens=16, ignore_eos=True)
    ended = threading.Event()
    def wait():
        batch.wait()
        ended.at = time.monotonic()
        ended.set()
    threading.Thread(target=wait, daemon=True).start()
    while not batch.request_counts.completed:
        time.sleep(0.01)
    return ended, time.monotonic()

def show(value):
    print("JSON" + json.dumps(value))
"""
"""Code for a kernel: `begin` starts a batch and gives, once its first answer is there, its end and the time."""

PROGRAMS = f"""
import sys
sys.path.insert(0, {str(Path(__file__).parents[1])!r})
from tests.engine.programs import *
"""
"""Code for a kernel: what `tests/engine/programs.py` has is there."""


@dataclasses.dataclass
class Cell:
    """What one cell has shown."""

    stdout: str = ""
    stderr: str = ""
    result: str = ""
    error: str = ""
    traceback: str = ""

    def checked(self) -> Cell:
        """Fail where the cell has raised."""
        assert not self.error, f"{self.error}\n{self.traceback}\n{self.stdout}\n{self.stderr}"
        return self


class NotebookKernel:
    """One kernel of this interpreter, with a store of its own.

    Parameters
    ----------
    store
        The store's directory; the folder that it is in is the kernel's.
    environment
        Variables in addition to those of this process.

    Attributes
    ----------
    stray
        What has been printed under other cells than the one that was waited for.
    """

    def __init__(self, store: Path, **environment: str) -> None:
        # A socket's path must be short, and without kernel folders python3 is this very interpreter.
        self._sockets = tempfile.TemporaryDirectory(prefix="vb")
        self.manager = KernelManager(
            kernel_name="python3",
            transport="ipc",
            ip=str(Path(self._sockets.name, "k")),
            kernel_spec_manager=KernelSpecManager(kernel_dirs=[]),
        )
        variables = {**os.environ, "VBATCH_STORE": str(store), **environment}
        self.manager.start_kernel(env=variables, cwd=str(store.parent))
        self.stray = ""
        self._cells: dict[str, Cell] = {}
        self.connect()

    def connect(self) -> None:
        self.client = self.manager.blocking_client()
        self.client.start_channels()
        self.client.wait_for_ready(timeout=60)

    @property
    def pid(self) -> int:
        pid = self.manager.provisioner.pid  # type: ignore[union-attr]
        assert pid is not None
        return int(pid)

    def start(self, code: str) -> str:
        """Send a cell, and do not wait for it."""
        return str(self.client.execute(code))

    def finish(self, message_id: str, timeout: float = 300) -> Cell:
        """Wait for a cell that was sent, and return all that it has shown."""
        return self._listen(message_id, timeout, lambda _, has_ended: has_ended)

    def wait_for_output(self, message_id: str, text: str, timeout: float = 60) -> None:
        """Wait until a cell that was sent has printed a text."""
        cell = self._listen(message_id, timeout, lambda cell, has_ended: text in cell.stdout or has_ended)
        assert text in cell.stdout, cell

    def _listen(self, message_id: str, timeout: float, is_enough: Callable[[Cell, bool], bool]) -> Cell:
        cell = self._cells.setdefault(message_id, Cell())
        until = time.monotonic() + timeout
        while time.monotonic() < until:
            try:
                message = self.client.get_iopub_msg(timeout=1)
            except Empty:
                assert self.manager.is_alive(), f"the kernel has died\n{cell}"
                continue
            if message["parent_header"].get("msg_id") != message_id:
                # What processes and threads print appears under whichever cell ran last, and after its end.
                self.stray += message["content"]["text"] if message["msg_type"] == "stream" else ""
            elif is_enough(cell, _take(cell, message)):
                return cell
        raise AssertionError(f"the cell has not ended within {timeout} s\n{cell}")

    def run(self, code: str, timeout: float = 300) -> Cell:
        """Run a cell; what it raises is in the cell."""
        return self.finish(self.start(code), timeout)

    def engine_processes(self) -> list[psutil.Process]:
        return engine_processes(self.pid)

    def close(self) -> None:
        self.client.stop_channels()
        self.manager.shutdown_kernel(now=True)
        self.manager.cleanup_resources()
        self._sockets.cleanup()


def engine_processes(pid: int) -> list[psutil.Process]:
    """Return the processes that vLLM has started under a kernel."""
    return [
        process
        for process in psutil.Process(pid).children(recursive=True)
        if is_alive(process) and "resource_tracker" not in " ".join(process.cmdline())
    ]


def is_alive(process: psutil.Process) -> bool:
    """Return whether a process has not ended; one that has stays as a zombie until somebody takes note of it."""
    with contextlib.suppress(psutil.NoSuchProcess):
        return process.status() != psutil.STATUS_ZOMBIE
    return False


def lines_of(text: str) -> list[str]:
    """Return the lines as a front end shows them: of what is drawn over itself, the last."""
    return [line.rpartition("\r")[2].rstrip() for line in text.split("\n") if line.strip()]


def _take(cell: Cell, message: dict[str, Any]) -> bool:
    content = message["content"]
    match message["msg_type"]:
        case "stream" if content["name"] == "stdout":
            cell.stdout += content["text"]
        case "stream":
            cell.stderr += content["text"]
        case "execute_result" | "display_data":
            cell.result += content["data"].get("text/plain", "")
        case "error":
            cell.error = f"{content['ename']}: {content['evalue']}"
            cell.traceback = re.sub(r"\x1b\[[0-9;]*m", "", "\n".join(content["traceback"]))
        case "status":
            return bool(content["execution_state"] == "idle")
    return False
