from __future__ import annotations

from collections.abc import Callable, Iterator
from pathlib import Path

import pytest

from tests.batches import open_store
from tests.unit.session_surface import open_session
from vbatch_jupyter.session.session import Session
from vbatch_jupyter.store import Store


@pytest.fixture
def store(tmp_path: Path) -> Iterator[Store]:
    with open_store(tmp_path / "store") as store:
        yield store


@pytest.fixture
def session(tmp_path: Path, as_current: Callable[[Session], Session]) -> Iterator[Session]:
    """Open the current session; its engine says back what it is told, and refuses "refuse me"."""
    session = as_current(open_session(tmp_path, refusing="refuse me"))
    yield session
    session.close()
