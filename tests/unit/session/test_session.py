"""DataFrame → batch → DataFrame, on the echo engine."""

from __future__ import annotations

import asyncio
import os
import signal

import numpy as np
import pandas as pd
import pytest

from tests.batches import ENDPOINT, content, open_store
from tests.unit.session_surface import interrupt, open_session
from tests.waiting import wait_for
from vbatch_jupyter.engine.echo import EchoEngine
from vbatch_jupyter.errors import (
    BadRequestError,
    BatchPausedError,
    ConflictError,
    EngineNotLoadedError,
    FrameError,
    NotFoundError,
    TemplateError,
)
from vbatch_jupyter.frames.ask import Ask
from vbatch_jupyter.manager import Manager, lifecycle
from vbatch_jupyter.protocol.lines import encode_request_line, parse_request_line
from vbatch_jupyter.session.session import Session

FRAMES = {
    "one row": pd.DataFrame({"text": ["a"]}),
    "a duplicate index": pd.DataFrame({"text": ["a", "b", "c"]}, index=[7, 7, 3]),
    "a MultiIndex": pd.DataFrame(
        {"text": ["a", "b"]}, index=pd.MultiIndex.from_tuples([("x", 1), ("y", 2)], names=["k", "n"])
    ),
    "missing values": pd.DataFrame({"text": ["a", None, np.nan, pd.NA, pd.NaT]}),
    "categories": pd.DataFrame({"text": pd.Categorical(["a", "b", "a"])}),
    "dates": pd.DataFrame({"text": [pd.Timestamp("2026-01-02"), pd.NaT]}),
    "braces and quotes": pd.DataFrame({"text": ["{}", "{{ text }}", '{"a": "b"}', 'it\'s\n"so"', "naïve 🙂 \u2028"]}),
}


def test_a_session_is_seen_and_runs_batches_in_a_store_that_has_taken_the_place_of_its_own(session):
    path = session.store.path
    (before,) = session.store.engines.live()
    path.rename(path.with_name("away"))
    with open_store(path) as other:
        (now,) = wait_for(other.engines.live)
        assert now == before
        assert session.run(pd.DataFrame({"text": ["a"]}), Ask.of("{{ text }}"))["response"].tolist() == ["a"]
        assert other.batches.count() == 1
    path.rename(path.with_name("other"))
    path.with_name("away").rename(path)
    # As it was restored from a backup: its row is there, and its lock is not held.
    assert wait_for(session.store.engines.live) == [before]
    assert session.store.batches.count() == 0


@pytest.mark.parametrize("name", FRAMES)
def test_any_frame_comes_back_row_for_row(session, name):
    df = FRAMES[name]
    before = df.copy(deep=True)
    out = session.run(df, Ask.of("{{ text }}."))
    pd.testing.assert_frame_equal(df, before)
    pd.testing.assert_index_equal(out.index, df.index)
    assert list(out.columns) == ["text", "response", "error"]
    said = ["" if pd.isna(value) else str(value) for value in df["text"]]
    assert list(out["response"]) == [f"{text}." for text in said]
    assert out["error"].isna().all()


def test_what_an_engine_does_not_hold_of_a_schema_is_said_once_before_the_batch_runs(tmp_path):
    said: list[str] = []
    schema = {"type": "object", "properties": {"tags": {"type": "array", "uniqueItems": True}}}
    session = open_session(tmp_path, said=said, load=False)
    session.submit(pd.DataFrame({"text": ["a", "b"]}), Ask.of("{{ text }}", schema=schema, model="echo"))
    sentence = (
        "The engine does not hold answers to all of schema=: tags (uniqueItems). A row that breaks it gets an error."
    )
    assert said == [sentence]
    session.close()


def test_an_empty_frame_makes_no_batch_and_gives_an_empty_result(session):
    out = session.run(pd.DataFrame({"text": []}), Ask.of("{{ text }}"))
    assert (list(out.columns), len(out)) == (["text", "response", "error"], 0)
    assert list(session.batches()) == []
    with pytest.raises(FrameError, match="no rows, so there is no batch"):
        session.submit(pd.DataFrame({"text": []}), Ask.of("{{ text }}"))


