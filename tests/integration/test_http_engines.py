"""Engines without a notebook: real kernels that the server starts, with the echo engine in them."""

from __future__ import annotations

import os
import signal
from collections.abc import Iterator
from pathlib import Path
from typing import TYPE_CHECKING, Any, Final

import openai
import psutil
import pytest

from tests.batches import open_store
from tests.servers import JupyterServer
from tests.waiting import wait_for
from vbatch_jupyter.manager import Manager
from vbatch_jupyter.protocol.lines import encode_request_line

if TYPE_CHECKING:
    import httpx

# What IPython runs first in each kernel of the server: the kernel's engine is the echo engine.
STARTUP = """
from vbatch_jupyter.session import loader
from vbatch_jupyter.engine.echo import EchoEngine
from vbatch_jupyter.errors import EngineArgumentError

class HalfwayEngine(EchoEngine):
    # The first two thousand answers come at once, the others never.
    async def _work(self, body):
        if self.requests > 2000:
            await super()._work(body)

def make(model, flags, **_):
    if model == "broken":
        raise EngineArgumentError("--no-such-flag is no flag of vllm serve.")
    name = flags[flags.index("--served-model-name") + 1]
    return HalfwayEngine([name], latency_seconds=3600) if model == "halfway" else EchoEngine([name])

loader._vllm_engine = make
"""
URL: Final = "/v1/chat/completions"
STEPS: Final = 'vbatch_loop_steps_total{kernel_id="",loop="engine kernels"}'


def with_echo(folder: Path, *, server_config: Any = None, **config: Any) -> JupyterServer:
    server = JupyterServer(folder, config={"tend_seconds": 0.2, **config}, server_config=server_config)
    startup = folder / "ipython" / "profile_default" / "startup"
    startup.mkdir(parents=True)
    (startup / "00-echo.py").write_text(STARTUP, encoding="utf-8")
    return server


def say(server: JupyterServer, model: str, text: str = "hello") -> str | None:
    with server.client(timeout=60) as client:
        answer = client.chat.completions.create(model=model, messages=[{"role": "user", "content": text}])
        return answer.choices[0].message.content


def engine(http: httpx.Client, name: str) -> dict[str, Any]:
    (found,) = [each for each in http.get("vbatch/engines").json()["data"] if each["name"] == name]
    return dict(found)


def kernels(http: httpx.Client) -> list[str]:
    return [each["id"] for each in http.get("api/kernels").json() if each["name"] == "vbatch-engine"]


def make_batch(server: JupyterServer, model: str, requests: int) -> str:
    lines = [
        encode_request_line(f"row-{n}", URL, {"model": model, "messages": [{"role": "user", "content": f"say {n}"}]})
        for n in range(requests)
    ]
    with server.client() as client:
        file = client.files.create(file=("in.jsonl", b"\n".join(lines)), purpose="batch")
        batch = client.batches.create(input_file_id=file.id, endpoint=URL, completion_window="24h")
    return batch.id


def await_batch(server: JupyterServer, batch_id: str) -> openai.types.Batch:
    with server.client() as client:
        wait_for(lambda: client.batches.retrieve(batch_id).status == "completed")
        return client.batches.retrieve(batch_id)


@pytest.fixture(scope="module")
def server(tmp_path_factory: pytest.TempPathFactory) -> Iterator[JupyterServer]:
    models = {"echo": "fast", "slow": "halfway", "wrong": "broken"}
    with with_echo(tmp_path_factory.mktemp("engines"), models=models) as server:
        yield server


def test_nothing_is_started_before_something_needs_it(server, http):
    assert kernels(http) == []
    seen = engine(http, "echo")
    assert (seen["state"], seen["models"], seen["kernel_id"]) == ("unloaded", ["echo"], None)
    assert seen["note"] == "The server starts the engine of 'echo' when it is needed."
    with server.client() as client:
        assert [model.id for model in client.models.list()] == ["echo", "slow", "wrong"]


