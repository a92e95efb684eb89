"""A server somewhere else as the engine, against a small server on this machine that fails as it is told to."""

from __future__ import annotations

import asyncio
import contextlib
import dataclasses
import json
import socket
from collections.abc import AsyncIterator, Callable
from typing import Any

import pandas as pd
import pytest
from tornado.httpserver import HTTPServer
from tornado.iostream import StreamClosedError
from tornado.netutil import bind_sockets
from tornado.web import Application, RequestHandler

import vbatch_jupyter as vb
from tests.batches import ENDPOINT
from tests.unit.runner.running import a_runner, answers, batch_of, ended, errors, on_a_loop, until
from tests.unit.session_surface import open_session
from vbatch_jupyter.engine import remote
from vbatch_jupyter.engine.base import BATCH_PRIORITY
from vbatch_jupyter.engine.flags import RemoteFlags, remote_flags
from vbatch_jupyter.engine.remote import RemoteEngine
from vbatch_jupyter.engine.remote_stats import RemoteFigures
from vbatch_jupyter.engine.thread import EngineThread
from vbatch_jupyter.errors import (
    EngineArgumentError,
    EngineDiedError,
    EngineError,
    EngineLoadError,
    EngineSilentError,
    RequestAbortedError,
)
from vbatch_jupyter.loop import Backoff
from vbatch_jupyter.records import Patience

QUICK = Backoff(first=0.001, longest=0.01, attempts=8)
METRICS = """
# TYPE vllm:num_requests_running gauge
vllm:num_requests_running{engine="0",model_name="m"} 3.0
vllm:num_requests_running{engine="1",model_name="m"} 4.0
vllm:num_requests_waiting{engine="0",model_name="m"} 2.0
vllm:kv_cache_usage_perc{engine="0",model_name="m"} 0.25
process_start_time_seconds 17.5
"""


class Server:
    """What the handlers know: how to fail, and what they were asked.

    Parameters
    ----------
    models
        The ids that it serves.
    vllm
        Whether it has vLLM's own routes.
    key
        The key that it wants.
    """

    def __init__(self, models: tuple[str, ...] = ("echo",), *, vllm: bool = True, key: str | None = None) -> None:
        self.models, self.vllm, self.key = models, vllm, key
        self.faults: list[Any] = []
        self.asked: list[dict[str, Any]] = []
        self.priorities: list[str] = []
        self.left = 0
        self.streams = asyncio.Event()
        self.streams.set()
        self.answers = asyncio.Event()
        self.answers.set()
        """Cleared, nothing is answered, as by a process that is stopped."""
        self.url = ""
        self._http: HTTPServer | None = None
        self._port = 0

    def listen(self) -> None:
        shared = {"server": self}
        routes = [(r"/v1/models", Models, shared), (r"/v1/chat/completions", Chat, shared)]
        routes += [(r"/tokenize", Tokenize, shared), (r"/metrics", Metrics, shared)] if self.vllm else []
        self._http = HTTPServer(Application(routes))
        (bound,) = bind_sockets(self._port, "127.0.0.1", family=socket.AF_INET)
        self._port = bound.getsockname()[1]
        self._http.add_socket(bound)
        self.url = f"http://127.0.0.1:{self._port}/v1"

    async def hang_up(self) -> None:
        assert self._http is not None
        self._http.stop()
        await self._http.close_all_connections()


class Handler(RequestHandler):
    def initialize(self, server: Server) -> None:
        self.server = server

    async def prepare(self) -> None:
        await self.server.answers.wait()
        if self.server.key and self.request.headers.get("Authorization") != f"Bearer {self.server.key}":
            self.set_status(401)
            self.finish({"error": {"message": "no"}})


class Models(Handler):
    def get(self) -> None:
        self.finish({"object": "list", "data": [{"id": name, "object": "model"} for name in self.server.models]})


class Tokenize(Handler):
    def post(self) -> None:
        body = json.loads(self.request.body)
        self.finish({"count": len((body.get("prompt") or body["messages"][-1]["content"]).split())})


class Metrics(Handler):
    def get(self) -> None:
        self.finish(METRICS)


