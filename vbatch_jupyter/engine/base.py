"""The port to an engine: one call in the shape of HTTP, and `tokenize` and `stats`.

A line of a batch is an HTTP request, and so is an online request; one mechanism serves both, and any engine that can
answer HTTP can be used. Every coroutine of an engine runs on the engine's own loop (`thread.EngineThread`).
"""

from __future__ import annotations

import abc
import asyncio
import contextlib
import dataclasses
import functools
from collections.abc import AsyncIterator, Callable, Mapping, Sequence
from typing import Any

import msgspec

from vbatch_jupyter.errors import BadRequestError, EngineSilentError
from vbatch_jupyter.loop import Backoff, Loop
from vbatch_jupyter.protocol import policy
from vbatch_jupyter.protocol.constraint_size import MAX_VALUES, check_values
from vbatch_jupyter.protocol.endpoints import ENDPOINTS
from vbatch_jupyter.protocol.lines import error_body
from vbatch_jupyter.records import EngineLimits, EngineState, EngineStats, Patience

BATCH_PRIORITY = 1000
"""Priority of a batch's requests; vLLM runs lower numbers first, and interactive requests have 0."""

BUSY_STATUSES = frozenset({429, 502, 503, 504})
"""Statuses that say only that the engine cannot answer now, and nothing about the request."""

_TOKENIZED_AT_ONCE = 64
_NOT_FOUND, _SERVER_ERROR = 404, 500


@dataclasses.dataclass(slots=True)
class EngineResponse:
    """What an engine answers to one request.

    Parameters
    ----------
    status
        The HTTP status code.
    headers
        Lower-case names.
    chunks
        The body, as it comes; closing it early aborts the request.
    """

    status: int
    headers: Mapping[str, str]
    chunks: AsyncIterator[bytes]

    async def read(self) -> bytes:
        """Wait for the whole body."""
        return b"".join([chunk async for chunk in self.chunks])

    @classmethod
    def of_json(cls, status: int, body: bytes, **headers: str) -> EngineResponse:
        """Make a response from a JSON body."""

        async def chunks() -> AsyncIterator[bytes]:
            yield body

        return cls(status=status, headers={"content-type": "application/json", **headers}, chunks=chunks())