def test_an_empty_frame_has_the_same_columns_and_the_same_mistakes_as_a_full_one(session):
    df = pd.DataFrame({"text": [], "ticket": []})
    tools = [{"type": "function", "function": {"name": "look_up"}}]
    empty = session.run(df, Ask.of("{{ text }}", custom_id="ticket", fresh=True, tools=tools, max_tokens=4))
    assert list(empty.columns) == ["text", "ticket", "response", "tool_calls", "error"]
    with pytest.raises(BadRequestError, match="'temperature'"):
        session.run(df, Ask.of("{{ text }}", temprature=0))
    with pytest.raises(FrameError, match="Did you mean 'ticket'"):
        session.run(df, Ask.of("{{ text }}", custom_id="tickets"))


def test_columns_that_are_no_strings_and_all_kinds_of_missing_values_are_reached_by_row(session):
    df = pd.DataFrame({0: ["a", None], ("b", 1): [np.nan, 2.5], "c d": [pd.NaT, pd.Timestamp("2026-01-02")]})
    out = session.run(df, Ask.of("{{ row[0] }}|{{ row['b', 1] }}|{{ row['c d'] }}"))
    assert list(out["response"]) == ["a||", "|2.5|2026-01-02 00:00:00"]
    assert list(out.columns) == [0, ("b", 1), "c d", "response", "error"]


def test_a_frame_that_is_changed_in_place_meanwhile_keeps_each_answer_in_its_row(session):
    df = pd.DataFrame({"text": ["a", "b", "c"]}, index=["x", "y", "z"])
    batch = session.submit(df, Ask.of("{{ text }}!"))
    df.index = ["z", "y", "x"]
    df["text"] = ["c", "b", "a"]
    df["response"] = "mine"
    out = batch.results()
    assert out["text"].to_dict() == {"x": "a", "y": "b", "z": "c"}
    assert out["response"].to_dict() == {"x": "a!", "y": "b!", "z": "c!"}
    assert list(df.columns) == ["text", "response"]


@pytest.mark.parametrize(
    ("error", "sentence", "arguments"),
    [
        (TemplateError, "tixt", {"template": "{{ tixt }}"}),
        (BadRequestError, "temperature", {"temprature": 0}),
        (FrameError, "output=", {"output": "text"}),
        (FrameError, "number of rows", {"sample": 0}),
        (BadRequestError, "chat", {"endpoint": "chatt"}),
    ],
)
def test_a_mistake_is_told_before_anything_is_written(session, error, sentence, arguments):
    df = pd.DataFrame({"text": ["a"]})
    with pytest.raises(error, match=sentence):
        session.run(df, Ask.of(arguments.pop("template", "{{ text }}"), **arguments))
    assert list(session.batches()) == []
    assert session.store.files.list().data == ()


def test_sample_custom_id_and_output_are_kept_to(session):
    df = pd.DataFrame({"text": ["a", "b", "c"], "ticket": [30, 20, 10]})
    out = session.run(df, Ask.of("{{ text }}", sample=2, custom_id="ticket", output="answer"))
    assert list(out.columns) == ["text", "ticket", "answer", "answer_error"]
    assert list(out["answer"]) == ["a", "b"]
    lines = content(session.store, next(session.batches()).input_file_id).splitlines()
    assert [parse_request_line(line).custom_id for line in lines] == ["30", "20"]


def test_a_refused_row_is_a_row_and_retry_runs_exactly_it(session):
    df = pd.DataFrame({"text": ["a", "refuse me", "c", "refuse me too"]}, index=[4, 3, 2, 1])
    batch = session.submit(df, Ask.of("{{ text }}"))
    out = batch.results()
    assert list(out["response"].dropna()) == ["a", "c"]
    assert out["error"].isna().tolist() == [True, False, True, False]
    assert "This request is refused, as it asked to be." in out["error"].loc[3]
    errors = batch.errors()
    assert errors["custom_id"].tolist() == ["row-1", "row-3"]
    assert errors["status_code"].tolist() == [400, 400]
    session.engine._refusing = b"refuse me too"
    again = batch.retry()
    once_more = again.wait().retry().wait()
    assert again.request_counts.total == 2
    assert again.to_openai().metadata == {"retry_of": batch.id}
    assert again.results()["error"].isna().tolist() == [True, True, True, False]
    session.engine._refusing = None
    third = once_more.retry()
    assert (once_more.request_counts.total, third.wait().request_counts.completed) == (1, 1)
    complete = third.results()
    assert list(complete["response"]) == ["a", "refuse me", "c", "refuse me too"]
    assert list(complete.index) == [4, 3, 2, 1]
    with pytest.raises(ConflictError, match="nothing to retry"):
        third.retry()