class Chat(Handler):
    def on_connection_close(self) -> None:
        self.server.left += 1

    async def post(self) -> None:
        body = json.loads(self.request.body)
        self.server.asked.append(body)
        self.server.priorities.append(self.request.headers["X-Vllm-Priority"])
        fault = self.server.faults.pop(0) if self.server.faults else None
        if fault == "hang":
            await asyncio.sleep(3600)
        elif fault == "drop":
            assert self.request.connection is not None
            self.request.connection.stream.close()  # type: ignore[attr-defined]
            return
        elif isinstance(fault, tuple):
            status, content, headers = fault
            self.set_status(status)
            for name, value in headers.items():
                self.set_header(name, value)
            self.finish(content)
            return
        reason = "abort" if fault == "abort" else "stop"
        if body.get("stream"):
            await self._stream()
            return
        message = {"role": "assistant", "content": body["messages"][-1]["content"]}
        choice = {"index": 0, "message": message, "finish_reason": reason}
        answer = {"id": "x", "object": "chat.completion", "model": body["model"], "choices": [choice]}
        self.set_header("content-type", "application/json")
        self.finish(json.dumps(answer, separators=(",", ":")))

    async def _stream(self) -> None:
        self.set_header("content-type", "text/event-stream")
        with contextlib.suppress(StreamClosedError):
            for number in range(3):
                self.write(f"data: {number}\n\n")
                await self.flush()
                await self.server.streams.wait()


@contextlib.asynccontextmanager
async def served(
    server: Server | None = None, *, say: Callable[[str], object] | None = None, **flags: Any
) -> AsyncIterator[tuple[Server, RemoteEngine]]:
    """Start a server, and an engine that is ready where it can be."""
    server = server or Server()
    server.listen()
    engine = RemoteEngine(
        RemoteFlags(server.url, **flags),
        retry=QUICK,
        lost=dataclasses.replace(QUICK, attempts=4),
        away_seconds=20,
        say=say,
    )
    try:
        await engine.start()
        yield server, engine
    finally:
        await engine.shutdown()
        await server.hang_up()


def chat(text: str = "hello", **body: Any) -> bytes:
    return json.dumps({"model": "echo", "messages": [{"role": "user", "content": text}], **body}).encode()


async def ask(engine: RemoteEngine, body: bytes, *, priority: int = BATCH_PRIORITY) -> tuple[int, Any]:
    response = await engine.request("POST", ENDPOINT, body, priority=priority)
    return response.status, json.loads(await response.read())


# ------------------------------------------------------------------------------------------------------------ starting


@on_a_loop
async def test_it_serves_what_the_server_serves_and_counts_its_tokens():
    async with served(Server(("one", "two"))) as (_, engine):
        assert (engine.state, engine.served_model_names, engine.max_num_seqs) == ("ready", ("one", "two"), 256)
        assert engine.counts_tokens
        assert await engine.tokenize(b'{"prompt": "a b c"}') == 3
        one = engine.answers_key
    async with served(Server(("one", "three"))) as (_, engine):
        assert engine.answers_key != one


@on_a_loop
async def test_a_server_that_is_not_vllms_has_no_tokenizer_and_only_the_figures_of_this_process():
    async with served(Server(vllm=False)) as (server, engine):
        assert not engine.counts_tokens
        with pytest.raises(EngineError, match="cannot count the tokens"):
            await engine.tokenize(b'{"prompt": "a"}')
        server.faults = ["hang"]
        asking = asyncio.create_task(ask(engine, chat()))
        await until(lambda: len(server.asked) == 1)
        assert (engine.stats().running, engine.stats().waiting) == (1, 0)
        asking.cancel()
        await asyncio.wait([asking])
        assert engine.stats().running == 0


@on_a_loop
async def test_the_models_that_are_named_are_used_and_must_be_there():
    async with served(Server(("one", "two")), served_model_names=("two",)) as (_, engine):
        assert engine.served_model_names == ("two",)
    with pytest.raises(EngineArgumentError, match="serves one, not two"):
        async with served(Server(("one",)), served_model_names=("two",)):
            pass


@on_a_loop
async def test_nobody_at_the_address_is_said_at_once():
    with socket.socket() as taken:
        taken.bind(("127.0.0.1", 0))
        engine = RemoteEngine(RemoteFlags(f"http://127.0.0.1:{taken.getsockname()[1]}/v1"))
        with pytest.raises(EngineLoadError, match=r"No OpenAI-compatible server found at http://127"):
            await engine.start()
    assert engine.state == "unloaded"


@on_a_loop
async def test_the_key_comes_from_the_environment_and_is_shown_nowhere(monkeypatch):
    monkeypatch.setenv("SERVERS_KEY", "sesame-7")
    async with served(Server(key="sesame-7"), api_key_env="SERVERS_KEY") as (_, engine):
        assert (await ask(engine, chat()))[0] == 200
        assert "sesame" not in repr(engine) + repr(vars(engine))
    monkeypatch.setenv("SERVERS_KEY", "wrong")
    with pytest.raises(EngineLoadError, match="it answers 401 when asked for its models"):
        async with served(Server(key="sesame-7"), api_key_env="SERVERS_KEY"):
            pass
    monkeypatch.delenv("SERVERS_KEY")
    with pytest.raises(EngineArgumentError, match="the environment variable SERVERS_KEY is not set"):
        async with served(Server(key="sesame-7"), api_key_env="SERVERS_KEY"):
            pass


