"""OpenAI's online endpoints on the real thing: a real server, a kernel that it has started, and vLLM in it."""

from __future__ import annotations

import asyncio
import http.server
import json
import statistics
import threading
import time
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import httpx
import openai
import pytest
from jupyter_client.blocking.client import BlockingKernelClient

from tests.batches import open_store
from tests.kernels import BEGIN_BATCH
from tests.servers import JupyterServer
from tests.waiting import wait_for
from vbatch_jupyter.records import SECRET_HEADER
from vbatch_jupyter.store import EngineRecord, Store

pytestmark = pytest.mark.timeout(600)

MODEL = "tiny"
CHATS = 10
BATCH = 500
LATENESS = f"""
{BEGIN_BATCH}
def lateness():
    ended, _ = begin(1000)
    late = []
    while not ended.is_set():
        begun = time.monotonic()
        time.sleep(0.001)
        late.append(time.monotonic() - begun - 0.001)
    return sorted(late)
"""
HELLO: Any = [{"role": "user", "content": "Say hello."}]


class ServersKernel:
    """A kernel that the server has started, and a client that runs code in it."""

    def __init__(self, server: JupyterServer) -> None:
        with server.http() as http:
            self.id = http.post("api/kernels", json={}).raise_for_status().json()["id"]
        # The server writes the file before it answers.
        self._client = BlockingKernelClient(connection_file=str(Path(server._runtime.name, f"kernel-{self.id}.json")))
        self._client.load_connection_file()
        # Its heart is heard only after its start, and would be taken for dead before.
        self._client.start_channels(hb=False)
        self._client.wait_for_ready(timeout=60)

    def run(self, code: str) -> str:
        printed: list[str] = []

        def take(message: dict[str, Any]) -> None:
            content = message["content"]
            assert message["msg_type"] != "error", "\n".join(content["traceback"])
            if message["msg_type"] == "stream" and content["name"] == "stdout":
                printed.append(content["text"])

        self._client.execute_interactive(code, output_hook=take, timeout=300)
        return "".join(printed)

    def close(self) -> None:
        self._client.stop_channels()


@pytest.fixture(scope="module")
def server(tmp_path_factory) -> Iterator[JupyterServer]:
    with JupyterServer(tmp_path_factory.mktemp("online")) as server:
        yield server


@pytest.fixture(scope="module")
def kernel(server, tiny_model) -> Iterator[ServersKernel]:
    kernel = ServersKernel(server)
    kernel.run(
        "import json, vbatch_jupyter as vb\nfrom vbatch_jupyter.session.session import current\n"
        f"vb.load({str(tiny_model)!r}, served_model_name={MODEL!r}, max_model_len=8192)"
    )
    yield kernel
    kernel.close()


@pytest.fixture(scope="module")
def store(server) -> Iterator[Store]:
    with open_store(server.store) as store:
        yield store


@pytest.fixture
def client(server) -> Iterator[openai.OpenAI]:
    with server.client(timeout=60) as client:
        yield client


def engine_of(store: Store) -> EngineRecord:
    (record,) = store.engines.live()
    return record


def socket_client(record: EngineRecord) -> httpx.Client:
    transport = httpx.HTTPTransport(uds=record.socket)
    headers = {SECRET_HEADER: record.secret}
    return httpx.Client(transport=transport, base_url="http://kernel", headers=headers, timeout=300)


def stats(store: Store) -> dict[str, Any]:
    with socket_client(engine_of(store)) as direct:
        figures: dict[str, Any] = direct.get("/stats").json()
        return figures


def first_tokens(client: openai.OpenAI, chats: int) -> list[float]:
    """Return the seconds to the first token of chats, one after the other."""
    seconds = []
    for number in range(chats):
        begun = time.perf_counter()
        message: Any = [{"role": "user", "content": f"Say hello to number {number}."}]
        with client.chat.completions.create(model=MODEL, messages=message, max_tokens=4, stream=True) as stream:
            for chunk in stream:
                if chunk.choices and chunk.choices[0].delta.content is not None and chunk.choices[0].delta.content:
                    seconds.append(time.perf_counter() - begun)
                    break
    return seconds


def make_batch(client: openai.OpenAI, requests: int, **body: Any) -> str:
    lines = [
        {
            "custom_id": f"row-{position}",
            "method": "POST",
            "url": "/v1/chat/completions",
            "body": {"model": MODEL, "messages": [{"role": "user", "content": f"Count to {position}."}], **body},
        }
        for position in range(requests)
    ]
    file = client.files.create(file=("in.jsonl", "\n".join(map(json.dumps, lines)).encode()), purpose="batch")
    return client.batches.create(input_file_id=file.id, endpoint="/v1/chat/completions", completion_window="24h").id


