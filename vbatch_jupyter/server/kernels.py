"""Engines without a notebook: kernels that the server starts for the models of its configuration.

A kernel is started when a request or a batch needs its model, started again when it dies, and ended when nothing has
needed it for a while. It is a kernel of this very interpreter, with this server's store, and is shown among the running
kernels. If a user shuts it down there, it stays down until something new needs the model.
"""

from __future__ import annotations

import asyncio
import dataclasses
import functools
import os
import shlex
import time
from collections import deque
from collections.abc import Mapping, Sequence
from datetime import UTC, datetime
from typing import Any

import msgspec
from jupyter_core.utils import ensure_async

from vbatch_jupyter.loop import Backoff, each_of
from vbatch_jupyter.protocol.batch import BatchRecord
from vbatch_jupyter.records import NAME_VARIABLE, EngineState
from vbatch_jupyter.server.backend import Backend
from vbatch_jupyter.server.handler import RefusedError
from vbatch_jupyter.server.kernel_specs import KERNEL_NAME
from vbatch_jupyter.server.watch import EngineWatch
from vbatch_jupyter.store import EngineRecord, Store

RESTARTS = 3
"""How often a kernel that died is started again within `RESTARTS_SECONDS`."""

RESTARTS_SECONDS = 600.0

_LOOK_SECONDS = 0.5
_DEAD_SECONDS = 3.0
_REGISTER_SECONDS = 120.0
_BACKOFF = Backoff(first=1.0, longest=25.0, growth=5.0)
_OK, _SERVER_ERROR = 200, 500


class EngineStartError(Exception):
    """A kernel did not get its engine; ``final`` if another try would fail in the same way."""

    def __init__(self, message: str, *, final: bool = False) -> None:
        super().__init__(message)
        self.final = final


@dataclasses.dataclass
class _Planned:
    """One model of the configuration, and the kernel that holds it."""

    name: str
    model: str
    flags: list[str]
    row: EngineRecord | None = None
    """What the store was told last; None until it has been opened."""
    kernel_id: str | None = None
    starting: asyncio.Task[None] | None = None
    wanted: bool = False
    used_at: float = 0.0
    """Monotonic; when something last needed it."""
    alive_at: float = 0.0
    not_before: float = 0.0
    ended_at: float = 0.0
    """Unix seconds; batches from before it do not start the kernel."""
    deaths: deque[float] = dataclasses.field(default_factory=deque)
    reason: str = ""

    def died(self, reason: str, *, final: bool = False) -> None:
        now = time.monotonic()
        self.kernel_id, self.wanted, self.reason = None, True, reason
        self.deaths.extend([now] * (RESTARTS + 1 if final else 1))
        self.not_before = now + _BACKOFF.pause(len(self.deaths))

    def gave_up(self) -> bool:
        while self.deaths and self.deaths[0] < time.monotonic() - RESTARTS_SECONDS:
            self.deaths.popleft()
        return len(self.deaths) > RESTARTS

    def note(self) -> str:
        if self.gave_up():
            wait = max(self.deaths[-1] + RESTARTS_SECONDS - time.monotonic(), 0) / 60
            return f"The engine of '{self.name}' will not be started for {wait:.0f} minutes: {self.reason}"
        if self.starting is not None:
            return f"The server is starting the engine of '{self.name}'."
        if self.reason and self.wanted:
            return f"The engine of '{self.name}' will be started again soon: {self.reason}"
        return _starts_when_needed(self.name)


def _starts_when_needed(name: str) -> str:
    return f"The server starts the engine of '{name}' when it is needed."


