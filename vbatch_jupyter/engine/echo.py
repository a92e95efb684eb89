"""An engine without a model, for tests and fault injection: it echoes the prompt.

Ship your own tests with it: it keeps to the same port as vLLM's engine.
"""

from __future__ import annotations

import asyncio
import contextlib
import time
from collections.abc import AsyncIterator, Iterator, Sequence
from typing import Any

import msgspec

from vbatch_jupyter.engine.base import Engine, EngineResponse
from vbatch_jupyter.errors import EngineDiedError, EngineLoadError
from vbatch_jupyter.protocol.endpoints import CHAT, COMPLETIONS, ENDPOINTS
from vbatch_jupyter.protocol.lines import error_body
from vbatch_jupyter.records import EngineState, EngineStats

_OK, _BAD_REQUEST, _NOT_FOUND = 200, 400, 404

_LOOK_SECONDS = 0.25


class EchoEngine(Engine):
    """Answers every request with the last words of its prompt.

    Parameters
    ----------
    served_model_names
        The names it serves.
    latency_seconds
        How long each request takes.
    killer
        Text that, found in a request, kills the engine.
    refusing
        Text that, found in a request, is answered with status 400.
    starts
        How often it can be started; a further start fails.

    Attributes
    ----------
    latency_seconds
        As above; a change concerns the requests that are running, too.
    requests
        How many requests it has been given.
    peak_running
        The most that it had at once.

    Examples
    --------
    >>> async def ask():
    ...     engine = EchoEngine(["m"])
    ...     await engine.start()
    ...     response = await engine.request("POST", "/v1/completions", b'{"model": "m", "prompt": "hello"}')
    ...     return msgspec.json.decode(await response.read())["choices"][0]["text"]
    >>> asyncio.run(ask())
    'hello'
    """

    def __init__(
        self,
        served_model_names: Sequence[str] = ("echo",),
        *,
        latency_seconds: float = 0.0,
        killer: str | None = None,
        refusing: str | None = None,
        starts: int | None = None,
    ) -> None:
        self.served_model_names = tuple(served_model_names)
        self.answers_key = "echo"
        self.state: EngineState = "unloaded"
        self.requests = 0
        self.peak_running = 0
        self._running = 0
        self.latency_seconds = latency_seconds
        self._killer = None if killer is None else killer.encode()
        self._refusing = None if refusing is None else refusing.encode()
        self._starts_left = starts
        self._death = asyncio.Event()

    async def start(self) -> None:
        """Be ready for requests."""
        if self._starts_left == 0:
            self.state = "dead"
            raise EngineLoadError("The echo engine was told to start no more.")
        if self._starts_left is not None:
            self._starts_left -= 1
        self._death = asyncio.Event()
        self.state = "ready"

    async def _answer(self, path: str, body: bytes, content: dict[str, Any], *, priority: int) -> EngineResponse:
        """Return the prompt."""
        del priority
        if self.state != "ready":
            raise EngineDiedError("The echo engine is dead.")
        self.requests += 1
        known = content.get("model") in self.served_model_names
        if known and content.get("stream"):
            # Such an answer takes its time for each word.
            headers = {"content-type": "text/event-stream; charset=utf-8"}
            return EngineResponse(status=_OK, headers=headers, chunks=self._stream(path, content, body))
        with self._one_more():
            await self._work(body)
        if not known:
            message = f"The model `{content.get('model')}` does not exist."
            return EngineResponse.of_json(_NOT_FOUND, error_body(message, param="model", code="model_not_found"))
        if self._refusing is not None and self._refusing in body:
            refusal = error_body("This request is refused, as it asked to be.", param="messages")
            return EngineResponse.of_json(_BAD_REQUEST, refusal)
        return EngineResponse.of_json(_OK, msgspec.json.encode(_answer(path, content)))

    @contextlib.contextmanager
    def _one_more(self) -> Iterator[None]:
        self._running += 1
        self.peak_running = max(self.peak_running, self._running)
        try:
            yield
        finally:
            self._running -= 1

    async def _stream(self, path: str, content: dict[str, Any], body: bytes) -> AsyncIterator[bytes]:
        chat = path == CHAT.path
        kind = "chat.completion.chunk" if chat else "text_completion"
        with self._one_more():
            for word in _prompt(path, content).split():
                await self._work(body)
                said = {"delta": {"role": "assistant", "content": word}} if chat else {"text": word}
                choice = {"index": 0, "finish_reason": None, "logprobs": None, **said}
                shared = {"id": "echo", "object": kind, "created": 0, "model": content["model"]}
                yield b"data: %b\n\n" % msgspec.json.encode({**shared, "choices": [choice]})
            yield b"data: [DONE]\n\n"

    async def _work(self, body: bytes) -> None:
        death = self._death
        if self._killer is not None and self._killer in body:
            self.die()
        elif self.latency_seconds:
            begun, sleep = time.monotonic(), asyncio.ensure_future(death.wait())
            while not sleep.done() and (left := begun + self.latency_seconds - time.monotonic()) > 0:
                await asyncio.wait({sleep}, timeout=min(left, _LOOK_SECONDS))
            sleep.cancel()
        if death.is_set():
            raise EngineDiedError("The echo engine died under the request.")

    def die(self) -> None:
        """End at once, while requests run."""
        self.state = "dead"
        self._death.set()

    async def tokenize(self, body: bytes) -> int:
        """Count words."""
        content = msgspec.json.decode(body)
        return len(_prompt((CHAT if "messages" in content else COMPLETIONS).path, content).split())

    def stats(self) -> EngineStats:
        """Return the engine's figures at this moment."""
        return EngineStats(model=self.served_model_names[0], state=self.state, running=self._running)

    async def shutdown(self) -> None:
        """End the engine."""
        self._death.set()
        self.state = "unloaded"


def _prompt(path: str, content: dict[str, Any]) -> str:
    """Return the last text of a prompt."""
    texts = [text for _, text in ENDPOINTS[path].turns(content)]
    return texts[-1] if texts else ""


def _answer(path: str, content: dict[str, Any]) -> dict[str, Any]:
    text = _prompt(path, content)
    tokens = len(text.split())
    usage = {"prompt_tokens": tokens, "completion_tokens": tokens, "total_tokens": 2 * tokens}
    shared = {"id": "echo", "created": 0, "model": content["model"], "usage": usage}
    return {**shared, **ENDPOINTS[path].response.echo(text)}
