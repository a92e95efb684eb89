"""What is true of a batch is said alike by every face: Python, magics, widget, text line, summary, HTTP and events."""

from __future__ import annotations

import json
import re
import time
from collections.abc import Iterator
from typing import TYPE_CHECKING, Any

import pandas as pd
import pytest
from IPython.core.interactiveshell import InteractiveShell

from tests.batches import begin, group, open_store
from tests.servers import JupyterServer
from tests.waiting import wait_for
from vbatch_jupyter.display.progress import Progress, duration
from vbatch_jupyter.engine.echo import EchoEngine
from vbatch_jupyter.frames.ask import Ask
from vbatch_jupyter.session.batch import Batch
from vbatch_jupyter.session.session import Session
from vbatch_jupyter.widgets.live import Live

if TYPE_CHECKING:
    import httpx


@pytest.fixture
def session(server: JupyterServer, monkeypatch: pytest.MonkeyPatch) -> Iterator[Session]:
    """Open a session on the server's store, as a kernel beside it."""
    session = Session(
        open_store(server.store), make_engine=lambda *_, **__: EchoEngine(refusing="refuse me"), say=lambda _: None
    )
    monkeypatch.setattr("vbatch_jupyter.session.session.current", lambda: session)
    yield session
    session.close()


def magic(line: str, capsys: pytest.CaptureFixture[str]) -> tuple[str, Any]:
    shell = InteractiveShell()
    shell.run_cell("%load_ext vbatch_jupyter")
    capsys.readouterr()
    result = shell.run_cell(line).result
    return capsys.readouterr().out, result


def event(http: httpx.Client, batch_id: str) -> dict[str, Any]:
    """Return what a listener is told of a batch first."""
    with http.stream("GET", "vbatch/events", timeout=20) as response:
        data = next(line for line in response.iter_lines() if line.startswith("data: "))
    return view_of(json.loads(data.removeprefix("data: "))["batches"], batch_id)


def view_of(views: list[dict[str, Any]], batch_id: str) -> dict[str, Any]:
    return next(view for view in views if view["batch"]["id"] == batch_id)


def text_of(html: str) -> str:
    return re.sub(r"<[^>]*>", " ", html)


def said_by_every_face(batch: Batch, http: httpx.Client, capsys: pytest.CaptureFixture[str]) -> dict[str, str]:
    """Return by face what it says of a batch, as text."""
    live = Live(batch.id, snapshot=batch.snapshot, cancel=batch.cancel, on_end=lambda _: None)
    faces = {
        "Batch.waiting": str(batch.waiting),
        "repr(batch)": repr(batch),
        "summary, text": batch.summary()["text/plain"],
        "summary, HTML": text_of(batch.summary()["text/html"]),
        "text line": Progress(batch.snapshot()).line(),
        "widget": text_of(live.box.children[0].value),
        "%vbatch list": repr(magic("%vbatch list", capsys)[1]),
        "%vbatch list, HTML": text_of(magic("%vbatch list", capsys)[1]._repr_html_()),
        "%vbatch show": magic(f"%vbatch show {batch.id}", capsys)[0],
        "/vbatch/events": str(event(http, batch.id)["waiting"]),
        "/vbatch/snapshot": str(view_of(http.get("vbatch/snapshot").json()["batches"], batch.id)["waiting"]),
        "/vbatch/batches": str(view_of(http.get("vbatch/batches").json()["data"], batch.id)["waiting"]),
    }
    live.close()
    return {face: said.replace("&#x27;", "'") for face, said in faces.items()}


def test_why_a_batch_waits_is_said_alike_by_every_face(session, http, capsys):
    batch = session.submit(pd.DataFrame({"text": ["a"]}), Ask.of("{{ text }}", model="unheld"))
    wait_for(lambda: batch.status == "in_progress", 20)
    none = "No engine has the model 'unheld' loaded. Load it in a notebook with %vbatch load."
    assert [face for face, said in said_by_every_face(batch, http, capsys).items() if none not in said] == []
    other = session.store.engines.register(kernel_id=None, name="unheld")
    for state, sentence in (
        ("loading", "An engine is loading the model 'unheld'."),
        ("dead", "The engine with the model 'unheld' has died. Load it in a notebook with %vbatch load."),
    ):
        session.store.engines.update(other.id, state=state, models=["unheld"])
        assert [face for face, said in said_by_every_face(batch, http, capsys).items() if sentence not in said] == []
    session.store.engines.update(other.id, state="ready", models=["unheld"])
    silent = said_by_every_face(batch, http, capsys)
    assert [face for face, said in silent.items() if "the model 'unheld'" in said] == []
    session.store.engines.remove(other.id)
    lease = session.store.batches.acquire(batch.id)
    assert lease is not None
    with lease:
        lease.update(paused=True, reason="The engine died 3 times with no answer between.")
    paused = said_by_every_face(batch, http, capsys)
    assert [face for face, said in paused.items() if "died 3 times with no answer between." not in said] == []
    batch.cancel().wait(20)
    assert batch.waiting is None
    assert event(http, batch.id)["waiting"] is None


def test_the_time_left_is_told_by_the_server_as_the_widget_and_the_line_tell_it(session, http):
    engine = session.store.engines.register(kernel_id=None, name=None)
    session.store.engines.update(engine.id, state="ready", models=["m"])
    told: dict[str, Any] = {}
    with begin(session.store, 1_000) as lease, http.stream("GET", "vbatch/events", timeout=20) as response:
        batch = session.attach(lease.id)
        live = Live(batch.id, snapshot=batch.snapshot, cancel=batch.cancel, on_end=lambda _: None)
        progress = Progress(batch.snapshot())
        lines = response.iter_lines()
        for done in range(0, 400, 50):
            lease.append(group(lease.id, range(done, done + 50)))
            while done + 50 > sum(told.get("batch", {"request_counts": {}})["request_counts"].values()) - 1_000:
                line = next(lines)
                data = json.loads(line.removeprefix("data: ")) if line.startswith("data: ") else {}
                told = data if data.get("batch", {}).get("id") == batch.id else told
            # A commit is looked at at once, and nobody looks more than four times a second.
            time.sleep(0.3)
            live._draw(batch.snapshot())
            progress.see(batch.snapshot())
    session.store.engines.remove(engine.id)
    left = progress.pace.seconds_left
    assert left is not None
    # 600 are left, at 50 every 0.3 s or a little more: each face has looked at moments of its own.
    assert told["seconds_left"] == pytest.approx(left, rel=0.4, abs=1)
    assert told["requests_per_second"] == pytest.approx(progress.pace.requests_per_second, rel=0.4)
    assert int(re.findall(r"(\d+) s\s+left", text_of(live.box.children[0].value))[0]) == pytest.approx(
        left, rel=0.4, abs=1
    )
    assert f"· {duration(left)} left" in progress.line()
    live.close()
    batch.cancel().wait(20)
    assert event(http, batch.id)["seconds_left"] is None
