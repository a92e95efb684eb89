"""A session object on a store of its own, with the echo engine."""

from __future__ import annotations

from pathlib import Path
from typing import Any

from tests.batches import open_store
from vbatch_jupyter.engine.echo import EchoEngine
from vbatch_jupyter.session.session import Session


def open_session(folder: Path, *, load: bool = True, said: list[str] | None = None, **engine: Any) -> Session:
    """Open a session on the store in a folder; its engine answers with the prompt."""
    session = Session(
        open_store(folder / "store"),
        make_engine=lambda *_, **__: EchoEngine(**engine),
        say=([] if said is None else said).append,
    )
    if load:
        session.load("echo")
    return session
