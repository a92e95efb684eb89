"""Everything that one process has: the store, the engine, the runner and the batches of its DataFrames.

One object per process (`current`); it starts when it is first asked for something, and ends with the process.
"""

from __future__ import annotations

import atexit
import collections
import contextlib
import dataclasses
import functools
import os
import sys
import time
from collections.abc import Callable, Iterator, Mapping, Sequence
from concurrent.futures import Future
from pathlib import Path
from typing import TYPE_CHECKING, Any

import msgspec

from vbatch_jupyter.display.line import Line
from vbatch_jupyter.display.progress import Progress
from vbatch_jupyter.engine.base import Engine
from vbatch_jupyter.engine.listener import Verbs
from vbatch_jupyter.engine.thread import EngineThread
from vbatch_jupyter.errors import BadRequestError, ConflictError, EngineNotLoadedError, FrameError
from vbatch_jupyter.loop import Attempts, Loop
from vbatch_jupyter.manager import Manager
from vbatch_jupyter.manager.waiting import refuse_to_wait
from vbatch_jupyter.protocol.batch import BatchRecord
from vbatch_jupyter.protocol.check import first_model, first_url
from vbatch_jupyter.protocol.endpoints import Endpoint
from vbatch_jupyter.protocol.policy import Answering
from vbatch_jupyter.protocol.profiles import PROFILES
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

