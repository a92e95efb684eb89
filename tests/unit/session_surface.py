"""A session object on a store of its own, with the echo engine."""

from __future__ import annotations

import os
import signal
import sys
import threading
import traceback
from collections.abc import Callable
from pathlib import Path
from typing import Any

from tests.batches import open_store
from tests.waiting import wait_for
from vbatch_jupyter.engine.echo import EchoEngine
from vbatch_jupyter.session.session import Session


class HalfwayEngine(EchoEngine):
    """Answers the first requests at once; its latency, which is an hour unless a test changes it, is for the others."""

    def __init__(self, answers: int, **arguments: Any) -> None:
        super().__init__(latency_seconds=3600, **arguments)
        self._answers = answers

    async def _work(self, body: bytes) -> None:
        if self.requests > self._answers:
            await super()._work(body)


def open_session(
    folder: Path, *, load: bool = True, said: list[str] | None = None, answers: int | None = None, **engine: Any
) -> Session:
    """Open a session on the store in a folder; its engine answers with the prompt, and perhaps only so many."""
    session = Session(
        open_store(folder / "store"),
        make_engine=lambda *_, **__: EchoEngine(**engine) if answers is None else HalfwayEngine(answers, **engine),
        say=([] if said is None else said).append,
    )
    if load:
        session.load("echo")
    return session


def interrupt(*, when: Callable[[], object] = lambda: True, then: Callable[[], object] | None = None) -> None:
    """Send SIGINT to this process once something is so and the main thread waits for a batch; then do something."""

    def send() -> None:
        wait_for(when)
        wait_for(lambda: main_thread_is_in("wait"))
        os.kill(os.getpid(), signal.SIGINT)
        if then is not None:
            wait_for(lambda: main_thread_is_in("await_shutdown"))
            then()

    threading.Thread(target=send, daemon=True).start()


def main_thread_is_in(function: str) -> bool:
    stack = traceback.extract_stack(sys._current_frames()[threading.main_thread().ident or 0])
    return any(frame.name == function and "vbatch_jupyter" in frame.filename for frame in stack)