class EngineKernels:
    """The kernels of the configured models.

    Parameters
    ----------
    backend, watch
        Give the store, and know the engines.
    kernel_manager
        Jupyter's.
    models
        By served name the arguments of ``vllm serve``.
    idle_seconds
        After so long without a batch or a request a kernel is ended; 0 never ends it.
    load_wait_seconds
        How long an online request waits for its engine.
    activity
        Jupyter's times of last activity, which keep the server itself from being culled.

    Attributes
    ----------
    created_at
        Unix seconds.
    """

    def __init__(
        self,
        backend: Backend,
        watch: EngineWatch,
        *,
        kernel_manager: Any,
        models: Mapping[str, str],
        idle_seconds: float,
        load_wait_seconds: float,
        activity: dict[str, Any],
    ) -> None:
        self._backend = backend
        self._watch = watch
        self._kernel_manager = kernel_manager
        self._planned = {name: _Planned(name, *arguments_of(name, text)) for name, text in models.items()}
        backend.on_open.append(self._register)
        self._idle_seconds = idle_seconds
        self._load_wait_seconds = load_wait_seconds
        self._activity = activity
        self.created_at = int(time.time())
        self._loop = backend.new_loop("engine kernels")

    @property
    def names(self) -> Sequence[str]:
        """The configured models."""
        return tuple(self._planned)

    def start(self) -> None:
        """Start to manage the kernels."""
        self._loop.start(self._look, every=_LOOK_SECONDS)

    async def stop(self) -> None:
        """Stop managing the kernels; Jupyter ends them with the server."""
        await self._loop.stop()
        for planned in self._planned.values():
            if (task := planned.starting) is not None:
                task.cancel()
                await asyncio.wait({task})

    def _register(self, store: Store) -> None:
        # In a thread, before anyone asks the store which models there are.
        for planned in self._planned.values():
            note = _starts_when_needed(planned.name)
            planned.row = store.engines.register(kernel_id=None, name=planned.name, models=[planned.name], note=note)

    # ------------------------------------------------------------------------------------------- what others ask for

    async def await_engine(self, model: str) -> None:
        """Start a configured model's engine if it is not running, and wait for it. Other models are ignored.

        Parameters
        ----------
        model
            A served name.

        Raises
        ------
        RefusedError
            It is not ready in time, or cannot be started.
        """
        if (planned := self._planned.get(model)) is None:
            return
        planned.used_at = time.monotonic()
        until = planned.used_at + self._load_wait_seconds
        while not serves(await self._backend.engines(), model, "ready", "not responding"):
            planned.wanted = True
            self._loop.wake()
            if planned.gave_up():
                headers = {"x-should-retry": "false"}
                raise RefusedError(503, planned.note(), type="server_error", code="engine_failed", headers=headers)
            if time.monotonic() > until:
                message = f"The engine of '{model}' is still starting. Try again in a few seconds."
                headers = {"retry-after": "5"}
                raise RefusedError(503, message, type="server_error", code="model_loading", headers=headers)
            await asyncio.sleep(0.1)
        planned.used_at = time.monotonic()

    async def begin(self, name: str) -> None:
        """Start a configured engine now, also one that was given up, and wait for it as `await_engine` does."""
        planned = self._planned[name]
        planned.deaths.clear()
        planned.not_before = planned.ended_at = 0.0
        await self.await_engine(name)

    async def end(self, name: str) -> None:
        """Stop a configured engine's kernel until something new needs it."""
        planned = self._planned[name]
        planned.wanted, planned.ended_at = False, time.time()
        # Jupyter is not to be interrupted while it starts a kernel.
        while planned.starting is not None and planned.kernel_id is None:  # noqa: ASYNC110
            await asyncio.sleep(0.1)
        # What waits for a load in it hears of its end.
        await self._shut_down(planned)
        await self._tell()

    # ------------------------------------------------------------------------------------------- looking after them

    async def _look(self) -> None:
        engines = await self._backend.engines()
        store = await self._backend.call(lambda: self._backend.store)
        unfinished = await self._backend.call(store.batches.unfinished)
        running = [record for record in unfinished if record.status == "in_progress" and not record.paused]
        self._keep_from_culling(engines, running)
        idle = [planned for planned in self._planned.values() if planned.starting is None]
        try:
            await each_of(idle, lambda planned: self._look_at(planned, engines, running))
        finally:
            await self._tell()

    async def _look_at(
        self, planned: _Planned, engines: Sequence[EngineRecord], running: Sequence[BatchRecord]
    ) -> None:
        now = time.monotonic()
        batches = [record for record in running if (record.model, record.target) == (planned.name, None)]
        if batches:
            planned.used_at = now
        if planned.kernel_id is not None:
            await self._look_at_kernel(planned, engines)
        if serves(engines, planned.name, "ready", "loading", "not responding") and planned.kernel_id is None:
            # A notebook holds the model.
            planned.wanted = False
            return
        needed = planned.wanted or any(batch.created_at >= planned.ended_at for batch in batches)
        if planned.kernel_id is None and needed and now >= planned.not_before and not planned.gave_up():
            planned.starting = asyncio.create_task(self._start(planned))

    async def _look_at_kernel(self, planned: _Planned, engines: Sequence[EngineRecord]) -> None:
        kernel_id = planned.kernel_id
        if kernel_id is None or kernel_id not in self._kernel_manager or self._is_shutting_down(kernel_id):
            # Someone else has ended it.
            planned.kernel_id, planned.wanted, planned.ended_at = None, False, time.time()
        elif not await ensure_async(self._kernel_manager.get_kernel(planned.kernel_id).is_alive()):
            await self._shut_down(planned)
            planned.died("its kernel died.")
        elif serves(engines, planned.name, "ready"):
            planned.wanted = False
            idle = time.monotonic() - planned.used_at
            if 0 < self._idle_seconds < idle and not await self._is_busy(planned):
                await self._shut_down(planned)
        elif any(engine.kernel_id == planned.kernel_id and engine.state == "unloaded" for engine in engines):
            await self._shut_down(planned)
            planned.wanted, planned.ended_at = False, time.time()
        elif not serves(engines, planned.name, "loading", "not responding"):
            # A batch's runner loads a dead engine again, and is quicker.
            if time.monotonic() - planned.alive_at > _DEAD_SECONDS:
                await self._shut_down(planned)
                planned.died("its engine died.")
            return
        planned.alive_at = time.monotonic()

    def _is_shutting_down(self, kernel_id: str) -> bool:
        # It is among Jupyter's kernels for some seconds more, though its process has ended.
        return bool(getattr(self._kernel_manager.get_kernel(kernel_id), "shutting_down", False))

    async def _is_busy(self, planned: _Planned) -> bool:
        view = await self._watch.named(planned.name)
        busy = view.stats is not None and view.stats["running"] + view.stats["waiting"] > 0
        if busy:
            planned.used_at = time.monotonic()
        return busy

    async def _start(self, planned: _Planned) -> None:
        begun = time.time()
        try:
            await self._start_kernel(planned)
            planned.used_at = planned.alive_at = time.monotonic()
            planned.wanted, planned.reason = False, ""
        except Exception as error:  # noqa: BLE001 - whatever Jupyter or the kernel raises is the reason that is shown
            await self._shut_down(planned)
            if planned.ended_at < begun:
                planned.died(str(error) or type(error).__name__, final=getattr(error, "final", False))
        finally:
            planned.starting = None
            self._loop.wake()

    async def _start_kernel(self, planned: _Planned) -> None:
        store = await self._backend.call(lambda: self._backend.store)
        environment = {
            **os.environ,
            "VBATCH_STORE": str(store.path),
            NAME_VARIABLE: planned.name,
        }
        kernel_id = await ensure_async(
            self._kernel_manager.start_kernel(kernel_name=KERNEL_NAME, path="", env=environment)
        )
        planned.kernel_id = kernel_id
        self._watch.own_kernels |= {kernel_id}
        kernel = self._kernel_manager.get_kernel(kernel_id)
        # Jupyter would start it again without its engine, and five times.
        kernel.stop_restarter()
        kernel.autorestart = False
        record = await self._registered(kernel_id, kernel)
        loading = {"model": planned.model, "flags": [*planned.flags, "--served-model-name", planned.name]}
        response = await self._watch.ask(record, "/load", loading)
        if response.status_code != _OK:
            raise EngineStartError(_message_of(response.content), final=response.status_code < _SERVER_ERROR)

    async def _registered(self, kernel_id: str, kernel: Any) -> EngineRecord:
        until = time.monotonic() + _REGISTER_SECONDS
        while time.monotonic() < until:
            for record in await self._backend.engines():
                if record.kernel_id == kernel_id:
                    return record
            if not await ensure_async(kernel.is_alive()):
                raise EngineStartError("its kernel ended while it started. The server's log has its output.")
            await asyncio.sleep(0.1)
        raise EngineStartError(f"its kernel did not start within {_REGISTER_SECONDS:.0f} s.")

    async def _shut_down(self, planned: _Planned) -> None:
        kernel_id, planned.kernel_id = planned.kernel_id, None
        if kernel_id is not None and kernel_id in self._kernel_manager:
            await ensure_async(self._kernel_manager.shutdown_kernel(kernel_id, now=True))

    # ------------------------------------------------------------------------------------------- what others see

    def _keep_from_culling(self, engines: Sequence[EngineRecord], running: Sequence[BatchRecord]) -> None:
        """Keep Jupyter from culling a kernel, or itself, while a batch runs there."""
        models = {record.model for record in running if record.target is None}
        for engine in engines:
            if models.intersection(engine.models):
                self._activity["vbatch"] = datetime.now(tz=UTC)
                if engine.kernel_id in self._kernel_manager:
                    self._kernel_manager.get_kernel(engine.kernel_id).last_activity = datetime.now(tz=UTC)

    async def _tell(self) -> None:
        """Tell the store what has changed, for every process that says why a batch waits."""
        for planned in self._planned.values():
            before = planned.row
            if before is None:
                continue
            state: EngineState = "loading" if planned.starting is not None else "unloaded"
            row = dataclasses.replace(before, state=state, note=planned.note())
            if row != before:
                await self._backend.call(functools.partial(self._write, row))
                planned.row = row

    def _write(self, row: EngineRecord) -> None:
        self._backend.store.engines.update(row.id, state=row.state, models=row.models, note=row.note)


def serves(engines: Sequence[EngineRecord], model: str, *states: str) -> bool:
    """Return whether an engine in one of the states has a model."""
    return any(model in engine.models and engine.state in states for engine in engines)


def arguments_of(name: str, text: str) -> tuple[str, list[str]]:
    """Read the arguments of ``vllm serve``: the model, and its flags.

    Parameters
    ----------
    name
        The served name, which is the key in the configuration.
    text
        As a shell would take them.

    Raises
    ------
    ValueError
        There is no model, or another served name.

    Examples
    --------
    >>> arguments_of("small", "ann/small --max-model-len 2048")
    ('ann/small', ['--max-model-len', '2048'])
    """
    words = shlex.split(text)
    if not words or words[0].startswith("-"):
        raise ValueError(f"c.VBatch.models['{name}'] must be the model and then its flags, not {text!r}.")
    if any(word.replace("_", "-").startswith("--served-model-name") for word in words):
        raise ValueError(f"c.VBatch.models['{name}']: leave out --served-model-name; the key is the served name.")
    return words[0], words[1:]


def _message_of(content: bytes) -> str:
    try:
        return str(msgspec.json.decode(content)["error"]["message"])
    except (ValueError, KeyError, TypeError):
        return content[:500].decode(errors="replace")
