"""What the handlers share: the store and the manager, called off the server's event loop."""

from __future__ import annotations

import asyncio
import contextlib
import functools
from collections.abc import Callable
from concurrent.futures import ThreadPoolExecutor
from typing import TYPE_CHECKING, TypeVar

from vbatch_jupyter.errors import StoreError
from vbatch_jupyter.loop import Attempts, Loop
from vbatch_jupyter.manager import Manager, lifecycle
from vbatch_jupyter.manager.waiting import held_models
from vbatch_jupyter.protocol.profiles import PROFILES
from vbatch_jupyter.server.sockets import Sockets
from vbatch_jupyter.store import EngineRecord, Store

if TYPE_CHECKING:
    from vbatch_jupyter.server.events import Events
    from vbatch_jupyter.server.file_lines import LinePages
    from vbatch_jupyter.server.kernels import EngineKernels
    from vbatch_jupyter.server.views import BatchWatch
    from vbatch_jupyter.server.watch import EngineWatch

T = TypeVar("T")

BACKEND_KEY = "vbatch_backend"
"""Where the server's settings have them."""

_THREADS = 8


class Backend:
    """One server's store and verbs.

    Parameters
    ----------
    store
        Where files and batches are; closed with this object.
    profile
        The service whose limits apply to batches made over HTTP.
    strict_models
        Whether a batch over HTTP fails if no engine has its model.
    max_file_bytes
        How large an uploaded file may be.
    idle_seconds
        How long the next byte of a request's body may take.
    max_request_bytes
        How large the body of an online request may be.
    say
        Called with a sentence when one of the server's loops begins to fail, or a batch has to wait.
    attempts
        When a batch that has met an error is tried again.

    Attributes
    ----------
    store, manager
        The store, and OpenAI's verbs over it; they block, and are called through `call`.
    sockets
        The connections to the kernels.
    profile
        The limits for batches over HTTP.
    strict_models, max_file_bytes, idle_seconds, max_request_bytes
        As above.
    loops
        The loops of this server.
    watch, batch_watch, events, pages, kernels
        What else the handlers share; the extension sets them, as each is made with this object.
    """

    watch: EngineWatch
    batch_watch: BatchWatch
    events: Events
    pages: LinePages
    kernels: EngineKernels

    def __init__(
        self,
        store: Store,
        *,
        profile: str,
        strict_models: bool = False,
        max_file_bytes: int = 512 * 1024**2,
        idle_seconds: float = 60.0,
        max_request_bytes: int = 64 * 1024**2,
        say: Callable[[str], object] | None = None,
        attempts: Attempts | None = None,
    ) -> None:
        self.store = store
        self.strict_models = strict_models
        self.max_file_bytes = max_file_bytes
        self.idle_seconds = idle_seconds
        self.max_request_bytes = max_request_bytes
        self.sockets = Sockets()
        self.profile = PROFILES[profile]
        self.manager = Manager(store, profile=profile, wake=self._committed)
        self._asyncio: asyncio.AbstractEventLoop | None = None
        self._say = say
        self._attempts = attempts or Attempts()
        self.loops: list[Loop] = []
        self._tending = self.new_loop("tending")
        self._waking: set[asyncio.Task[None]] = set()
        # Threads of our own: asyncio's are shared with what else runs in the server and may all be taken.
        self._threads = ThreadPoolExecutor(_THREADS, thread_name_prefix="vbatch")

    async def call(self, function: Callable[[], T]) -> T:
        """Call a function that blocks, such as one that asks the store, off the event loop."""
        return await asyncio.get_running_loop().run_in_executor(self._threads, function)

    async def engines(self, *, planned: bool = False) -> list[EngineRecord]:
        """Return the engines whose processes live, and also those that a server would start if they are wanted."""
        return await self.call(lambda: self.store.engines.live(planned=planned))

    async def allowed_models(self) -> list[str] | None:
        """Return the models that a batch over HTTP may name; None if it may name any."""
        return sorted(held_models(await self.engines(planned=True))) if self.strict_models else None

    def start(self, function: Callable[[], object]) -> None:
        """Call a blocking function in a thread, without waiting for its end."""
        self._threads.submit(function)

    def poke(self) -> None:
        """Look at the batches now, here and in the runners of all kernels: one was created or cancelled."""
        self._tending.wake()
        waking = asyncio.ensure_future(self._wake_runners())
        self._waking.add(waking)
        waking.add_done_callback(self._waking.discard)

    async def _wake_runners(self) -> None:
        # Nobody waits for this, and a kernel that it does not reach looks by itself a little later.
        with contextlib.suppress(StoreError):
            engines = await self.engines()
            await self.sockets.forget_all_but(engines)
            await self.sockets.wake(engines)

    def _committed(self) -> None:
        # From the thread in which the manager has committed.
        if self._asyncio is not None:
            self._asyncio.call_soon_threadsafe(self.poke)

    def new_loop(self, name: str) -> Loop:
        """Make a loop whose problems this server reports, in `loops`."""
        self.loops.append(Loop(name, say=self._say))
        return self.loops[-1]

    def tend(self, *, every_seconds: float, sweep_seconds: float) -> None:
        """Start to do for batches what needs no engine."""
        self._asyncio = asyncio.get_running_loop()
        say = self._say or (lambda _: None)
        tend = functools.partial(
            lifecycle.tend, self.store, sweep_seconds=sweep_seconds, attempts=self._attempts, say=say
        )
        self._tending.start(lambda: self.call(tend), every=every_seconds)

    async def close(self) -> None:
        """Wait for the calls that run, and close the store."""
        await self._tending.stop()
        if self._waking:
            await asyncio.wait(self._waking)
        await self.sockets.close()
        await asyncio.to_thread(self._threads.shutdown, wait=True)
        self.store.close()
