"""Parasail's own client, ``openai-batch``, against the server: chat and embeddings, as its documentation prints it."""

from __future__ import annotations

import json
import os
import subprocess
import sys
from pathlib import Path

import pytest

from tests.servers import JupyterServer
from tests.services import EchoKernel

ROOT = Path(__file__).parents[2]

# The four lines in the middle are its documentation's workaround for a file that it closes before it reads it.
PROGRAM = """
import os, sys
from openai_batch import Batch
from openai_batch.providers import Provider

provider = Provider(base_url=os.environ["BATCH_BASE_URL"], api_key=os.environ["BATCH_API_KEY"])
with Batch(provider=provider, submission_input_file="in.jsonl", output_file="out.jsonl") as batch:
    for number in range(5):
        if sys.argv[1] == "chat":
            batch.add_to_batch(model="echo", messages=[{"role": "user", "content": f"Tell me joke {number}"}])
        else:
            batch.add_to_batch(model="echo", input=f"text {number}", encoding_format="base64")

    file_path = batch.submission_input_file.name
    batch.submission_input_file.close()
    batch.submission_input_file = file_path
    batch._should_close = False

    result, output_path, error_path = batch.submit_wait_download(interval=0.2)
    print(result.status, result.endpoint, result.request_counts.completed, output_path, error_path)
"""


@pytest.fixture(scope="module")
def client(tmp_path_factory):
    folder = tmp_path_factory.mktemp("openai-batch")
    pin = f"--requirement={ROOT / 'requirements' / 'clients.txt'}"
    words = (sys.executable, "-m", "uv", "pip", "install", "--quiet", "--no-deps", "--target", str(folder), pin)
    subprocess.run(words, check=True, capture_output=True, timeout=240)
    return folder


@pytest.fixture(scope="module")
def server(tmp_path_factory):
    with JupyterServer(tmp_path_factory.mktemp("server")) as server, EchoKernel(server.store):
        yield server


@pytest.mark.parametrize(("kind", "endpoint"), [("chat", "/v1/chat/completions"), ("embeddings", "/v1/embeddings")])
def test_parasails_own_client_submits_waits_and_downloads(client, server, tmp_path, kind, endpoint):
    variables = {"BATCH_BASE_URL": server.url, "BATCH_API_KEY": server.token, "PYTHONPATH": str(client)}
    run = subprocess.run(
        [sys.executable, "-c", PROGRAM, kind],
        cwd=tmp_path,
        env={**os.environ, **variables},
        capture_output=True,
        text=True,
        timeout=120,
        check=False,
    )
    assert run.returncode == 0, run.stderr
    assert run.stdout.splitlines()[-1] == f"completed {endpoint} 5 out.jsonl None"
    lines = [json.loads(line) for line in (tmp_path / "out.jsonl").read_text().splitlines()]
    assert sorted(line["custom_id"] for line in lines) == [f"line-{number}" for number in range(1, 6)]
    for line in lines:
        number = int(line["custom_id"].removeprefix("line-")) - 1
        body = line["response"]["body"]
        if kind == "chat":
            assert body["choices"][0]["message"]["content"] == f"Tell me joke {number}"
        else:
            assert body["data"][0]["object"] == "embedding"