_CLOSE_SECONDS, _TOKENIZE_SECONDS = 20.0, 5.0


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
        self._noted = set[str]()
        # ipykernel shows what a thread prints under the cell that started it, so the main thread prints the notices.
        self._say = say or self._notices.append
        self._runner = Runner(store, on_notice=self._say, attempts=(attempts := Attempts.from_environment()))
        self._running: Future[None] = self._thread.submit(self._runner.run())
        self._targets = TargetRunner(store, on_notice=self._say, attempts=attempts)
        self._thread.submit(self._targets.run())
        # The name under which a Jupyter server starts the kernel of a notebook.
        self.manager = Manager(store, profile="local", wake=self._wake, origin=os.environ.get("JPY_SESSION_NAME"))
        self._loader = Loader(store, self._thread, self._runner, make_engine=make_engine, say=self._say)
        self.patience = self._loader.patience
        verbs = Verbs(
            engine=lambda: self.engine,
            stats=self._loader.stats,
            loops=self.loops,
            wake=self._runner.wake,
            load=self._load_silently,
            unload=self.unload,
        )
        self._own_loops = [*self._runner.loops, self._targets.loop]
        self._presence = Presence(store, self._thread, verbs=verbs, describe=self._loader.describe, say=self._say)
        self._own_loops.append(self._presence.loop)

    def _say_notices(self, line: Callable[[], Line] = Line) -> None:
        while self._notices:
            line().say(self._notices.popleft())

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
        line = Line()
        begun = time.monotonic()
        try:
            engine = self._loader.load(model, flags, draw=line.draw)
        except BaseException as error:
            line.end(f"{model}: not loaded" + (" (interrupted)" if isinstance(error, KeyboardInterrupt) else ""))
            raise
        line.end(f"{', '.join(engine.served_model_names)}: ready in {time.monotonic() - begun:.0f} s")
        self._presence.publish()
        for note in engine.notes:
            self._say(note)
        self._say_notices()
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

    def tokenize(self, endpoint: Endpoint, body: Mapping[str, Any]) -> int | None:
        """Count the prompt tokens of a request; None if the engine here does not serve its model.

        Parameters
        ----------
        endpoint, body
            The request.
        """
        engine = self.engine
        if (
            engine is None
            or not self.counts_tokens
            or engine.state != "ready"
            or body.get("model") not in engine.served_model_names
        ):
            return None
        return self._thread.call(engine.tokenize(endpoint.countable(body)), timeout=_TOKENIZE_SECONDS)

    @property
    def counts_tokens(self) -> bool:
        """Whether there is an engine with a tokenizer."""
        return self.engine is not None and self.engine.counts_tokens

    def loaded_engine(self) -> Engine:
        """Return the engine; `EngineNotLoadedError` if no engine is loaded."""
        if self.engine is None:
            raise EngineNotLoadedError
        return self.engine

    def count_tokens(self, bodies: Sequence[bytes]) -> list[int]:
        """Count the prompt tokens of each of some chats or completions with the engine's tokenizer."""
        return self._thread.call(self.loaded_engine().tokenize_all(bodies))

    # ----------------------------------------------------------------------------------------------------- batches

    def attach(self, id: str) -> Batch:  # noqa: A002 - OpenAI's word
        """Return a batch of the store by its id."""
        self._say_notices()
        return self._batch(self.manager.batches.retrieve(id).id)

    def _batch(self, id: str, *, df: pd.DataFrame | None = None, schema: Schema | None = None) -> Batch:  # noqa: A002
        return Batch(
            self.manager,
            id,
            engine_stats=self.engine_stats,
            latest=self._runner.latest,
            draws_widgets=lambda: draws_widgets(self.progress),
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

        if "model" not in ask.col:
            ask = dataclasses.replace(ask, model=ask.model or self._default_model(ask.target))
        here = self.engine if ask.target is None and ask.model in self.served_model_names() else None
        known = rules_of(ask.target or "local") if here is None else here
        by = Answering(known.server) if here is None else Answering(here.server, here.limits)
        requests = requests_of(df, ask, by, reasons=here is not None and here.has_reasoning, grammar=known.grammar)
        self._tell(*(requests.notes if tells else ()))
        return requests

    def _tell(self, *notes: str) -> None:
        for note in notes:
            self._say(note)
        self._say_notices()

    def submit(self, df: pd.DataFrame, ask: Ask) -> Batch:
        """Make a batch of a frame; `vbatch_jupyter.submit` says more."""
        requests = self.requests_of(df, ask)
        if not len(requests.df):
            raise FrameError("The DataFrame has no rows, so there is no batch to submit.", param="df")
        return self._submit(requests)

    def _submit(self, requests: Requests) -> Batch:
        ask = requests.ask
        target = None if ask.target is None else reachable_target(ask.target)
        file = self.manager.files.create(requests.lines, filename="dataframe.jsonl", purpose="batch")
        self._tell(*requests.late_notes())
        frame = requests.described()
        record = self._create(file.id, endpoint=frame.endpoint, target=target, fresh=ask.fresh, frame=frame.to_json())
        # A copy: if the frame is sorted or filled in place meanwhile, the answers must still match their rows.
        return self._batch(record.id, df=requests.df.copy(), schema=ask.schema)

    def submit_file(
        self, path: Path, *, target: str | None = None, fresh: bool = False, may_wait: bool = True
    ) -> Batch:
        """Make a batch of an input file.

        Parameters
        ----------
        path
            The file; it may hold as many requests as the disk does.
        target
            The batch service that runs it; the engine here by default.
        fresh
            Ask the engine even if an answer is known.
        may_wait
            Whether it may wait for an engine that serves its model.

        Raises
        ------
        EngineNotLoadedError
            No engine serves its model, and it may not wait.
        BadRequestError
            It cannot be read, or the service would refuse it.
        """
        service = None if target is None else reachable_target(target)
        rules = PROFILES["local"] if service is None else service.rules()
        try:
            with path.open("rb") as content:
                endpoint = first_url(content, rules)
                if service is None and not may_wait:
                    self._refuse_to_wait(first_model(content, rules))
                content.seek(0)
                chunks = iter(lambda: content.read(1024 * 1024), b"")
                file = self.manager.files.create(chunks, filename=path.name, purpose="batch")
                record = self._create(file.id, endpoint=endpoint, target=service, fresh=fresh)
        except OSError as error:
            raise BadRequestError(f"The file {path} cannot be read: {error.strerror}.", param="file") from error
        return self._batch(record.id)

    def _create(self, file_id: str, *, endpoint: str, target: Target | None, **fields: Any) -> BatchRecord:
        if target is not None:
            try:
                with self.manager.files.content(file_id) as checked:
                    note = check_for_target(checked, target, endpoint)
            except BadRequestError:
                self.manager.files.delete(file_id)
                raise
            if note is not None:
                self._say(note)
            fields |= {"profile": target.profile, "target": msgspec.json.encode(target).decode()}
        return self.manager.batches.create(input_file_id=file_id, endpoint=endpoint, **fields)

    def _default_model(self, target: str | None) -> str:
        if target is not None and self.engine is None:
            raise FrameError(f"Name the model for {target} with model=.", param="model")
        return self.loaded_engine().served_model_names[0]

    def _refuse_to_wait(self, model: str | None) -> None:
        # The store is asked only for what the engine here does not serve.
        if model not in self.served_model_names():
            refuse_to_wait(model, self.store.engines.live(planned=True))

    def run(self, df: pd.DataFrame, ask: Ask) -> pd.DataFrame:
        """Send a frame through a batch and return its result; `vbatch_jupyter.run` says more."""
        if ask.target is None:
            ask = dataclasses.replace(ask, model=ask.model or self._default_model(None))
            self._refuse_to_wait(ask.model)
        requests = self.requests_of(df, ask)
        if len(requests.df):
            return self.follow(self._submit(requests)).results()
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
            if now.status != "validating" and batch.id not in self._noted:
                self._noted.add(batch.id)
                for note in self.manager.batches.notes(now):
                    self._say(f"{batch.id}: {note}")
            self._say_notices(line)
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


@functools.cache
def current() -> Session:
    """Return the session of this process; the first call opens the store."""
    session = Session(Store())
    atexit.register(session.close)
    os.register_at_fork(after_in_child=lambda: atexit.unregister(session.close))  # a child's end is not this one's
    return session
