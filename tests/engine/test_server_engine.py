"""Engines without a notebook, on the real engine: started by a request, started again, resumed after a kill."""

from __future__ import annotations

import os
import signal
from pathlib import Path
from typing import Any

import psutil
import pytest

from tests.batches import open_store
from tests.kernels import engine_processes
from tests.servers import JupyterServer
from tests.waiting import wait_for
from vbatch_jupyter.manager import Manager
from vbatch_jupyter.protocol.lines import encode_request_line

REQUESTS = 240


def body(text: str) -> dict[str, Any]:
    return {"model": "tiny", "messages": [{"role": "user", "content": text}], "max_tokens": 16, "temperature": 0.5}


@pytest.mark.timeout(600)  # the engine is loaded three times
def test_a_request_starts_the_engine_that_survives_a_kill_and_a_batch_survives_the_servers(
    tiny_model: Path, tmp_path: Path
) -> None:
    arguments = f"{tiny_model} --max-model-len 512 --enforce-eager --kv-cache-memory-bytes 200M --max-num-seqs 16"
    config = {"models": {"tiny": arguments}, "load_wait_seconds": 240.0}
    with JupyterServer(tmp_path, config=config) as server, server.http() as http:
        client = server.client(timeout=280)

        def engine() -> dict[str, Any]:
            (found,) = http.get("vbatch/engines").json()["data"]
            return dict(found)

        assert engine()["state"] == "unloaded"
        answer = client.chat.completions.create(**body("Say something."))
        assert answer.model == "tiny"
        assert answer.usage is not None
        assert 0 < answer.usage.completion_tokens <= 16
        first = engine()
        assert first["state"] == "ready"
        assert first["stats"]["generation_tokens"] == answer.usage.completion_tokens
        assert [each["id"] for each in http.get("api/kernels").json()] == [first["kernel_id"]]
        wait_for(lambda: f'kernel_id="{first["kernel_id"]}"' in vllm_lines(http.get("metrics").text))

        processes = engine_processes(first["pid"])
        assert processes
        os.kill(first["pid"], signal.SIGKILL)
        wait_for(lambda: engine()["state"] == "ready" and engine()["pid"] != first["pid"], 240)
        gone, alive = psutil.wait_procs(processes, timeout=60)
        assert (len(gone), alive) == (len(processes), [])
        assert client.chat.completions.create(**body("Say more.")).choices[0].finish_reason in {"stop", "length"}

        lines = (encode_request_line(f"row-{n}", "/v1/chat/completions", body(f"Say {n}.")) for n in range(REQUESTS))
        file = client.files.create(file=("in.jsonl", b"\n".join(lines)), purpose="batch")
        batch = client.batches.create(input_file_id=file.id, endpoint="/v1/chat/completions", completion_window="24h")
        with open_store(server.store) as store:
            counts = lambda: Manager(store).batches.retrieve(batch.id).request_counts  # noqa: E731 - read again and again
            wait_for(lambda: counts().completed >= 40, 240)
            server.kill()
            assert counts().completed < REQUESTS
            server.start()
            wait_for(lambda: client.batches.retrieve(batch.id).status == "completed", 240)
            assert (counts().completed, counts().failed) == (REQUESTS, 0)
        output = client.batches.retrieve(batch.id).output_file_id
        assert output is not None
        assert len(client.files.content(output).text.splitlines()) == REQUESTS
        client.close()


def vllm_lines(text: str) -> str:
    return "\n".join(line for line in text.splitlines() if line.startswith("vllm:"))
