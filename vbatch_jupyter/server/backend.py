"""What the handlers share: the store and the manager, called off the server's event loop and with one deadline."""

from __future__ import annotations

import asyncio
import contextlib
import threading
import time
from collections.abc import Callable, Sequence
from concurrent.futures import ThreadPoolExecutor
from typing import TYPE_CHECKING, TypeVar

from vbatch_jupyter.errors import StoreBusyError, StoreError
from vbatch_jupyter.loop import Attempts, Loop
from vbatch_jupyter.manager import Manager, lifecycle
from vbatch_jupyter.manager.waiting import held_models
from vbatch_jupyter.protocol.profiles import PROFILES
from vbatch_jupyter.server.sockets import Sockets
from vbatch_jupyter.store import EngineRecord, Store, allowance, within

if TYPE_CHECKING:
    from vbatch_jupyter.server.events import Events
    from vbatch_jupyter.server.file_lines import LinePages
    from vbatch_jupyter.server.kernels import EngineKernels
    from vbatch_jupyter.server.views import BatchWatch
    from vbatch_jupyter.server.watch import EngineWatch

T = TypeVar("T")

BACKEND_KEY = "vbatch_backend"
"""Where the server's settings have them."""

STORE_WAIT_SECONDS = 8.0
"""How long a request waits for the store."""

_GLANCE_SECONDS = 2.0
_THREADS, _GLANCING_THREADS = 8, 4


class Backend:
    """One server's store and verbs.

    Parameters
    ----------
    open_store
        Opens the store, which is closed with this object. It is called when the store is first needed, and again if
        it fails: a server starts also where the store cannot be opened, says why, and goes on when it can.
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
    store_wait_seconds
        How long a call waits until another process lets the store go, and for a free thread.
    say
        Called with a sentence when one of the server's loops begins to fail, or a batch has to wait.
    attempts
        When a batch that has met an error is tried again.

    Attributes
    ----------
    on_open
        What is called with the store before anybody else gets it.
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
        open_store: Callable[[], Store],
        *,
        profile: str,
        strict_models: bool = False,
        max_file_bytes: int = 512 * 1024**2,
        idle_seconds: float = 60.0,
        max_request_bytes: int = 64 * 1024**2,
        store_wait_seconds: float = STORE_WAIT_SECONDS,
        say: Callable[[str], object] | None = None,
        attempts: Attempts | None = None,
    ) -> None:
        self._wait_seconds = store_wait_seconds
        self.strict_models = strict_models
        self.max_file_bytes = max_file_bytes
        self.idle_seconds = idle_seconds
        self.max_request_bytes = max_request_bytes
        self.sockets = Sockets()
        self.profile = PROFILES[profile]
        self.on_open: list[Callable[[Store], object]] = []
        self._open_store = open_store
        self._opening = threading.Lock()
        self._opened: tuple[Store, Manager] | None = None
        self._known_engines: Sequence[EngineRecord] | None = None
        self._asyncio: asyncio.AbstractEventLoop | None = None
        self._say = say
        self._attempts = attempts or Attempts()
        self.loops: list[Loop] = []
        self._tending = self.new_loop("tending")
        self._waking: set[asyncio.Task[None]] = set()
        # Threads of our own: asyncio's are shared with what else runs in the server and may all be taken.
        self._threads = ThreadPoolExecutor(_THREADS, thread_name_prefix="vbatch")
        # Others for what is answered also while calls wait for the store in all of those.
        self._glancing = ThreadPoolExecutor(_GLANCING_THREADS, thread_name_prefix="vbatch-glance")

    @property
    def store(self) -> Store:
        """The store; asking for it blocks, as its methods do, and belongs into `call`."""
        return self._first_opened()[0]

    @property
    def manager(self) -> Manager:
        """OpenAI's verbs over the store; likewise."""
        return self._first_opened()[1]

    def _first_opened(self) -> tuple[Store, Manager]:
        if self._opened is not None:
            return self._opened
        if not self._opening.acquire(timeout=min(self._wait_seconds, max(allowance.left, 0.0))):
            raise StoreBusyError("The store is being opened, which takes long. Try again.")
        try:
            if self._opened is None:
                store = self._open_store()
                try:
                    for each in self.on_open:
                        each(store)
                except BaseException:
                    store.close()
                    raise
                self._opened = store, Manager(store, profile=self.profile.name, wake=self._committed)
                # They need not wait out the pauses after their failures.
                for loop in self.loops:
                    loop.wake()
            return self._opened
        finally:
            self._opening.release()

    async def call(self, function: Callable[[], T]) -> T:
        """Call a function that blocks, such as one that asks the store, off the event loop.

        Raises
        ------
        StoreBusyError
            It had to wait for others too long.
        StoreError
            The store cannot be opened.
        """
        return await self._call(function, self._threads, self._wait_seconds)

    async def glance(self, function: Callable[[], T]) -> T:
        """Call a function that needs the store only for a moment, or does without it; see `call`.

        It waits for two seconds at most, and not at all for a store that others are known to hold.
        """
        is_held = self._opened is not None and self._opened[0].database.is_held
        return await self._call(function, self._glancing, 0.0 if is_held else _GLANCE_SECONDS)

    async def _call(self, function: Callable[[], T], threads: ThreadPoolExecutor, seconds: float) -> T:
        asked_at = time.monotonic()

        def run() -> T:
            with within(seconds - (time.monotonic() - asked_at)):
                try:
                    return function()
                except StoreBusyError:
                    raise
                except (OSError, StoreError):
                    # Where the store itself has gone or is damaged, that is the reason.
                    with contextlib.suppress(StoreBusyError):
                        self.store.version()
                    raise

        future, is_late = threads.submit(run), False

        def give_up() -> None:
            nonlocal is_late
            is_late = future.cancel()

        # A function that runs has its own deadline; one that waits for a thread is not begun any more.
        timer = asyncio.get_running_loop().call_later(self._wait_seconds, give_up)
        try:
            return await asyncio.wrap_future(future)
        except asyncio.CancelledError:
            if is_late:
                raise StoreBusyError("The server is busy with other requests for the store. Try again.") from None
            raise
        finally:
            timer.cancel()

    async def engines(self, *, planned: bool = False) -> list[EngineRecord]:
        """Return the engines whose processes live, and also those that a server would start if they are wanted.

        While others hold the store, those that were known before.
        """
        found = await self.glance(self._live_engines)
        return [record for record in found if planned or record.note is None]

    def _live_engines(self) -> Sequence[EngineRecord]:
        engines = self.store.engines
        try:
            self._known_engines = engines.live(planned=True)
        except StoreBusyError:
            if self._known_engines is None:
                raise
            return engines.still_live(self._known_engines)
        return self._known_engines

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

        def tend() -> None:
            lifecycle.tend(self.store, sweep_seconds=sweep_seconds, attempts=self._attempts, say=say)

        self._tending.start(lambda: self.call(tend), every=every_seconds)

    async def close(self) -> None:
        """Wait for the calls that run, and close the store."""
        await self._tending.stop()
        if self._waking:
            await asyncio.wait(self._waking)
        await self.sockets.close()
        for threads in (self._threads, self._glancing):
            await asyncio.to_thread(threads.shutdown, wait=True)
        if self._opened is not None:
            store = self._opened[0]
            with contextlib.suppress(StoreError, OSError):
                await asyncio.to_thread(store.engines.close)
            store.close()
