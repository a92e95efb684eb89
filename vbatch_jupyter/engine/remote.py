"""Any OpenAI-compatible server, or a cluster behind one address, as the engine.

Differences from an engine in this process: nothing is loaded or stopped, a request may be refused temporarily or lost
on the way and is sent again, and the server may be away for a while. Requests are passed on, so batches, chats and
streams work as with an engine here. Tokens are counted and figures read if the server is vLLM's.
"""

from __future__ import annotations

import asyncio
import contextlib
import hashlib
import os
import socket
import time
from collections.abc import AsyncIterator, Callable, Sequence
from http import HTTPStatus
from typing import Any, NoReturn

import httpx
import msgspec

from vbatch_jupyter.engine.base import BATCH_PRIORITY, BUSY_STATUSES, Engine, EngineResponse, openai_error
from vbatch_jupyter.engine.flags import RemoteFlags
from vbatch_jupyter.engine.remote_stats import RemoteFigures
from vbatch_jupyter.engine.silence import Silence
from vbatch_jupyter.engine.vllm.contract import ABORTED
from vbatch_jupyter.errors import (
    EngineArgumentError,
    EngineDiedError,
    EngineError,
    EngineLoadError,
    EngineNotLoadedError,
    RequestAbortedError,
)
from vbatch_jupyter.loop import Backoff, Loop
from vbatch_jupyter.protocol.policy import Server
from vbatch_jupyter.records import EngineState, EngineStats

_MORE_CONNECTIONS = 128
_CONNECT_SECONDS = 10.0
_ANSWER_SECONDS = 3600.0
_METRICS_SECONDS = 2.0
# Notice a server that is gone after two minutes, even if its answers may take longer.
_KEEP_ALIVE = [
    (socket.SOL_SOCKET, socket.SO_KEEPALIVE, 1),
    (socket.IPPROTO_TCP, socket.TCP_KEEPIDLE, 60),
    (socket.IPPROTO_TCP, socket.TCP_KEEPINTVL, 15),
    (socket.IPPROTO_TCP, socket.TCP_KEEPCNT, 4),
]
# So that not all requests are sent again at the same moment, half of each pause is random.
_BUSY = Backoff(first=0.5, longest=30.0, spread=0.5, attempts=8)
_LOST = Backoff(first=0.5, longest=30.0, spread=0.5, attempts=4)


class _Model(msgspec.Struct):
    id: str
    root: str | None = None
    max_model_len: int | None = None


class _Models(msgspec.Struct):
    data: list[_Model]