SCHEMA = {"type": "object", "properties": {"stars": {"type": "integer"}}, "required": ["stars"]}


def test_an_answer_that_does_not_fit_the_schema_is_an_error_and_retry_asks_the_engine_for_it_again(session):
    asked = session.engine.requests
    df = pd.DataFrame({"text": ['{"stars": 4}', '{"stars": "many"}', "refuse me"]})
    batch = session.submit(df, Ask.of("{{ text }}", schema=SCHEMA))
    out = batch.results()
    assert str(out["stars"].dtype) == "Int64"
    assert out["stars"].tolist() == [4, pd.NA, pd.NA]
    assert out["error"].isna().tolist() == [True, False, False]
    assert batch.request_counts.completed == 2
    assert batch.errors()["custom_id"].tolist() == ["row-1", "row-2"]
    assert batch.errors()["status_code"].tolist() == [200, 400]
    assert session.engine.requests - asked == 3
    retried = batch.retry().wait()
    assert session.engine.requests - asked == 5
    lines = content(session.store, retried.to_openai().input_file_id).splitlines()
    assert [parse_request_line(line).custom_id for line in lines] == ["row-1", "row-2"]


def test_a_batch_of_a_file_gives_its_answers_in_the_files_order_and_takes_no_frame(session):
    body = {"model": "echo", "messages": [{"role": "user", "content": "hello"}]}
    lines = [encode_request_line(name, ENDPOINT, body) + b"\n" for name in ("second", "first")]
    file = session.manager.files.create(lines, filename="made-by-hand.jsonl", purpose="batch")
    batch = session.attach(session.manager.batches.create(input_file_id=file.id, endpoint=ENDPOINT).id)
    assert batch.results()["response"].tolist() == ["hello", "hello"]
    with pytest.raises(FrameError, match="was made from an input file, not from a DataFrame"):
        batch.results(pd.DataFrame({"text": ["a", "b"]}))


def test_a_batch_that_fails_validation_says_why_and_has_neither_results_nor_errors(session):
    file = session.manager.files.create([b'{"custom_id": "a"}\n'], filename="bad.jsonl", purpose="batch")
    batch = session.attach(session.manager.batches.create(input_file_id=file.id, endpoint=ENDPOINT).id)
    assert batch.wait(60).status == "failed"
    for ask in (batch.results, batch.errors, batch.retry):
        with pytest.raises(BadRequestError, match=rf"^Batch {batch.id} failed validation and nothing ran. line 1: "):
            ask()


def test_a_batch_that_was_cancelled_before_it_was_validated_says_so_in_each_row_and_can_be_retried(tmp_path):
    session = open_session(tmp_path)
    df = pd.DataFrame({"text": ["a", "b"]})
    held = session.submit(df, Ask.of("{{ text }}")).wait(60)
    description = session.store.batches.get(held.id).frame
    session.close()
    with open_store(tmp_path / "store") as store:
        manager = Manager(store, profile="local")
        input_file_id = store.batches.get(held.id).input_file_id
        record = manager.batches.create(input_file_id=input_file_id, endpoint=ENDPOINT, frame=description)
        manager.batches.cancel(record.id)
        lifecycle.tend(store)
        assert store.batches.get(record.id).error_file_id is None
    session = open_session(tmp_path)
    batch = session.attach(record.id)
    sentence = "This request was not executed: the batch was cancelled before it ran."
    assert batch.results(df)["error"].tolist() == [sentence, sentence]
    assert batch.errors()["custom_id"].tolist() == ["row-0", "row-1"]
    assert batch.retry().results(df)["response"].tolist() == ["a", "b"]
    session.close()


