"""The runner: takes up the batches of the store that its engine can answer, and brings each to its end.

What it promises about an engine that dies: no request that was with it counts as answered; the engine is rebuilt and
the batch goes on. Deaths are counted while no answer lies between them. After two, the batch's requests run one at a
time; the request that runs when the engine dies again gets a line in the error file, and the others go on together. A
batch whose engine dies a third time with no request to blame, cannot be rebuilt, or finds three such requests in a
row, is paused with the reason until an engine is loaded anew.
"""

from __future__ import annotations

import asyncio
import contextlib
from collections.abc import Callable

from vbatch_jupyter import lifecycle, planning
from vbatch_jupyter.engine.base import Engine
from vbatch_jupyter.errors import (
    ConflictError,
    EngineError,
    FencedError,
    StoreBusyError,
    StoreCorruptError,
    StoreFullError,
)
from vbatch_jupyter.protocol.batch import BatchRecord
from vbatch_jupyter.runner.collector import in_thread
from vbatch_jupyter.runner.feed import End, Feed
from vbatch_jupyter.store import Lease, Store

POLL_SECONDS = 0.2
"""How often the store is looked at; a batch of another process is found within it."""

_TEND_SECONDS = 1.0
_CAREFUL_AFTER_DEATHS = 2
_PAUSED_AFTER_DEATHS = 3
_MORE_THAN_RUN = 64
_FEEDS_AT_ONCE = 8


