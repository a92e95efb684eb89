from __future__ import annotations

import pytest

from tests.batches import open_store


@pytest.fixture
def store(tmp_path):
    with open_store(tmp_path / "store") as store:
        yield store
