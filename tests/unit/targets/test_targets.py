"""Targets: what configuration may say, how a file is divided, and what becomes of a service's lines and errors."""

from __future__ import annotations

import codecs
import dataclasses
import io
import json
from pathlib import Path

import msgspec
import pytest

from tests.batches import make_batch, open_store
from tests.unit.session_surface import open_session
from tests.waiting import wait_for
from vbatch_jupyter.errors import BadRequestError, EngineNotLoadedError, FrameError
from vbatch_jupyter.frames.ask import Ask
from vbatch_jupyter.manager import lifecycle
from vbatch_jupyter.protocol.lines import parse_output_line
from vbatch_jupyter.protocol.profiles import PROFILES
from vbatch_jupyter.protocol.validation import validate
from vbatch_jupyter.targets.configuration import Target, named_target, targets
from vbatch_jupyter.targets.parts import Part, Stretch, counts_of, divide, parts_from_json, parts_to_json, positions
from vbatch_jupyter.targets.service_batch import _spooled

TARGET = Target(name="ours", base_url="https://batch.example.org/v1", api_key_env="OURS_API_KEY")


@pytest.fixture
def configure(tmp_path, monkeypatch):
    monkeypatch.setenv("JUPYTER_CONFIG_DIR", str(tmp_path / "jupyter"))
    (tmp_path / "jupyter").mkdir()
    (tmp_path / "project" / "deep").mkdir(parents=True)
    monkeypatch.chdir(tmp_path / "project" / "deep")

    def write(*, user: str = "", project: str = "") -> None:
        (tmp_path / "jupyter" / "vbatch.toml").write_text(user)
        (tmp_path / "project" / "pyproject.toml").write_text(project)

    write()
    return write


def test_parasail_and_openai_come_along(configure):
    found = targets()
    assert list(found) == ["parasail", "openai"]
    assert (found["parasail"].base_url, found["parasail"].api_key_env) == (
        "https://api.parasail.io/v1",
        "PARASAIL_API_KEY",
    )
    assert found["openai"].rules() == PROFILES["openai"]
    assert found["parasail"].rules() == PROFILES["parasail"]


def test_the_project_comes_before_the_user_and_both_may_change_one_thing_alone(configure):
    configure(
        user='[targets.parasail]\nmax_bytes = 100\n[targets.ours]\nbase_url = "https://a.example"\napi_key_env = "A"',
        project='[tool.vbatch.targets.ours]\nbase_url = "https://b.example/v1"\nprofile = "parasail"',
    )
    ours = named_target("ours")
    assert (ours.base_url, ours.api_key_env, ours.profile) == ("https://b.example/v1", "A", "parasail")
    parasail = named_target("parasail")
    assert (parasail.base_url, parasail.rules().max_bytes) == ("https://api.parasail.io/v1", 100)


@pytest.mark.parametrize(
    ("fields", "sentence"),
    [
        ('base_url = "ftp://a"\napi_key_env = "A"', "base_url must be an http or https address, not 'ftp://a'"),
        ('base_url = "https://u:p@a"\napi_key_env = "A"', "base_url must not have a user, a password"),
        (
            'base_url = "https://a"\napi_key_env = "sk-a secret"',
            "api_key_env must be the name of an environment variable",
        ),
        ('base_url = "https://a"\napi_key_env = "A"\napi_key = "secret"', "unknown field `api_key`"),
        ('base_url = "https://a"\napi_key_env = "A"\nprofile = "local"', "profile must be openai or parasail"),
        ('base_url = "https://a"\napi_key_env = "A"\nmax_lines = 0', "max_lines and max_bytes must be at least 1"),
        ('base_url = "https://a"', "missing required field `api_key_env`"),
    ],
)
def test_a_wrong_target_names_the_file_and_what_is_wrong_and_never_a_secret(configure, tmp_path, fields, sentence):
    configure(project=f"[tool.vbatch.targets.ours]\n{fields}")
    with pytest.raises(BadRequestError) as raised:
        targets()
    assert str(raised.value).startswith(
        f"The target 'ours' in {tmp_path / 'project' / 'pyproject.toml'} is not valid: "
    )
    assert sentence in str(raised.value)
    assert "secret" not in str(raised.value).partition("unknown field")[0]


def test_an_unknown_target_names_near_misses_and_how_to_make_one(configure):
    with pytest.raises(
        BadRequestError, match=r"no target 'parasial'. Did you mean parasail\? The targets are parasail"
    ):
        named_target("parasial")


def test_a_file_is_divided_at_lines_bytes_and_embedding_inputs():
    def request(number: int, inputs: int) -> bytes:
        body = {"model": "m", "input": [f"text {number}"] * inputs}
        return json.dumps({"custom_id": f"r{number}", "method": "POST", "url": "/v1/embeddings", "body": body}).encode()

    content = b"\xef\xbb\xbf\n" + b"\n\n".join(request(number, 1 + number % 3) for number in range(9))
    file = io.BytesIO(content)
    index = validate(file, endpoint="/v1/embeddings", profile=PROFILES["openai"]).index

    def divided(inputs: int | None = None, **limits: int) -> list[list[str]]:
        rules = dataclasses.replace(msgspec.structs.replace(TARGET, **limits).rules(), max_embedding_inputs=inputs)
        parts = divide(index, file, "/v1/embeddings", rules)
        assert [part.first for part in parts] == [sum(p.requests for p in parts[:i]) for i in range(len(parts))]
        for part in parts:
            assert part.end - part.start <= (rules.max_bytes or 10**9)
            whole = Stretch(file, part.start, part.end).read()
            assert validate(io.BytesIO(whole), endpoint="/v1/embeddings", profile=PROFILES["openai"]).errors == ()
        return [list(positions(file, part)) for part in parts]

    assert divided() == [[f"r{number}" for number in range(9)]]
    assert divided(max_lines=4) == [["r0", "r1", "r2", "r3"], ["r4", "r5", "r6", "r7"], ["r8"]]
    assert divided(inputs=6) == [["r0", "r1", "r2"], ["r3", "r4", "r5"], ["r6", "r7", "r8"]]
    longest = max(map(len, content.splitlines()))
    assert [name for names in divided(max_bytes=longest + 40) for name in names] == [f"r{n}" for n in range(9)]


