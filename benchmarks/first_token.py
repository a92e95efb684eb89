"""How long a chat's first token takes while a batch has all slots of the engine, against an idle engine.

Everything is real: a Jupyter server, a kernel with vLLM that it has started, the stock client. Chats start at random
moments, as people do. The bar is the idle engine's p95 plus two steps of the engine, all measured in the same run.
It also shows how long the batch's own first token took, and how long reading the batch takes while it runs.
"""

from __future__ import annotations

import argparse
import json
import random
import statistics
import sys
import tempfile
import time
from pathlib import Path
from typing import TYPE_CHECKING, Any

ROOT = Path(__file__).parents[1]
sys.path.insert(0, str(ROOT))

from tests.models import make_tiny_model  # noqa: E402 - of this checkout
from tests.servers import JupyterServer  # noqa: E402 - of this checkout

if TYPE_CHECKING:
    import openai

MODEL = "tiny"
SLOTS = 256


def first_token(client: openai.OpenAI, number: int) -> float:
    """Return the seconds to the first token of one chat."""
    message: Any = [{"role": "user", "content": f"Say hello to number {number}."}]
    begun = time.perf_counter()
    with client.chat.completions.create(model=MODEL, messages=message, max_tokens=4, stream=True) as stream:
        for chunk in stream:
            if chunk.choices and chunk.choices[0].delta.content:
                return time.perf_counter() - begun
    raise SystemExit("a chat ended without a token")


def chats(client: openai.OpenAI, count: int, *, pause: float) -> list[float]:
    """Chat again and again, each time after up to ``pause`` seconds; give the seconds to the first tokens."""
    moments = random.Random(0)  # noqa: S311 - not for secrets
    seconds = []
    for number in range(count):
        time.sleep(moments.uniform(0, pause))
        seconds.append(first_token(client, number))
    return seconds


def p95(seconds: list[float]) -> float:
    """Return the 95th percentile."""
    return statistics.quantiles(seconds, n=20)[-1]


def figures_of(server: JupyterServer) -> dict[str, Any]:
    """Return the engine's figures."""
    with server.http() as http:
        (engine,) = http.get("vbatch/engines").json()["data"]
    return dict(engine["stats"])


def start_batch(client: openai.OpenAI, server: JupyterServer) -> tuple[str, float]:
    """Start a batch of 500 long answers; give it, once it has all slots, and the seconds to its first token."""
    body = {"model": MODEL, "max_tokens": 900, "ignore_eos": True}
    lines = [
        {
            "custom_id": f"row-{row}",
            "method": "POST",
            "url": "/v1/chat/completions",
            "body": {**body, "messages": [{"role": "user", "content": f"Count to {row}."}]},
        }
        for row in range(500)
    ]
    file = client.files.create(file=("in.jsonl", "\n".join(map(json.dumps, lines)).encode()), purpose="batch")
    before, begun = figures_of(server)["generation_tokens"], time.perf_counter()
    batch = client.batches.create(input_file_id=file.id, endpoint="/v1/chat/completions", completion_window="24h")
    while figures_of(server)["generation_tokens"] == before:
        time.sleep(0.01)
    seconds = time.perf_counter() - begun
    while figures_of(server)["running"] < SLOTS:
        time.sleep(0.1)
    return batch.id, seconds


def looks(client: openai.OpenAI, batch: str, count: int) -> list[float]:
    """Retrieve a batch again and again; give the seconds that each took."""
    seconds = []
    for _ in range(count):
        begun = time.perf_counter()
        client.batches.retrieve(batch)
        seconds.append(time.perf_counter() - begun)
        time.sleep(0.02)
    return seconds


def measure(client: openai.OpenAI, server: JupyterServer, count: int) -> None:
    """Measure idle and busy, and print both."""
    chats(client, 5, pause=0)
    idle = chats(client, count, pause=0.5)
    batch, began = start_batch(client, server)
    before, begun = figures_of(server), time.monotonic()
    busy = chats(client, count, pause=1)
    after, seconds = figures_of(server), time.monotonic() - begun
    seen = looks(client, batch, 300)
    client.batches.cancel(batch)
    # In each step each of the requests that run gets a token.
    step = seconds * SLOTS / (after["generation_tokens"] - before["generation_tokens"])
    bar = p95(idle) + 2 * step
    print(f"idle: p50 {statistics.median(idle):.3f} s, p95 {p95(idle):.3f} s")
    print(f"during a batch of 500: p50 {statistics.median(busy):.3f} s, p95 {p95(busy):.3f} s; a step {step:.3f} s")
    print(f"p95 is {p95(busy) / bar:.2f} of the idle engine's plus two steps ({time.strftime('%Y-%m-%d')})")
    print(f"the batch's first token came {began:.2f} s after its create")
    p99 = statistics.quantiles(seen, n=100)[-1]
    print(f"a look at the batch while it runs: p50 {1000 * statistics.median(seen):.1f} ms, p99 {1000 * p99:.1f} ms")


def main() -> None:
    """Start a server with the model, and measure."""
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--chats", type=int, default=60)
    options = parser.parse_args()
    with tempfile.TemporaryDirectory() as folder:
        model = make_tiny_model(Path(folder, "model"))
        config = {"models": {MODEL: f"{model} --max-model-len 1024 --max-num-seqs {SLOTS}"}, "load_wait_seconds": 300}
        with JupyterServer(Path(folder, "server"), config=config) as server, server.client(timeout=300) as client:
            measure(client, server, options.chats)


if __name__ == "__main__":
    main()
