"""The runner: runs the batches of the store that its engine can answer, each to its end.

What it promises about an engine that dies: no request that was with it counts as answered; the engine is rebuilt and
the batch continues. Deaths are counted until an answer arrives. After two, the requests that were with the
engine run one at a time, and no other batch runs with them; the one that runs when the engine dies again gets a line in
the error file, and the others go on together. A batch whose engine dies a third time with no request to blame, cannot
be rebuilt, or finds three such requests in a row, is paused with the reason until an engine is loaded again or it is
resumed. `manager.waiting.lasts` says which other errors pause
a batch.
"""

from __future__ import annotations

import asyncio
import functools
from array import array
from collections.abc import Callable

from vbatch_jupyter.engine.base import Engine
from vbatch_jupyter.errors import EngineError, StoreBusyError
from vbatch_jupyter.loop import Attempts, Loop, each_of, in_thread
from vbatch_jupyter.manager import lifecycle
from vbatch_jupyter.manager.waiting import is_due, postpone
from vbatch_jupyter.planning.plan import plan as plan_requests
from vbatch_jupyter.protocol.batch import BatchRecord
from vbatch_jupyter.records import HOLDS_REQUESTS
from vbatch_jupyter.runner.collector import Latest, take_answers
from vbatch_jupyter.runner.feed import End, Feed
from vbatch_jupyter.runner.window import Window
from vbatch_jupyter.store import DISK_FULL_REASON, Lease, Store

POLL_SECONDS = 0.2
"""How often the store is looked at; a batch of another process is found within it, and so is its cancel."""

_TEND_SECONDS = 1.0
_STOP_SECONDS = 60.0
_CAREFUL_AFTER_DEATHS = 2
_PAUSED_AFTER_DEATHS = 3
_FEEDS_AT_ONCE = 8
_ADVICE = "Load an engine again, or resume the batch, to continue. The engine's log says why it died."