def test_the_kernel_is_known_by_jupyters_id(kernel, store):
    record = engine_of(store)
    assert (record.kernel_id, record.models, record.state, record.name) == (kernel.id, (MODEL,), "ready", MODEL)


def test_a_timer_in_the_kernels_main_thread_is_on_time_beside_a_batch(kernel, figures):
    """So small a model leaves the front end in the kernel, and with it the interpreter's lock, the most to do.

    What a busy cell costs a batch is measured by benchmarks/busy_cell.py.
    """
    kernel.run(LATENESS)
    late = json.loads(kernel.run("show(lateness())").rpartition("JSON")[2])
    p99 = late[int(0.99 * len(late))]
    figures.append(
        f"a timer of 1 ms during a batch: late by {1000 * p99:.1f} ms at p99, {1000 * late[-1]:.0f} ms at most"
    )
    assert len(late) > 300
    # A thread that never lets go of the interpreter would keep it for seconds.
    assert p99 < 0.5


def test_the_endpoints_of_a_model_that_writes_answer(kernel, client):
    chat = client.chat.completions.create(model=MODEL, messages=HELLO, max_tokens=5)
    assert (chat.usage.completion_tokens, chat.model) == (5, MODEL)
    # vLLM 0.32.0 has null where no reasoning parser is.
    assert chat.usage.completion_tokens_details.reasoning_tokens == 0
    assert chat.usage.prompt_tokens_details.cached_tokens >= 0
    assert client.completions.create(model=MODEL, prompt="Once", max_tokens=5).usage.completion_tokens == 5
    assert client.responses.create(model=MODEL, input="Once", max_output_tokens=16).usage.output_tokens == 16
    with pytest.raises(openai.NotFoundError, match="does not serve /v1/embeddings"):
        client.embeddings.create(model=MODEL, input="a")


def test_streams_end_as_openais_do(kernel, client, server):
    options: Any = {"model": MODEL, "messages": HELLO, "max_tokens": 20, "stream": True}
    chunks = list(client.chat.completions.create(**options, stream_options={"include_usage": True}))
    assert chunks[-1].usage.completion_tokens == 20
    assert chunks[-1].usage.completion_tokens_details.reasoning_tokens == 0
    assert chunks[-2].choices[0].finish_reason == "length"

    async def stream() -> list[Any]:
        async with server.async_client(timeout=60) as asynchronous:
            return [chunk async for chunk in await asynchronous.chat.completions.create(**options)]

    assert asyncio.run(stream())[-1].choices[0].finish_reason == "length"
    events = list(client.responses.create(model=MODEL, input="Once", max_output_tokens=16, stream=True))
    assert (events[0].type, events[-1].type) == ("response.created", "response.completed") or (
        events[-1].type == "response.incomplete"
    )


def test_a_client_that_leaves_ends_the_engines_work(kernel, client, store):
    # Again and again: that a write fails, and that the connection has ended, may be seen in either order.
    for _ in range(8):
        # Seconds of work, even where nothing else runs.
        stream = client.chat.completions.create(
            model=MODEL, messages=HELLO, max_tokens=8000, stream=True, extra_body={"ignore_eos": True}
        )
        # The iterator is kept: openai closes the response when it is collected.
        events = iter(stream)
        next(events)
        before = wait_for(lambda: (now := stats(store))["running"] == 1 and now)
        stream.close()
        after = wait_for(lambda: (now := stats(store))["running"] == 0 and now)
        assert after["generation_tokens"] - before["generation_tokens"] < 4000


def test_a_chat_waits_for_no_slot(kernel, client, store):
    batch = make_batch(client, BATCH, max_tokens=900, ignore_eos=True)
    slots = int(kernel.run("print(current().engine.max_num_seqs)"))
    wait_for(lambda: stats(store)["running"] >= slots)
    assert stats(store)["waiting"] > 0
    seconds = first_tokens(client, CHATS)
    now = stats(store)
    # They were all asked for while no slot was free. With vLLM's own scheduler none has a token within 15 s: it waits
    # for one of 256 answers of 900 tokens to end. How many steps it takes is measured by benchmarks/first_token.py.
    assert now["running"] >= slots - 1
    assert now["waiting"] > 0
    assert len(seconds) == CHATS
    assert max(seconds) < 15, seconds
    client.batches.cancel(batch)
    wait_for(lambda: client.batches.retrieve(batch).status == "cancelled")