def test_the_first_request_starts_a_kernel_and_is_answered_by_it(server, http):
    assert say(server, "echo", "first") == "first"
    seen = engine(http, "echo")
    assert (seen["state"], seen["kernel_id"]) == ("ready", kernels(http)[0])
    assert seen["stats"]["model"] == "echo"
    assert not {"secret", "socket"} & seen.keys()
    process = psutil.Process(seen["pid"])
    assert process.environ()["VBATCH_STORE"] == str(server.store)
    assert process.cmdline()[1:3] == ["-m", "ipykernel_launcher"]
    # The kernel is offered to nobody who makes a notebook.
    assert "vbatch-engine" not in http.get("api/kernelspecs").json()["kernelspecs"]


def test_a_kernel_that_is_killed_is_started_again(server, http):
    before = engine(http, "echo")
    os.kill(before["pid"], signal.SIGKILL)
    wait_for(lambda: engine(http, "echo")["state"] == "ready" and engine(http, "echo")["pid"] != before["pid"])
    assert say(server, "echo", "again") == "again"
    assert len(kernels(http)) == 1


def test_unload_ends_the_kernel_and_load_starts_it(server, http):
    answer = http.post("vbatch/engines/echo/unload")
    assert (answer.status_code, answer.json()["state"]) == (200, "unloaded")
    assert kernels(http) == []
    answer = http.post("vbatch/engines/echo/load")
    assert (answer.status_code, answer.json()["state"]) == (200, "ready")
    assert say(server, "echo", "loaded") == "loaded"


def test_a_model_is_loaded_and_unloaded_in_a_kernel_of_a_notebook(server, http):
    started = http.post("api/kernels", json={"name": "python3"}).json()["id"]
    # The notebook's first cell.
    with open_store(server.store) as store:
        run_cell(server, started, "import vbatch_jupyter.session.session; vbatch_jupyter.session.session.current()")
        wait_for(lambda: any(each.kernel_id == started for each in store.engines.live()))
    body = {"model": "fast", "flags": ["--served-model-name", "mine"]}
    answer = http.post(f"vbatch/engines/{started}/load", json=body)
    assert (answer.status_code, answer.json()["state"]) == (200, "ready")
    assert say(server, "mine", "yours") == "yours"
    assert http.post("vbatch/engines/mine/unload").status_code == 200
    with pytest.raises(openai.NotFoundError):
        say(server, "mine")
    answer = http.post(f"vbatch/engines/{started}/load", json={"model": "broken"})
    assert (answer.status_code, "no flag of vllm serve" in answer.json()["error"]["message"]) == (400, True)
    assert http.delete(f"api/kernels/{started}").status_code == 204


def run_cell(server: JupyterServer, kernel_id: str, code: str) -> None:
    from jupyter_client.blocking.client import BlockingKernelClient

    client = BlockingKernelClient()
    client.load_connection_file(str(Path(server._runtime.name, f"kernel-{kernel_id}.json")))
    client.start_channels()
    client.execute_interactive(code, timeout=60, output_hook=lambda _: None)
    client.stop_channels()


def test_an_engine_that_nobody_has_is_not_found(http):
    answer = http.post("vbatch/engines/nobody/unload")
    assert (answer.status_code, answer.json()["error"]["code"]) == (404, "engine_not_found")


def test_an_engine_that_cannot_be_started_says_why_and_is_given_up(server, http):
    with pytest.raises(openai.InternalServerError, match="no flag of vllm serve"):
        say(server, "wrong")
    wait_for(lambda: "will not be started for 10 minutes: --no-such-flag" in engine(http, "wrong")["note"])
    batch_id = make_batch(server, "wrong", 1)
    with http.stream("GET", "vbatch/events") as stream:
        for line in stream.iter_lines():
            if batch_id in line and "no flag of vllm serve" in line:
                break


