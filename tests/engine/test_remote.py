"""vLLM's own server as the engine: one by itself, and two that a proxy sends requests to in turn."""

from __future__ import annotations

import asyncio
import contextlib
import itertools
import os
import subprocess
import sys
import threading
from collections.abc import Iterator
from concurrent.futures import Future
from functools import partial
from pathlib import Path
from typing import Any

import httpx
import pandas as pd
import pytest

from tests.batches import open_store
from tests.servers import free_port, wait_until_up
from vbatch_jupyter.frames.ask import Ask
from vbatch_jupyter.protocol.endpoints import CHAT
from vbatch_jupyter.session.session import Session

pytestmark = pytest.mark.timeout(600)  # two servers start, on whatever else runs here

ROWS = 60


@contextlib.contextmanager
def vllm_server(model: Path, log: Path) -> Iterator[tuple[subprocess.Popen[bytes], int]]:
    """Start vLLM's server; gives its process and its port."""
    port = free_port()
    command = [sys.executable, "-m", "vllm.entrypoints.openai.api_server", "--model", str(model), "--port", str(port)]
    command += ["--served-model-name", "tiny", "--max-model-len", "512", "--enforce-eager", "--max-num-seqs", "32"]
    command += ["--kv-cache-memory-bytes", "200M", "--host", "127.0.0.1", "--dtype", "float32"]
    command += ["--scheduling-policy", "priority"]
    # By default every vLLM binds its worker to the first core, and two of them to the same.
    environment = {**os.environ, "VLLM_CPU_OMP_THREADS_BIND": "nobind", "VLLM_NO_USAGE_STATS": "1"}
    with (
        log.open("wb") as output,
        subprocess.Popen(command, stdout=output, stderr=output, env=environment) as process,
    ):
        try:
            yield process, port
        finally:
            process.terminate()
            with contextlib.suppress(subprocess.TimeoutExpired):
                process.wait(60)
            process.kill()


class RoundRobin:
    """A proxy that knows nothing of HTTP: it joins each connection to the next server."""

    def __init__(self, ports: list[int]) -> None:
        self._ports = itertools.cycle(ports)
        self._listening: Future[tuple[asyncio.AbstractEventLoop, asyncio.Event, int]] = Future()
        # asyncio.run ends with every task cancelled and waited for, so that no connection outlives its loop.
        self._thread = threading.Thread(target=asyncio.run, args=(self._serve(),))
        self._thread.start()
        self._loop, self._closed, self.port = self._listening.result()

    async def _serve(self) -> None:
        closed = asyncio.Event()
        server = await asyncio.start_server(self._join, "127.0.0.1", 0)
        self._listening.set_result((asyncio.get_running_loop(), closed, server.sockets[0].getsockname()[1]))
        await closed.wait()
        server.close()

    async def _join(self, reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
        with contextlib.closing(writer), contextlib.suppress(OSError):
            there, back = await asyncio.open_connection("127.0.0.1", next(self._ports))
            with contextlib.closing(back):
                await asyncio.gather(_pass_on(reader, back), _pass_on(there, writer))

    def close(self) -> None:
        self._loop.call_soon_threadsafe(self._closed.set)
        self._thread.join()


async def _pass_on(reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
    with contextlib.closing(writer), contextlib.suppress(OSError):
        while data := await reader.read(65536):
            writer.write(data)
            await writer.drain()


def answered(port: int) -> float:
    """Count the requests that a server has finished."""
    text = httpx.get(f"http://127.0.0.1:{port}/metrics").text
    lines = (line for line in text.splitlines() if line.startswith("vllm:request_success_total"))
    return sum(float(line.rpartition(" ")[2]) for line in lines)


def test_a_vllm_server_is_the_engine_and_two_behind_a_proxy_share_the_work(tiny_model: Path, tmp_path: Path) -> None:
    logs = [tmp_path / f"server-{number}.log" for number in (1, 2)]
    frame = pd.DataFrame({"n": range(ROWS)})
    prompt: dict[str, Any] = {"template": "Say something about {{ n }}.", "max_tokens": 12, "temperature": 0}
    with contextlib.ExitStack() as stack:
        servers = [stack.enter_context(vllm_server(tiny_model, log)) for log in logs]
        for (process, port), log in zip(servers, logs, strict=True):
            health = f"http://127.0.0.1:{port}/health"
            wait_until_up(process, health, log=partial(log.read_text, errors="replace"), seconds=400)
        ports = [port for _, port in servers]
        proxy = RoundRobin(ports)
        stack.callback(proxy.close)
        session = Session(stack.enter_context(open_store(tmp_path / "store")), say=lambda _: None)
        stack.callback(session.close)

        alone = f"http://127.0.0.1:{ports[0]}/v1"
        engine = session.load(alone, ["--url", alone])
        assert (engine.served_model_names, engine.counts_tokens) == (("tiny",), True)
        first = session.run(frame, Ask.of(**prompt))
        assert first["error"].isna().all()
        assert list(map(answered, ports)) == [ROWS, 0]
        body = CHAT.body("Say something about 7.", model="tiny")
        batch = session.attach(next(session.batches()).id)
        counted = batch.results(full=True)["prompt_tokens"]
        assert session.tokenize(CHAT, body) == counted[7]
        refused = session.run(frame.head(1), Ask.of("Hi.{# no columns #}", max_tokens=100_000))["error"][0]
        assert "max_tokens" in refused or "context length" in refused

        both = f"http://127.0.0.1:{proxy.port}/v1"
        session.load(both, ["--url", both, "--max-num-seqs", "32"])
        second = session.run(frame, Ask.of(**prompt))
        assert list(second["response"]) == list(first["response"])
        done = list(map(answered, ports))
        assert done[1] > 10
        assert sum(done) == 2 * ROWS
        for loop in session.loaded_engine().loops:
            loop.looked()
        assert session.engine_stats() is not None
