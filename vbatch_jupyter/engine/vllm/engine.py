"""vLLM's AsyncLLM and its OpenAI layer, inside the process that loads it.

The engine core and its workers are processes of their own; what runs here is vLLM's front end. `vllm_process` guards
this process against what starting them does to it.
"""

from __future__ import annotations

import asyncio
import contextlib
from collections.abc import Callable, Iterator, Sequence
from http import HTTPStatus
from pathlib import Path
from typing import TYPE_CHECKING, Any

import msgspec

from vbatch_jupyter.engine import asgi
from vbatch_jupyter.engine.base import BATCH_PRIORITY, Engine, EngineResponse, openai_error
from vbatch_jupyter.engine.vllm import process as vllm_process
from vbatch_jupyter.engine.vllm.contract import ABORTED
from vbatch_jupyter.errors import EngineDiedError, EngineError, EngineNotLoadedError, RequestAbortedError
from vbatch_jupyter.loop import in_thread
from vbatch_jupyter.protocol.lines import error_body
from vbatch_jupyter.records import EngineLimits, EngineState, EngineStats

if TYPE_CHECKING:
    from vllm.v1.engine.async_llm import AsyncLLM

    from vbatch_jupyter.engine.vllm.routes import Routes
    from vbatch_jupyter.engine.vllm.stats import EngineCounters

_DIED = "The engine died. The request runs again on the next one."

_SHUTDOWN_SECONDS = 15.0
"""vLLM's own 5 s are short on a busy machine, and what it then kills leaves its shared memory behind."""


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
    on_progress
        Called, from another thread, with one phrase for each step of a load.

    Examples
    --------
    >>> engine = VllmEngine("HuggingFaceTB/SmolLM2-135M-Instruct", ["--max-model-len", "2048"], log_path=Path("log"))
    >>> engine.state
    'unloaded'
    """

    def __init__(
        self,
        model: str,
        flags: Sequence[str] = (),
        *,
        log_path: Path,
        on_progress: Callable[[str], None] = lambda _: None,
    ) -> None:
        self.model = model
        self.flags = tuple(flags)
        self.log_path = log_path
        self._on_progress = on_progress
        self._starting = False
        self._llm: AsyncLLM | None = None
        self._app: asgi.Application | None = None
        self._routes: Routes | None = None
        self._counters: EngineCounters | None = None
        self.served_model_names: Sequence[str] = (model,)

    @property
    def state(self) -> EngineState:  # type: ignore[override]
        """Whether the engine can answer."""
        if self._starting:
            return "loading"
        if self._llm is None:
            return "unloaded"
        return "dead" if self._llm.errored else "ready"

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
        )

    async def _build(self) -> vllm_process.Built:
        building = asyncio.get_running_loop().run_in_executor(
            None, vllm_process.build, self.model, self.flags, self.log_path, self._on_progress
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
        if status >= HTTPStatus.INTERNAL_SERVER_ERROR and self.state != "ready":
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
        if llm is not None:
            await in_thread(llm.shutdown, _SHUTDOWN_SECONDS)
            del llm
            vllm_process.release_memory()

    async def _call_function(self, path: str, body: bytes, priority: int) -> tuple[int, bytes] | None:
        """Answer a request without the application; None if it must answer."""
        if self._routes is None:
            return None
        try:
            response = await self._routes.call(path, body, _headers(priority))
        except Exception as error:
            if self.state != "ready":
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
            if self.state != "ready":
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


def _headers(priority: int) -> list[tuple[bytes, bytes]]:
    return [(b"x-vllm-priority", str(priority).encode())]


def _discard(building: asyncio.Future[Any]) -> None:
    if not building.cancelled() and building.exception() is None:
        building.result().llm.shutdown()