class Runner:
    """Runs batches on one engine; without an engine it does what needs none.

    All of it happens on one loop, that of the engine.

    Parameters
    ----------
    store
        Where the batches are.
    on_notice
        Called with one sentence when a batch is resumed or paused.
    """

    def __init__(self, store: Store, *, on_notice: Callable[[str], None] = lambda _: None) -> None:
        self._store = store
        self._on_notice = on_notice
        self._engine: Engine | None = None
        self._window = asyncio.Semaphore(0)
        self._feeds: dict[str, asyncio.Task[None]] = {}
        self._fed: dict[str, Feed] = {}
        self._careful: set[str] = set()
        self._killers_in_a_row = 0
        self._rebuilding = asyncio.Lock()
        self._woken = asyncio.Event()
        self._stopping = False
        self._tended_at = -_TEND_SECONDS
        self._tending: asyncio.Task[None] | None = None

    @property
    def running(self) -> frozenset[str]:
        """Ids of the batches that this runner holds."""
        return frozenset(self._feeds)

    def wake(self) -> None:
        """Look at the store at once; called on the loop."""
        self._woken.set()

    async def attach(self, engine: Engine) -> None:
        """Take an engine that has been started; batches that an earlier one left paused are taken up again."""
        for record in await in_thread(self._store.batches.unfinished):
            if record.model in engine.served_model_names and record.paused:
                await in_thread(self._store.batches.resume, record.id)
        self._engine = engine
        self._window = asyncio.Semaphore(engine.max_num_seqs + _MORE_THAN_RUN)
        self._killers_in_a_row = 0
        self.wake()

    async def detach(self) -> None:
        """Give the engine up; its batches stay in progress, with what they have finished."""
        self._engine = None
        for feed in self._fed.values():
            feed.stop()
        while self._fed:
            await asyncio.wait(list(self._feeds.values()))

    async def run(self) -> None:
        """Run until stopped."""
        while not self._stopping:
            self._woken.clear()
            with contextlib.suppress(StoreBusyError):
                await self._take_up()
            with contextlib.suppress(TimeoutError):
                await asyncio.wait_for(self._woken.wait(), POLL_SECONDS)

    async def stop(self) -> None:
        """Stop, with what is finished on the disk."""
        self._stopping = True
        self.wake()
        await self.detach()
        ending = [*self._feeds.values(), *([self._tending] if self._tending else [])]
        if ending:
            await asyncio.wait(ending)

    # ----------------------------------------------------------------------------------------------- which batches

    async def _take_up(self) -> None:
        now = asyncio.get_running_loop().time()
        for record in await in_thread(self._store.batches.unfinished):
            if record.id not in self._feeds and self._may_start(record):
                lease = await in_thread(self._store.batches.acquire, record.id)
                if lease is not None:
                    self._start(record, lease)
        if now - self._tended_at >= _TEND_SECONDS:
            self._tended_at = now
            # Beside this: finishing a large batch must not keep a new one waiting.
            if self._tending is None or self._tending.done():
                self._tending = asyncio.create_task(self._tend())

    async def _tend(self) -> None:
        with contextlib.suppress(StoreBusyError):
            await in_thread(lifecycle.tend, self._store)

    def _may_start(self, record: BatchRecord) -> bool:
        if record.paused or self._stopping:
            return False
        if record.status == "validating":
            return True
        if record.status != "in_progress" or not self._serves(record) or len(self._feeds) >= _FEEDS_AT_ONCE:
            return False
        # Requests that run one at a time must be alone in the engine, or the wrong one would be blamed.
        return not self._careful and not (record.careful and self._fed)

    def _serves(self, record: BatchRecord) -> bool:
        return self._engine is not None and record.model in self._engine.served_model_names

    def _start(self, record: BatchRecord, lease: Lease) -> None:
        if record.careful:
            self._careful.add(record.id)
        task = asyncio.create_task(self._advance(lease))
        self._feeds[record.id] = task
        task.add_done_callback(lambda done: self._ended(record.id, done))

    def _ended(self, id: str, task: asyncio.Task[None]) -> None:  # noqa: A002 - OpenAI's word
        del self._feeds[id]
        self._careful.discard(id)
        if not task.cancelled() and (error := task.exception()) is not None:
            self._on_notice(f"Batch {id} is left for now: {type(error).__name__}: {error}")
        self.wake()

    # --------------------------------------------------------------------------------------------------- one batch

    async def _advance(self, lease: Lease) -> None:
        try:
            record = await in_thread(lifecycle.validate, self._store, lease)
            if record.status == "in_progress" and (engine := self._engine) and self._serves(record):
                end = await self._feed(lease, record, engine)
                if end == "died":
                    return
                if end in {"answered", "ending"}:
                    await in_thread(lifecycle.finish, self._store, lease)
        except (FencedError, ConflictError, StoreFullError, StoreBusyError):
            # Another owner has it, it was cancelled meanwhile, or there is no room now: the next look finds out.
            return
        except StoreCorruptError as error:
            reason = str(error)
            await in_thread(lambda: lease.update(paused=True, reason=reason))
            self._on_notice(f"Batch {lease.id} is paused: {reason}")
        finally:
            await in_thread(lease.release)

    async def _feed(self, lease: Lease, record: BatchRecord, engine: Engine) -> End:
        recovered = await in_thread(lease.recover)
        index = await in_thread(lifecycle.load_index, self._store, lease)
        if recovered.counts.left < recovered.counts.total:
            done = recovered.counts.total - recovered.counts.left
            self._on_notice(f"Resuming batch {lease.id}: {done:,} of {recovered.counts.total:,} requests are answered.")
        plan = await in_thread(planning.plan, index, recovered.finished)
        feed = Feed(self._store, lease, record, index=index, plan=plan, engine=engine, window=self._window)
        self._fed[lease.id] = feed
        try:
            end = await feed.run()
            if end == "died":
                await self._survive(lease, record, feed, engine)
            elif feed.lines:
                self._killers_in_a_row = 0
            return end
        finally:
            del self._fed[lease.id]

    # ------------------------------------------------------------------------------------------- deaths of the engine

    async def _survive(self, lease: Lease, record: BatchRecord, feed: Feed, engine: Engine) -> None:
        deaths = 1 if feed.lines else record.deaths + 1
        careful = record.careful or deaths >= _CAREFUL_AFTER_DEATHS
        found = record.careful and feed.suspect is not None
        if feed.lines:
            self._killers_in_a_row = 0
        if found:
            await feed.put_killer()
            self._killers_in_a_row += 1
            deaths, careful = 0, False
        reason = None
        if deaths >= _PAUSED_AFTER_DEATHS:
            reason = f"The engine died {deaths} times with no answer between."
        elif self._killers_in_a_row >= _PAUSED_AFTER_DEATHS:
            reason = f"The engine died under {self._killers_in_a_row} requests in a row that each ran alone."
        if reason is None:
            reason = await self._rebuild(engine)
        if reason is not None:
            reason += " Load an engine again to go on; the engine's log says why it died."
            self._on_notice(f"Batch {lease.id} is paused: {reason}")
        fields = {"deaths": deaths, "careful": careful, "paused": reason is not None, "reason": reason}
        await in_thread(lambda: lease.update(**fields))

    async def _rebuild(self, engine: Engine) -> str | None:
        """Start the engine again, once for all batches that were with it; give the reason why it cannot be."""
        async with self._rebuilding:
            if engine.state == "ready" or self._engine is not engine:
                return None
            self._on_notice("The engine died; it is being loaded again, and the batch goes on.")
            message = ""
            for _ in range(_PAUSED_AFTER_DEATHS):
                try:
                    await engine.start()
                except EngineError as error:
                    message = str(error)
                else:
                    return None
            return f"The engine died and could not be loaded again: {message}"
