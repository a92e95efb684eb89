"""Everything that lives in the kernel, put together: the store, the engine, the runner and the batches of frames.

One object per process (`current`); it starts when it is first asked for something, and ends with the process.
"""

from __future__ import annotations

import atexit
import collections
import contextlib
import functools
import os
import sys
import time
from collections.abc import Callable, Hashable, Iterator, Sequence
from concurrent.futures import Future
from pathlib import Path
from typing import TYPE_CHECKING, Any

from vbatch_jupyter.batch import Batch
from vbatch_jupyter.engine.base import Engine
from vbatch_jupyter.engine.thread import EngineThread
from vbatch_jupyter.errors import ConflictError, EngineNotLoadedError, FrameError
from vbatch_jupyter.manager import Manager
from vbatch_jupyter.progress import Progress
from vbatch_jupyter.protocol.batch import BatchRecord
from vbatch_jupyter.protocol.body import endpoint_path
from vbatch_jupyter.protocol.stats import EngineStats, Snapshot
from vbatch_jupyter.runner import Runner
from vbatch_jupyter.store import Store
from vbatch_jupyter.widgets.line import Line

if TYPE_CHECKING:
    import pandas as pd

    from vbatch_jupyter.frames.results import FrameDescription
    from vbatch_jupyter.frames.schema import Schema

DEMO_MODELS = ("demo", "demo-embeddings")
"""Names that `load` takes for the models that come as packages."""

_GRACE_SECONDS = 0.5
"""How long an interrupt waits for a second one, or for the kernel's shutdown, before it cancels."""

_RESUME_SECONDS = 2.0
_CLOSE_SECONDS = 20.0


