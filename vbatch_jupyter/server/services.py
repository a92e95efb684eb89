"""What the handlers share: the store and OpenAI's verbs over it, called off the server's event loop."""

from __future__ import annotations

import asyncio
import contextlib
from collections.abc import Callable
from concurrent.futures import ThreadPoolExecutor
from typing import TypeVar

from vbatch_jupyter import lifecycle
from vbatch_jupyter.errors import StoreBusyError
from vbatch_jupyter.manager import Manager
from vbatch_jupyter.store import Store

T = TypeVar("T")

SERVICES_KEY = "vbatch_services"
"""Where the server's settings have them."""

_THREADS = 8


class Services:
    """One server's store and verbs.

    Parameters
    ----------
    store
        Where files and batches are; closed with this object.
    profile
        Whose limits a batch made over HTTP is held to.

    Attributes
    ----------
    store, manager
        The store, and OpenAI's verbs over it; they block, and are called through `call`.
    """

    def __init__(self, store: Store, *, profile: str) -> None:
        self.store = store
        self.manager = Manager(store, profile=profile)
        # Threads of our own: asyncio's are shared with what else runs in the server and may all be taken.
        self._threads = ThreadPoolExecutor(_THREADS, thread_name_prefix="vbatch")

    async def call(self, function: Callable[[], T]) -> T:
        """Call a function that blocks, such as one that asks the store, off the event loop."""
        return await asyncio.get_running_loop().run_in_executor(self._threads, function)

    async def tend(self, *, every_seconds: float) -> None:
        """Do for batches what needs no engine, until cancelled."""
        while True:
            with contextlib.suppress(StoreBusyError):
                await self.call(lambda: lifecycle.tend(self.store))
            await asyncio.sleep(every_seconds)

    async def close(self) -> None:
        """Wait for the calls that run, and close the store."""
        await asyncio.to_thread(self._threads.shutdown, wait=True)
        self.store.close()
