"""What holds for every test: no model hub, and never the user's own store or production key."""

from __future__ import annotations

import os
import signal
from collections.abc import Callable, Iterator
from concurrent.futures import Future, ThreadPoolExecutor
from pathlib import Path
from queue import SimpleQueue
from typing import TYPE_CHECKING, Any

import pytest
from hypothesis import HealthCheck, settings

from tests.models import make_tiny_model

if TYPE_CHECKING:
    from vbatch_jupyter.session.session import Session

MEMORY = Path("/dev/shm")
GIB = 2**30


def _is_roomy_memory(path: Path) -> bool:
    """Return whether a folder is a file system in memory with room for what the tests write and run."""
    if not os.path.ismount(path) or not os.access(path, os.W_OK):
        return False
    status = os.statvfs(path)
    return not status.f_flag & os.ST_NOEXEC and status.f_bavail * status.f_frsize >= 6 * GIB


# Most of the time of a test with a store is fsync, and a process that is killed loses nothing of a file system in
# memory either. Not TMPDIR: what programs keep in /tmp from one run to the next stays there.
if _is_roomy_memory(MEMORY):
    os.environ.setdefault("PYTEST_DEBUG_TEMPROOT", str(MEMORY))

# The same examples each time, so that a commit either passes or fails; `--hypothesis-profile=default` searches on. How
# long an example takes says what else the machine does.
settings.register_profile(
    "vbatch",
    deadline=None,
    derandomize=True,
    database=None,
    suppress_health_check=[HealthCheck.too_slow, HealthCheck.data_too_large],
)
settings.load_profile("vbatch")

# A shell has its jobs in the background ignore SIGINT, and they hand that down, to kernels that are interrupted too.
signal.signal(signal.SIGINT, signal.default_int_handler)

os.environ["HF_HUB_OFFLINE"] = "1"
for variable in ("BATCH_BASE_URL", "BATCH_API_KEY", "OPENAI_API_KEY", "OPENAI_BASE_URL"):
    os.environ.pop(variable, None)


@pytest.fixture(autouse=True)
def store_of_its_own(tmp_path, monkeypatch):
    monkeypatch.setenv("VBATCH_STORE", str(tmp_path / "default-store"))


@pytest.fixture
def as_current(monkeypatch: pytest.MonkeyPatch) -> Callable[[Session], Session]:
    """Make a session the current one of this process until the test ends, and return it."""

    def make_current(session: Session) -> Session:
        monkeypatch.setattr("vbatch_jupyter.session.session.current", lambda: session)
        return session

    return make_current


@pytest.fixture(scope="session")
def tiny_model(tmp_path_factory: pytest.TempPathFactory) -> Path:
    return make_tiny_model(tmp_path_factory.mktemp("models") / "tiny")


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


@pytest.fixture(scope="session", autouse=True)
def behind(
    request: pytest.FixtureRequest, tmp_path_factory: pytest.TempPathFactory
) -> Iterator[dict[str, Future[Any]]]:
    """Start what takes minutes, during the tests that come before its own: ten loads and unloads, and the notebooks.

    One after the other on the last core, or, where only notebooks are tested, two at a time.
    """
    items = request.session.items
    notebooks = [item.callspec.params["shown"] for item in items if "test_notebooks" in item.nodeid]  # type: ignore[attr-defined]
    loads = any("ten_loads" in item.name for item in items)
    if not (loads or notebooks):
        yield {}
        return
    from jupyter_core.utils import ensure_event_loop

    from tests.kernels import CORES, NotebookKernel
    from tests.notebooks.running import run
    from vbatch_jupyter.engine.demo_model import demo_model_path

    cores = sorted(os.sched_getaffinity(0))
    at_a_time = 1 if any("test_notebooks" not in item.nodeid for item in items) else 2
    shares: SimpleQueue[str] = SimpleQueue()
    for share in range(at_a_time):
        shares.put(str(cores[-1]) if at_a_time == 1 else ",".join(map(str, cores[share::at_a_time])))
    kernels: list[NotebookKernel] = []
    # What a test changes in the environment meanwhile is not for these.
    environment = dict(os.environ)

    def load_ten_times(model: Path, folder: Path) -> str:
        kernel = NotebookKernel(folder / "store", **{CORES: str(cores[-1])})
        kernels.append(kernel)
        try:
            kernel.run("import vbatch_jupyter as vb").checked()
            code = f"MODEL = {str(model)!r}\nROOT = {str(Path(__file__).parents[1])!r}\n{TEN_LOADS}"
            return kernel.run(code, timeout=1200).checked().stdout
        finally:
            kernels.remove(kernel)
            kernel.close()
            # The client has made a loop for this thread, and would leave it open.
            ensure_event_loop().close()

    def run_notebook(name: str, folder: Path) -> object:
        demo_model_path()  # or two of them would wait for each other
        share = shares.get()
        try:
            return run(name, folder, cores=share, environment=environment)
        finally:
            shares.put(share)

    with ThreadPoolExecutor(at_a_time) as pool:
        started: dict[str, Future[Any]] = {}
        if loads:
            model = request.getfixturevalue("tiny_model")
            started["ten loads"] = pool.submit(load_ten_times, model, tmp_path_factory.mktemp("ten-loads"))
        for name in notebooks:
            started[name] = pool.submit(run_notebook, name, tmp_path_factory.mktemp(name.partition(".")[0]))
        yield started
        pool.shutdown(wait=False, cancel_futures=True)
        for kernel in kernels:
            os.kill(kernel.pid, signal.SIGKILL)