@pytest.mark.parametrize(
    ("flags", "sentence"),
    [
        (
            ["--url", "host:8000"],
            "--url must be the address of a server, such as http://host:8000/v1, not 'host:8000'.",
        ),
        (["--url"], "--url needs exactly one value."),
        (["--url", "http://me:sesame@host/v1"], "--url has a password. Put it into an environment variable"),
        (["--url", "http://host", "--max-num-seqs", "many"], "--max-num-seqs must be the number of requests"),
        (["--url", "http://host", "--seed", "1"], "--seed cannot be set for a running server"),
    ],
)
def test_flags_that_mean_nothing_to_a_server_are_refused(flags, sentence):
    with pytest.raises(EngineArgumentError) as refused:
        remote_flags("m", flags)
    assert str(refused.value).startswith(sentence)


# ------------------------------------------------------------------------------------------------------------- asking


@on_a_loop
async def test_requests_are_passed_on_with_their_priority():
    async with served() as (server, engine):
        assert (await ask(engine, chat("hi")))[1]["choices"][0]["message"]["content"] == "hi"
        await ask(engine, chat("there"), priority=0)
    assert [each["messages"][0]["content"] for each in server.asked] == ["hi", "there"]
    assert server.priorities == [str(BATCH_PRIORITY), "0"]


@on_a_loop
async def test_a_stream_comes_as_it_is_written_and_leaving_it_is_told_to_the_server():
    async with served() as (server, engine):
        response = await engine.request("POST", ENDPOINT, chat(stream=True))
        assert b"".join([chunk async for chunk in response.chunks]) == b"data: 0\n\ndata: 1\n\ndata: 2\n\n"
        server.streams.clear()
        response = await engine.request("POST", ENDPOINT, chat(stream=True))
        assert await anext(response.chunks) == b"data: 0\n\n"
        await response.chunks.aclose()  # type: ignore[attr-defined]
        await until(lambda: server.left == 1)
        server.streams.set()


@on_a_loop
async def test_a_cancel_is_told_to_the_server():
    async with served() as (server, engine):
        server.faults = ["hang"]
        asking = asyncio.create_task(ask(engine, chat()))
        await until(lambda: len(server.asked) == 1)
        asking.cancel()
        await until(lambda: server.left == 1)
        with pytest.raises(asyncio.CancelledError):
            await asking


BUSY = (503, "busy", {"retry-after": "0"})


SLOWLY = (429, '{"error": {"message": "Slowly.", "code": 429}}', {"content-type": "application/json"})


@pytest.mark.parametrize("fault", [(500, "{}", {}), "drop"])
@on_a_loop
async def test_what_is_lost_is_sent_again(fault):
    async with served() as (server, engine):
        server.faults = [fault] * 3
        status, answer = await ask(engine, chat("once more"))
    assert (status, answer["choices"][0]["message"]["content"]) == (200, "once more")
    assert (len(server.asked), engine.retries) == (4, 3)


@pytest.mark.parametrize("fault", [BUSY, SLOWLY, (502, "<html>", {})])
@on_a_loop
async def test_a_batchs_request_that_is_refused_for_the_moment_is_sent_again(store, fault):
    async with served() as (server, engine):
        server.faults = [fault] * 3
        async with a_runner(store, engine):
            record = await ended(store, batch_of(store, ["once more"]))
    assert answers(store, record) == {"row-0": "once more"}
    assert (len(server.asked), engine.retries) == (4, 3)


@pytest.mark.parametrize(
    ("fault", "attempts", "error"),
    [
        (BUSY, 8, (503, None, "The server answered 503 without JSON: busy")),
        (SLOWLY, 8, (429, None, "Slowly.")),
        ((500, "no", {}), 4, (500, None, "The server answered 500 without JSON: no")),
        ("abort", 8, (500, "engine_error", f"The engine gave no answer in 8 attempts: {RequestAbortedError.__doc__}")),
    ],
    ids=["busy", "slowly", "failing", "aborting"],
)
@on_a_loop
async def test_attempts_of_engine_and_feed_do_not_multiply(store, fault, attempts, error):
    async with served() as (server, engine):
        server.faults = [fault] * 100
        async with a_runner(store, engine):
            record = await ended(store, batch_of(store, ["a"]))
    assert (len(server.asked), engine.retries) == (attempts, attempts - 1)
    assert errors(store, record) == {"row-0": error}


