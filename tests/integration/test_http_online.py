"""The online endpoints of a real Jupyter server, before real kernels that hold echo engines."""

from __future__ import annotations

import asyncio
import contextlib
import json
import os
import stat
from collections.abc import Callable, Iterator
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path
from typing import Any

import httpx
import openai
import pytest
from openai.types import Model

from tests.kernels import NotebookKernel
from tests.servers import JupyterServer
from tests.waiting import wait_for
from vbatch_jupyter.records import SECRET_HEADER
from vbatch_jupyter.store import EngineRecord, Store

pytestmark = pytest.mark.timeout(120)

PREPARE = """
import time
import vbatch_jupyter as vb
from vbatch_jupyter.engine.echo import EchoEngine
from vbatch_jupyter.session.session import current

class SlowEngine(EchoEngine):
    async def start(self):
        import asyncio
        self.state = "loading"
        await asyncio.sleep(1.5)
        await super().start()

def make(model, flags, **_):
    from vbatch_jupyter.engine.flags import served_names
    kind = SlowEngine if model == "slow" else EchoEngine
    return kind(served_names(model, flags), latency_seconds=LATENCY)

LATENCY = 0.05
current()._loader._make_engine = make
"""


@pytest.fixture(scope="module")
def server(tmp_path_factory) -> Iterator[JupyterServer]:
    folder = tmp_path_factory.mktemp("online")
    with JupyterServer(folder, config={"max_request_bytes": 2 * 1024 * 1024}) as server:
        yield server


@pytest.fixture(scope="module")
def new_kernel(server) -> Iterator[Callable[..., NotebookKernel]]:
    kernels: list[NotebookKernel] = []

    def start(first: str = "") -> NotebookKernel:
        kernels.append(NotebookKernel(server.store))
        kernels[-1].run(f"{first}\n{PREPARE}").checked()
        return kernels[-1]

    yield start
    for kernel in kernels:
        kernel.close()


@pytest.fixture(scope="module")
def kernel(new_kernel) -> NotebookKernel:
    kernel: NotebookKernel = new_kernel()
    kernel.run("vb.load('echo', served_model_name=['echo', 'org/echo'])").checked()
    return kernel


def engine_of(store: Store, model: str) -> EngineRecord:
    return next(record for record in store.engines.live() if model in record.models)


def socket_client(record: EngineRecord, secret: str | None = None) -> httpx.Client:
    headers = {SECRET_HEADER: record.secret if secret is None else secret}
    return httpx.Client(transport=httpx.HTTPTransport(uds=record.socket), base_url="http://kernel", headers=headers)


def running(store: Store, model: str = "echo") -> int:
    record = engine_of(store, model)
    with socket_client(record) as direct:
        return int(direct.get("/stats").json()["running"])


def saying(text: str) -> list[Any]:
    return [{"role": "user", "content": text}]


# ------------------------------------------------------------------------------------------------------- endpoints


def test_all_four_endpoints_answer(kernel, client):
    chat = client.chat.completions.create(model="echo", messages=saying("hello there"))
    assert chat.choices[0].message.content == "hello there"
    assert chat.usage is not None
    # OpenAI always has these details; the engine has sent none.
    assert chat.usage.completion_tokens_details is not None
    assert chat.usage.completion_tokens_details.reasoning_tokens == 0
    assert client.completions.create(model="org/echo", prompt="once more").choices[0].text == "once more"
    embedding = client.embeddings.create(model="echo", input="four", encoding_format="float")
    assert embedding.data[0].embedding == [4.0, 0.0]
    assert client.responses.create(model="echo", input="and so on").output_text == "and so on"


