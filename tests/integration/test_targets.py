"""``target=``: a frame runs at a batch service, which is a second Jupyter server, and comes back whatever happens."""

from __future__ import annotations

import json
import os
import re
import subprocess
import sys
from pathlib import Path
from typing import TYPE_CHECKING

import pandas as pd
import pytest
from IPython.core.interactiveshell import InteractiveShell

from tests.batches import open_store
from tests.kernels import NotebookKernel
from tests.servers import JupyterServer
from tests.services import EchoKernel, Fault, FaultyProxy, end
from tests.unit.session_surface import open_session
from tests.waiting import wait_for
from vbatch_jupyter.errors import BadRequestError
from vbatch_jupyter.frames.ask import Ask
from vbatch_jupyter.loop import Backoff
from vbatch_jupyter.session.input_file import submit_file
from vbatch_jupyter.store.fsck import check

if TYPE_CHECKING:
    from openai.types import Batch

CREATE = r"POST .*/batches$"
KEY = "OURS_API_KEY"
ROWS = 25
LINES = 10
PARTS = 3

_CLIENT = """
import sys
import pandas as pd
from pathlib import Path
from tests.unit.session_surface import open_session
from vbatch_jupyter.frames.ask import Ask
from vbatch_jupyter.loop import Backoff
from vbatch_jupyter.targets import target_runner

target_runner.POLL = Backoff(first=0.05, longest=0.3)
session = open_session(Path(sys.argv[1]), load=False)
batch = session.submit(pd.DataFrame({"n": range(25)}), Ask.of("Say {{ n }}", target="ours", model="echo"))
print(batch.id, flush=True)
batch.wait()
print(batch.status, flush=True)
"""


@pytest.fixture(scope="module")
def service(tmp_path_factory):
    folder = tmp_path_factory.mktemp("service")
    with (
        JupyterServer(folder, config={"tend_seconds": 0.2}) as server,
        EchoKernel(server.store, latency_seconds=0.05),
    ):
        yield server


@pytest.fixture
def proxy(service):
    with FaultyProxy(f"http://127.0.0.1:{service.port}") as proxy:
        yield proxy


@pytest.fixture
def folder(tmp_path, monkeypatch, service, proxy):
    configuration = (
        f'[tool.vbatch.targets.ours]\nbase_url = "{proxy.url}/user/ann/vbatch/v1"\napi_key_env = "{KEY}"\n'
        f"max_lines = {LINES}\n"
    )
    (tmp_path / "pyproject.toml").write_text(configuration)
    monkeypatch.chdir(tmp_path)
    monkeypatch.setenv(KEY, service.token)
    monkeypatch.setattr("vbatch_jupyter.targets.target_runner.POLL", Backoff(first=0.05, longest=0.3))
    return tmp_path


@pytest.fixture
def session(folder):
    session = open_session(folder, load=False)
    yield session
    session.close()


def frame() -> pd.DataFrame:
    return pd.DataFrame({"n": range(ROWS)}, index=[f"i{number}" for number in range(ROWS)])


def assert_answered(out: pd.DataFrame) -> None:
    assert list(out.columns) == ["n", "response", "error"]
    assert list(out.index) == [f"i{number}" for number in range(ROWS)]
    assert list(out["response"]) == [f"Say {number}" for number in range(ROWS)]
    assert out["error"].isna().all()


def remote_batches(service: JupyterServer, batch_id: str) -> list[Batch]:
    return [
        batch
        for batch in service.client().batches.list(limit=100)
        if (batch.metadata or {}).get("vbatch_batch") == batch_id
    ]


def parts_at(service: JupyterServer, batch_id: str) -> list[str]:
    return sorted((batch.metadata or {})["vbatch_part"] for batch in remote_batches(service, batch_id))


def assert_store_is_sound_and_has_no_key(folder: Path, service: JupyterServer) -> None:
    with open_store(folder / "store") as store:
        assert check(store) == []
    for path in (folder / "store").rglob("*"):
        if path.is_file():
            assert service.token.encode() not in path.read_bytes(), path


def test_a_frame_comes_back_from_several_batches_as_the_same_frame_in_order(session, service, folder):
    df = frame()
    batch = session.submit(df, Ask.of("Say {{ n }}", target="ours", model="echo"))
    assert_answered(batch.results())
    assert (batch.status, batch.request_counts.completed, batch.request_counts.total) == ("completed", ROWS, ROWS)
    totals = [counts.total for remote in remote_batches(service, batch.id) if (counts := remote.request_counts)]
    assert totals == [5, 10, 10]
    assert parts_at(service, batch.id) == ["0", "1", "2"]
    record = next(iter(session.batches()))
    assert record.usage is not None
    assert record.usage.output_tokens > 0
    # The same by its id alone, as after a restart.
    assert_answered(session.attach(batch.id).results(df))
    assert_store_is_sound_and_has_no_key(folder, service)