@on_a_loop
async def test_who_chats_is_told_at_once_that_the_server_is_busy():
    async with served() as (server, engine):
        server.faults = [SLOWLY]
        assert await ask(engine, chat(), priority=0) == (
            429,
            {"error": {"message": "Slowly.", "type": "invalid_request_error", "param": None, "code": None}},
        )


@on_a_loop
async def test_a_refusal_is_final_and_in_openais_words():
    async with served() as (server, engine):
        content = {"error": {"message": "Too long.", "type": "BadRequestError", "param": "messages", "code": 400}}
        server.faults = [(400, json.dumps(content), {"content-type": "application/json"})]
        status, answer = await ask(engine, chat())
    assert (status, len(server.asked)) == (400, 1)
    expected = {"message": "Too long.", "type": "invalid_request_error", "param": "messages", "code": None}
    assert answer["error"] == expected


@on_a_loop
async def test_what_vllm_gave_up_is_no_answer():
    async with served() as (server, engine):
        server.faults = ["abort"]
        with pytest.raises(RequestAbortedError):
            await ask(engine, chat())


@on_a_loop
async def test_what_no_engine_may_be_asked_is_not_passed_on():
    async with served() as (server, engine):
        assert (await engine.request("POST", "/v1/load_lora_adapter", b"{}")).status == 404
        assert (await engine.request("GET", ENDPOINT, b"{}")).status == 404
        assert (await ask(engine, chat(n=1_000)))[0] == 400
    assert server.asked == []


# --------------------------------------------------------------------------------------------------------------- away


@on_a_loop
async def test_a_batch_waits_for_a_server_that_goes_away_and_goes_on_when_it_is_back(store):
    prompts = [f"question {position}" for position in range(60)]
    async with served(max_num_seqs=4) as (server, engine):
        server.faults = [None] * 20 + ["hang"] * 100
        async with a_runner(store, engine) as (_, notices):
            batch = batch_of(store, prompts)
            await until(lambda: len(server.asked) > 30 and store.batches.get(batch).request_counts.completed == 20)
            await server.hang_up()
            await until(lambda: engine.state != "ready")
            server.faults = []
            await asyncio.sleep(0.1)
            server.listen()
            record = await ended(store, batch)
    assert answers(store, record) == {f"row-{position}": prompt for position, prompt in enumerate(prompts)}
    assert notices == [
        "The engine died. It is being loaded again, and the batch continues.",
        f"Resuming batch {batch}: 20 of 60 requests are answered.",
    ]


@on_a_loop
async def test_requests_to_a_server_that_is_away_end_as_those_of_a_dead_engine():
    async with served() as (server, engine):
        await server.hang_up()
        with pytest.raises(EngineDiedError, match="does not answer"):
            await ask(engine, chat())
        assert engine.state == "dead"
        with pytest.raises(EngineDiedError, match="does not answer"):
            await ask(engine, chat())
        server.listen()
        await engine.start()
        assert (engine.state, (await ask(engine, chat()))[0]) == ("ready", 200)


# ------------------------------------------------------------------------------------------------------------- figures


@on_a_loop
async def test_the_figures_are_vllms():
    async with served() as (_, engine):
        await until(lambda: engine.stats().running == 7)
        stats = engine.stats()
        assert (stats.model, stats.state, stats.waiting, stats.kv_cache_usage) == ("echo", "ready", 2, 0.25)
    assert engine.stats().running == 0


def test_servers_behind_one_address_are_added_up_and_a_restart_is_no_step_back():
    now = [0.0]
    figures = RemoteFigures(clock=lambda: now[0])

    def observe(seconds: float, *, started: float, tokens: float, hits: float) -> None:
        now[0] = seconds
        lines = [
            f"process_start_time_seconds {started}",
            "vllm:num_requests_running 1",
            f'vllm:generation_tokens_total{{engine="0"}} {tokens}',
            f"vllm:prefix_cache_hits_total {hits}",
            f"vllm:prefix_cache_queries_total {2 * hits}",
        ]
        assert figures.observe("\n".join(lines))

    observe(0, started=1, tokens=1_000, hits=10)
    observe(2, started=2, tokens=5_000, hits=10)
    observe(4, started=1, tokens=1_400, hits=20)
    observe(6, started=2, tokens=5_800, hits=20)
    stats = figures.stats("m", "ready", in_flight=9)
    assert (stats.running, stats.generation_tokens, stats.generation_tokens_per_second) == (2, 1_200, 300.0)
    assert stats.prefix_cache_hit_rate == 0.5
    observe(50, started=3, tokens=10, hits=0)
    stats = figures.stats("m", "ready", in_flight=9)
    assert (stats.running, stats.generation_tokens, stats.generation_tokens_per_second) == (1, 1_200, 0.0)
    assert not figures.observe("go_threads 3")


