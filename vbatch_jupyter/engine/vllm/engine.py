"""vLLM's AsyncLLM and its OpenAI layer, inside the process that loads it.

The engine core and its workers are processes of their own; what runs here is vLLM's front end. `vllm_process` guards
this process against what starting them does to it.
"""

from __future__ import annotations

import asyncio
import contextlib
import functools
import itertools
import shutil
import time
from collections.abc import Callable, Iterator, Sequence
from http import HTTPStatus
from pathlib import Path
from typing import TYPE_CHECKING, Any

import msgspec

from vbatch_jupyter.engine import asgi
from vbatch_jupyter.engine.base import BATCH_PRIORITY, Engine, EngineResponse, openai_error
from vbatch_jupyter.engine.silence import Silence
from vbatch_jupyter.engine.vllm import process as vllm_process
from vbatch_jupyter.engine.vllm.contract import ABORTED
from vbatch_jupyter.errors import EngineDiedError, EngineError, EngineNotLoadedError, RequestAbortedError
from vbatch_jupyter.loop import Loop, in_thread
from vbatch_jupyter.protocol.lines import error_body
from vbatch_jupyter.records import HOLDS_REQUESTS, EngineLimits, EngineState, EngineStats

if TYPE_CHECKING:
    from vllm.v1.engine.async_llm import AsyncLLM

    from vbatch_jupyter.engine.vllm.routes import Routes
    from vbatch_jupyter.engine.vllm.stats import EngineCounters
    from vbatch_jupyter.engine.vllm.work import Processes

_DIED = "The engine died. The request runs again on the next one."

_SHUTDOWN_SECONDS = 15.0
"""vLLM's own 5 s are short on a busy machine, and what it then kills leaves its shared memory behind."""

_starts = itertools.count()

_LOOK_SECONDS = 1.0
_LOOKS = 4
"""At least so many looks before a silence is over."""