def test_after_a_restart_results_come_by_position_or_beside_the_same_frame(tmp_path):
    df = pd.DataFrame({"text": ["a", "b"]}, index=["x", "y"])
    session = open_session(tmp_path)
    batch_id = session.submit(df, Ask.of("{{ text }}")).wait().id
    session.close()
    session = open_session(tmp_path, load=False)
    batch = session.attach(batch_id)
    assert list(batch.results()["response"]) == ["a", "b"]
    assert list(batch.results().columns) == ["custom_id", "response", "error"]
    assert list(batch.results(df.copy())["response"].loc[["y", "x"]]) == ["b", "a"]
    with pytest.raises(FrameError, match="another DataFrame"):
        batch.results(pd.DataFrame({"text": ["a", "c"]}, index=["x", "y"]))
    with pytest.raises(NotFoundError, match="No batch found with id 'batch_0'"):
        session.attach("batch_0")
    session.close()


def test_a_batch_tells_how_it_stands_can_be_awaited_and_cancelled(tmp_path):
    session = open_session(tmp_path, answers=0)
    batch = session.submit(pd.DataFrame({"text": ["a", "b"]}), Ask.of("{{ text }}"))
    wait_for(lambda: batch.status == "in_progress")
    with pytest.raises(TimeoutError, match=f"Batch {batch.id} did not end within 0.3 s. Its status is in_progress"):
        batch.wait(0.3)
    with pytest.raises(ConflictError, match="Its errors are known when it has ended"):
        batch.errors()
    assert repr(batch).startswith(f"{batch.id} in_progress 0/2 completed")
    assert len(repr(batch).splitlines()) == 1
    # A cancel does not wait for what runs.
    assert batch.cancel().wait(60).status == "cancelled"
    assert (batch.request_counts.completed, batch.request_counts.failed) == (0, 0)
    assert set(batch.errors()["error"]) == {"This request was not executed: the batch was cancelled before it ran."}
    session.close()

    async def awaited():
        session = open_session(tmp_path / "other")
        batch = await session.submit(pd.DataFrame({"text": ["a"]}), Ask.of("{{ text }}"))
        session.close()
        return batch.id

    (tmp_path / "other").mkdir()
    assert asyncio.run(awaited()).startswith("batch_")


def is_running(session: Session) -> bool:
    return any(record.status == "in_progress" and record.owner for record in session.store.batches.unfinished())


def has_answers(session: Session) -> bool:
    return any(record.request_counts.completed for record in session.store.batches.unfinished())


def hurry(session: Session) -> None:
    assert isinstance(session.engine, EchoEngine)
    session.engine.latency_seconds = 0


def test_one_interrupt_cancels_and_keeps_what_is_finished(tmp_path, capsys):
    session = open_session(tmp_path, answers=1000)
    df = pd.DataFrame({"text": range(3000)})
    interrupt(when=lambda: has_answers(session))
    out = session.run(df, Ask.of("{{ text }}"))
    record = next(session.batches())
    assert record.status == "cancelled"
    assert 0 < record.request_counts.completed < 3000
    assert int(out["error"].isna().sum()) == record.request_counts.completed
    assert "interrupted, cancelling (interrupt again to leave it running)" in capsys.readouterr().out
    session.close()


def test_a_second_interrupt_leaves_the_batch_running(tmp_path, monkeypatch):
    monkeypatch.setattr("vbatch_jupyter.widgets.frontend._GRACE_SECONDS", 3600)
    session = open_session(tmp_path, answers=1000)
    interrupt(when=lambda: has_answers(session), then=lambda: os.kill(os.getpid(), signal.SIGINT))
    with pytest.raises(KeyboardInterrupt):
        session.run(pd.DataFrame({"text": range(3000)}), Ask.of("{{ text }}"))
    record = next(session.batches())
    assert record.status == "in_progress"
    hurry(session)
    assert session.attach(record.id).wait(60).request_counts.completed == 3000
    session.close()


def test_a_batch_that_ends_while_a_second_interrupt_is_waited_for_gives_its_result(tmp_path, monkeypatch):
    session = open_session(tmp_path, answers=0)

    def end() -> None:
        hurry(session)
        next(session.attach(record.id) for record in session.batches()).wait(60)

    monkeypatch.setattr("vbatch_jupyter.session.session.await_shutdown", end)
    interrupt(when=lambda: is_running(session))
    out = session.run(pd.DataFrame({"text": ["a", "b"]}), Ask.of("{{ text }}"))
    assert next(session.batches()).status == "completed"
    assert out["response"].tolist() == ["a", "b"]
    session.close()


