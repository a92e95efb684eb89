"""A kernel that is killed while an engine loads leaves neither processes nor files; on a real engine."""

from __future__ import annotations

import contextlib
import os
import stat
import time
from pathlib import Path
from typing import TYPE_CHECKING

import pytest

from tests.kernels import NotebookKernel, is_alive
from tests.waiting import wait_for

if TYPE_CHECKING:
    import psutil

pytestmark = pytest.mark.timeout(600)

FLAGS = "--max-model-len 512 --kv-cache-memory-bytes 200M --max-num-seqs 64"


@pytest.mark.parametrize("processes", [1, 2], ids=["the core has begun", "the worker has begun"])
def test_nothing_is_left(tmp_path: Path, tiny_model: Path, processes: int, figures: list[str]) -> None:
    temporary = tmp_path / "t"
    temporary.mkdir()
    # So long that the sockets are in the folder for temporary files, which is what is looked at.
    runtime = tmp_path / ("r" * 80)
    short = Path(f"/tmp/vb-{os.getpid()}-{processes}")
    short.symlink_to(temporary)
    kernel = NotebookKernel(
        tmp_path / "store",
        JUPYTER_RUNTIME_DIR=str(runtime),
        TMPDIR=str(short),
        TORCHINDUCTOR_CACHE_DIR=str(tmp_path / "c"),
    )
    try:
        kernel.run("%load_ext vbatch_jupyter\nimport os\nbefore = os.umask(0o002)").checked()
        kernel.start(f"%vbatch load {tiny_model} --served-model-name tiny {FLAGS}")
        wait_for(lambda: sum(map(is_tied, kernel.engine_processes())) >= processes, 300)
        (folder,) = temporary.glob("vbatch-*")
        assert stat.S_IMODE(folder.stat().st_mode) == 0o700
        # vLLM's sockets, and whatever else its processes keep, are in there.
        wait_for(lambda: any(path.is_socket() for path in folder.rglob("*-*-*-*-*")), 300)
        assert [path.name for path in temporary.iterdir() if not path.name.startswith(("vbatch-", "vb"))] == []
        started = kernel.engine_processes()
        begun = time.monotonic()
        os.kill(kernel.pid, 9)
        wait_for(lambda: not any(map(is_alive, started)))
        figures.append(f"killed while it loads: {len(started)} processes ended after {time.monotonic() - begun:.1f} s")
        wait_for(lambda: not list(temporary.glob("vbatch-*")))
        assert list(temporary.iterdir()) == []
    finally:
        kernel.close()
        short.unlink()


def is_tied(process: psutil.Process) -> bool:
    """Return whether a process of vLLM is past its first moments: it prints into the engine's log."""
    with contextlib.suppress(OSError):
        return Path(f"/proc/{process.pid}/fd/1").readlink().suffix == ".log"
    return False
