"""A store that an earlier commit has written is opened, read and carried on by this one."""

from __future__ import annotations

import stat

import pandas as pd
import pytest

from tests.batches import assert_every_request_once, content, custom_ids, error_codes, open_store
from tests.fixtures.make_store import BATCHES, CLOCK, unpack
from vbatch_jupyter.engine.echo import EchoEngine
from vbatch_jupyter.errors import BadRequestError, NotFoundError
from vbatch_jupyter.frames.ask import Ask
from vbatch_jupyter.manager import Manager
from vbatch_jupyter.session.session import Session
from vbatch_jupyter.store.fsck import check
from vbatch_jupyter.store.store import PLACES

WORDS = pd.DataFrame({"word": ["one", "two", "three"]}, index=[10, 20, 30])


@pytest.fixture
def path(tmp_path):
    return unpack(tmp_path / "store")


@pytest.fixture
def session(path):
    engine = EchoEngine(["echo", "m"])
    session = Session(open_store(path, clock=lambda: float(CLOCK)), make_engine=lambda *_, **__: engine)
    yield session
    session.close()
    session.store.close()


@pytest.fixture
def ids(session):
    """Return the id of each batch by what it is."""
    oldest_first = list(session.batches())[::-1]
    return dict(zip(BATCHES, (record.id for record in oldest_first), strict=True))


def test_its_results_are_read_with_their_timings_and_errors(session, ids):
    first = session.attach(ids["completed"]).results(WORDS, full=True)
    assert list(first.index) == [10, 20, 30]
    assert list(first["response"]) == ["Say one", "Say two", "Say three"]
    assert first["latency"].between(0, 60).all()
    again = session.attach(ids["completed with one answer taken from the first"]).results(full=True)
    assert list(again["response"]) == ["Say three", "Say four"]
    assert again["latency"].isna().tolist() == [True, False]
    failed = session.attach(ids["completed with two failures"])
    assert failed.results()["response"].fillna("-").tolist() == ["Say good", "-", "-"]
    assert failed.errors()["custom_id"].tolist() == ["row-1", "row-2"]
    assert session.attach(ids["retry of it with one failure left"]).results()["error"].isna().tolist() == [
        True,
        True,
        False,
    ]
    with pytest.raises(BadRequestError, match="Missing required parameter"):
        session.attach(ids["failed validation"]).results()
    with pytest.raises(NotFoundError):
        session.attach(ids["completed, and its output file was deleted"]).results()
    record = session.store.batches.get(ids["cancelled with two answers of four"])
    assert error_codes(session.store, record) == {"row-1": "batch_cancelled", "row-2": "batch_cancelled"}
    assert custom_ids(session.store, record.output_file_id) == ["row-0"]


def test_its_answers_and_timings_are_next_to_their_output_files_afterwards(path):
    with open_store(path) as store:
        ended = dict(zip(BATCHES, reversed(store.batches.list(limit=100).data), strict=True))
    of_an_engine = (
        "completed",
        "completed with one answer taken from the first",
        "completed with two failures",
        "retry of it with one failure left",
    )
    expected = {f"{ended[name].output_file_id}.{kind}" for name in of_an_engine for kind in ("answers", "timings")}
    expected.add(f"{ended['cancelled with two answers of four'].output_file_id}.timings")
    assert {each.name for each in (path / "files").glob("file-*.*")} == expected
    assert {stat.S_IMODE((path / "files" / name).stat().st_mode) for name in expected} == {0o600}
    assert {each.name for each in path.iterdir() if each.is_dir()} == set(PLACES)


def test_its_unfinished_batches_end_with_the_answers_they_had(session, ids):
    before = content_of_spool(session.store.path / "batches" / ids["in progress with two answers of four"])
    session.load("echo")
    for name, requests in {
        "in progress without an answer, of a frame": 2,
        "in progress with two answers of four": 4,
        "finalizing with all three answers": 3,
        "validating": 2,
    }.items():
        session.attach(ids[name]).wait(60)
        record = session.store.batches.get(ids[name])
        assert (record.status, record.request_counts.total) == ("completed", requests)
        assert_every_request_once(session.store, record, requests)
    frame = session.attach(ids["in progress without an answer, of a frame"])
    assert list(frame.results(pd.DataFrame({"word": ["five", "six"]}))["response"]) == ["Say five", "Say six"]
    record = session.store.batches.get(ids["in progress with two answers of four"])
    (kept,) = [line for line in content(session.store, record.output_file_id).splitlines() if b'"answer 0"' in line]
    assert kept in before


def content_of_spool(directory):
    return b"".join(path.read_bytes() for path in directory.glob("spool-*"))


def test_its_failures_are_retried_and_its_answers_are_taken_again(session, ids):
    session.load("echo")
    retried = session.attach(ids["retry of it with one failure left"]).retry().wait(60)
    assert list(retried.results()["response"]) == ["Say good", "Say bad one", "Say bad two"]
    assert retried.request_counts.total == 1
    asked = session.engine.requests
    out = session.run(pd.DataFrame({"word": ["four", "one", "bad one", "new"]}), Ask.of("Say {{ word }}"))
    assert list(out["response"]) == ["Say four", "Say one", "Say bad one", "Say new"]
    assert session.engine.requests == asked + 1


def test_its_uploads_go_on(session):
    manager, store = Manager(session.store), session.store
    completed, pending = store.database.read("SELECT id, file_id FROM upload ORDER BY number")
    assert content(store, completed["file_id"]) == b"{}\n\n"
    (first,) = store.uploads.parts(pending["id"])
    second = manager.uploads.add_part(pending["id"], [b"\n\n"])
    _, file = manager.uploads.complete(pending["id"], part_ids=[first.id, second.id])
    assert content(store, file.id) == b"{}\n\n"


def test_it_is_sound_before_and_after_and_a_sweep_takes_what_its_killed_kernel_left(path):
    with open_store(path, clock=lambda: float(CLOCK)) as store:
        left = [problem for problem in check(store) if "the next sweep removes it" not in problem]
        assert left == []
        assert len(store.database.read("SELECT id FROM engine")) == 1
        store.sweep()
        assert store.database.read("SELECT id FROM engine") == []
        assert not list((store.path / "files").glob(".tmp-*"))
        assert check(store) == []
        assert len(store.batches.unfinished()) == 4
        for row in store.database.read("SELECT id FROM file WHERE deleted_at IS NULL"):
            assert store.files.path(row["id"]).exists()