class Kernel:
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
    """

    def __init__(
        self,
        store: Store,
        *,
        make_engine: Callable[..., Engine] | None = None,
        say: Callable[[str], None] | None = None,
    ) -> None:
        self.store = store
        self._make_engine = make_engine or _vllm_engine
        self._thread = EngineThread()
        self._line = Line()
        self._notices: collections.deque[str] = collections.deque()
        # ipykernel shows what another thread prints under the cell that started the thread: the main thread says it.
        self._say = say or self._notices.append
        self._runner = self._thread.call(self._new_runner())
        self._running: Future[None] = self._thread.submit(self._runner.run())
        self.manager = Manager(store, profile="local", wake=self._wake)
        self.engine: Engine | None = None

    async def _new_runner(self) -> Runner:
        return Runner(self.store, on_notice=self._say)

    def _say_notices(self) -> None:
        while self._notices:
            self._line.say(self._notices.popleft())

    def _wake(self) -> None:
        self._thread.loop.call_soon_threadsafe(self._runner.wake)

    # ----------------------------------------------------------------------------------------------------- the engine

    def load(self, model: str, flags: Sequence[str] = ()) -> Engine:
        """Start an engine in the place of the one that is loaded, and take up the batches that wait for its model.

        Parameters
        ----------
        model
            A Hugging Face id, a folder, or one of `DEMO_MODELS`.
        flags
            Flags of ``vllm serve``.

        Raises
        ------
        EngineArgumentError
            A flag that ``vllm serve`` refuses.
        EngineLoadError
            The engine did not start.
        """
        self.unload()
        line = self._line = Line()
        phrases = [f"loading {model}"]
        path, flags = _resolve(model, list(flags), line)
        log_path = self.store.path / "logs" / f"engine-{os.getpid()}.log"
        engine = self._make_engine(path, flags, log_path=log_path, on_progress=phrases.append)
        loading = self._thread.submit(engine.start())
        begun = time.monotonic()
        try:
            while not loading.done():
                line.draw(f"{model}: {phrases[-1]} · {time.monotonic() - begun:.0f} s")
                time.sleep(0.1)
            loading.result()
        except BaseException as error:
            loading.cancel()
            line.end(f"{model}: not loaded" + (" (interrupted)" if isinstance(error, KeyboardInterrupt) else ""))
            raise
        line.end(f"{', '.join(engine.served_model_names)}: ready in {time.monotonic() - begun:.0f} s")
        self.engine = engine
        self._thread.call(self._runner.attach(engine))
        self._await_resumed(engine)
        self._say_notices()
        return engine

    def _await_resumed(self, engine: Engine) -> None:
        # So that what is resumed is said under the cell that loads, and not under the next one.
        until = time.monotonic() + _RESUME_SECONDS
        while time.monotonic() < until and any(
            record.status == "in_progress"
            and record.model in engine.served_model_names
            and record.id not in self._runner.resumed
            for record in self.store.batches.unfinished()
        ):
            time.sleep(0.02)

    def unload(self) -> None:
        """End the engine and its processes; batches that it was running stay in progress."""
        engine, self.engine = self.engine, None
        if engine is not None:
            self._thread.call(self._runner.detach())
            self._thread.call(engine.shutdown())

    def engine_stats(self) -> EngineStats | None:
        """Give the engine's figures, or None where none is loaded."""
        engine = self.engine
        return None if engine is None else engine.stats()

    def loaded_engine(self) -> Engine:
        """Give the engine; `EngineNotLoadedError` where none is loaded."""
        if self.engine is None:
            raise EngineNotLoadedError
        return self.engine

    # ----------------------------------------------------------------------------------------------------- batches

    def attach(self, id: str) -> Batch:  # noqa: A002 - OpenAI's word
        """Give the handle on a batch of the store."""
        self._say_notices()
        return Batch(self.manager, id, engine_stats=self.engine_stats)

    def batches(self) -> Iterator[BatchRecord]:
        """Give all batches of the store, the newest first."""
        after = None
        while True:
            page = self.manager.batches.list(after=after, limit=100)
            yield from page.data
            if not page.has_more:
                return
            after = page.data[-1].id

    def submit(
        self,
        df: pd.DataFrame,
        template: str,
        *,
        system: str | None = None,
        schema: Schema | None = None,
        endpoint: str = "chat",
        model: str | None = None,
        output: str = "response",
        custom_id: Hashable | None = None,
        sample: int | None = None,
        fresh: bool = False,
        **body: Any,
    ) -> Batch:
        """Make a batch of a frame; `vbatch_jupyter.submit` says what the arguments mean."""
        df = _sampled(df, sample)
        lines, description = _requests_of(
            df,
            template,
            model=model or self.loaded_engine().served_model_names[0],
            system=system,
            schema=schema,
            endpoint=endpoint,
            output=output,
            custom_id=custom_id,
            **body,
        )
        if not len(df):
            raise FrameError("The DataFrame has no rows, so there is no batch to submit.", param="df")
        file = self.manager.files.create(lines, filename="dataframe.jsonl", purpose="batch")
        record = self.manager.batches.create(
            input_file_id=file.id, endpoint=description.endpoint, fresh=fresh, frame=description.to_json()
        )
        # A copy: a frame that is sorted or filled in place meanwhile must not get its rows' answers in other places.
        return Batch(self.manager, record.id, engine_stats=self.engine_stats, df=df.copy(), schema=schema)

    def run(self, df: pd.DataFrame, template: str, *, sample: int | None = None, **options: Any) -> pd.DataFrame:
        """Send a frame through a batch and return its result; the arguments are those of `submit`."""
        engine = self.loaded_engine()
        model = options.get("model")
        if model is not None and model not in engine.served_model_names:
            served = " and ".join(map(repr, engine.served_model_names))
            message = f"The engine in this kernel serves {served}, not {model!r}: load that model first, or "
            raise EngineNotLoadedError(f"{message}make a batch that waits for it (submit, or -b).")
        df = _sampled(df, sample)
        if not len(df):
            return _empty_result(df, template, **{"model": engine.served_model_names[0], **options})
        return self.follow(self.submit(df, template, **options)).results()

    def follow(self, batch: Batch, *, cancels: bool = True) -> Batch:
        """Wait for a batch and show how it gets on; an interrupt cancels it, a second one only ends the wait.

        Parameters
        ----------
        batch
            The batch.
        cancels
            Whether the first interrupt cancels; False for a batch that another cell has made to run by itself.

        Raises
        ------
        KeyboardInterrupt
            At the second interrupt, or when the kernel is being shut down; the batch stays as it is.
        """
        line = self._line = Line()
        first = batch.snapshot()

        def show(now: Snapshot) -> None:
            self._say_notices()
            line.draw(Progress(first, now).line())

        try:
            batch.wait(show=show)
        except KeyboardInterrupt:
            if not cancels:
                line.end(f"{batch.id}: no longer followed; it goes on")
                return batch
            # Jupyter interrupts before it restarts or shuts a kernel down, and that is no cancel.
            line.end(f"{batch.id}: interrupted; cancelling it (interrupt again at once to leave it running)")
            _await_shutdown()
            with contextlib.suppress(ConflictError):  # it has ended meanwhile
                batch.cancel()
            batch.wait(show=show)
        except BaseException:
            line.end(repr(batch))
            raise
        line.end(Progress(first, batch.snapshot()).line())
        return batch

    def close(self) -> None:
        """End the engine and the runner; what is finished is on the disk."""
        try:
            self._thread.call(self._runner.stop(), timeout=_CLOSE_SECONDS)
            self._running.result(timeout=_CLOSE_SECONDS)
            if self.engine is not None:
                self._thread.call(self.engine.shutdown(), timeout=_CLOSE_SECONDS)
        finally:
            self._thread.stop()
            self.store.close()