def test_a_key_that_nobody_knows_is_answered_as_openai_does_and_one_that_does_nothing_is_named_in_a_header(
    kernel, client
):
    chat: dict[str, Any] = {"model": "echo", "messages": [{"role": "user", "content": "Say hello."}]}
    with pytest.raises(openai.BadRequestError) as caught:
        client.chat.completions.create(**chat, extra_body={"temprature": 0})
    assert caught.value.body == {
        "message": "Unknown parameter: 'temprature'.",
        "type": "invalid_request_error",
        "param": "temprature",
        "code": "unknown_parameter",
    }
    answer = client.chat.completions.with_raw_response.create(
        **chat, functions=[{"name": "f"}], modalities=["text"], extra_body={"top_k": 3}
    )
    assert answer.headers["x-vbatch-ignored"] == "functions"
    assert "x-vbatch-ignored" not in client.chat.completions.with_raw_response.create(**chat).headers


def test_a_stream_comes_event_by_event(kernel, client):
    stream = client.chat.completions.create(model="echo", messages=saying("a b c d e f g h"), stream=True)
    assert [chunk.choices[0].delta.content for chunk in stream] == list("abcdefgh")
    # Held back until the end, the first of these words would come after a quarter of an hour.
    stream = client.chat.completions.create(model="echo", messages=saying("word " * 20_000), stream=True)
    words = iter(stream)
    assert [next(words).choices[0].delta.content for _ in range(3)] == ["word"] * 3
    stream.close()


def test_the_asynchronous_client_streams_beside_others(kernel, server):
    async def one(client: openai.AsyncOpenAI, text: str) -> list[str | None]:
        stream = await client.chat.completions.create(model="echo", messages=saying(text), stream=True)
        return [chunk.choices[0].delta.content async for chunk in stream]

    async def all_of_them() -> list[list[str | None]]:
        async with server.async_client() as client:
            return await asyncio.gather(*(one(client, f"a {number} c") for number in range(20)))

    assert asyncio.run(all_of_them()) == [["a", str(number), "c"] for number in range(20)]


def test_a_client_that_leaves_ends_the_engines_work(kernel, client, store):
    stream = client.chat.completions.create(model="echo", messages=saying("word " * 20_000), stream=True)
    next(iter(stream))
    assert running(store) == 1
    stream.close()
    # Its words would take a quarter of an hour.
    wait_for(lambda: running(store) == 0)


def test_a_client_that_leaves_before_the_first_word_ends_the_engines_work(kernel, server, store):
    kernel.run("current().engine.latency_seconds = 3600").checked()
    with pytest.raises(httpx.ReadTimeout):
        httpx.post(
            f"{server.url}/chat/completions",
            json={"model": "echo", "messages": saying("slow")},
            headers={"Authorization": f"Bearer {server.token}"},
            timeout=httpx.Timeout(60, read=2),
        )
    wait_for(lambda: running(store) == 0)
    kernel.run("current().engine.latency_seconds = 0.05").checked()


# ---------------------------------------------------------------------------------------------------------- models


def test_models_are_the_names_that_engines_serve(kernel, client):
    listed = {model.id: model for model in client.models.list()}
    assert {"echo", "org/echo"} <= listed.keys()
    assert all(Model.model_validate(model.model_dump(), strict=True).owned_by == "vbatch" for model in listed.values())
    assert client.models.retrieve("org/echo") == listed["org/echo"]  # the client escapes the slash
    with pytest.raises(openai.NotFoundError) as refused:
        client.models.retrieve("org/none")
    assert refused.value.code == "model_not_found"


def test_a_slash_in_a_models_name_may_stand_bare(kernel, server):
    headers = {"Authorization": f"Bearer {server.token}"}
    for name in ("org/echo", "org%2Fecho"):
        assert httpx.get(f"{server.url}/models/{name}", headers=headers).json()["id"] == "org/echo"