class VllmEngine(Engine):
    """A vLLM engine that this process starts and owns.

    Parameters
    ----------
    model
        A Hugging Face id or a folder.
    flags
        Flags of ``vllm serve``.
    log_path
        Where vLLM's log goes.
    folder
        Of this process, and private. Its processes have their sockets in folders in there, and remove it if this
        process is killed.
    on_progress
        Called, from another thread, with one phrase for each step of a load.

    Examples
    --------
    >>> engine = VllmEngine("HuggingFaceTB/SmolLM2-135M-Instruct", [], log_path=Path("log"), folder=Path("sockets"))
    >>> engine.state
    'unloaded'
    """

    def __init__(
        self,
        model: str,
        flags: Sequence[str] = (),
        *,
        log_path: Path,
        folder: Path,
        on_progress: Callable[[str], None] = lambda _: None,
    ) -> None:
        self.model = model
        self.flags = tuple(flags)
        self.log_path = log_path
        self._folder = folder
        self._sockets: Path | None = None
        self._on_progress = on_progress
        self._starting = False
        self._llm: AsyncLLM | None = None
        self._app: asgi.Application | None = None
        self._routes: Routes | None = None
        self._counters: EngineCounters | None = None
        self._processes: Processes | None = None
        self._silence = Silence(self.patience)
        self._looked_at = 0.0
        self._question: asyncio.Future[Any] | None = None
        self._watch = Loop("engine watch", say=self._say_it)
        self.loops = (self._watch,)
        self.served_model_names: Sequence[str] = (model,)

    @property
    def state(self) -> EngineState:  # type: ignore[override]
        """Whether the engine can answer."""
        if self._starting:
            return "loading"
        if self._llm is None:
            return "unloaded"
        if self._llm.errored:
            return "dead"
        return "not responding" if self._silence.is_over else "ready"

    @property
    def _is_lost(self) -> bool:
        return self.state not in HOLDS_REQUESTS

    async def start(self) -> None:
        """Load the model, or load it again after the engine died."""
        await self.shutdown()
        self._starting = True
        try:
            self._on_progress("importing vLLM")
            self.notes = await asyncio.to_thread(vllm_process.import_vllm, self.log_path)
            built = await self._build()
            try:
                self._app = await vllm_process.build_app(built)
            except BaseException:
                built.llm.shutdown()
                raise
        finally:
            self._starting = False
        routes = vllm_process.routes_of(self._app)
        vllm_process.keep_memory()
        self._llm, self._counters, self._routes = built.llm, built.counters, routes
        self.served_model_names = tuple(built.arguments.served_model_name)
        scheduling = built.llm.vllm_config.scheduler_config
        self.max_num_seqs = scheduling.max_num_active_seqs or scheduling.max_num_seqs
        self.answers_key, self.seed = built.answers_key, built.seed
        self.has_reasoning = bool(getattr(built.arguments, "reasoning_parser", None))
        library = getattr(getattr(built.arguments, "structured_outputs_config", None), "backend", None)
        self.grammar = "xgrammar" if library == "xgrammar" else "vllm"
        self.limits = EngineLimits(
            max_model_len=built.llm.model_config.max_model_len,
            paths=None if routes is None else routes.paths,
            takes_tools=built.arguments.tool_call_parser is not None,
            takes_dimensions=getattr(built.llm.model_config, "is_matryoshka", None),
        )
        self._processes = await in_thread(vllm_process.processes_of, built.llm)
        if self._processes is not None:
            self._silence, self._looked_at = Silence(self.patience), time.monotonic()
            self._watch.start(self._look, every=self._look_seconds())

    def _look_seconds(self) -> float:
        return min(_LOOK_SECONDS, (self.patience.silence_seconds or _LOOK_SECONDS) / _LOOKS)

    async def _look(self) -> None:
        """See whether the engine is at work; `engine.silence` has the rule."""
        llm, counters, processes, silence = self._llm, self._counters, self._processes, self._silence
        if llm is None or counters is None or processes is None or llm.errored:
            return
        # What came after a long pause of this process has not been read yet.
        seconds = min(time.monotonic() - self._looked_at, 2 * self._look_seconds())
        self._looked_at = time.monotonic()
        was_over, is_busy = silence.is_over, llm.get_num_unfinished_requests() > 0
        works = False
        if (is_busy or was_over) and not silence.has_stepped(counters.steps):
            works = await in_thread(processes.worked, silence.seconds + seconds)
        verdict = silence.look(seconds, is_busy=is_busy, steps=counters.steps, works=works)
        if silence.is_over and not was_over:
            self.say(f"The engine does not respond: it has sent nothing for {silence.without_step:,.0f} s.")
            self._give_up_interactive()
            # When it responds again it may have no requests left to answer; this it answers in any case.
            self._question = asyncio.ensure_future(llm.is_sleeping())
            self._question.add_done_callback(functools.partial(_take_for_life, silence))
        elif was_over and not silence.is_over:
            self.say("The engine responds again.")
        if verdict == "hung":
            self.say(f"The engine has sent nothing for {silence.without_step:,.0f} s, and is ended.")
            self._processes = None
            await in_thread(processes.kill)

    def _say_it(self, text: str) -> None:
        self.say(text)

    async def _build(self) -> vllm_process.Built:
        # A folder for each start: what an earlier one, which was cancelled, still builds needs its own.
        self._sockets = self._folder / str(next(_starts))
        self._sockets.mkdir(mode=0o700)
        building = asyncio.get_running_loop().run_in_executor(
            None, vllm_process.build, self.model, self.flags, self.log_path, self._sockets, self._on_progress
        )
        try:
            return await asyncio.shield(building)
        except asyncio.CancelledError:
            # Nothing can stop vLLM while it loads; what it has made is ended as soon as it is there.
            building.add_done_callback(_discard)
            raise

    async def _answer(self, path: str, body: bytes, content: dict[str, Any], *, priority: int) -> EngineResponse:
        app = self._live_app()
        if refusal := self._refuse(content):
            return refusal
        if priority >= BATCH_PRIORITY and (answered := await self._call_function(path, body, priority)) is not None:
            return self._checked(path, *answered)
        response = await self._call(app, path, body, priority)
        if not response.headers.get("content-type", "").startswith("application/json"):
            return response
        with self._deaths_reported():
            answer = await response.read()
        return self._checked(path, response.status, answer)

    def _checked(self, path: str, status: int, answer: bytes) -> EngineResponse:
        if status >= HTTPStatus.INTERNAL_SERVER_ERROR and self._is_lost:
            raise EngineDiedError("The engine died while it answered. The request runs again on the next one.")
        if ABORTED in answer:
            raise RequestAbortedError(RequestAbortedError.__doc__)
        if status >= HTTPStatus.BAD_REQUEST:
            answer = openai_error(status, answer, path, self.served_model_names[0])
        return EngineResponse.of_json(status, answer)

    async def tokenize(self, body: bytes) -> int:
        """Count the prompt tokens that a chat or completion request would have."""
        response = await self._call(self._live_app(), "/tokenize", body, priority=0)
        content = await response.read()
        if response.status != HTTPStatus.OK:
            raise EngineError(f"vLLM cannot count the tokens of a request: {content.decode(errors='replace')}")
        return int(msgspec.json.decode(content)["count"])

    def stats(self) -> EngineStats:
        """Return the engine's figures at this moment."""
        name = self.served_model_names[0]
        if self._counters is None:
            return EngineStats(model=name, state=self.state)
        return self._counters.stats(name, self.state)

    async def shutdown(self) -> None:
        """End the engine and its processes; a second call does nothing."""
        llm, self._llm, self._app, self._routes, self._counters = self._llm, None, None, None, None
        await self._watch.stop(within=0)
        if self._question is not None:
            self._question.cancel()
        if llm is not None:
            await in_thread(llm.shutdown, _SHUTDOWN_SECONDS)
            del llm
            vllm_process.release_memory()
        if self._sockets is not None:
            await in_thread(lambda folder: shutil.rmtree(folder, ignore_errors=True), self._sockets)

    async def _call_function(self, path: str, body: bytes, priority: int) -> tuple[int, bytes] | None:
        """Answer a request without the application; None if it must answer."""
        if self._routes is None:
            return None
        try:
            response = await self._routes.call(path, body, _headers(priority))
        except Exception as error:
            if self._is_lost:
                raise EngineDiedError(_DIED) from error
            return None
        return None if response is None else (response.status_code, bytes(response.body))

    async def _call(self, app: asgi.Application, path: str, body: bytes, priority: int) -> EngineResponse:
        with self._deaths_reported():
            return await asgi.call(app, path, body, _headers(priority))

    @contextlib.contextmanager
    def _deaths_reported(self) -> Iterator[None]:
        # If its engine dies, vLLM's application fails too: it tries to end a server that does not exist.
        try:
            yield
        except Exception as error:
            if self._is_lost:
                raise EngineDiedError(_DIED) from error
            raise

    def _live_app(self) -> asgi.Application:
        if self._app is None or self._llm is None:
            raise EngineNotLoadedError
        if self._llm.errored:
            raise EngineDiedError("The engine has died. Load it again with %vbatch load.")
        return self._app

    def _refuse(self, content: dict[str, Any]) -> EngineResponse | None:
        model = content.get("model")
        if not isinstance(model, str) or model in self.served_model_names:
            return None  # vLLM's own validation says what is wrong with it
        # vLLM checks the name for chats, but takes any name for embeddings.
        message = f"The model `{model}` does not exist. This engine serves {', '.join(self.served_model_names)}."
        return EngineResponse.of_json(HTTPStatus.NOT_FOUND, error_body(message, param="model", code="model_not_found"))


def _take_for_life(silence: Silence, asked: asyncio.Future[Any]) -> None:
    if not asked.cancelled() and asked.exception() is None:
        silence.end()


def _headers(priority: int) -> list[tuple[bytes, bytes]]:
    return [(b"x-vllm-priority", str(priority).encode())]


def _discard(building: asyncio.Future[Any]) -> None:
    if not building.cancelled() and building.exception() is None:
        building.result().llm.shutdown()
