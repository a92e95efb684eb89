"""What holds for every test: no model hub, and never the user's own store or production key."""

from __future__ import annotations

import os
import signal
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import TYPE_CHECKING

import pytest
from hypothesis import HealthCheck, settings

from tests.models import make_tiny_model

if TYPE_CHECKING:
    from tests.behind import Behind
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


@pytest.fixture(scope="session", autouse=True)
def behind(request: pytest.FixtureRequest, tmp_path_factory: pytest.TempPathFactory) -> Iterator[Behind | None]:
    """Start what takes minutes, in the order of its tests, during the tests that come before them."""
    items = request.session.items
    wheel = any("test_wheel" in item.nodeid for item in items)
    loads = any("ten_loads" in item.name for item in items)
    notebooks = [item.callspec.params["shown"] for item in items if "test_notebooks" in item.nodeid]  # type: ignore[attr-defined]
    if not (wheel or loads or notebooks):
        yield None
        return
    from tests.behind import Behind

    alone = all("test_notebooks" in item.nodeid or "test_wheel" in item.nodeid for item in items)
    tmp_path_factory.getbasetemp()  # made here, and not by two threads at once
    behind = Behind(tmp_path_factory.mktemp, 2 if alone else 1)
    if wheel:
        behind.make_wheel()
    if loads:
        behind.load_ten_times(request.getfixturevalue("tiny_model"))
    behind.run_notebooks(notebooks)
    yield behind
    behind.close()