def test_a_batch_that_made_room_is_answered_as_if_it_had_not(kernel, client):
    options = {"max_tokens": 60, "temperature": 0, "ignore_eos": True, "seed": 1}
    alone = answers(client, make_batch(client, 300, **options))
    batch = make_batch(client, 300, **options, user="another")
    while client.batches.retrieve(batch).status not in {"completed", "failed"}:
        first_tokens(client, 3)
    assert len(alone) == 300
    assert answers(client, batch) == alone


def answers(client: openai.OpenAI, batch: str) -> dict[str, str]:
    ended = wait_for(lambda: (now := client.batches.retrieve(batch)).status == "completed" and now, seconds=200)
    assert ended.request_counts.failed == 0
    lines = map(json.loads, client.files.content(ended.output_file_id).content.splitlines())
    return {line["custom_id"]: line["response"]["body"]["choices"][0]["message"]["content"] for line in lines}


def test_a_chat_is_answered_through_the_server_as_on_the_socket(kernel, server, store, record_testsuite_property):
    body = {"model": MODEL, "messages": HELLO, "max_tokens": 1}
    through: list[float] = []
    direct: list[float] = []
    with server.http() as http, socket_client(engine_of(store)) as socket:
        for _ in range(60):
            for client, path, seconds in ((http, "vbatch/v1", through), (socket, "/v1", direct)):
                begun = time.perf_counter()
                client.post(f"{path}/chat/completions", json=body).raise_for_status()
                seconds.append(time.perf_counter() - begun)
    record_testsuite_property("through_p50", round(statistics.median(through), 4))
    record_testsuite_property("direct_p50", round(statistics.median(direct), 4))
    assert (len(through), len(direct)) == (60, 60)


def test_nothing_is_fetched_and_vllms_own_limits_stand_behind_the_rules(kernel, client):
    hits: list[str] = []

    class Canary(http.server.BaseHTTPRequestHandler):
        def do_GET(self) -> None:
            hits.append(self.path)

    with http.server.HTTPServer(("127.0.0.1", 0), Canary) as canary:
        threading.Thread(target=canary.serve_forever, daemon=True).start()
        url = f"http://127.0.0.1:{canary.server_port}/secret"
        content: Any = [
            {"type": "image_url", "image_url": {"url": url}},
            {"type": "video_url", "video_url": {"url": url}},
        ]
        with pytest.raises(openai.BadRequestError, match="Nothing is fetched"):
            client.chat.completions.create(model=MODEL, messages=[{"role": "user", "content": content}])
        image: Any = [{"role": "user", "content": [{"type": "input_image", "image_url": url, "detail": "auto"}]}]
        with pytest.raises(openai.BadRequestError, match="Nothing is fetched"):
            client.responses.create(model=MODEL, input=image)
        batch = make_batch(client, 2, messages=[{"role": "user", "content": content}])
        ended = wait_for(lambda: (now := client.batches.retrieve(batch)).status == "completed" and now)
        assert ended.request_counts.failed == 2
        canary.shutdown()
    assert hits == []
    body = json.dumps({"model": MODEL, "messages": HELLO, "n": 129})
    code = f"""
async def ask():
    response = await current().engine._answer("/v1/chat/completions", {body.encode()!r}, {body}, priority=0)
    return (await response.read()).decode()
print(current()._thread.call(ask()))
"""
    assert "n must be at most 128" in kernel.run(code)
    names = "VLLM_MEDIA_URL_ALLOW_REDIRECTS", "VLLM_MAX_N_SEQUENCES"
    assert kernel.run(f"import os; print([name in os.environ for name in {names}])").strip() == "[False, False]"


def test_a_model_for_embeddings_is_loaded_over_the_socket_and_answers(kernel, client, store, tiny_model):
    flags = ["--served-model-name", "vectors", "--max-model-len", "512", "--runner", "pooling", "--convert", "embed"]
    with socket_client(engine_of(store)) as direct:
        loaded = direct.post("/load", json={"model": str(tiny_model), "flags": flags})
    assert (loaded.status_code, loaded.json()["model"]) == (200, "vectors"), loaded.text
    assert [model.id for model in client.models.list()] == ["vectors"]
    found = client.embeddings.create(model="vectors", input=["a", "b"])
    assert [len(item.embedding) for item in found.data] == [128, 128]
    with pytest.raises(openai.NotFoundError, match="%vbatch load tiny"):
        client.chat.completions.create(model=MODEL, messages=HELLO)