def test_failed_rows_are_rows_and_a_retry_runs_at_the_same_service(session, service):
    df = pd.DataFrame({"text": ["a", "refuse me", "b"]})
    batch = session.submit(df, Ask.of("{{ text }}", target="ours", model="echo"))
    out = batch.results()
    assert list(out["response"].fillna("")) == ["a", "", "b"]
    assert "refused" in out["error"].iloc[1]
    assert list(batch.errors()["custom_id"]) == ["row-1"]
    retried = batch.retry()
    assert retried.wait(60).request_counts.failed == 1
    (remote,) = remote_batches(service, retried.id)
    assert remote.metadata is not None
    assert remote.metadata["retry_of"] == batch.id
    assert list(retried.results()["response"].fillna("")) == ["a", "", "b"]


@pytest.mark.parametrize(
    "faults",
    [
        pytest.param([Fault(r"POST .*/files$", 500), Fault(r"POST .*/files$")], id="upload"),
        pytest.param([Fault(CREATE, 429, headers={"retry-after": "1"}), Fault(CREATE, 500)], id="create"),
        pytest.param([Fault(CREATE, after=True, times=2), Fault(CREATE, 500, after=True)], id="create that came about"),
        pytest.param(
            [Fault(r"GET .*/batches/", 500), Fault(r"GET .*/batches/", 404), Fault(r"GET .*/batches/")], id="look"
        ),
        pytest.param(
            [Fault(r"GET .*/content$", 404), Fault(r"GET .*/content$"), Fault(r"GET .*/content$", 429)], id="download"
        ),
    ],
)
def test_faults_of_the_service_cost_time_and_neither_a_row_nor_a_second_batch(session, service, proxy, faults):
    proxy.faults = faults
    batch = session.submit(frame(), Ask.of("Say {{ n }}", target="ours", model="echo"))
    assert_answered(batch.wait(120).results())
    assert proxy.happened()
    assert parts_at(service, batch.id) == ["0", "1", "2"]


def test_the_service_is_killed_in_the_middle_of_a_batch(session, service, proxy):
    proxy.faults = [Fault(r"GET .*/content$", hook=service.kill)]
    batch = session.submit(frame(), Ask.of("Say {{ n }}", target="ours", model="echo"))
    try:
        wait_for(lambda: "did not answer" in (session.attach(batch.id).snapshot().batch.reason or ""))
    finally:
        service.start()
    assert_answered(batch.wait(120).results())
    assert parts_at(service, batch.id) == ["0", "1", "2"]


@pytest.mark.parametrize("moment", [r"POST .*/files$", CREATE, r"GET .*/batches/", r"GET .*/content$"])
def test_a_kernel_killed_in_the_middle_leaves_a_batch_that_the_next_one_goes_on_with(folder, service, proxy, moment):
    proxy.faults = [Fault(moment, after=True, hook=lambda: end(client))]
    client = subprocess.Popen(
        [sys.executable, "-c", _CLIENT, str(folder)],
        stdout=subprocess.PIPE,
        text=True,
        env={**os.environ, "PYTHONPATH": str(Path(__file__).parents[2])},
    )
    assert client.stdout is not None
    with client.stdout as printed:
        assert "completed" not in printed.read()
    assert proxy.happened()
    proxy.faults = []
    said: list[str] = []
    session = open_session(folder, load=False, said=said)
    try:
        (record,) = session.batches()
        batch_id = record.id
        batch = session.attach(batch_id).wait(120)
        out = batch.results(pd.DataFrame({"n": range(ROWS)}))
        assert list(out["response"]) == [f"Say {number}" for number in range(ROWS)]
        assert parts_at(service, batch_id) == ["0", "1", "2"]
        assert said == [f"Continuing to follow batch {batch_id} at ours."]
    finally:
        session.close()
    assert_store_is_sound_and_has_no_key(folder, service)


def test_a_cancel_is_passed_on_and_what_is_finished_is_kept(session, service):
    batch = session.submit(pd.DataFrame({"n": range(30)}), Ask.of("Say {{ n }}", target="ours", model="no such model"))
    wait_for(lambda: parts_at(service, batch.id) == ["0", "1", "2"])
    batch.cancel().wait(60)
    assert batch.status == "cancelled"
    assert {remote.status for remote in remote_batches(service, batch.id)} == {"cancelled"}
    errors = batch.results()["error"]
    assert len(errors) == 30
    assert set(errors) == {"This request was not executed: the batch was cancelled before it ran."}


