"""The README's script, taken out of the README: it runs against a Jupyter server and a kernel, with two variables."""

from __future__ import annotations

import os
import re
import subprocess
import sys
from pathlib import Path

import pytest

from tests.kernels import NotebookKernel
from tests.servers import JupyterServer

ROOT = Path(__file__).parents[2]

PREPARE = """
%load_ext vbatch_jupyter
from vbatch_jupyter.session import session
from vbatch_jupyter.engine.echo import EchoEngine
session.current()._loader._make_engine = lambda *_, **__: EchoEngine(["echo"])
%vbatch load echo
"""


def script() -> str:
    blocks = re.findall(r"```python\n(.*?)```", (ROOT / "README.md").read_text(encoding="utf-8"), re.DOTALL)
    (found,) = [block for block in blocks if block.startswith("# batch.py")]
    return str(found)


@pytest.fixture(scope="module")
def server(tmp_path_factory):
    with JupyterServer(tmp_path_factory.mktemp("server")) as server:
        yield server


@pytest.fixture
def kernel(server, monkeypatch):
    monkeypatch.setenv("JUPYTER_RUNTIME_DIR", server._runtime.name)
    kernel = NotebookKernel(server.store)
    kernel.run(PREPARE).checked()
    yield kernel
    kernel.close()


def test_the_script_runs_with_the_two_variables_that_the_magic_writes(kernel, server, tmp_path):
    variables = tmp_path / ".env.local"
    variables.write_text("OTHER=kept\nexport BATCH_API_KEY=old\n")
    cell = kernel.run(f"%vbatch env --write {variables}").checked()
    assert server.token not in cell.stdout + cell.stderr + cell.result
    assert "BATCH_BASE_URL=" in cell.stdout
    assert variables.stat().st_mode & 0o777 == 0o600
    lines = variables.read_text().splitlines()
    assert lines[0] == "OTHER=kept"
    assert lines[2:] == [f"BATCH_API_KEY={server.token}"]
    assert kernel.run("%vbatch env --show").checked().stdout.splitlines() == [f"export {line}" for line in lines[1:]]

    (tmp_path / "batch.py").write_text(script(), encoding="utf-8")
    words = 'set -a; . ./.env.local; set +a; exec "$0" batch.py echo'
    run = subprocess.run(
        ["bash", "-c", words, sys.executable],
        cwd=tmp_path,
        env={name: value for name, value in os.environ.items() if not name.startswith("BATCH_")},
        capture_output=True,
        text=True,
        timeout=120,
        check=False,
    )
    assert run.returncode == 0, run.stderr
    assert run.stdout.splitlines()[-3:] == [
        "row-0: Name the capital of Peru in one word.",
        "row-1: Name the capital of Kenya in one word.",
        "row-2: Name the capital of Norway in one word.",
    ]