def test_the_model_chooses_the_kernel(kernel, new_kernel, client, store):
    other = new_kernel()
    other.run("vb.load('second')").checked()
    assert client.chat.completions.create(model="second", messages=saying("b")).model == "second"
    assert client.chat.completions.create(model="echo", messages=saying("a")).model == "echo"
    assert other.run("print(current().engine.requests)").checked().stdout.strip() == "1"

    other.run("current().engine.die()").checked()
    wait_for(lambda: engine_of(store, "second").state == "dead")
    with pytest.raises(openai.InternalServerError) as dead:
        client.chat.completions.create(model="second", messages=saying("b"))
    assert (dead.value.status_code, dead.value.code) == (503, "engine_dead")

    # While another loads in its place, the old name is gone and the new one is on its way.
    message = other.start("vb.load('slow')")
    wait_for(lambda: any(record.state == "loading" for record in store.engines.live()))
    with pytest.raises(openai.InternalServerError) as loading:
        client.chat.completions.create(model="slow", messages=saying("b"))
    assert (loading.value.status_code, loading.value.code) == (503, "model_loading")
    assert int(loading.value.response.headers["retry-after"]) > 0
    other.finish(message).checked()
    assert client.chat.completions.create(model="slow", messages=saying("b")).model == "slow"

    other.run("vb.unload()").checked()
    with pytest.raises(openai.NotFoundError):
        client.chat.completions.create(model="slow", messages=saying("b"))


def test_an_engine_that_does_not_respond_is_a_503_and_a_stream_waits_for_it(kernel, new_kernel, http, store):
    other = new_kernel("from vbatch_jupyter.engine import listener\nlistener.KEEP_ALIVE_SECONDS = 0.1")
    other.run("engine = vb.load('hung')\nengine.latency_seconds = 3600").checked()
    body = {"model": "hung", "messages": saying("one two")}
    path = "vbatch/v1/chat/completions"
    with ThreadPoolExecutor(2) as threads:
        stream = threads.submit(http.post, path, json={**body, "stream": True}, timeout=100)
        chat = threads.submit(http.post, path, json=body, timeout=100)
        wait_for(lambda: running(store, "hung") == 2)
        give_up = "current()._thread.loop.call_soon_threadsafe(engine._give_up_interactive)"
        other.run(f"engine.state = 'not responding'\n{give_up}").checked()
        wait_for(lambda: engine_of(store, "hung").state == "not responding")
        for refused in (chat.result(timeout=60), http.post(path, json=body)):
            assert (refused.status_code, refused.headers["retry-after"]) == (503, "5")
            assert refused.json()["error"]["code"] == "engine_not_responding"
        (engine,) = [each for each in http.get("vbatch/engines").json()["data"] if "hung" in each["models"]]
        assert (engine["state"], engine["stats"]["running"]) == ("not responding", 1)
        assert "not responding" in [each["state"] for each in http.get("vbatch/readyz").json()["engines"]]
        assert not stream.done()
        other.run("engine.state, engine.latency_seconds = 'ready', 0").checked()
        said = stream.result(timeout=60).text
    # A comment for each time that it had to wait, and every event whole.
    assert ": keep-alive\n\n" in said
    events = [each for each in said.split("\n\n") if each and each != ": keep-alive"]
    assert events[-1] == "data: [DONE]"
    words = [json.loads(each.removeprefix("data: "))["choices"][0]["delta"]["content"] for each in events[:-1]]
    assert words == ["one", "two"]
    other.run("vb.unload()").checked()


def test_a_model_that_nobody_holds_says_how_to_load_it(kernel, client):
    with pytest.raises(openai.NotFoundError) as refused:
        client.chat.completions.create(model="gpt-9", messages=saying("a"))
    assert (refused.value.code, refused.value.param) == ("model_not_found", "model")
    assert "Load it in a notebook with `%vbatch load gpt-9`." in str(refused.value)
    assert "Served now: echo, org/echo" in str(refused.value)
    assert refused.value.request_id is not None


# -------------------------------------------------------------------------------------------------------- refusals


@pytest.mark.parametrize("path", ["chat/completions", "completions", "embeddings", "responses"])
def test_a_body_that_is_no_request_is_refused(kernel, server, path):
    headers = {"Authorization": f"Bearer {server.token}"}
    for body in (b"", b"no JSON", b"[1]", b'{"model": 7}', b"{}", b'{"model": ""}', b'{"model": "m", "\xb9": 4}'):
        answer = httpx.post(f"{server.url}/{path}", content=body, headers=headers)
        assert answer.status_code == 400, body
        assert set(answer.json()["error"]) == {"message", "type", "param", "code"}


