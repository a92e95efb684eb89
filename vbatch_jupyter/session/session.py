"""Everything that one process has: the store, the engine, the runner and the batches of its DataFrames.

One object per process (`current`); it starts when it is first asked for something, and ends with the process.
"""

from __future__ import annotations

import atexit
import collections
import contextlib
import dataclasses
import functools
import math
import os
import sys
import time
from collections.abc import Callable, Iterator, Sequence
from concurrent.futures import Future
from typing import TYPE_CHECKING, Any

import msgspec

from vbatch_jupyter.display.line import Line
from vbatch_jupyter.display.progress import Progress
from vbatch_jupyter.engine.base import Engine
from vbatch_jupyter.engine.listener import Verbs
from vbatch_jupyter.engine.thread import EngineThread
from vbatch_jupyter.errors import BadRequestError, ConflictError, EngineNotLoadedError, FrameError, StoreError
from vbatch_jupyter.loop import Attempts, Loop
from vbatch_jupyter.manager import Manager, waiting
from vbatch_jupyter.protocol.batch import BatchRecord
from vbatch_jupyter.protocol.file import FileRecord
from vbatch_jupyter.protocol.policy import Answering
from vbatch_jupyter.records import EngineStats
from vbatch_jupyter.runner import Runner
from vbatch_jupyter.session.batch import Batch
from vbatch_jupyter.session.loader import Loader
from vbatch_jupyter.session.presence import Presence
from vbatch_jupyter.store import Store
from vbatch_jupyter.targets.configuration import Target, rules_of, targets
from vbatch_jupyter.targets.submission import check_for_target, reachable_target
from vbatch_jupyter.targets.target_runner import TargetRunner
from vbatch_jupyter.widgets.frontend import ProgressStyle, await_shutdown, draws_widgets

if TYPE_CHECKING:
    import pandas as pd

    from vbatch_jupyter.frames.ask import Ask
    from vbatch_jupyter.frames.render import Requests
    from vbatch_jupyter.frames.schema import Schema

_CLOSE_SECONDS = 20.0
_NOTES_SECONDS = 2.0
"""How long a call that does not wait for a batch waits for what its validation notes."""


