"""The sides of `bench.py` that ask a server: Jupyter's with ours, vLLM's own, and llama.cpp's."""

from __future__ import annotations

import asyncio
import contextlib
import json
import shlex
import subprocess
import sys
import time
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import llama
import openai
from rounds import Engine, Rounds, of_usages
from workloads import Request, as_lines

sys.path.insert(0, str(Path(__file__).parents[1]))

from tests.servers import JupyterServer, free_port, wait_until_up

AT_ONCE = 256
_SECONDS_TO_START = 600
_POLL_SECONDS = 0.1


def http_batch(engine: Engine, rounds: Rounds) -> None:
    """Send the file to a Jupyter server with the extension, wait for the batch, and fetch its output file."""
    config = {"models": {"bench": shlex.join([engine.folder, *engine.flags])}, "load_wait_seconds": _SECONDS_TO_START}
    place = Path(engine.place, "server")
    with JupyterServer(place, config=config) as server, server.client(timeout=_SECONDS_TO_START) as client:
        with server.http() as http:
            http.post("vbatch/engines/bench/load", timeout=_SECONDS_TO_START).raise_for_status()
        for requests in rounds:
            lines = as_lines(requests, "bench")
            endpoint: Any = requests[0].url
            begun = time.perf_counter()
            file = client.files.create(file=("in.jsonl", lines.encode()), purpose="batch")
            made = client.batches.create(input_file_id=file.id, endpoint=endpoint, completion_window="24h")
            while (batch := client.batches.retrieve(made.id)).status not in {"completed", "failed"}:
                time.sleep(_POLL_SECONDS)
            assert batch.output_file_id is not None, batch
            output = client.files.content(batch.output_file_id).text
            seconds = time.perf_counter() - begun
            answers = [json.loads(line)["response"]["body"] for line in output.splitlines()]
            assert len(answers) == len(requests)
            figures = of_usages(seconds, (answer["usage"] for answer in answers))
            # Duplicates have one answer between them, and found its tokens in the cache once.
            once = of_usages(seconds, {answer["id"]: answer["usage"] for answer in answers}.values())
            rounds.reply({**figures, "cached_tokens": once["cached_tokens"]})


def async_openai(engine: Engine, rounds: Rounds) -> None:
    """Run the loop that people write today, against ``vllm serve``."""
    port = free_port()
    command = [sys.executable, "-m", "vllm.entrypoints.openai.api_server", "--model", engine.folder]
    command += ["--host", "127.0.0.1", "--port", str(port), "--enable-prompt-tokens-details", *engine.flags]
    with _server(command, port):
        _loop(f"http://127.0.0.1:{port}/v1", engine.folder, rounds)


def llama_cpp(_engine: Engine, rounds: Rounds) -> None:
    """Run the same loop against llama.cpp's server, built for this machine."""
    port = free_port()
    with _server(llama.command(port), port):
        _loop(f"http://127.0.0.1:{port}/v1", "demo", rounds)


@contextlib.contextmanager
def _server(command: list[str], port: int) -> Iterator[None]:
    with subprocess.Popen(command) as process:
        try:
            # What it prints is in this side's own log already.
            wait_until_up(process, f"http://127.0.0.1:{port}/health", log=str, seconds=_SECONDS_TO_START)
            yield
        finally:
            process.terminate()


def _loop(url: str, model: str, rounds: Rounds) -> None:
    async def ask(requests: list[Request]) -> list[dict[str, Any]]:
        slots = asyncio.Semaphore(AT_ONCE)

        async def one(client: openai.AsyncOpenAI, request: Request) -> dict[str, Any]:
            body = request.body(model)
            ignored = {"ignore_eos": body.pop("ignore_eos")} if request.max_tokens else None
            async with slots:
                if request.max_tokens:
                    answer: Any = await client.chat.completions.create(**body, extra_body=ignored)
                else:
                    answer = await client.embeddings.create(**body)
            return dict(answer.usage.model_dump())

        async with openai.AsyncOpenAI(base_url=url, api_key="none", timeout=3600, max_retries=0) as client:
            return await asyncio.gather(*(one(client, request) for request in requests))

    for requests in rounds:
        begun = time.perf_counter()
        usages = asyncio.run(ask(requests))
        rounds.reply(of_usages(time.perf_counter() - begun, usages))