def test_a_batch_that_is_cancelled_at_the_service_ends_as_cancelled(session, service):
    batch = session.submit(pd.DataFrame({"n": range(3)}), Ask.of("Say {{ n }}", target="ours", model="no such model"))
    remotes = wait_for(lambda: remote_batches(service, batch.id))
    service.client().batches.cancel(remotes[0].id)
    assert batch.wait(60).status == "cancelled"
    assert batch.results()["error"].notna().all()


def test_what_has_expired_at_the_service_has_expired_here(session, service):
    batch = session.submit(pd.DataFrame({"n": range(12)}), Ask.of("Say {{ n }}", target="ours", model="no such model"))
    wait_for(lambda: parts_at(service, batch.id) == ["0", "1"])
    with open_store(service.store) as store:
        # The service's window is a day, and it is over.
        store.database.write(
            lambda database: database.execute("UPDATE batch SET expires_at = 1 WHERE status = 'in_progress'")
        )
    assert batch.wait(60).status == "expired"
    errors = batch.results()["error"]
    assert len(errors) == 12
    assert set(errors) == {"This request could not be executed before the completion window expired."}


def test_a_service_that_loses_the_input_file_gets_it_again(session, service, proxy):
    def lose() -> None:
        client = service.client()
        for file in client.files.list(purpose="batch"):
            if file.filename.endswith("_0.jsonl"):
                client.files.delete(file.id)

    proxy.faults = [Fault(CREATE, 500, hook=lose)]
    batch = session.submit(frame(), Ask.of("Say {{ n }}", target="ours", model="echo"))
    assert_answered(batch.wait(60).results())
    attempts = {
        ((remote.metadata or {})["vbatch_part"], (remote.metadata or {})["vbatch_attempt"], remote.status)
        for remote in remote_batches(service, batch.id)
    }
    assert attempts == {
        ("0", "1", "failed"),
        ("0", "2", "completed"),
        ("1", "1", "completed"),
        ("2", "1", "completed"),
    }


def test_what_only_the_service_finds_wrong_is_in_the_rows(session, folder, proxy, tmp_path):
    # As Parasail it takes several models in a file, and it is not Parasail.
    (folder / "pyproject.toml").write_text(
        f'[tool.vbatch.targets.ours]\nbase_url = "{proxy.url}/user/ann/vbatch/v1"\napi_key_env = "{KEY}"\n'
        'profile = "parasail"\n'
    )
    request = {"method": "POST", "url": "/v1/chat/completions"}
    bodies = [{"model": model, "messages": [{"role": "user", "content": "hi"}]} for model in ("echo", "other")]
    lines = [json.dumps({**request, "custom_id": body["model"], "body": body}) for body in bodies]
    (tmp_path / "in.jsonl").write_text("\n".join(lines))
    out = submit_file(session, tmp_path / "in.jsonl", target="ours").wait(60).results()
    assert out["response"].isna().all()
    assert len(out) == 2
    for error in out["error"]:
        assert "ours refused the batch batch_" in error
        assert "The model 'other' for this request does not match the rest of the batch." in error


def test_a_cell_and_a_frame_take_a_target(session, as_current, capsys):
    as_current(session)
    shell = InteractiveShell()
    shell.run_cell("%load_ext vbatch_jupyter")
    shell.user_ns["df"] = frame()
    shell.run_cell("%%vbatch df -o out --target ours --model echo\nSay {{ n }}")
    assert_answered(shell.user_ns["out"])
    assert "completed 25/25 completed" in capsys.readouterr().out
    shell.run_cell("again = df.vbatch.run('Say {{ n }}', target='ours', model='echo')")
    assert_answered(shell.user_ns["again"])
    assert "completed 25/25 completed" in capsys.readouterr().out
    shell.run_cell("%vbatch list")
    assert len(re.findall(r"completed +25/25 completed +echo", capsys.readouterr().out)) == 2