class Engine(abc.ABC):
    """An engine with one model.

    Attributes
    ----------
    served_model_names
        The names under which requests may ask for the model; the first is the one shown.
    state
        Whether it can answer.
    max_num_seqs
        How many requests it runs at once.
    answers_key
        Identifies everything except the request that decides an answer: weights, chat template, engine arguments. A
        seed that was chosen by chance is not part of it.
    seed
        From which it draws the answers that have no seed of their own; None if it does not say.
    counts_tokens
        Whether `tokenize` works.
    has_reasoning
        Whether it parts what the model thinks from its answers, as vLLM does with a reasoning parser; known when it has
        started.
    grammar
        What holds its answers to a schema; one of `grammar_schema.GRAMMARS`, and known when it has started.
    server, limits
        Whose rules it has, and what it can do at all; known when it has started.
    loops
        The loops of the engine.
    notes
        What is missing with this engine, one sentence each; known when it has started.
    retry
        How often a batch's request is sent if the engine is too busy or gives it up, and after which pauses. The feed
        does this, and nothing below it, so that attempts do not multiply.
    retries
        The number of requests that were sent again.
    patience
        How long it may give no sign of life while it has requests.
    say
        Called with a sentence when it no longer responds, and when it is ended for that.
    """

    served_model_names: Sequence[str] = ()
    state: EngineState = "unloaded"
    max_num_seqs: int = 256
    answers_key: str = ""
    seed: int | None = None
    counts_tokens: bool = True
    has_reasoning: bool = False
    grammar: str = "vllm"
    server: policy.Server = "local"
    limits: EngineLimits = policy.NO_LIMITS
    loops: Sequence[Loop] = ()
    notes: Sequence[str] = ()
    retry: Backoff = Backoff(first=0.5, longest=30.0, attempts=3)
    retries: int = 0
    patience: Patience = Patience()
    say: Callable[[str], object] = staticmethod(lambda _: None)

    def __repr__(self) -> str:
        return f"<{type(self).__name__} {', '.join(self.served_model_names)}: {self.state}>"

    @abc.abstractmethod
    async def start(self) -> None:
        """Load the model, or load it again after the engine died.

        Raises
        ------
        EngineArgumentError
            An argument that the engine refuses.
        EngineLoadError
            Anything else that keeps it from answering.
        """

    async def request(
        self,
        method: str,
        path: str,
        body: bytes,
        *,
        content: dict[str, Any] | None = None,
        priority: int = 0,
        refuses_unknown: bool = False,
    ) -> EngineResponse:
        """Answer one OpenAI request; cancelling the call aborts the request in the engine.

        This is the only way into any engine, so the rules of `protocol.policy` are checked here.

        Parameters
        ----------
        method, path
            Such as ``"POST"`` and ``"/v1/chat/completions"``.
        body
            JSON, UTF-8.
        content
            The body, if the caller has decoded it: ``body`` must then be written from it, so that what is checked is
            what runs.
        priority
            Lower runs sooner.
        refuses_unknown
            Whether a key that neither OpenAI nor vLLM knows is an error, as at OpenAI; vLLM ignores it.

        Raises
        ------
        EngineDiedError
            The engine ended before it had answered; nothing was answered.
        EngineSilentError
            The engine does not respond; the request was interactive, and is no longer with the engine. Requests of
            batches wait.
        """
        if method != "POST" or path not in ENDPOINTS:
            # vLLM's application also has routes that stop the engine or change its weights.
            body = error_body(f"Unknown request URL: {method} {path}.", code="unknown_url")
            return EngineResponse.of_json(_NOT_FOUND, body)
        try:
            if len(body) > MAX_VALUES:  # or it has fewer
                check_values(body)
            content = policy.decode(body) if content is None else content
            policy.check(path, content, refuses_unknown=refuses_unknown)
        except BadRequestError as error:
            return EngineResponse.of_json(400, error_body(error.message, param=error.param, code=error.code))
        if priority >= BATCH_PRIORITY:
            return await self._answer(path, body, content, priority=priority)
        async with self._while_it_responds():
            return await self._answer(path, body, content, priority=priority)

    @functools.cached_property
    def _interactive(self) -> set[asyncio.Timeout]:
        return set()

    @contextlib.asynccontextmanager
    async def _while_it_responds(self) -> AsyncIterator[None]:
        if self.state == "not responding":
            raise EngineSilentError(EngineSilentError.__doc__)
        timeout = asyncio.timeout(None)
        try:
            async with timeout:
                self._interactive.add(timeout)
                yield
        except TimeoutError as error:
            if timeout.expired():
                raise EngineSilentError(EngineSilentError.__doc__) from error
            raise
        finally:
            self._interactive.discard(timeout)

    def _give_up_interactive(self) -> None:
        """End the interactive requests whose answers have not begun; called when the engine no longer responds."""
        for timeout in list(self._interactive):
            with contextlib.suppress(RuntimeError):  # it is being given up already
                timeout.reschedule(asyncio.get_running_loop().time())

    @abc.abstractmethod
    async def _answer(self, path: str, body: bytes, content: dict[str, Any], *, priority: int) -> EngineResponse:
        """Answer one request that has passed the rules, and whose body is decoded; see `request`."""

    @abc.abstractmethod
    async def tokenize(self, body: bytes) -> int:
        """Count the prompt tokens that a chat or completion request would have.

        Parameters
        ----------
        body
            The request's JSON body.
        """

    async def tokenize_all(self, bodies: Sequence[bytes]) -> list[int]:
        """Count the prompt tokens of each of some requests, a few at a time.

        Parameters
        ----------
        bodies
            As for `tokenize`.
        """
        counts: list[int] = []
        for start in range(0, len(bodies), _TOKENIZED_AT_ONCE):
            counts += await asyncio.gather(*map(self.tokenize, bodies[start : start + _TOKENIZED_AT_ONCE]))
        return counts

    @abc.abstractmethod
    def stats(self) -> EngineStats:
        """Return the engine's figures at this moment; cheap, and safe from any thread."""

    @abc.abstractmethod
    async def shutdown(self) -> None:
        """End the engine and its processes; a second call does nothing."""


def openai_error(status: int, answer: bytes, path: str, name: str) -> bytes:
    """Put vLLM's error into OpenAI's envelope: vLLM has its own types, and the HTTP status as the code.

    Parameters
    ----------
    status, answer
        The response's.
    path, name
        What was asked of which model.

    Examples
    --------
    >>> openai_error(400, b'{"error": {"message": "Too long.", "code": 400}}', "/v1/completions", "m")
    b'{"error":{"message":"Too long.","type":"invalid_request_error","param":null,"code":null}}'
    """
    kind = "server_error" if status >= _SERVER_ERROR else "invalid_request_error"
    try:
        content = msgspec.json.decode(answer)
    except (ValueError, RecursionError):
        # A proxy's own page.
        message = f"The server answered {status} without JSON: {answer[:200].decode(errors='replace')}"
        return error_body(message, type=kind)
    error = content.get("error") if isinstance(content, dict) else None
    if not isinstance(error, dict):
        # FastAPI's own words: the route does not exist, because the model cannot do it.
        return error_body(f"The model `{name}` does not serve {path}. Load a model that does.", param="model")
    code, param = error.get("code"), error.get("param")
    return error_body(
        str(error.get("message", "")),
        type=kind,
        param=param if isinstance(param, str) else None,
        code=code if isinstance(code, str) else None,
    )