def test_parts_are_kept_whole_and_their_counts_never_exceed_their_requests():
    parts = [
        Part(first=0, requests=2, start=0, end=9, batch_id="b", status="completed", completed=2, collected=True),
        Part(first=2, requests=3, start=9, end=20, completed=9, failed=9),
    ]
    assert parts_from_json(parts_to_json(parts)) == parts
    assert parts_from_json(None) == []
    counts = counts_of(parts)
    assert (counts.total, counts.completed, counts.failed) == (5, 5, 0)


@pytest.mark.parametrize(
    ("line", "is_error", "status", "message"),
    [
        ({"response": {"status_code": 200, "body": {"a": 1}}}, False, 200, None),
        ({"response": {"status_code": 429, "body": {"error": {"message": "busy"}}}}, True, 429, "busy"),
        ({"error": {"code": "request_timeout", "message": "Timed out."}}, True, 504, "Timed out."),
        ({"error": "Unknown model.", "response": {"status_code": 400, "body": None}}, True, 400, "Unknown model."),
        ({"error": {"code": 504}}, True, 504, "504"),
        ({}, True, 504, "The service returned neither a response nor an error for this request."),
    ],
)
def test_a_services_line_becomes_ours_with_its_outcome(line, is_error, status, message):
    content = codecs.BOM_UTF8 + json.dumps({"custom_id": "a", **line}).encode()
    written = _spooled("batch_0", content, {"a": 3}, is_error=False)
    assert written is not None
    assert (written.position, written.is_error) == (3, is_error)
    parsed = parse_output_line(written.line)
    assert parsed.response is not None
    assert parsed.response.status_code == status
    if message is not None:
        assert json.loads(bytes(parsed.response.body))["error"]["message"] == message


def test_lines_that_never_ran_are_foreign_or_no_json_are_left_out():
    left = {"a": 0}
    for content in (
        json.dumps({"custom_id": "a", "error": {"code": "batch_expired", "message": "m"}}).encode(),
        json.dumps({"custom_id": "b", "response": {"status_code": 200, "body": {}}}).encode(),
        b"no JSON",
    ):
        assert _spooled("batch_0", content, left, is_error=True) is None
    assert left == {"a": 0}


def test_the_lifecycle_does_not_touch_a_batch_of_a_service(tmp_path: Path):
    with open_store(tmp_path / "store") as store:
        text = msgspec.json.encode(TARGET).decode()
        record = make_batch(store, 3, target=text)
        assert lifecycle.tend(store) == []
        assert store.batches.get(record.id) == record
        lease = store.batches.acquire(record.id)
        assert lease is not None
        assert lifecycle.validate(store, lease).status == "in_progress"
        lease.release()
        store.clock = lambda: record.created_at + 10**6
        assert lifecycle.tend(store) == []
        assert store.batches.get(record.id).status == "in_progress"


def test_an_engine_that_serves_the_model_leaves_a_batch_of_a_service_alone(tmp_path, monkeypatch):
    monkeypatch.delenv("OURS_API_KEY", raising=False)
    session = open_session(tmp_path, served_model_names=["m"])
    try:
        record = make_batch(session.store, 3, target=msgspec.json.encode(TARGET).decode())
        # The batch that is made after it has been run by then.
        session.attach(make_batch(session.store, 3).id).wait(60)
        reason = wait_for(lambda: session.store.batches.get(record.id).reason)
        assert reason == "Set the environment variable OURS_API_KEY to the API key for ours to continue."
        assert session.store.batches.get(record.id).status == "validating"
    finally:
        session.close()


def test_a_batch_says_why_its_service_cannot_even_be_asked(tmp_path, monkeypatch):
    monkeypatch.setenv("OURS_API_KEY", "k")
    monkeypatch.setenv("HTTPS_PROXY", "nonsense://proxy")
    session = open_session(tmp_path, load=False)
    try:
        record = make_batch(session.store, 3, target=msgspec.json.encode(TARGET).decode())
        reason = wait_for(lambda: session.store.batches.get(record.id).reason)
        assert "nonsense" in reason
    finally:
        session.close()


def test_a_target_needs_no_engine_but_a_model_and_a_key(tmp_path, configure, monkeypatch):
    import pandas as pd

    df = pd.DataFrame({"n": [1]})
    session = open_session(tmp_path, load=False)
    try:
        with pytest.raises(BadRequestError, match="Set the environment variable PARASAIL_API_KEY"):
            session.run(df, Ask.of("{{ n }}", target="parasail", model="m"))
        monkeypatch.setenv("PARASAIL_API_KEY", "k")
        with pytest.raises(FrameError, match="Name the model for parasail with model="):
            session.submit(df, Ask.of("{{ n }}", target="parasail"))
        with pytest.raises(EngineNotLoadedError):
            session.submit(df, Ask.of("{{ n }}"))
        assert list(session.run(df.iloc[:0], Ask.of("{{ n }}", target="parasail", model="m")).columns) == [
            "n",
            "response",
            "error",
        ]
        assert list(session.batches()) == []
    finally:
        session.close()