@functools.cache
def current() -> Kernel:
    """Give this process's kernel object; the first call opens the store."""
    kernel = Kernel(Store())
    atexit.register(kernel.close)
    return kernel


def _vllm_engine(model: str, flags: Sequence[str], **options: Any) -> Engine:
    from vbatch_jupyter.engine.vllm_engine import VllmEngine

    return VllmEngine(model, flags, **options)


def _resolve(model: str, flags: list[str], line: Line) -> tuple[str, list[str]]:
    if model not in DEMO_MODELS:
        return str(Path(model).expanduser()) if model.startswith(("~", ".", "/")) else model, flags
    from vbatch_jupyter.engine import demo_model

    line.draw(f"{model}: finding or making the model's folder")
    path = demo_model.demo_model_path() if model == "demo" else demo_model.demo_embedding_model_path()
    if not any(flag.startswith(("--served-model-name", "--served_model_name")) for flag in flags):
        flags = [*flags, "--served-model-name", model]
    return str(path), flags


def _sampled(df: pd.DataFrame, sample: int | None) -> pd.DataFrame:
    from vbatch_jupyter.frames.requests import check_frame

    check_frame(df)
    if sample is None:
        return df
    if sample < 1:
        raise FrameError(f"sample= is how many of the first rows to run, not {sample}.", param="sample")
    return df.iloc[:sample]


def _requests_of(
    df: pd.DataFrame,
    template: str,
    *,
    model: str,
    system: str | None = None,
    schema: Schema | None = None,
    endpoint: str = "chat",
    output: str = "response",
    custom_id: Hashable | None = None,
    **body: Any,
) -> tuple[Iterator[bytes], FrameDescription]:
    """Check all that can be wrong, and give the lines of the input file and what the batch keeps of the frame."""
    from vbatch_jupyter.frames.requests import render_requests
    from vbatch_jupyter.frames.results import describe
    from vbatch_jupyter.frames.schema import response_format

    lines = render_requests(
        df,
        template,
        endpoint=endpoint,
        model=model,
        system=system,
        response_format=None if schema is None else response_format(schema),
        custom_id=custom_id,
        body=body,
    )
    path = endpoint_path(endpoint)
    return lines, describe(df, endpoint=path, output=output, schema=schema, custom_id=custom_id, body=body)


def _empty_result(
    df: pd.DataFrame, template: str, *, fresh: bool = False, schema: Schema | None = None, **options: Any
) -> pd.DataFrame:
    from vbatch_jupyter.frames.results import results

    del fresh
    _, description = _requests_of(df, template, schema=schema, **options)
    return results(
        [],
        rows=0,
        df=df,
        output=description.output,
        schema=schema,
        endpoint=description.endpoint,
        extras=description.extras,
    )


def _await_shutdown() -> None:
    until = time.monotonic() + _GRACE_SECONDS
    while time.monotonic() < until:
        time.sleep(0.02)
        if _is_shutting_down():
            raise KeyboardInterrupt


def _is_shutting_down() -> bool:
    if "ipykernel" not in sys.modules:
        return False
    from IPython import get_ipython

    # ipykernel has no public word for it; it sets this before it leaves its loops.
    kernel = getattr(get_ipython(), "kernel", None)
    return getattr(kernel, "_shutdown_message", None) is not None