def test_figures_of_engines_and_batches_are_on_jupyters_metrics(server, http):
    http.post("vbatch/engines/echo/load")
    make_batch(server, "a model that nobody has", 1)

    def lines() -> set[str]:
        return set(http.get("metrics").text.splitlines())

    def in_progress() -> int:
        with server.client() as client:
            return sum(batch.status == "in_progress" for batch in client.batches.list(limit=100))

    kernel_id = engine(http, "echo")["kernel_id"]
    wait_for(lambda: f'vbatch_engine_up{{kernel_id="{kernel_id}",model="echo"}} 1.0' in lines())
    assert f'vbatch_engine_requests_running{{kernel_id="{kernel_id}",model="echo"}} 0.0' in lines()
    wait_for(lambda: in_progress() and f'vbatch_batches{{status="in_progress"}} {in_progress():.1f}' in lines())
    assert any(line.startswith("vbatch_store_free_bytes ") for line in lines())


def test_a_batch_starts_its_kernel_and_is_resumed_after_the_server_was_killed(server):
    batch_id = make_batch(server, "slow", 3_000)
    with open_store(server.store) as store:
        manager = Manager(store)
        wait_for(lambda: manager.batches.retrieve(batch_id).request_counts.completed == 2_000)
        server.kill()
        assert manager.batches.retrieve(batch_id).request_counts.completed == 2_000
        server.start()
        batch = await_batch(server, batch_id)
        assert batch.request_counts is not None
        assert (batch.request_counts.completed, batch.request_counts.failed) == (3_000, 0)


def await_looks(http: httpx.Client, looks: int) -> None:
    """Wait until the server has looked at its kernels so many times more."""

    def looked() -> float:
        (line,) = (line for line in http.get("metrics").text.splitlines() if line.startswith(STEPS))
        return float(line.rpartition(" ")[2])

    until = looked() + looks
    wait_for(lambda: looked() >= until)


def test_a_kernel_is_not_culled_and_stays_shut_down_when_it_was_by_hand(tmp_path):
    culling = {"MappingKernelManager": {"cull_idle_timeout": 1, "cull_interval": 1}}
    server = with_echo(tmp_path, models={"echo": "fast"}, idle_seconds=3600.0, server_config=culling)
    with server, server.http() as http:
        batch_id = make_batch(server, "echo", 3)
        counts = await_batch(server, batch_id).request_counts
        assert counts is not None
        assert counts.completed == 3
        # There is half a second between two looks, so Jupyter has looked twice or more, and would have culled it.
        await_looks(http, 6)
        (kernel_id,) = kernels(http)
        assert http.delete(f"api/kernels/{kernel_id}").status_code == 204
        await_looks(http, 2)
        assert kernels(http) == []


def test_a_kernel_that_nothing_needs_is_ended_by_its_owner_and_comes_back_when_needed(tmp_path):
    server = with_echo(tmp_path, models={"slow": "halfway"}, idle_seconds=0.1)
    with server, server.http() as http:
        # Needed for as long as it has a batch, whose last answer never comes.
        batch_id = make_batch(server, "slow", 2_001)
        wait_for(lambda: http.get(f"vbatch/v1/batches/{batch_id}").json()["request_counts"]["completed"] == 2_000)
        await_looks(http, 2)
        assert len(kernels(http)) == 1
        pid = engine(http, "slow")["pid"]
        http.post(f"vbatch/v1/batches/{batch_id}/cancel")
        wait_for(lambda: kernels(http) == [])
        assert not psutil.pid_exists(pid)
        assert engine(http, "slow")["state"] == "unloaded"
        assert say(server, "slow") == "hello"


@pytest.mark.parametrize(
    ("text", "problem"), [("--max-model-len 5", "must be the model"), ("m --served-model-name x", "the key is")]
)
def test_arguments_that_cannot_be_meant_stop_the_extension_with_a_reason(text, problem):
    from traitlets import TraitError

    from vbatch_jupyter.server.app import VBatch

    with pytest.raises(TraitError, match=problem):
        VBatch(models={"a": text})
