"""What holds for every test: no model hub, and never the user's own store or production key."""

from __future__ import annotations

import os

import pytest

os.environ["HF_HUB_OFFLINE"] = "1"
for variable in ("BATCH_BASE_URL", "BATCH_API_KEY", "OPENAI_API_KEY", "OPENAI_BASE_URL"):
    os.environ.pop(variable, None)


@pytest.fixture(autouse=True)
def store_of_its_own(tmp_path, monkeypatch):
    monkeypatch.setenv("VBATCH_STORE", str(tmp_path / "default-store"))
