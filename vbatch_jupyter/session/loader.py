"""Loads and unloads the engine of the kernel."""

from __future__ import annotations

import contextlib
import dataclasses
import os
import threading
import time
from collections.abc import Callable, Iterator, Mapping, Sequence
from concurrent.futures import CancelledError
from pathlib import Path
from typing import Any

from jupyter_core.paths import jupyter_runtime_dir

from vbatch_jupyter.display.line import Line
from vbatch_jupyter.engine.base import Engine
from vbatch_jupyter.engine.flags import RemoteFlags, remote_flags, served_names
from vbatch_jupyter.engine.listener import make_socket_path
from vbatch_jupyter.engine.thread import EngineThread
from vbatch_jupyter.errors import ConflictError, EngineLoadError, EngineNotLoadedError, StoreError
from vbatch_jupyter.protocol.endpoints import Endpoint
from vbatch_jupyter.records import EngineState, EngineStats, Patience
from vbatch_jupyter.runner import Runner
from vbatch_jupyter.store import Store

DEMO_MODELS = ("demo", "demo-embeddings")
"""Names that `Loader.load` takes for the models that come as packages."""

_RESUME_SECONDS = 2.0
_TOKENIZE_SECONDS = 5.0


class Loader:
    """Loads and unloads the one engine of a process.

    Parameters
    ----------
    store
        The store with the engine's batches.
    thread
        The engine's.
    runner
        The runner that uses the engine.
    make_engine
        Called with model, flags, log path and a callback for progress; vLLM's engine by default.

    Attributes
    ----------
    engine
        The engine, once it is ready; None if there is none.
    patience
        How long an engine may give no sign of life; a change concerns the loaded engine, too.
    socket
        Where this process listens, in a private folder of its own.
    """

    def __init__(
        self,
        store: Store,
        thread: EngineThread,
        runner: Runner,
        *,
        make_engine: Callable[..., Engine] | None = None,
        say: Callable[[str], object] | None = None,
    ) -> None:
        self._store = store
        self._thread = thread
        self._runner = runner
        self._make_engine = make_engine or _vllm_engine
        self._say = say or (lambda _: None)
        self.patience = Patience.of_environment()
        self.socket = make_socket_path(Path(jupyter_runtime_dir()))
        self._changing = threading.Lock()
        self._loading: tuple[str, ...] | None = None
        self._closed = False
        self.engine: Engine | None = None

    def load(self, model: str, flags: Sequence[str], *, draw: Callable[[str], None] = lambda _: None) -> Engine:
        """Start an engine instead of the loaded one, and run the batches that wait for its model.

        Parameters
        ----------
        model
            A Hugging Face id, a folder, one of `DEMO_MODELS`, or what a server has.
        flags
            Flags of ``vllm serve``, or ``--url`` and what `flags.RemoteFlags` has.
        draw
            Called repeatedly with the progress, in the calling thread.

        Raises
        ------
        ConflictError
            Another thread is loading or unloading.
        EngineArgumentError
            A flag that ``vllm serve`` refuses.
        EngineLoadError
            The engine did not start.
        """
        with self._alone():
            self._unload()
            self._loading = served_names(model, flags)
            try:
                engine = self._start(model, list(flags), draw)
            finally:
                self._loading = None
            self._thread.call(self._runner.attach(engine))
            self._await_resumed(engine)
            return engine

    def load_and_show(self, model: str, flags: Sequence[str]) -> Engine:
        """Start an engine, as `load` does, and show the progress on a line."""
        line, begun = Line(), time.monotonic()
        try:
            engine = self.load(model, flags, draw=line.draw)
        except BaseException as error:
            line.end(f"{model}: not loaded" + (" (interrupted)" if isinstance(error, KeyboardInterrupt) else ""))
            raise
        line.end(f"{', '.join(engine.served_model_names)}: ready in {time.monotonic() - begun:.0f} s")
        return engine

    def unload(self) -> None:
        """End the engine and its processes; `ConflictError` if another thread is loading or unloading."""
        with self._alone():
            self._unload()

    @contextlib.contextmanager
    def _alone(self) -> Iterator[None]:
        # Do not wait: a cell would be blocked for minutes by what was requested elsewhere.
        if not self._changing.acquire(blocking=False):
            what = f"loading {self._loading[0]!r}" if self._loading else "loading or unloading a model"
            message = f"This kernel is already {what}, requested elsewhere. Try again when it has finished."
            raise ConflictError(message, id=self._loading[0] if self._loading else "engine", status="loading")
        try:
            yield
        finally:
            self._changing.release()

    def _start(self, model: str, flags: list[str], draw: Callable[[str], None]) -> Engine:
        phrases = [f"loading {model}"]
        log_path = self._store.path / "logs" / f"engine-{os.getpid()}.log"
        if (remote := remote_flags(model, flags)) is not None:
            engine = _remote_engine(remote, on_progress=phrases.append, say=self._say)
        else:
            path, flags = _resolve(model, flags, draw)
            folder = self.socket.parent
            engine = self._make_engine(path, flags, log_path=log_path, folder=folder, on_progress=phrases.append)
        engine.patience, engine.say = self.patience, self._say
        starting = self._thread.submit(engine.start())
        begun = time.monotonic()
        try:
            while not starting.done() and not self._closed:
                draw(f"{model}: {phrases[-1]} · {time.monotonic() - begun:.0f} s")
                time.sleep(0.1)
            if self._closed:
                starting.cancel()
            starting.result()
        except CancelledError as error:
            raise EngineLoadError("The kernel is shutting down.") from error
        except BaseException:
            starting.cancel()
            raise
        # Before it stops being the loading engine, so that there always is one.
        self.engine = engine
        return engine

    def _unload(self) -> None:
        engine, self.engine = self.engine, None
        if engine is not None:
            self._thread.call(self._runner.detach())
            self._thread.call(engine.shutdown())

    def _await_resumed(self, engine: Engine) -> None:
        # So that notices about resumed batches appear under the cell that loads, not under the next one.
        until = time.monotonic() + _RESUME_SECONDS
        # If the store cannot be read now, the runner tries again.
        with contextlib.suppress(StoreError, OSError):
            while time.monotonic() < until and any(
                record.status == "in_progress"
                and record.model in engine.served_model_names
                and record.id not in self._runner.resumed
                for record in self._store.batches.unfinished()
            ):
                time.sleep(0.02)

    def describe(self) -> tuple[EngineState, Sequence[str]]:
        """Return the state, and the names that are served or will be; from any thread."""
        engine, loading = self.engine, self._loading
        if engine is not None:
            return engine.state, engine.served_model_names
        return ("unloaded", ()) if loading is None else ("loading", loading)

    def stats(self) -> EngineStats:
        """Return the engine's figures, those of a model that is loading, or those of none; from any thread."""
        engine = self.engine
        if engine is not None:
            return dataclasses.replace(engine.stats(), retries=engine.retries)
        state, models = self.describe()
        return EngineStats(model=models[0] if models else "", state=state)

    def tokenize(self, endpoint: Endpoint, body: Mapping[str, Any]) -> int | None:
        """Count the prompt tokens of a request; None if the engine here does not serve its model, or cannot count.

        Parameters
        ----------
        endpoint, body
            The request.
        """
        engine = self.engine
        if (
            engine is None
            or not engine.counts_tokens
            or engine.state != "ready"
            or body.get("model") not in engine.served_model_names
        ):
            return None
        return self._thread.call(engine.tokenize(endpoint.countable(body)), timeout=_TOKENIZE_SECONDS)

    def count_tokens(self, bodies: Sequence[bytes]) -> list[int]:
        """Count the prompt tokens of each of some chats or completions with the engine's tokenizer."""
        if self.engine is None:
            raise EngineNotLoadedError
        return self._thread.call(self.engine.tokenize_all(bodies))

    def give_up(self) -> None:
        """End a load that another thread waits for; the kernel shuts down."""
        self._closed = True


def _vllm_engine(model: str, flags: Sequence[str], **options: Any) -> Engine:
    from vbatch_jupyter.engine.vllm.engine import VllmEngine

    return VllmEngine(model, flags, **options)


def _remote_engine(flags: RemoteFlags, **options: Any) -> Engine:
    from vbatch_jupyter.engine.remote import RemoteEngine

    return RemoteEngine(flags, **options)


def _resolve(model: str, flags: list[str], draw: Callable[[str], None]) -> tuple[str, list[str]]:
    if model not in DEMO_MODELS:
        return str(Path(model).expanduser()) if model.startswith(("~", ".", "/")) else model, flags
    from vbatch_jupyter.engine import demo_model

    draw(f"{model}: looking for the model's folder")
    path = demo_model.demo_model_path() if model == "demo" else demo_model.demo_embedding_model_path()
    if served_names(model, flags) == (model,):
        flags = [*flags, "--served-model-name", model]
    return str(path), flags
