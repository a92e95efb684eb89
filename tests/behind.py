"""What takes minutes, started during the tests that come before its own: the wheel, ten loads, the notebooks."""

from __future__ import annotations

import os
import signal
from collections.abc import Callable, Sequence
from concurrent.futures import Future, ThreadPoolExecutor
from pathlib import Path
from queue import SimpleQueue

from tests.acceptance.wheel import Wheel
from tests.kernels import CORES, NotebookKernel
from tests.notebooks.running import Executed, run

TEN_LOADS = """
import gc, json, os, psutil, sys
sys.path.insert(0, ROOT)
from tests.kernels import engine_processes, is_alive
figures = []
for _ in range(10):
    vb.load(MODEL, served_model_name="tiny", max_model_len=512, kv_cache_memory_bytes="200M")
    processes = engine_processes(os.getpid())
    vb.unload()
    gc.collect()
    alive = [one.pid for one in processes if is_alive(one)]
    figures.append([len(processes), len(alive), psutil.Process().memory_info().rss])
print("JSON" + json.dumps(figures))
"""


class Behind:
    """Runs one thing after the other on the last core, or two at a time where no other tests run.

    Parameters
    ----------
    new_folder
        Makes an empty folder of a name.
    at_a_time
        How many run at once.

    Attributes
    ----------
    wheel
        The wheel and its environments, once they are asked for.
    ten_loads
        What ten loads and unloads have printed, once they are asked for.
    notebooks
        The notebooks that have been asked for, by their names.
    """

    wheel: Wheel
    ten_loads: Future[str]

    def __init__(self, new_folder: Callable[[str], Path], at_a_time: int) -> None:
        self.notebooks: dict[str, Future[Executed]] = {}
        self._new_folder = new_folder
        self._pool = ThreadPoolExecutor(at_a_time)
        cores = sorted(os.sched_getaffinity(0))
        self._last_core = str(cores[-1])
        self._shares: SimpleQueue[str] = SimpleQueue()
        for share in range(at_a_time):
            self._shares.put(self._last_core if at_a_time == 1 else ",".join(map(str, cores[share::at_a_time])))
        self._kernels: list[NotebookKernel] = []
        # What a test changes in the environment meanwhile is not for these.
        self._environment = dict(os.environ)

    def make_wheel(self) -> None:
        self.wheel = Wheel(self._new_folder, self._pool)

    def load_ten_times(self, model: Path) -> None:
        self.ten_loads = self._pool.submit(self._load_ten_times, model, self._new_folder("ten-loads"))

    def run_notebooks(self, names: Sequence[str]) -> None:
        for name in names:
            folder = self._new_folder(name.partition(".")[0])
            self.notebooks[name] = self._pool.submit(self._run_notebook, name, folder)

    def close(self) -> None:
        """Begin with nothing more, and end the kernel that still runs."""
        self._pool.shutdown(wait=False, cancel_futures=True)
        for kernel in self._kernels:
            os.kill(kernel.pid, signal.SIGKILL)

    def _load_ten_times(self, model: Path, folder: Path) -> str:
        from jupyter_core.utils import ensure_event_loop

        kernel = NotebookKernel(folder / "store", **{CORES: self._last_core})
        self._kernels.append(kernel)
        try:
            kernel.run("import vbatch_jupyter as vb").checked()
            code = f"MODEL = {str(model)!r}\nROOT = {str(Path(__file__).parents[1])!r}\n{TEN_LOADS}"
            return kernel.run(code, timeout=1200).checked().stdout
        finally:
            self._kernels.remove(kernel)
            kernel.close()
            # The client has made a loop for this thread, and would leave it open.
            ensure_event_loop().close()

    def _run_notebook(self, name: str, folder: Path) -> Executed:
        from vbatch_jupyter.engine.demo_model import demo_model_path

        demo_model_path()  # or two of them would wait for each other
        share = self._shares.get()
        try:
            return run(name, folder, cores=share, environment=self._environment)
        finally:
            self._shares.put(share)
