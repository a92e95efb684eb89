"""The thread of the engine and the runner, with its own event loop.

The kernel's main thread runs the user's cells and may be blocked or interrupted at any moment; nothing here depends on
it. SIGINT is blocked in this thread, so that it always lands in the main one.
"""

from __future__ import annotations

import asyncio
import signal
import threading
from collections.abc import Coroutine
from concurrent.futures import Future
from typing import Any, TypeVar

T = TypeVar("T")


class EngineThread:
    """A daemon thread that runs one event loop until it is stopped.

    Examples
    --------
    >>> thread = EngineThread()
    >>> thread.call(asyncio.sleep(0, result="done"))
    'done'
    >>> thread.stop()
    """

    def __init__(self) -> None:
        self.loop = asyncio.new_event_loop()
        self._thread = threading.Thread(target=self._run, name="vbatch-engine", daemon=True)
        self._thread.start()

    def _run(self) -> None:
        signal.pthread_sigmask(signal.SIG_BLOCK, {signal.SIGINT})
        asyncio.set_event_loop(self.loop)
        self.loop.run_forever()

    def submit(self, coroutine: Coroutine[Any, Any, T]) -> Future[T]:
        """Start a coroutine on the loop, from any other thread."""
        return asyncio.run_coroutine_threadsafe(coroutine, self.loop)

    def call(self, coroutine: Coroutine[Any, Any, T], timeout: float | None = None) -> T:
        """Run a coroutine on the loop and wait for it; an interrupt of the wait cancels it.

        Parameters
        ----------
        coroutine
            What to run.
        timeout
            Seconds.

        Raises
        ------
        TimeoutError
            It took longer; it has been cancelled.
        """
        future = self.submit(coroutine)
        try:
            return future.result(timeout)
        except BaseException:
            future.cancel()
            raise

    def stop(self) -> None:
        """Stop the loop and wait for the thread to end."""
        if self.loop.is_closed():
            return
        self.loop.call_soon_threadsafe(self.loop.stop)
        self._thread.join(timeout=5)
        if not self._thread.is_alive():
            self.loop.close()