class Runner:
    """Runs batches on one engine; without an engine it does only what needs no engine.

    All of it happens on one loop, that of the engine.

    Parameters
    ----------
    store
        Where the batches are.
    on_notice
        Called with one sentence when a batch is resumed, has to wait, or is paused.
    attempts
        When a batch that has met an error is tried again.
    """

    def __init__(
        self,
        store: Store,
        *,
        on_notice: Callable[[str], None] = lambda _: None,
        attempts: Attempts | None = None,
    ) -> None:
        self._store = store
        self._on_notice = on_notice
        self._attempts = attempts or Attempts()
        self._engine: Engine | None = None
        self._window = Window(0)
        self._feeds: dict[str, asyncio.Task[None]] = {}
        self._fed: dict[str, Feed] = {}
        self._latest: dict[str, Latest] = {}
        self.resumed: set[str] = set()
        """Ids of the batches that the current engine has started."""
        self._careful: set[str] = set()
        self._suspects: dict[str, frozenset[int]] = {}
        self._killers_in_a_row = 0
        self._with_engine: set[str] = set()
        self._rebuilding = asyncio.Lock()
        self._starting: asyncio.Task[None] | None = None
        self._loss: str | None = None
        self._lost: set[str] = set()
        self._has_to_resume = False
        self._stopping = False
        self.loops = Loop("runner", say=on_notice), Loop("tending", say=on_notice)
        """Takes up batches; does for the others what needs no engine. Apart, as finishing one may take long."""

    @property
    def running(self) -> frozenset[str]:
        """Ids of the batches that this runner holds."""
        return frozenset(self._feeds)

    def latest(self, id: str) -> Latest | None:  # noqa: A002 - OpenAI's word
        """Return what has last been finished of a batch that runs here; from any thread."""
        return self._latest.get(id)

    def wake(self) -> None:
        """Look at the store at once; called on the loop."""
        self.loops[0].wake()

    async def attach(self, engine: Engine) -> None:
        """Use an engine that has been started, and resume the batches that an earlier one left paused."""
        # A batch that is still with the earlier engine would be paused because of it, and nobody would resume it.
        await self.detach()
        self._engine = engine
        self._has_to_resume = True
        self._loss = None
        self._lost.clear()
        self._suspects.clear()
        self._window = Window(engine.max_num_seqs)
        self._killers_in_a_row = 0
        self.resumed.clear()
        self.wake()

    async def detach(self) -> None:
        """Stop using the engine. Its batches stay in progress and keep their finished answers.

        One that is being rebuilt is not waited for: it ends as soon as it is there.
        """
        self._engine = None
        if self._starting is not None:
            self._starting.cancel()
        for feed in self._fed.values():
            feed.stop()
        while self._with_engine:
            await asyncio.wait([self._feeds[batch_id] for batch_id in self._with_engine])

    async def run(self) -> None:
        """Run until stopped."""
        looking, tending = self.loops
        await asyncio.gather(
            looking.run(self._look, every=POLL_SECONDS),
            tending.run(lambda: in_thread(self._tend), every=_TEND_SECONDS),
        )

    def _tend(self) -> None:
        lifecycle.tend(self._store, attempts=self._attempts, say=self._on_notice)

    async def stop(self) -> None:
        """Stop, with what is finished on the disk."""
        self._stopping = True
        looking, tending = self.loops
        # A batch that is just starting is among the feeds then.
        await looking.stop(within=_STOP_SECONDS)
        await self.detach()
        if self._feeds:
            await asyncio.wait(self._feeds.values())
        await tending.stop(within=_STOP_SECONDS)

    # ----------------------------------------------------------------------------------------------- which batches

    async def _look(self) -> None:
        if self._has_to_resume:
            await self._resume_all()
        records = [record for record in await in_thread(self._store.batches.unfinished) if record.target is None]
        unfinished = {record.id: record for record in records}
        for batch_id, feed in self._fed.items():
            feed.look(unfinished.get(batch_id))
        self._careful = {record.id for record in records if record.careful and self._may_run(record)}
        if any(record.status == "cancelling" and record.id not in self._feeds for record in records):
            # A user waits for a cancel; everything else has time.
            self.loops[1].wake()
        await each_of(
            [record for record in records if record.id not in self._feeds], self._acquire, give_up_on=StoreBusyError
        )

    async def _resume_all(self) -> None:
        """Resume what an earlier engine has left paused, and try at once what waits."""
        for record in await in_thread(self._store.batches.unfinished):
            # One that runs with care does so for what it remembers of the engine before.
            if self._serves(record) and (record.reason is not None or record.careful):
                await in_thread(self._store.batches.resume, record.id)
        self._has_to_resume = False

    async def _acquire(self, record: BatchRecord) -> None:
        if self._may_start(record) and (lease := await in_thread(self._store.batches.acquire, record.id)) is not None:
            self._start(record, lease)

    def _may_start(self, record: BatchRecord) -> bool:
        if self._stopping or record.paused:
            return False
        if record.id in self._attempts and not is_due(record, self._attempts):
            return False
        if record.status == "validating":
            return True
        return self._may_run(record) and self._may_feed(record) and len(self._feeds) < _FEEDS_AT_ONCE

    def _may_run(self, record: BatchRecord) -> bool:
        return record.status == "in_progress" and not record.paused and self._serves(record)

    def _may_feed(self, record: BatchRecord) -> bool:
        # Requests that run one at a time must be alone in the engine, or the wrong one is blamed. A batch that waits
        # to be alone must not wait for batches that came later.
        return not self._fed if record.careful else not self._careful

    def _serves(self, record: BatchRecord) -> bool:
        return self._engine is not None and record.model in self._engine.served_model_names

    def _start(self, record: BatchRecord, lease: Lease) -> None:
        task = asyncio.create_task(self._advance(lease))
        self._feeds[record.id] = task
        task.add_done_callback(lambda _: self._ended(record.id))

    def _ended(self, id: str) -> None:  # noqa: A002 - OpenAI's word
        del self._feeds[id]
        self.wake()

    # --------------------------------------------------------------------------------------------------- one batch

    async def _advance(self, lease: Lease) -> None:
        try:
            record = await in_thread(lifecycle.validate, self._store, lease)
            if record.status == "in_progress" and (engine := self._engine) and self._serves(record):
                self._with_engine.add(lease.id)
                try:
                    end = await self._feed(lease, record, engine)
                finally:
                    self._with_engine.discard(lease.id)
                if end in {"answered", "ending"}:
                    await in_thread(lifecycle.finish, self._store, lease)
                    self._latest.pop(lease.id, None)
            self._attempts.forget(lease.id)
        except Exception as error:  # noqa: BLE001 - the batch says it
            if (said := await in_thread(postpone, lease, error, self._attempts)) is not None:
                self._on_notice(said)
        finally:
            await in_thread(lease.release)

    async def _pause(self, lease: Lease, reason: str) -> None:
        await in_thread(lambda: lease.update(paused=True, reason=reason))
        self._on_notice(f"Batch {lease.id} is paused: {reason}")

    async def _feed(self, lease: Lease, record: BatchRecord, engine: Engine) -> End:
        if lease.id in self._lost:
            # Resumed since it was paused for the loss.
            self._loss = None
            self._lost.discard(lease.id)
        if record.reason not in (None, DISK_FULL_REASON):
            self._attempts.remember(lease.id, None)
            await in_thread(lambda: lease.update(reason=None))
        if engine.state not in HOLDS_REQUESTS and (reason := await self._rebuild(engine)) is not None:
            self._lost.add(lease.id)
            await self._pause(lease, f"{reason} {_ADVICE}")
            return "stopped"
        recovered = await in_thread(lease.recover)
        index = await in_thread(lifecycle.load_index, self._store, lease)
        take = functools.partial(take_answers, on_notice=self._on_notice)
        if taken := await in_thread(take, self._store, lease, record, index, engine):
            self._on_notice(f"Batch {lease.id}: {taken:,} of {len(index):,} answers are reused from earlier batches.")
            recovered = await in_thread(lease.recover)
        plan = await in_thread(plan_requests, index, recovered.finished)
        order = plan.order
        if record.careful and lease.id in self._suspects:
            suspects = self._suspects[lease.id]
            order = array("I", (position for position in order if position in suspects))
        if self._engine is not engine or not self._may_feed(record):
            return "stopped"
        feed = Feed(
            self._store,
            lease,
            record,
            index=index,
            order=order,
            followers=plan.followers,
            engine=engine,
            window=self._window,
            latest=self._latest.setdefault(lease.id, Latest()),
            attempts=self._attempts,
            say=self._on_notice,
        )
        self._fed[lease.id] = feed
        if (done := recovered.counts.total - recovered.counts.left - taken) > 0:
            self._on_notice(f"Resuming batch {lease.id}: {done:,} of {recovered.counts.total:,} requests are answered.")
        # After the notice: a load waits for this, so that the notice appears under its cell.
        self.resumed.add(lease.id)
        try:
            end = await feed.run()
            if end == "died":
                await self._survive(lease, record, feed, engine)
            elif feed.lines:
                self._killers_in_a_row = 0
            if end == "answered" and len(order) < len(plan.order):
                # No suspect kills the engine by itself; the rest can run together.
                await in_thread(lambda: lease.update(deaths=0, careful=False))
                return "stopped"
            return end
        finally:
            del self._fed[lease.id]

    # ------------------------------------------------------------------------------------------- deaths of the engine

    async def _survive(self, lease: Lease, record: BatchRecord, feed: Feed, engine: Engine) -> None:
        deaths = 1 if feed.lines else record.deaths + 1
        careful = record.careful or deaths >= _CAREFUL_AFTER_DEATHS
        self._suspects[lease.id] = frozenset(feed.suspects)
        if feed.lines:
            self._killers_in_a_row = 0
        if record.careful and len(feed.suspects) == 1:
            await feed.put_killer()
            self._killers_in_a_row += 1
            deaths, careful = 0, False
        if careful:
            self._careful.add(lease.id)
        await in_thread(lambda: lease.update(deaths=deaths, careful=careful))
        reason = None
        if deaths >= _PAUSED_AFTER_DEATHS:
            reason = f"The engine died {deaths} times without an answer in between."
        elif self._killers_in_a_row >= _PAUSED_AFTER_DEATHS:
            reason = f"The engine died on {self._killers_in_a_row} requests in a row, each of which ran alone."
        if (rebuilt := await self._rebuild(engine)) is not None:
            self._lost.add(lease.id)
        if reason or rebuilt:
            await self._pause(lease, f"{reason or rebuilt} {_ADVICE}")

    async def _rebuild(self, engine: Engine) -> str | None:
        """Start the engine again, once for all batches that were with it; return the reason why it cannot be."""
        async with self._rebuilding:
            if self._engine is not engine or engine.state in HOLDS_REQUESTS:
                return None
            if self._loss is not None:
                return self._loss
            self._on_notice("The engine died. It is being loaded again, and the batch continues.")
            message = ""
            for _ in range(_PAUSED_AFTER_DEATHS):
                self._starting = asyncio.create_task(engine.start())
                (error,) = await asyncio.gather(self._starting, return_exceptions=True)
                if error is None or self._engine is not engine:
                    return None
                if not isinstance(error, EngineError):
                    raise error
                message = str(error)
            self._loss = f"The engine died and could not be loaded again: {message}"
            return self._loss
