"""A process that is killed while a child lives that it has forked: nothing of it is held by the child."""

from __future__ import annotations

import json
import os
import subprocess
import sys
from collections.abc import Iterator
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path

import httpx
import psutil
import pytest

from tests.batches import assert_every_request_once, make_batch, open_store
from tests.kernels import is_alive
from tests.waiting import wait_for
from vbatch_jupyter.engine.echo import EchoEngine
from vbatch_jupyter.records import SECRET_HEADER
from vbatch_jupyter.session.session import Session

pytestmark = pytest.mark.timeout(300)

OWNER = """
import multiprocessing, os, sys, time
from pathlib import Path
from tests.batches import open_store
from vbatch_jupyter.engine.echo import EchoEngine
from vbatch_jupyter.session.session import Session

session = Session(open_store(Path(sys.argv[1])), make_engine=lambda *_, **__: EchoEngine(["m"], latency_seconds=3600))
session.load("m")
while session.engine.requests < 5:
    time.sleep(0.01)
with multiprocessing.get_context("fork").Pool(1) as pool:
    print("CHILD", pool.apply(os.getpid), flush=True)
    # One that has nothing to do sees the end of its queue.
    pool.apply(time.sleep, (3600,))
"""


@pytest.fixture
def owner(tmp_path: Path) -> Iterator[tuple[subprocess.Popen[str], list[psutil.Process]]]:
    """Start a process that runs a batch of four requests and a chat; what is put into the list is ended."""
    with open_store(tmp_path / "store") as store:
        make_batch(store, 4)
    command = [sys.executable, "-W", "ignore", "-c", OWNER, str(tmp_path / "store")]
    environment = {**os.environ, "PYTHONPATH": str(Path(__file__).parents[2])}
    process = subprocess.Popen(command, stdout=subprocess.PIPE, text=True, env=environment)
    children: list[psutil.Process] = []
    with process:
        yield process, children
        process.kill()
    for child in children:
        child.kill()


def test_the_childs_life_keeps_no_lock_no_batch_and_no_client(tmp_path, owner):
    process, children = owner
    with open_store(tmp_path / "store") as store, ThreadPoolExecutor(1) as thread:
        (record,) = wait_for(lambda: [each for each in store.engines.live() if each.state == "ready"])
        transport, headers = httpx.HTTPTransport(uds=record.socket), {SECRET_HEADER: record.secret}
        with httpx.Client(transport=transport, base_url="http://kernel", headers=headers, timeout=120) as client:
            body = json.dumps({"model": "m", "messages": [{"role": "user", "content": "Hello?"}]})
            chat = thread.submit(client.post, "/v1/chat/completions", content=body)
            printed = next(line for line in process.stdout if line.startswith("CHILD"))
            child = psutil.Process(int(printed.split()[1]))
            children.append(child)
            assert client.get("/stats").json()["running"] == 5
            process.kill()
            process.wait()
            with pytest.raises(httpx.RemoteProtocolError):
                chat.result(timeout=60)
        assert store.engines.live() == []
        assert is_alive(child)
        session = Session(open_store(store.path), make_engine=lambda *_, **__: EchoEngine(["m"]))
        try:
            session.load("m")
            (batch,) = session.batches()
            session.attach(batch.id).wait(60)
            assert_every_request_once(store, store.batches.get(batch.id), 4)
        finally:
            session.close()
        assert is_alive(child)