class Session:
    """The store, the engine and the runner of one process.

    Parameters
    ----------
    store
        Where batches are kept.
    make_engine
        Called with model, flags, log path and a callback for progress; vLLM's engine by default.
    say
        Called with a sentence when a batch is resumed or paused, from any thread; by default the next call that waits
        shows it.

    Attributes
    ----------
    progress, patience
        How to show a batch that a cell waits for; how long the engine may give no sign of life.
    tokenize, count_tokens
        Count prompt tokens, as `Loader` describes.
    """

    def __init__(
        self,
        store: Store,
        *,
        make_engine: Callable[..., Engine] | None = None,
        say: Callable[[str], None] | None = None,
    ) -> None:
        self.store = store
        self._thread = EngineThread()
        self.progress: ProgressStyle = "auto"
        self._notices: collections.deque[str] = collections.deque()
        self._noted, self._told_waiting = set[str](), set[str]()
        # ipykernel shows what a thread prints under the cell that started it, so the main thread prints the notices.
        self._say = say or self._notices.append
        self._runner = Runner(store, on_notice=self._say, attempts=(attempts := Attempts.from_environment()))
        self._running: Future[None] = self._thread.submit(self._runner.run())
        self._targets = TargetRunner(store, on_notice=self._say, attempts=attempts)
        self._thread.submit(self._targets.run())
        # The name under which a Jupyter server starts the kernel of a notebook.
        self.manager = Manager(store, profile="local", wake=self._wake, origin=os.environ.get("JPY_SESSION_NAME"))
        loader = self._loader = Loader(store, self._thread, self._runner, make_engine=make_engine, say=self._say)
        self.patience = loader.patience
        self.tokenize, self.count_tokens = loader.tokenize, loader.count_tokens
        verbs = Verbs(
            engine=lambda: self.engine,
            stats=self._loader.stats,
            loops=self.loops,
            wake=self._runner.wake,
            load=self._load_silently,
            unload=self.unload,
        )
        self._own_loops = [*self._runner.loops, self._targets.loop]
        self._presence = Presence(store, self._thread, loader.socket, verbs, describe=loader.describe, say=self._say)
        self._own_loops.append(self._presence.loop)

    def _wake(self) -> None:
        self._runner.loops[0].wake()
        self._targets.loop.wake()

    # ----------------------------------------------------------------------------------------------------- the engine

    @property
    def engine(self) -> Engine | None:
        """The engine; None if no engine is loaded."""
        return self._loader.engine

    def loops(self) -> Sequence[Loop]:
        """Return all loops of this process; from any thread."""
        live = sys.modules.get("vbatch_jupyter.widgets.live")
        return (*self._own_loops, *(self.engine.loops if self.engine else ()), *(live.loops() if live else ()))

    def load(self, model: str, flags: Sequence[str] = ()) -> Engine:
        """Start an engine, as `Loader.load` does, and show the progress.

        Parameters
        ----------
        model, flags
            What ``vllm serve`` would be given; the model may also be one of `loader.DEMO_MODELS`.
        """
        engine = self._loader.load_and_show(model, flags)
        self._presence.publish()
        self._tell(*engine.notes)
        return engine

    def _load_silently(self, model: str, flags: Sequence[str]) -> None:
        # Do not print under a cell what was requested elsewhere.
        self._loader.load(model, flags)
        self._presence.publish()

    def unload(self) -> None:
        """End the engine and its processes; batches that it was running stay in progress."""
        self._loader.unload()
        self._presence.publish()

    def engine_stats(self) -> EngineStats | None:
        """Return the engine's figures, or None if no engine is loaded."""
        engine = self.engine
        return None if engine is None else engine.stats()

    def served_model_names(self) -> Sequence[str]:
        """Return the names under which the engine serves its model; empty if no engine is loaded."""
        return () if self.engine is None else self.engine.served_model_names

    def target_names(self) -> Sequence[str]:
        """Return the names of the batch services that can run a batch instead of the engine."""
        return tuple(targets())

    def loaded_engine(self) -> Engine:
        """Return the engine; `EngineNotLoadedError` if no engine is loaded."""
        if self.engine is None:
            raise EngineNotLoadedError
        return self.engine

    # ----------------------------------------------------------------------------------------------------- batches

    def attach(self, id: str) -> Batch:  # noqa: A002 - OpenAI's word
        """Return a batch of the store by its id."""
        self._tell()
        return self._batch(self.manager.batches.retrieve(id).id)

    def _batch(self, id: str, *, df: pd.DataFrame | None = None, schema: Schema | None = None) -> Batch:  # noqa: A002
        return Batch(
            self.manager,
            id,
            engine_stats=self.engine_stats,
            latest=self._runner.latest,
            draws_widgets=lambda: draws_widgets(self.progress),
            tell=self._tell_waiting,
            reopen=functools.partial(_reopened, str(self.store.path)),
            df=df,
            schema=schema,
        )

    def batches(self) -> Iterator[BatchRecord]:
        """Return all batches of the store, newest first."""
        after = None
        while True:
            page = self.manager.batches.list(after=after, limit=100)
            yield from page.data
            if not page.has_more:
                return
            after = page.data[-1].id

    def requests_of(self, df: pd.DataFrame, ask: Ask, *, tells: bool = True) -> Requests:
        """Check an ask and make its requests; the engine's model answers if the ask has no model."""
        from vbatch_jupyter.frames.render import requests_of

        if ask.model is None and "model" not in ask.col:
            ask = dataclasses.replace(ask, model=self._default_model(ask.target))
        here = self._engine_for(ask.model) if ask.target is None else None
        known = rules_of(ask.target or "local") if here is None else here
        by = Answering(known.server) if here is None else Answering(here.server, here.limits)
        requests = requests_of(df, ask, by, reasons=here is not None and here.has_reasoning, grammar=known.grammar)
        self._tell(*(requests.notes if tells else ()))
        return requests

    def _engine_for(self, model: str | None) -> Engine | None:
        return self.engine if model in self.served_model_names() else None

    def _tell(self, *notes: str, line: Callable[[], Line] = Line) -> None:
        for note in notes:
            self._say(note)
        while self._notices:
            line().say(self._notices.popleft())

    def _tell_notes(self, record: BatchRecord, line: Callable[[], Line] = Line) -> None:
        notes: Sequence[str] = ()
        if record.status != "validating" and record.id not in self._noted:
            self._noted.add(record.id)
            notes = self.manager.batches.notes(record)
        self._tell(*(f"{record.id}: {note}" for note in notes), line=line)

    def _tell_waiting(self, record: BatchRecord) -> None:
        self._tell_notes(record)
        if record.id not in self._told_waiting and (why := self.manager.batches.waiting(record)) is not None:
            self._told_waiting.add(record.id)
            self._tell(f"{record.id} waits: {why}")

    def _tell_notes_soon(self, id: str) -> None:  # noqa: A002 - OpenAI's word
        # So that they appear under the cell that makes a batch and returns; a longer validation is not waited for.
        until = time.monotonic() + _NOTES_SECONDS
        while (record := self.manager.batches.retrieve(id)).status == "validating" and time.monotonic() < until:
            time.sleep(0.02)
        self._tell_notes(record)

    def _tell_unfit(self, file: FileRecord, model: str | None, *, of_frame: bool) -> None:
        # The keys of a frame's requests have been checked.
        here = self._engine_for(model)
        if here is None or (of_frame and file.bytes <= (here.limits.max_model_len or math.inf)):
            return
        from vbatch_jupyter.estimate.fitting import unfit

        count_tokens = self.count_tokens if here.counts_tokens and here.state == "ready" else None
        with self.manager.files.content(file.id) as content:
            self._tell(*unfit(content, here.limits, count_tokens=count_tokens, looks_at_keys=not of_frame))

    def submit(self, df: pd.DataFrame, ask: Ask) -> Batch:
        """Make a batch of a frame; `vbatch_jupyter.submit` says more."""
        requests = self.requests_of(df, ask)
        if not len(requests.df):
            raise FrameError("The DataFrame has no rows, so there is no batch to submit.", param="df")
        return self._submit(requests, may_wait=True)

    def _submit(self, requests: Requests, *, may_wait: bool) -> Batch:
        ask = requests.ask
        target = None if ask.target is None else reachable_target(ask.target)
        file = self.manager.files.create(requests.lines, filename="dataframe.jsonl", purpose="batch")
        self._tell(*requests.late_notes())
        frame = requests.described()
        fields: dict[str, Any] = {"endpoint": frame.endpoint, "frame": frame.to_json(), "fresh": ask.fresh}
        record = self.create(file, ask.model, target=target, may_wait=may_wait, **fields)
        # A copy: if the frame is sorted or filled in place meanwhile, the answers must still match their rows.
        return self._batch(record.id, df=requests.df.copy(), schema=ask.schema)

    def create(
        self,
        file: FileRecord,
        model: str | None,
        *,
        endpoint: str,
        target: Target | None,
        may_wait: bool,
        frame: str | None = None,
        **fields: Any,
    ) -> BatchRecord:
        """Make a batch of a file in the store, and say what is known of its requests.

        Parameters
        ----------
        file
            The input file.
        model
            The model of its requests.
        endpoint, frame, **fields
            As for `BatchesManager.create`.
        target
            The batch service that runs it instead of the engine here.
        may_wait
            Whether the call returns without waiting for the batch, so that what its validation notes is said here.
        """
        if target is None:
            self._tell_unfit(file, model, of_frame=frame is not None)
        else:
            try:
                with self.manager.files.content(file.id) as checked:
                    note = check_for_target(checked, target, endpoint)
            except BadRequestError:
                self.manager.files.delete(file.id)
                raise
            self._tell(*([] if note is None else [note]))
            fields |= {"profile": target.profile, "target": msgspec.json.encode(target).decode()}
        record = self.manager.batches.create(input_file_id=file.id, endpoint=endpoint, frame=frame, **fields)
        if may_wait:
            self._tell_notes_soon(record.id)
        return record

    def _default_model(self, target: str | None) -> str:
        if target is not None and self.engine is None:
            raise FrameError(f"Name the model for {target} with model=.", param="model")
        return self.loaded_engine().served_model_names[0]

    def refuse_to_wait(self, model: str | None) -> None:
        """Raise an error if no engine has the model, as `waiting.refuse_to_wait` does."""
        # The store is asked only for what the engine here does not serve.
        if model not in self.served_model_names():
            waiting.refuse_to_wait(model, self.store.engines.live(planned=True))

    def run(self, df: pd.DataFrame, ask: Ask) -> pd.DataFrame:
        """Send a frame through a batch and return its result; `vbatch_jupyter.run` says more."""
        if ask.target is None:
            ask = dataclasses.replace(ask, model=ask.model or self._default_model(None))
            self.refuse_to_wait(ask.model)
        requests = self.requests_of(df, ask)
        if len(requests.df):
            return self.follow(self._submit(requests, may_wait=False)).results()
        from vbatch_jupyter.frames.results import results

        # A frame without rows makes no batch; mistakes have been reported before.
        return results([], requests.description, df=requests.df, schema=ask.schema)

    def follow(self, batch: Batch, *, cancels: bool = True) -> Batch:
        """Wait for a batch and show its progress; an interrupt cancels it, a second one only ends the wait.

        Parameters
        ----------
        batch
            The batch, which is returned.
        cancels
            Whether the first interrupt cancels; False for a batch that another cell has made.

        Raises
        ------
        KeyboardInterrupt
            At the second interrupt, or when the kernel is being shut down; the batch stays as it is.
        """
        # Made when there is something to print: a widget needs no line.
        line = functools.cache(Line)
        live = None if self.progress in ("text", "none") else batch.live()
        progress = Progress(batch.snapshot()) if live is None and self.progress != "none" else None

        def show(now: BatchRecord) -> None:
            self._tell_notes(now, line)
            if progress is not None:
                line().draw(progress.see(batch.snapshot(now)).line(with_engine=True))

        try:
            batch.wait(show=show)
        except KeyboardInterrupt:
            if not cancels:
                line().end(f"{batch.id}: no longer followed. {batch.waiting or 'It keeps running.'}")
                return batch
            # Jupyter interrupts before it restarts or shuts a kernel down, and that is not a cancel.
            line().end(f"{batch.id}: interrupted, cancelling (interrupt again to leave it running)")
            await_shutdown()
            with contextlib.suppress(ConflictError):  # it has ended meanwhile
                batch.cancel()
            batch.wait(show=show)
        except BaseException:
            if progress is not None:  # a widget continues by itself
                line().end(repr(batch))
            raise
        if live is not None:
            live.finish()
        elif progress is not None:
            line().end(repr(batch))
        return batch

    def close(self) -> None:
        """Stop the engine and the runner. Finished answers are on the disk."""
        self._loader.give_up()
        if "vbatch_jupyter.widgets.live" in sys.modules:
            sys.modules["vbatch_jupyter.widgets.live"].stop_all()
        try:
            self._presence.close(_CLOSE_SECONDS)
            self._thread.call(self._targets.stop(), timeout=_CLOSE_SECONDS)
            self._thread.call(self._runner.stop(), timeout=_CLOSE_SECONDS)
            self._running.result(timeout=_CLOSE_SECONDS)
            if self.engine is not None:
                self._thread.call(self.engine.shutdown(), timeout=_CLOSE_SECONDS)
        finally:
            self._thread.stop()
            self.store.close()


def _reopened(store_path: str, id: str) -> Batch:  # noqa: A002 - OpenAI's word
    """Return a batch of this process's store; what a pickled handle becomes."""
    session = current()
    if str(session.store.path) != store_path:
        message = f"Batch {id} is in the store {store_path}, and this process uses {session.store.path}."
        raise StoreError(f"{message} Set the environment variable VBATCH_STORE to that store.")
    return session.attach(id)


@functools.cache
def current() -> Session:
    """Return the session of this process; the first call opens the store."""
    session = Session(Store())
    atexit.register(session.close)
    os.register_at_fork(after_in_child=lambda: atexit.unregister(session.close))  # a child's end is not this one's
    return session