def test_a_body_that_is_too_large_is_refused(kernel, server):
    answer = httpx.post(
        f"{server.url}/chat/completions",
        json={"model": "echo", "messages": saying("a" * 3_000_000)},
        headers={"Authorization": f"Bearer {server.token}"},
    )
    assert answer.status_code == 413


def test_the_rules_hold_for_chats(kernel, client):
    image: Any = [{"type": "image_url", "image_url": {"url": "http://169.254.169.254/"}}]
    with pytest.raises(openai.BadRequestError) as refused:
        client.chat.completions.create(model="echo", messages=[{"role": "user", "content": image}])
    assert refused.value.param == "image_url"
    with pytest.raises(openai.BadRequestError) as refused:
        client.chat.completions.create(model="echo", messages=saying("a"), extra_body={"priority": -1})
    assert refused.value.param == "priority"


def test_the_rules_give_a_batchs_line_an_error_and_the_batch_goes_on(kernel, client):
    bodies: dict[str, dict[str, Any]] = {
        "good": {"messages": saying("fine")},
        "bad": {"messages": saying("a"), "vllm_xargs": {"a": 1}},
    }
    lines = [
        {"custom_id": name, "method": "POST", "url": "/v1/chat/completions", "body": {"model": "echo", **body}}
        for name, body in bodies.items()
    ]
    content = "\n".join(map(json.dumps, lines)).encode()
    file = client.files.create(file=("in.jsonl", content), purpose="batch")
    batch = client.batches.create(input_file_id=file.id, endpoint="/v1/chat/completions", completion_window="24h")
    ended = wait_for(lambda: (now := client.batches.retrieve(batch.id)).status == "completed" and now)
    assert (ended.request_counts.completed, ended.request_counts.failed) == (1, 1)
    error = json.loads(client.files.content(ended.error_file_id).content)
    assert (error["custom_id"], error["response"]["status_code"]) == ("bad", 400)
    assert error["response"]["body"]["error"]["param"] == "vllm_xargs"


def test_who_has_no_key_reaches_no_engine(kernel, server):
    before = kernel.run("print(current().engine.requests)").checked().stdout
    wrong: list[dict[str, str]] = [{}, {"Authorization": "Bearer wrong"}]
    for headers in wrong:
        answer = httpx.post(f"{server.url}/chat/completions", json={"model": "echo"}, headers=headers)
        assert answer.status_code == 401
    assert kernel.run("print(current().engine.requests)").checked().stdout == before


# ---------------------------------------------------------------------------------------------------------- socket


def test_the_socket_is_its_owners_alone_and_short(kernel, store):
    path = Path(engine_of(store, "echo").socket)
    assert len(bytes(path)) <= 100
    assert stat.S_IMODE(path.stat().st_mode) == 0o600
    assert stat.S_IMODE(path.parent.stat().st_mode) == 0o700
    assert path.stat().st_uid == os.geteuid()


def test_the_socket_asks_for_the_secret_and_has_no_other_routes(kernel, store):
    record = engine_of(store, "echo")
    for secret in ("", "wrong", record.secret + "a", "\xe9"):
        with socket_client(record, secret.encode("latin-1")) as direct:  # type: ignore[arg-type]
            for path in ("/v1/chat/completions", "/wake", "/load", "/unload"):
                assert direct.post(path, json={"model": "echo"}).status_code == 403
            assert direct.get("/stats").status_code == 403
    with socket_client(record) as direct:
        assert direct.get("/stats").json()["state"] == "ready"
        for path in ("/pause", "/tokenize", "/v1/load_lora_adapter", "//evil", "/v1/wake"):
            assert direct.post(path).status_code == 404


def test_nothing_of_a_client_but_the_body_reaches_the_engine(kernel, server, store):
    answer = httpx.post(
        f"{server.url}/chat/completions?url=http://evil",
        json={"model": "echo", "messages": saying("a")},
        headers={
            "Authorization": f"Bearer {server.token}",
            "X-Vllm-Priority": "-9",
            "X-Forwarded-Host": "evil",
            SECRET_HEADER: "mine",
        },
    )
    assert answer.status_code == 200
    assert "authorization" not in kernel.stray.lower()


