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
from pydantic import BaseModel, field_validator

from tests.batches import ENDPOINT, begin, content, group, open_store
from tests.servers import JupyterServer, assert_envelope
from tests.waiting import wait_for
from vbatch_jupyter.cli import main
from vbatch_jupyter.display.listing import BatchList
from vbatch_jupyter.display.progress import Progress, duration
from vbatch_jupyter.engine.echo import EchoEngine
from vbatch_jupyter.errors import ConflictError, EngineNotLoadedError
from vbatch_jupyter.frames.ask import Ask
from vbatch_jupyter.manager import Manager
from vbatch_jupyter.protocol.lines import encode_request_line, parse_request_line
from vbatch_jupyter.session.batch import Batch
from vbatch_jupyter.session.session import Session
from vbatch_jupyter.store import Store
from vbatch_jupyter.widgets.live import Live

if TYPE_CHECKING:
    import httpx


@pytest.fixture
def session(server: JupyterServer, monkeypatch: pytest.MonkeyPatch) -> Iterator[Session]:
    """Open a session on the server's store, as a kernel next to it."""
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
    live = Live(batch.id, snapshot=batch.snapshot, cancel=batch.cancel, resume=batch.resume, on_end=lambda _: None)
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
    wait_for(lambda: batch.status == "in_progress")
    none = "No engine has the model 'unheld' loaded. Load it in a notebook with %vbatch load."
    assert [face for face, said in said_by_every_face(batch, http, capsys).items() if none not in said] == []
    with pytest.raises(EngineNotLoadedError, match="No engine here serves 'unheld'"):
        session.run(pd.DataFrame({"text": ["a"]}), Ask.of("{{ text }}", model="unheld"))
    # As a server does whose c.VBatch.models has the model.
    planned = session.store.engines.register(
        kernel_id=None, name="unheld", models=["unheld"], note="The server starts the engine of 'unheld' soon."
    )
    starts = "The server starts the engine of 'unheld' soon."
    assert [face for face, said in said_by_every_face(batch, http, capsys).items() if starts not in said] == []
    session.store.engines.update(planned.id, state="loading", models=["unheld"], note="The server is starting it.")
    loads = "An engine is loading the model 'unheld'."
    assert [face for face, said in said_by_every_face(batch, http, capsys).items() if loads not in said] == []
    session.store.engines.remove(planned.id)
    other = session.store.engines.register(kernel_id=None, name="unheld")
    for state, sentence in (
        ("loading", "An engine is loading the model 'unheld'."),
        ("not responding", "The engine with the model 'unheld' does not respond. The batch continues when it does, or"),
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
    batch.cancel().wait(60)
    assert batch.waiting is None
    assert event(http, batch.id)["waiting"] is None


def test_a_paused_batch_is_resumed_from_every_face(session, http, capsys, monkeypatch):
    monkeypatch.setenv("VBATCH_STORE", str(session.store.path))
    batch = session.submit(pd.DataFrame({"text": ["a"]}), Ask.of("{{ text }}", model="unheld"))
    wait_for(lambda: batch.status == "in_progress" and session.store.batches.get(batch.id).owner is None)
    live = Live(batch.id, snapshot=batch.snapshot, cancel=batch.cancel, resume=batch.resume, on_end=lambda _: None)

    def pause() -> None:
        lease = session.store.batches.acquire(batch.id)
        assert lease is not None
        with lease:
            lease.update(paused=True, reason="OSError: broken.", deaths=3, careful=True)

    def is_offered() -> dict[str, bool]:
        live._draw(batch.snapshot())
        summary = batch.summary()["text/html"]
        return {
            "widget": live._resume.is_enabled and live._resume.layout.display is None,
            "summary": f"%vbatch resume {batch.id}" in summary and 'data-vbatch-verb="resume"' in summary,
            "/vbatch/batches": view_of(http.get("vbatch/batches").json()["data"], batch.id)["paused"],
        }

    faces = {
        "Batch.resume": batch.resume,
        "%vbatch resume": lambda: magic(f"%vbatch resume {batch.id}", capsys),
        # What the buttons of the panel, of the summary and of the widget ask for.
        "/vbatch/batches/{id}/resume": lambda: http.post(f"vbatch/batches/{batch.id}/resume").raise_for_status(),
        "the widget, where there is no server": lambda: live._resume._msg_callbacks(live._resume, {}, []),
        "python -m vbatch_jupyter resume": lambda: main(["resume", batch.id]),
    }
    for face, resume in faces.items():
        pause()
        assert set(is_offered().values()) == {True}, face
        resume()
        record = session.store.batches.get(batch.id)
        assert (record.paused, record.reason, record.deaths, record.careful) == (False, None, 0, False), face
        assert set(is_offered().values()) == {False}, face
    live.close()
    batch.cancel().wait(60)
    refused = http.post(f"vbatch/batches/{batch.id}/resume")
    assert assert_envelope(refused, 409) == "Cannot resume a batch with status 'cancelled'."
    assert http.post("vbatch/batches/batch_0/resume").status_code == 404
    with pytest.raises(ConflictError, match="Cannot resume a batch with status 'cancelled'"):
        batch.resume()
    capsys.readouterr()
    assert main(["resume", batch.id]) == 1
    assert capsys.readouterr().err == "Cannot resume a batch with status 'cancelled'.\n"


JSON_LINES = {"Content-Type": "application/jsonl"}
SCHEMA = {"type": "object", "properties": {"stars": {"type": "integer"}}, "required": ["stars"]}
SAID = ['{"stars": 4}', '{"stars": "many"}', "refuse me", "four"]


def retried(store: Store, batch: dict[str, Any]) -> list[str]:
    """Return which requests a retry runs again."""
    return [parse_request_line(line).custom_id for line in content(store, batch["input_file_id"]).splitlines()]


def submitted(session: Session, made_of: str, said: list[str]) -> Batch:
    """Submit requests with a schema; the engine answers with what it is asked."""
    if made_of == "a frame":
        batch = session.submit(pd.DataFrame({"text": said}), Ask(template="{{ text }}", schema=SCHEMA, model="echo"))
    else:
        asked = {"type": "json_schema", "json_schema": {"name": "stars", "schema": SCHEMA}}
        bodies = ({"model": "echo", "messages": [{"role": "user", "content": text}]} for text in said)
        lines = [
            encode_request_line(f"row-{number}", ENDPOINT, {**body, "response_format": asked}) + b"\n"
            for number, body in enumerate(bodies)
        ]
        file = session.manager.files.create(lines, filename="in.jsonl", purpose="batch")
        batch = session.attach(session.manager.batches.create(input_file_id=file.id, endpoint=ENDPOINT).id)
    # Not the handle that knows the schema: what follows is what the store knows.
    return session.attach(batch.id)


@pytest.mark.parametrize("made_of", ["a frame", "a file"])
def test_every_face_lists_and_runs_again_the_answers_that_do_not_fit_the_schema(session, http, capsys, made_of):
    session.load("echo")
    batch = submitted(session, made_of, SAID).wait(60)
    wrong = ["row-1", "row-2", "row-3"]
    errors = batch.errors()
    assert sorted(errors["custom_id"]) == wrong
    assert "The answer does not fit the schema (stars must be integer)" in errors["error"][0]
    assert [name for name in wrong if name not in magic(f"%vbatch show {batch.id}", capsys)[0]] == []
    over_http = http.post(f"vbatch/batches/{batch.id}/retry").json()
    assert retried(session.store, over_http) == wrong
    here = batch.retry()
    assert retried(session.store, here.to_openai().model_dump()) == wrong
    assert sorted(here.wait(60).errors()["custom_id"]) == wrong


def offers_of_a_retry(batch: Batch, http: httpx.Client) -> dict[str, bool]:
    """Return by face whether it offers to retry a batch."""
    views = {
        "/vbatch/snapshot": view_of(http.get("vbatch/snapshot").json()["batches"], batch.id),
        "/vbatch/batches": view_of(http.get("vbatch/batches").json()["data"], batch.id),
        "/vbatch/events": event(http, batch.id),
    }
    offers = {"summary, HTML": f"%vbatch retry {batch.id}" in batch.summary()["text/html"]}
    return offers | {face: view["has_unanswered"] for face, view in views.items()}


@pytest.mark.parametrize("made_of", ["a frame", "a file"])
@pytest.mark.parametrize(("said", "wrong"), [(SAID[:2], ["row-1"]), (SAID[:1], []), (SAID[:3], ["row-1", "row-2"])])
def test_a_retry_is_offered_where_one_would_run_something(session, http, made_of, said, wrong):
    batch = submitted(session, made_of, said)
    assert not any(offers_of_a_retry(batch, http).values())
    session.load("echo")
    batch.wait(60)
    assert set(offers_of_a_retry(batch, http).values()) == {bool(wrong)}
    assert sorted(batch.errors()["custom_id"]) == wrong
    if wrong:
        again = batch.retry().wait(60)
        assert set(offers_of_a_retry(again, http).values()) == {True}
    progress = event(http, batch.id)["progress"]
    assert ("some answers cannot be used" in progress) == (wrong == ["row-1"])
    assert ("1 answer cannot be used" in repr(batch)) == bool(wrong)


class Review(BaseModel):
    stars: int

    @field_validator("stars")
    @classmethod
    def up_to_five(cls, stars: int) -> int:
        if stars > 5:
            raise ValueError("there are five stars")
        return stars


def test_what_only_a_pydantic_class_finds_is_known_where_the_class_is_not(session, http):
    session.load("echo")
    df = pd.DataFrame({"text": ['{"stars": 4}', '{"stars": 6}', "refuse me"]})
    batch = session.submit(df, Ask(template="{{ text }}", schema=Review)).wait(60)
    elsewhere = session.attach(batch.id)
    assert sorted(elsewhere.errors()["custom_id"]) == ["row-2"]
    assert batch.results()["error"].isna().tolist() == [True, False, False]
    errors = elsewhere.errors().set_index("custom_id")
    assert errors["status_code"].to_dict() == {"row-1": 200, "row-2": 400}
    assert "there are five stars" in errors["error"]["row-1"]
    over_http = http.post(f"vbatch/batches/{batch.id}/retry").json()
    assert retried(session.store, over_http) == ["row-1", "row-2"]
    again = elsewhere.retry().wait(60)
    assert retried(session.store, again.to_openai().model_dump()) == ["row-1", "row-2"]
    sixes = session.submit(df.iloc[1:2], Ask(template="{{ text }}", schema=Review)).wait(60)
    # The handle knows the class.
    assert [face for face, offers in offers_of_a_retry(sixes, http).items() if offers] == ["summary, HTML"]
    assert sixes.results()["error"].notna().all()
    assert all(offers_of_a_retry(sixes, http).values())
    for ended in (batch, sixes):
        session.manager.files.delete(ended.to_openai().output_file_id)
    assert [path.name for path in session.store.files.directory.glob("*.misfits")] == []


def test_a_batch_with_sixteen_pairs_of_metadata_can_be_retried_from_every_face(session, http):
    session.load("echo")
    pairs = {f"key-{number}": str(number) for number in range(16)}
    body = {"model": "echo", "messages": [{"role": "user", "content": "refuse me"}]}
    manager = session.manager
    file = manager.files.create([encode_request_line("a", ENDPOINT, body)], filename="a.jsonl", purpose="batch")
    full = manager.batches.create(input_file_id=file.id, endpoint=ENDPOINT, metadata=pairs)
    assert session.attach(full.id).wait(60).request_counts.failed == 1
    over_http = http.post(f"vbatch/batches/{full.id}/retry").json()
    assert over_http["metadata"] == pairs
    here = session.attach(full.id).retry()
    assert here.to_openai().metadata == pairs
    for retry_id in (over_http["id"], here.id):
        session.attach(retry_id).wait(60)
        assert f"retry of {full.id}" in repr(BatchList([manager.batches.retrieve(retry_id)], [None]))
        assert view_of(http.get("vbatch/batches").json()["data"], retry_id)["retry_of"] == full.id
    # Where there is room, OpenAI's object says it too; a retry of a retry keeps what its client has sent.
    few = manager.batches.create(input_file_id=file.id, endpoint=ENDPOINT, metadata={"key": "1"})
    again = session.attach(few.id).wait(60).retry().wait(60)
    assert again.to_openai().metadata == {"key": "1", "retry_of": few.id}
    assert again.retry().to_openai().metadata == {"key": "1", "retry_of": again.id}


def test_the_time_left_is_told_by_the_server_as_the_widget_and_the_line_tell_it(session, http):
    engine = session.store.engines.register(kernel_id=None, name=None)
    session.store.engines.update(engine.id, state="ready", models=["m"])
    told: dict[str, Any] = {}
    with begin(session.store, 1_000) as lease, http.stream("GET", "vbatch/events", timeout=20) as response:
        batch = session.attach(lease.id)
        live = Live(batch.id, snapshot=batch.snapshot, cancel=batch.cancel, resume=batch.resume, on_end=lambda _: None)
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
    batch.cancel().wait(60)
    assert event(http, batch.id)["seconds_left"] is None


def test_an_engine_of_a_kernel_is_unloaded_and_loaded_over_http(session, http):
    session.load("echo")
    (engine,) = http.get("vbatch/engines").json()["data"]
    assert (engine["name"], engine["is_planned"]) == ("echo", False)
    assert http.post(f"vbatch/engines/{engine['id']}/unload").status_code == 200
    (unloaded,) = http.get("vbatch/engines").json()["data"]
    assert (unloaded["name"], unloaded["state"], unloaded["models"]) == ("echo", "unloaded", [])
    # A kernel that the server has not started knows no model; the name alone is not enough.
    bodies: list[dict[str, Any] | None] = [None, {}, {"flags": []}]
    for body in bodies:
        refused = http.post(f"vbatch/engines/{engine['id']}/load", json=body)
        said = assert_envelope(refused, 400, param="model", code="missing_required_parameter")
        assert said.startswith("Name the model for this kernel in the body")
    assert http.post(f"vbatch/engines/{engine['id']}/load", json={"model": "echo"}).json()["state"] == "ready"
    assert session.submit(pd.DataFrame({"text": ["a"]}), Ask.of("{{ text }}")).wait(60).request_counts.completed == 1


def test_with_strict_models_a_batch_for_a_model_that_no_engine_holds_fails_over_http_and_waits_elsewhere(tmp_path):
    with JupyterServer(tmp_path, config={"strict_models": True, "models": {"planned": "a"}}) as server:
        client = server.client()
        with open_store(server.store) as store:
            notes = [(row.models, row.note) for row in store.engines.live(planned=True)]
            assert notes == [(("planned",), "The server starts the engine of 'planned' when it is needed.")]
            assert store.engines.live() == []
            engine = store.engines.register(kernel_id=None, name=None)
            store.engines.update(engine.id, state="loading", models=["m"])
            made, file_id = {}, ""
            for model in ("m", "planned", "other"):
                body = {"model": model, "messages": [{"role": "user", "content": "a"}]}
                lines = b"".join(encode_request_line(name, ENDPOINT, body) + b"\n" for name in "ab")
                file_id = client.files.create(file=lines, purpose="batch").id
                made[model] = client.batches.create(
                    input_file_id=file_id, endpoint="/v1/chat/completions", completion_window="24h"
                ).id
            seen = wait_for(
                lambda: (
                    {model: client.batches.retrieve(id_) for model, id_ in made.items()}
                    if not any(client.batches.retrieve(id_).status == "validating" for id_ in made.values())
                    else None
                ),
                20,
            )
            assert {model: batch.status for model, batch in seen.items()} == {
                "m": "in_progress",
                "planned": "in_progress",
                "other": "failed",
            }
            assert [error.model_dump() for error in seen["other"].errors.data] == [
                {
                    "code": "model_not_found",
                    "message": "The provided model 'other' is not supported by the Batch API.",
                    "param": "body.model",
                    "line": line,
                }
                for line in (1, 2)
            ]
            # A retry over HTTP is such a batch too.
            client.batches.cancel(made["m"])
            wait_for(lambda: client.batches.retrieve(made["m"]).status == "cancelled", 20)
            store.engines.remove(engine.id)
            with server.http() as http:
                again = http.post(f"vbatch/batches/{made['m']}/retry").json()["id"]
            errors = wait_for(lambda: client.batches.retrieve(again).errors, 20)
            assert {error.code for error in errors.data} == {"model_not_found"}
            local = Manager(store, profile="local").batches.create(input_file_id=file_id, endpoint=ENDPOINT)
            wait_for(lambda: client.batches.retrieve(local.id).status == "in_progress", 20)


def test_a_check_for_an_engine_here_names_models_that_no_engine_has(session, http, tmp_path, capsys, monkeypatch):
    monkeypatch.setenv("VBATCH_STORE", str(session.store.path))
    body = {"messages": [{"role": "user", "content": "a"}]}
    path = tmp_path / "in.jsonl"
    path.write_bytes(encode_request_line("a", ENDPOINT, {"model": "held", **body}))
    message = "The provided model 'held' is not supported by the Batch API."

    def found() -> dict[str, Any]:
        report = http.post("vbatch/check", params={"target": "local"}, content=path.read_bytes(), headers=JSON_LINES)
        capsys.readouterr()
        main(["check", str(path), "--target", "local"])
        printed = capsys.readouterr().out
        return {
            "/vbatch/check": [(each["line"], each["code"]) for each in report.json()["findings"]],
            "%vbatch check": magic(f"%vbatch check {path} --target local", capsys)[0].splitlines()[:-1],
            "vbatch check": printed.splitlines()[:-1],
        }

    line = f"line 1 ('a'): refused: model_not_found: {message}"
    assert found() == {"/vbatch/check": [(1, "model_not_found")], "%vbatch check": [line], "vbatch check": [line]}
    engine = session.store.engines.register(kernel_id=None, name=None)
    session.store.engines.update(engine.id, state="loading", models=["held"])
    assert found() == {"/vbatch/check": [], "%vbatch check": [], "vbatch check": []}
    session.store.engines.remove(engine.id)
    # What a batch service has is not known here.
    assert main(["check", str(path), "--target", "openai"]) == 0