# ----------------------------------------------------------------------------------------------------- in the notebook


@pytest.fixture
def elsewhere():
    """Run a server on a loop of its own: a session's calls block."""
    server = Server()
    thread = EngineThread()
    thread.call(_on_the_loop(server.listen))
    yield server
    thread.call(server.hang_up())
    thread.stop()


async def _on_the_loop(function: Callable[[], None]) -> None:
    function()


def test_a_frame_runs_on_a_server_as_it_does_on_an_engine_here(tmp_path, elsewhere, monkeypatch, as_current):
    monkeypatch.setenv("SERVERS_KEY", "sesame")
    elsewhere.key = "sesame"
    session = as_current(open_session(tmp_path, load=False))
    try:
        engine = vb.load(url=elsewhere.url, api_key_env="SERVERS_KEY", max_num_seqs=8)
        assert (engine.served_model_names, engine.max_num_seqs) == (("echo",), 8)
        df = pd.DataFrame({"text": ["a", "b"]})
        assert list(vb.run(df, "{{ text }}!")["response"]) == ["a!", "b!"]
        assert list(vb.run(df, "{{ text }}!")["response"]) == ["a!", "b!"]
        assert len(elsewhere.asked) == 2, "known answers are taken again"
        assert vb.dry_run(df, "one two {{ text }}").prompt_tokens == 6
        with pytest.raises(EngineArgumentError, match="Give a model, such as demo, or a server"):
            vb.load()
    finally:
        session.close()


# ------------------------------------------------------------------------------------------------------------- silence


@on_a_loop
async def test_a_server_that_answers_nothing_is_not_responding_and_then_lost_and_the_batch_runs_again(
    store, monkeypatch
):
    monkeypatch.setattr(remote, "_METRICS_SECONDS", 0.01)
    monkeypatch.setattr(remote, "_CONNECT_SECONDS", 0.1)
    said: list[str] = []
    prompts = [f"question {position}" for position in range(8)]
    async with served(max_num_seqs=4) as (server, engine):
        engine.patience, engine.say = Patience(silence_seconds=3600, rebuild_seconds=0), said.append
        await engine.start()
        server.faults = ["hang"] * 9
        async with a_runner(store, engine) as (_, notices):
            batch = batch_of(store, prompts)
            waits = asyncio.create_task(engine.request("POST", ENDPOINT, chat()))
            await until(lambda: len(server.asked) == 9)
            server.answers.clear()
            engine.patience.silence_seconds = 0.2
            await until(lambda: engine.state == "not responding")
            with pytest.raises(EngineSilentError):
                await waits
            assert "does not respond: nothing came for" in said[0]
            # Nothing is given up while it may yet answer.
            assert store.batches.get(batch).status == "in_progress"
            assert notices == []
            server.faults = []
            engine.patience.rebuild_seconds = 0.1
            await until(lambda: engine.state not in {"not responding", "ready"})
            server.answers.set()
            record = await ended(store, batch)
    assert answers(store, record) == {f"row-{position}": prompt for position, prompt in enumerate(prompts)}
    assert notices[0] == "The engine died. It is being loaded again, and the batch continues."


@on_a_loop
async def test_a_server_that_is_silent_for_a_while_goes_on_as_if_nothing_was(store, monkeypatch):
    monkeypatch.setattr(remote, "_METRICS_SECONDS", 0.01)
    monkeypatch.setattr(remote, "_CONNECT_SECONDS", 0.1)
    async with served() as (server, engine):
        engine.patience = Patience(silence_seconds=3600, rebuild_seconds=3600)
        await engine.start()
        server.streams.clear()
        response = await engine.request("POST", ENDPOINT, chat(stream=True))
        reading = asyncio.create_task(response.read())
        asking = asyncio.create_task(ask(engine, chat("batch")))
        server.answers.clear()
        engine.patience.silence_seconds = 0.2
        await until(lambda: engine.state == "not responding")
        server.answers.set()
        server.streams.set()
        assert (await asking)[0] == 200
        assert await reading == b"data: 0\n\ndata: 1\n\ndata: 2\n\n"
        await until(lambda: engine.state == "ready")