def test_a_load_over_the_socket_says_nothing_under_a_cell_and_one_at_a_time_is_enough(new_kernel, store):
    kernel = new_kernel()
    record = max(store.engines.live(), key=lambda record: record.pid)
    assert (record.state, record.models) == ("unloaded", ())
    with socket_client(record) as direct:
        message = kernel.start("vb.load('slow')")
        wait_for(lambda: direct.get("/stats").json()["state"] == "loading")
        for path, body in (("/load", {"model": "third"}), ("/unload", {})):
            refused = direct.post(path, json=body)
            assert refused.status_code == 409
            assert refused.json()["error"]["message"].startswith("This kernel is already loading 'slow', requested")
        assert kernel.finish(message).checked().stdout

        kernel.stray = ""
        message = kernel.start("import time; time.sleep(1)")
        loaded = direct.post("/load", json={"model": "third", "flags": ["--served-model-name", "a/b", "c"]}, timeout=30)
        assert (loaded.status_code, loaded.json()["model"]) == (200, "a/b")
        assert engine_of(store, "c").state == "ready"
        cell = kernel.finish(message).checked()
        assert (cell.stdout, cell.stderr) == ("", "")
        assert direct.post("/load", json={"flags": []}).status_code == 400
        assert direct.post("/unload").json()["state"] == "unloaded"
        wait_for(lambda: all("c" not in record.models for record in store.engines.live()))
        assert kernel.run("print('still here')").checked().stdout == "still here\n"
        assert kernel.stray == ""


def test_a_kernel_that_is_killed_is_gone_at_once_and_swept(new_kernel, client, store):
    kernel = new_kernel()
    kernel.run("vb.load('victim')").checked()
    record = engine_of(store, "victim")
    os.kill(kernel.pid, 9)
    wait_for(lambda: all(other.id != record.id for other in store.engines.live()))
    with pytest.raises(openai.NotFoundError):
        client.chat.completions.create(model="victim", messages=saying("a"))
    assert record.id in store.sweep()
    assert not Path(record.socket).parent.exists()


def test_a_kernel_that_is_killed_in_mid_stream_breaks_the_stream_off(new_kernel, client, store):
    kernel = new_kernel()
    kernel.run("vb.load('breaking')").checked()
    with contextlib.closing(
        client.chat.completions.create(model="breaking", messages=saying("word " * 500), stream=True)
    ) as stream:
        words = iter(stream)
        next(words)
        os.kill(kernel.pid, 9)
        with pytest.raises(openai.APIConnectionError):
            list(words)


# ------------------------------------------------------------------------------------------------------------ poke


def test_a_batch_reaches_a_loaded_engine_and_a_cancel_the_batch_at_once(new_kernel, client):
    # What it is not told it would see after an hour.
    kernel = new_kernel("import vbatch_jupyter.runner.runner as runner; runner.POLL_SECONDS = 3600")
    kernel.run("vb.load('told'); engine = current().engine; engine.latency_seconds = 3600").checked()
    line = {"custom_id": "a", "method": "POST", "url": "/v1/chat/completions"}
    body = {"model": "told", "messages": saying("poked")}
    file = client.files.create(file=("in.jsonl", json.dumps({**line, "body": body}).encode()), purpose="batch")
    wait = (
        "until = time.time() + 60\nwhile {} and time.time() < until:\n    time.sleep(0.005)\nprint(time.time() < until)"
    )
    reached = kernel.start(wait.format("not engine.requests"))
    batch = client.batches.create(input_file_id=file.id, endpoint="/v1/chat/completions", completion_window="24h")
    assert kernel.finish(reached).checked().stdout == "True\n"

    cancelled = kernel.start(wait.format("engine.stats().running"))
    client.batches.cancel(batch.id)
    assert kernel.finish(cancelled).checked().stdout == "True\n"
    wait_for(lambda: client.batches.retrieve(batch.id).status == "cancelled")
