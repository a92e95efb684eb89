"""An engine that hangs is seen, and one that works for long is not taken for it; on a real engine."""

from __future__ import annotations

import contextlib
import json
import socket
import stat
import tempfile
from collections.abc import Callable
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path
from typing import Any

import httpx
import psutil
import pytest

from tests.kernels import PROGRAMS, NotebookKernel
from tests.waiting import wait_for
from vbatch_jupyter.records import SECRET_HEADER
from vbatch_jupyter.store import Store

pytestmark = pytest.mark.timeout(900)

# Both chats of `long_prompts` are in one step.
FLAGS = (
    "--max-model-len 8192 --max-num-batched-tokens 16384 --kv-cache-memory-bytes 400M --max-num-seqs 64 "
    "--scheduler-cls tests.engine.slow_scheduler.SlowScheduler"
)

NOT_RESPONDING = (
    "The engine with the model 'tiny' does not respond. The batch continues when it does, or when it is rebuilt."
)

PREPARE = f"""
{PROGRAMS}
from tests.engine.slow_scheduler import SLOW_TOKENS
from vbatch_jupyter.engine import listener
listener.KEEP_ALIVE_SECONDS = 0.2
%config VBatchMagics.engine_silence_seconds = 1
%config VBatchMagics.engine_rebuild_seconds = 3600
"""


@pytest.fixture(scope="module")
def kernel(tmp_path_factory: Any, new_kernel: Callable[[Path], NotebookKernel], tiny_model: Path) -> NotebookKernel:
    kernel = new_kernel(tmp_path_factory.mktemp("silence") / "store")
    kernel.run(PREPARE).checked()
    loaded = kernel.run(f"%vbatch load {tiny_model} --served-model-name tiny {FLAGS}")
    assert "tiny: ready in " in loaded.stdout, loaded.stderr
    return kernel


def shown(text: str) -> Any:
    return json.loads(text.rpartition("JSON")[2])


def test_a_long_prefill_and_a_long_computation_are_no_silence(kernel: NotebookKernel) -> None:
    statuses, tokens, states, pauses = shown(kernel.run("show(states_during(SLOW_TOKENS))").checked().stdout)
    assert statuses == [200, 200, 200]
    assert tokens[:2] == [8190, 8190]
    # The computation takes six times what an engine may be silent, and nothing came from the engine meanwhile.
    assert max(pauses) > 3
    assert states == ["ready"]


def test_an_engine_listens_on_loopback_and_in_a_private_folder_only(kernel: NotebookKernel) -> None:
    folder = Path(shown(kernel.run("show(str(current()._loader.socket.parent))").checked().stdout))
    assert stat.S_IMODE(folder.stat().st_mode) == 0o700
    paths, addresses = set(), set()
    for process in kernel.engine_processes():
        for connection in process.net_connections("all"):
            if connection.family == socket.AF_UNIX:
                paths |= {str(connection.laddr)} - {""}
            else:
                addresses.add(connection.laddr.ip)
    assert {Path(path).parents[1] for path in paths} == {folder}
    assert addresses == {"127.0.0.1"}
    assert kernel.run("import tempfile; print(tempfile.gettempdir())").checked().stdout.strip() == tempfile.gettempdir()


@pytest.mark.parametrize("name", ["Worker", "EngineCore"])
def test_a_process_that_is_stopped_is_seen_and_told_and_continues(kernel: NotebookKernel, name: str) -> None:
    store_path = Path(shown(kernel.run("show(str(current().store.path))").checked().stdout))
    kernel.run(f"batch = begin_batch('{name}: count to {{{{ n }}}}')").checked()
    with (
        Store(store_path, floor_bytes=0, reserve_bytes=0) as store,
        ThreadPoolExecutor(1) as threads,
        contextlib.ExitStack() as exits,
    ):
        (record,) = store.engines.live()
        transport, headers = httpx.HTTPTransport(uds=record.socket), {SECRET_HEADER: record.secret}
        with httpx.Client(transport=transport, base_url="http://kernel", headers=headers, timeout=300) as client:
            response = exits.enter_context(client.stream("POST", "/v1/chat/completions", content=TALK))
            text = next(chunks := response.iter_text())
            (process,) = [one for one in kernel.engine_processes() if name in " ".join(one.cmdline())]
            process.suspend()
            waits = threads.submit(client.post, "/v1/chat/completions", content=chat("Wait"))
            wait_for(lambda: store.engines.live()[0].state == "not responding")
            for refused in (waits.result(timeout=60), client.post("/v1/chat/completions", content=chat("Hello"))):
                assert (refused.status_code, refused.headers["retry-after"]) == (503, "5")
                assert refused.json()["error"]["code"] == "engine_not_responding"
            code = "%vbatch engine\nvb.attach(batch.id)\nshow([batch.status, batch.waiting, engine().state])"
            cell = kernel.run(code).checked()
            assert "state                  not responding" in cell.stdout
            assert "The engine does not respond: it has sent nothing for " in cell.stdout
            assert shown(cell.stdout) == [
                "in_progress",
                NOT_RESPONDING,
                "not responding",
            ]
            process.resume()
            wait_for(lambda: store.engines.live()[0].state == "ready")
            # The stream has lost nothing, and was told meanwhile that its connection lives.
            text += "".join(chunks)
            assert ": keep-alive\n\n" in text
            assert text.endswith("data: [DONE]\n\n")
            assert sum('"content"' in line for line in text.splitlines()) > 100
            exits.close()
            assert client.post("/v1/chat/completions", content=chat("Hello")).status_code == 200
    code = "batch.wait(500)\nshow([batch.status, batch.request_counts.completed, batch.waiting])"
    cell = kernel.run(code, timeout=600).checked()
    assert shown(cell.stdout) == ["completed", 150, None]
    # Nothing was lost, so nothing was rebuilt.
    assert "died" not in cell.stdout + kernel.stray


def test_an_engine_that_stays_silent_is_rebuilt_and_the_batch_ends_complete(kernel: NotebookKernel) -> None:
    kernel.run("batch = begin_batch('Rebuilt: count to {{ n }}')").checked()
    before = kernel.engine_processes()
    (core,) = [one for one in before if "EngineCore" in " ".join(one.cmdline())]
    core.suspend()
    kernel.run("current().patience.rebuild_seconds = 1\nwait_until_loading()").checked()
    # The new one is not to be ended because the machine is busy.
    cell = kernel.run("current().patience.rebuild_seconds = 3600\nbatch.wait(500)\nvb.attach(batch.id)", timeout=600)
    said = cell.checked().stdout
    assert "s, and is ended." in said
    assert "The engine died. It is being loaded again, and the batch continues." in said
    code = "show([batch.status, batch.request_counts.completed, choices_of(batch)])"
    assert shown(kernel.run(code).checked().stdout) == ["completed", 150, [True, True, True]]
    assert [process for process in before if process.is_running() and process.status() != psutil.STATUS_ZOMBIE] == []


def chat(text: str, **more: Any) -> str:
    return json.dumps({"model": "tiny", "messages": [{"role": "user", "content": text}], "max_tokens": 5, **more})


TALK = chat("Talk", stream=True, max_tokens=1000, ignore_eos=True)