def test_an_interrupt_of_wait_or_of_following_a_background_batch_leaves_it_alone(tmp_path, capsys):
    session = open_session(tmp_path, answers=0)
    batch = session.submit(pd.DataFrame({"text": ["a"]}), Ask.of("{{ text }}"))
    interrupt(when=lambda: is_running(session))
    with pytest.raises(KeyboardInterrupt):
        batch.wait()
    interrupt(when=lambda: is_running(session))
    assert session.follow(batch, cancels=False) is batch
    assert f"{batch.id}: no longer followed. It keeps running.\n" in capsys.readouterr().out
    assert batch.status == "in_progress"
    hurry(session)
    assert batch.wait(60).request_counts.completed == 1
    session.close()


def test_an_engine_that_is_unloaded_leaves_its_batch_in_progress_and_the_next_one_resumes_it(tmp_path):
    said: list[str] = []
    session = open_session(tmp_path, said=said, answers=600)
    batch = session.submit(pd.DataFrame({"text": range(1000)}), Ask.of("{{ text }}"))
    wait_for(lambda: batch.request_counts.completed)
    session.unload()
    answered = batch.request_counts.completed
    assert (batch.status, said) == ("in_progress", [])
    assert 0 < answered < 1000
    never_begun = session.submit(pd.DataFrame({"text": ["z"]}), Ask.of("{{ text }}", model="echo"))
    session.load("echo")
    assert said == [f"Resuming batch {batch.id}: {answered:,} of 1,000 requests are answered."]
    hurry(session)
    assert batch.wait(60).results()["response"].tolist() == [str(n) for n in range(1000)]
    assert never_begun.wait(60).status == "completed"
    assert len(said) == 1
    session.close()


def test_run_for_a_model_that_the_engine_does_not_serve_waits_for_nothing(session):
    with pytest.raises(EngineNotLoadedError, match=r"serves 'echo', not 'ecco'\. Load that model first"):
        session.run(pd.DataFrame({"text": ["a"]}), Ask.of("{{ text }}", model="ecco"))
    assert list(session.batches()) == []


def test_without_an_engine_a_named_model_waits_and_an_unnamed_one_is_an_error(tmp_path):
    session = open_session(tmp_path, load=False)
    df = pd.DataFrame({"text": ["a"]})
    for call in (session.run, session.submit):
        with pytest.raises(EngineNotLoadedError, match="%vbatch load MODEL"):
            call(df, Ask.of("{{ text }}"))
    batch = session.submit(df, Ask.of("{{ text }}", model="echo"))
    wait_for(lambda: batch.status == "in_progress")
    with pytest.raises(TimeoutError, match="Its status is in_progress"):
        batch.wait(0.3)
    session.load("echo")
    assert batch.wait(60).request_counts.completed == 1
    session.unload()
    assert session.engine_stats() is None
    session.close()


def test_a_paused_batch_says_why_and_goes_on_when_an_engine_is_loaded_anew(tmp_path):
    said: list[str] = []
    session = open_session(tmp_path, said=said, killer="deadly", starts=1)
    batch = session.submit(pd.DataFrame({"text": ["deadly", "b"]}), Ask.of("{{ text }}"))
    with pytest.raises(BatchPausedError, match=r"could not be loaded again.*told to start no more"):
        batch.wait(60)
    assert said[0] == "The engine died. It is being loaded again, and the batch continues."
    assert said[-1].startswith(f"Batch {batch.id} is paused: ")
    session.load("echo")
    with pytest.raises(BatchPausedError):
        batch.wait(60)
    other = session.submit(pd.DataFrame({"text": ["deadly"]}), Ask.of("{{ text }}!"))
    with pytest.raises(BatchPausedError):
        other.wait(60)
    # To be cancelled it needs no engine, and nobody is told that it waits for one.
    assert other.cancel().wait(60).status == "cancelled"
    session._loader._make_engine = lambda *_, **__: EchoEngine()
    session.load("echo")
    assert list(batch.results()["response"]) == ["deadly", "b"]
    session.close()