class RemoteEngine(Engine):
    """An OpenAI-compatible server somewhere else.

    Parameters
    ----------
    flags
        Where it is.
    on_progress
        Called with one phrase for each step of a start.
    say
        Called with a sentence when its figures begin to be unreadable.
    retry
        See `Engine`.
    lost
        How often to send a request that is lost, or that the server fails to answer.
    away_seconds
        How long the server may be away in the middle of a batch.

    Examples
    --------
    >>> RemoteEngine(RemoteFlags("http://gpu-box:8000/v1"))
    <RemoteEngine http://gpu-box:8000/v1: unloaded>
    """

    def __init__(
        self,
        flags: RemoteFlags,
        *,
        on_progress: Callable[[str], None] = lambda _: None,
        say: Callable[[str], object] | None = None,
        retry: Backoff = _BUSY,
        lost: Backoff = _LOST,
        away_seconds: float = 300.0,
    ) -> None:
        self.url = flags.url
        # What a server elsewhere refuses is not known.
        self.server: Server = "here"
        self.served_model_names: Sequence[str] = flags.served_model_names or (flags.url,)
        self.max_num_seqs = flags.max_num_seqs
        self.counts_tokens = False
        self.state: EngineState = "unloaded"
        self._flags = flags
        self._on_progress = on_progress
        self.retry = retry
        self._lost = lost
        self._away_seconds = away_seconds
        self._client: httpx.AsyncClient | None = None
        self.figures = RemoteFigures()
        self._loop = Loop("remote figures", say=say)
        self.loops = (self._loop,)
        self._in_flight = 0
        self._answered = 0
        self._silence = Silence(self.patience)
        self._looked_at = 0.0

    async def start(self) -> None:
        """Ask the server for its models; after it was lost, wait for it to come back.

        Raises
        ------
        EngineArgumentError
            The variable of the key is not set, or the server does not serve the models that were named.
        EngineLoadError
            No such server answers.
        """
        was_ready = self.state == "dead"
        await self.shutdown()
        self.state = "loading"
        try:
            self._client = self._new_client()
            self._take(await self._models(self._away_seconds if was_ready else 0.0))
            self.counts_tokens = await self._has_tokenize()
            self._silence, self._looked_at = Silence(self.patience), time.monotonic()
            self._loop.start(self._read_metrics, every=_METRICS_SECONDS)
        except BaseException:
            await self.shutdown()
            self.state = "dead" if was_ready else "unloaded"
            raise
        self.state = "ready"

    def _new_client(self) -> httpx.AsyncClient:
        headers = {}
        if (name := self._flags.api_key_env) is not None:
            if not (key := os.environ.get(name)):
                raise EngineArgumentError(f"--api-key-env: the environment variable {name} is not set.")
            headers["authorization"] = f"Bearer {key}"
        most = self.max_num_seqs + _MORE_CONNECTIONS
        limits = httpx.Limits(max_connections=most, max_keepalive_connections=most)
        return httpx.AsyncClient(
            headers=headers,
            timeout=httpx.Timeout(_ANSWER_SECONDS, connect=_CONNECT_SECONDS),
            transport=httpx.AsyncHTTPTransport(limits=limits, socket_options=_KEEP_ALIVE),
        )

    async def _models(self, seconds: float) -> list[_Model]:
        until = time.monotonic() + seconds
        failures = 0
        while True:
            self._on_progress(f"asking {self.url} for its models")
            try:
                response = await self._connected().get(f"{self.url}/models", timeout=_CONNECT_SECONDS)
                if response.status_code == HTTPStatus.OK:
                    return msgspec.json.decode(response.content, type=_Models).data
                message = f"it answers {response.status_code} when asked for its models"
                # Waiting does not help with a wrong key or address.
                is_final = response.status_code not in BUSY_STATUSES and not response.is_server_error
            except (httpx.HTTPError, httpx.InvalidURL, msgspec.MsgspecError) as error:
                message, is_final = str(error) or type(error).__name__, False
            failures += 1
            pause = self._lost.pause(failures)
            if is_final or time.monotonic() + pause > until:
                raise EngineLoadError(f"No OpenAI-compatible server found at {self.url}: {message}.")
            await asyncio.sleep(pause)

    def _take(self, models: Sequence[_Model]) -> None:
        served = [model.id for model in models]
        names = self._flags.served_model_names or tuple(served)
        if missing := [name for name in names if name not in served]:
            raise EngineArgumentError(f"{self.url} serves {', '.join(served) or 'no model'}, not {missing[0]}.")
        if not names:
            raise EngineLoadError(f"{self.url} serves no model.")
        self.served_model_names = names
        # This is all that a server tells: we cannot see other weights under the same name.
        told = sorted((model.id, model.root, model.max_model_len) for model in models if model.id in names)
        self.answers_key = hashlib.sha256(msgspec.json.encode(["remote", self.url, told])).hexdigest()

    async def _has_tokenize(self) -> bool:
        body = msgspec.json.encode({"model": self.served_model_names[0], "prompt": "a"})
        try:
            return await self._count(body) > 0
        except (httpx.HTTPError, EngineError):
            return False

    async def _answer(self, path: str, body: bytes, content: dict[str, Any], *, priority: int) -> EngineResponse:
        del content
        response = await self._send(f"{self.url}{path.removeprefix('/v1')}", body, priority)
        if not response.is_closed:
            return EngineResponse(status=response.status_code, headers=response.headers, chunks=_stream(response))
        answer = response.content
        if ABORTED in answer:
            raise RequestAbortedError(RequestAbortedError.__doc__)
        if response.is_error:
            answer = openai_error(response.status_code, answer, path, self.served_model_names[0])
        asked = {name: value for name, value in response.headers.items() if name == "retry-after"}
        return EngineResponse.of_json(response.status_code, answer, **asked)

    async def _send(self, url: str, body: bytes, priority: int) -> httpx.Response:
        """Send a request until there is a final answer: a whole body, or the beginning of a stream."""
        headers = {"content-type": "application/json", "x-vllm-priority": str(priority)}
        lost = 0
        self._in_flight += 1
        try:
            while True:
                client = self._connected()
                request = client.build_request("POST", url, content=body, headers=headers)
                try:
                    response = await client.send(request, stream=True)
                    if not _is_stream(response):
                        async with contextlib.aclosing(response):
                            await response.aread()
                except httpx.HTTPError as error:
                    lost += 1
                    if (pause := self._lost.after(lost)) is None:
                        self._lose(error)
                else:
                    self._answered += 1
                    # The feed waits for a busy server; interactive clients decide themselves whether to wait.
                    if response.status_code != HTTPStatus.INTERNAL_SERVER_ERROR or priority < BATCH_PRIORITY:
                        return response
                    lost += 1
                    if (pause := self._lost.after(lost)) is None:
                        return response
                self.retries += 1
                await asyncio.sleep(pause)
        finally:
            self._in_flight -= 1

    def _lose(self, error: Exception) -> NoReturn:
        self.state = "dead"
        reason = str(error) or type(error).__name__
        raise EngineDiedError(
            f"The server at {self.url} does not answer: {reason}. The request will be sent again."
        ) from error

    def _connected(self) -> httpx.AsyncClient:
        if self._client is None or self.state == "unloaded":
            raise EngineNotLoadedError
        if self.state == "dead":
            raise EngineDiedError(f"The server at {self.url} does not answer.")
        return self._client

    async def tokenize(self, body: bytes) -> int:
        """Count the prompt tokens that a chat or completion request would have; `EngineError` if it cannot."""
        try:
            return await self._count(body)
        except httpx.HTTPError as error:
            raise EngineError(f"The server at {self.url} did not count the tokens of a request: {error}.") from error

    async def _count(self, body: bytes) -> int:
        # It is not an endpoint of OpenAI's, and is outside of /v1.
        url = f"{self.url.removesuffix('/v1')}/tokenize"
        response = await self._connected().post(url, content=body, headers={"content-type": "application/json"})
        with contextlib.suppress(msgspec.MsgspecError, KeyError, TypeError):
            if response.status_code == HTTPStatus.OK:
                return int(msgspec.json.decode(response.content)["count"])
        raise EngineError(f"The server at {self.url} cannot count the tokens of a request: {response.text[:200]}")

    async def _read_metrics(self) -> None:
        if self._client is None or self.state == "dead":
            return  # its batches say so
        try:
            response = await self._client.get(f"{self.url.removesuffix('/v1')}/metrics", timeout=_CONNECT_SECONDS)
        except httpx.HTTPError:
            await self._judge(works=False)
            raise
        if response.status_code != HTTPStatus.OK or not self.figures.observe(response.text):
            self._loop.end()  # it is not vLLM's
            return
        await self._judge(works=True)

    async def _judge(self, *, works: bool) -> None:
        """See whether the server is at work; `silence` has the rule. What it does for others counts, too."""
        now, silence, figures = time.monotonic(), self._silence, self.stats()
        seconds, self._looked_at = min(now - self._looked_at, _CONNECT_SECONDS + _METRICS_SECONDS), now
        steps = self._answered + figures.prompt_tokens + figures.generation_tokens
        was_over, is_busy = silence.is_over, self._in_flight > 0
        verdict = silence.look(seconds, is_busy=is_busy, steps=steps, works=works)
        if works and not is_busy:
            # Its clients have given up; what it does next shows whether it works again.
            silence.end()
        self.state = "not responding" if silence.is_over else "ready"
        if silence.is_over and not was_over:
            self.say(f"The server at {self.url} does not respond: nothing came for {silence.without_step:,.0f} s.")
            self._give_up_interactive()
        elif was_over and not silence.is_over:
            self.say(f"The server at {self.url} responds again.")
        if verdict == "hung" and self._client is not None:
            # The requests that are with it end, and run again when it is back.
            self.state = "dead"
            await self._client.aclose()

    def stats(self) -> EngineStats:
        """Return the server's figures, as new as two seconds; of one that is not vLLM's only what this process asks."""
        return self.figures.stats(self.served_model_names[0], self.state, in_flight=self._in_flight)

    async def shutdown(self) -> None:
        """Disconnect from the server, which keeps running; a second call does nothing."""
        await self._loop.stop(within=0)
        client, self._client = self._client, None
        self.state = "unloaded"
        if client is not None:
            await client.aclose()


def _is_stream(response: httpx.Response) -> bool:
    is_json = response.headers.get("content-type", "").startswith("application/json")
    return not response.is_error and not is_json


async def _stream(response: httpx.Response) -> AsyncIterator[bytes]:
    async with contextlib.aclosing(response):
        async for chunk in response.aiter_bytes():
            yield chunk