_NESTED = """
import asyncio
import {module}
{module}.apply()
%load_ext vbatch_jupyter
import pandas as pd
import vbatch_jupyter as vb
from vbatch_jupyter.engine.echo import EchoEngine
from vbatch_jupyter.loop import Backoff
from vbatch_jupyter.session import session
from vbatch_jupyter.targets import target_runner

target_runner.POLL = Backoff(first=0.05, longest=0.3)
session.current()._loader._make_engine = lambda *_, **__: engine
engine = EchoEngine(latency_seconds=0.05)
df = pd.DataFrame({{"n": range(25)}})
%vbatch load echo
"""
_NESTED_CELLS = {
    "run": "%%vbatch df -o out\nSay {{ n }}\n",
    "its result": "list(out['response']) == [f'Say {n}' for n in range(25)]",
    "await": "(await vb.submit(df, 'Await {{ n }}')).status",
    "run in a cell": "async def ask():\n    return (await vb.submit(df, 'Run {{ n }}')).status\nasyncio.run(ask())",
    "several": (
        "async def ask(*prompts):\n    await asyncio.gather(*(vb.submit(df, prompt) for prompt in prompts))\n"
        "    return 'both'\nasyncio.run(ask('A {{ n }}', 'B {{ n }}'))"
    ),
    "cancel": (
        "engine.latency_seconds = 3600\nbatch = vb.submit(df, 'Never {{ n }}')\n"
        "while not engine.stats().running: await asyncio.sleep(0.01)\nbatch.cancel().wait(60).status"
    ),
    "target": "list(df.vbatch.run('Say {{ n }}', target='ours', model='echo')['response']) == list(out['response'])",
    "widgets": "[loop.name for loop in session.current().loops() if loop.last_problem or loop.name == 'live widget']",
}
_NESTED_RESULTS = ["", "True", "'completed'", "'completed'", "'both'", "'cancelled'", "True", "[]"]


@pytest.mark.parametrize("module", ["nest_asyncio", "nest_asyncio2"])
def test_a_notebook_that_nests_its_loops_runs_awaits_cancels_and_takes_a_target(folder, monkeypatch, module):
    """With nest-asyncio 1.6.0 and nest-asyncio2 1.7.4, which replace tasks and asyncio.run of the process."""
    pytest.importorskip(module)
    # With widgets, whose threads run loops too.
    monkeypatch.setenv("JPY_SESSION_NAME", "a notebook.ipynb")
    kernel = NotebookKernel(folder / "store")
    kernel.run(_NESTED.format(module=module)).checked()
    results = [kernel.run(code).checked().result for code in _NESTED_CELLS.values()]
    kernel.close()
    shown = [result.rpartition("again")[2] for result in results]
    assert dict(zip(_NESTED_CELLS, shown, strict=True)) == dict(zip(_NESTED_CELLS, _NESTED_RESULTS, strict=True))


def test_what_the_service_would_refuse_is_said_before_anything_is_sent(session, proxy, tmp_path):
    path = tmp_path / "in.jsonl"
    request = {
        "custom_id": "a",
        "method": "POST",
        "url": "/v1/chat/completions",
        "body": {"model": "m", "messages": []},
    }
    lines = [request, {**request, "body": {"model": "n", "messages": [], "stream": True}}]
    path.write_text("\n".join(map(json.dumps, lines)))
    with pytest.raises(BadRequestError, match="ours would refuse this batch, so nothing was sent:\n") as refused:
        submit_file(session, path, target="ours")
    assert [line.partition(": The")[0] for line in str(refused.value).splitlines()[1:]] == [
        "line 2 ('a'): refused: streaming_unsupported: Chat Completions: Streaming is not supported in the Batch API.",
        "line 2 ('a'): refused: mismatched_model",
        "line 2 ('a'): refused: duplicate_custom_id",
    ]
    assert proxy.seen == []
    assert list(session.batches()) == []
    assert list(session.manager.files.list().data) == []


def test_a_file_runs_at_the_service_and_its_answers_come_in_its_order(session, tmp_path, service):
    path = tmp_path / "in.jsonl"
    body = {"model": "echo", "top_k": 3}
    lines = [
        {
            "custom_id": f"c{number}",
            "method": "POST",
            "url": "/v1/chat/completions",
            "body": {**body, "messages": [{"role": "user", "content": f"hello {number}"}]},
        }
        for number in range(12)
    ]
    path.write_text("\n\n".join(map(json.dumps, lines)))
    batch = submit_file(session, path, target="ours")
    assert list(batch.wait(60).results()["response"]) == [f"hello {number}" for number in range(12)]
    assert parts_at(service, batch.id) == ["0", "1"]


def test_without_the_key_nothing_is_made_and_a_batch_that_is_there_waits_for_it(session, monkeypatch, service):
    monkeypatch.delenv(KEY)
    with pytest.raises(BadRequestError, match="Set the environment variable OURS_API_KEY"):
        session.submit(frame(), Ask.of("Say {{ n }}", target="ours", model="echo"))
    monkeypatch.setenv(KEY, "a wrong key")
    batch = session.submit(frame(), Ask.of("Say {{ n }}", target="ours", model="echo"))
    reason = wait_for(
        lambda: "(status 401)" in (now := session.attach(batch.id).snapshot().batch.reason or "") and now, 60
    )
    assert "a wrong key" not in reason
    # The key is read again when the session is made; here it is the session's next look.
    monkeypatch.setenv(KEY, service.token)
    assert_answered(batch.wait(60).results())
