from __future__ import annotations

import subprocess
import sys
from collections.abc import Callable, Iterator
from pathlib import Path

import pytest

from tests.kernels import NotebookKernel


@pytest.fixture(scope="session")
def tiny_model(tmp_path_factory: pytest.TempPathFactory) -> Path:
    folder = tmp_path_factory.mktemp("models") / "tiny"
    subprocess.run([sys.executable, str(Path(__file__).with_name("tiny_model.py")), str(folder)], check=True)
    return folder


TEN_LOADS = """
import gc, json, psutil
figures = []
for _ in range(10):
    vb.load(MODEL, served_model_name="tiny", max_model_len=512, kv_cache_memory_bytes="200M")
    processes = psutil.Process().children(recursive=True)
    vb.unload()
    gc.collect()
    alive = [one.pid for one in processes if one.is_running() and "resource_tracker" not in " ".join(one.cmdline())]
    figures.append([len(processes), len(alive), psutil.Process().memory_info().rss])
print("JSON" + json.dumps(figures))
"""


@pytest.fixture(scope="session", autouse=True)
def ten_loads(
    request: pytest.FixtureRequest, tmp_path_factory: pytest.TempPathFactory
) -> Iterator[tuple[NotebookKernel, str] | None]:
    """Start ten loads and unloads in a kernel of their own: they take minutes, beside the other tests."""
    if not any("ten_loads" in item.name for item in request.session.items):
        yield None
        return
    tiny_model = request.getfixturevalue("tiny_model")
    kernel = NotebookKernel(tmp_path_factory.mktemp("ten-loads") / "store")
    kernel.run("import vbatch_jupyter as vb").checked()
    yield kernel, kernel.start(f"MODEL = {str(tiny_model)!r}\n{TEN_LOADS}")
    kernel.close()


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
