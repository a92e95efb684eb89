"""DataFrame → batch → DataFrame, on the echo engine."""

from __future__ import annotations

import asyncio
import os
import signal
import threading
import time

import numpy as np
import pandas as pd
import pytest

from tests.batches import content
from tests.unit.kernel_surface import open_kernel
from vbatch_jupyter.errors import (
    BadRequestError,
    BatchPausedError,
    ConflictError,
    EngineNotLoadedError,
    FrameError,
    NotFoundError,
    TemplateError,
)
from vbatch_jupyter.protocol.lines import parse_request_line


@pytest.fixture
def kernel(tmp_path):
    kernel = open_kernel(tmp_path, refusing="refuse me")
    yield kernel
    kernel.close()


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


@pytest.mark.parametrize("name", FRAMES)
def test_any_frame_comes_back_row_for_row(kernel, name):
    df = FRAMES[name]
    before = df.copy(deep=True)
    out = kernel.run(df, "{{ text }}.")
    pd.testing.assert_frame_equal(df, before)
    pd.testing.assert_index_equal(out.index, df.index)
    assert list(out.columns) == ["text", "response", "error"]
    said = ["" if pd.isna(value) else str(value) for value in df["text"]]
    assert list(out["response"]) == [f"{text}." for text in said]
    assert out["error"].isna().all()


def test_an_empty_frame_makes_no_batch_and_gives_an_empty_result(kernel):
    out = kernel.run(pd.DataFrame({"text": []}), "{{ text }}")
    assert (list(out.columns), len(out)) == (["text", "response", "error"], 0)
    assert list(kernel.batches()) == []
    with pytest.raises(FrameError, match="no rows, so there is no batch"):
        kernel.submit(pd.DataFrame({"text": []}), "{{ text }}")


@pytest.mark.parametrize(
    ("error", "sentence", "arguments"),
    [
        (TemplateError, "tixt", {"template": "{{ tixt }}"}),
        (BadRequestError, "temperature", {"temprature": 0}),
        (FrameError, "output=", {"output": "text"}),
        (FrameError, "first rows", {"sample": 0}),
        (BadRequestError, "chat", {"endpoint": "chatt"}),
    ],
)
def test_a_mistake_is_told_before_anything_is_written(kernel, error, sentence, arguments):
    df = pd.DataFrame({"text": ["a"]})
    with pytest.raises(error, match=sentence):
        kernel.run(df, arguments.pop("template", "{{ text }}"), **arguments)
    assert list(kernel.batches()) == []
    assert kernel.store.files.list().data == ()


def test_sample_custom_id_and_output_are_kept_to(kernel):
    df = pd.DataFrame({"text": ["a", "b", "c"], "ticket": [30, 20, 10]})
    out = kernel.run(df, "{{ text }}", sample=2, custom_id="ticket", output="answer")
    assert list(out.columns) == ["text", "ticket", "answer", "answer_error"]
    assert list(out["answer"]) == ["a", "b"]
    lines = content(kernel.store, next(kernel.batches()).input_file_id).splitlines()
    assert [parse_request_line(line).custom_id for line in lines] == ["30", "20"]


def test_a_refused_row_is_a_row_and_retry_runs_exactly_it(kernel):
    df = pd.DataFrame({"text": ["a", "refuse me", "c", "refuse me too"]}, index=[4, 3, 2, 1])
    batch = kernel.submit(df, "{{ text }}")
    out = batch.results()
    assert list(out["response"].dropna()) == ["a", "c"]
    assert out["error"].isna().tolist() == [True, False, True, False]
    assert "This request is refused, as it asked to be." in out["error"].loc[3]
    errors = batch.errors()
    assert errors["custom_id"].tolist() == ["row-1", "row-3"]
    assert errors["status_code"].tolist() == [400, 400]
    kernel.engine._refusing = b"refuse me too"
    again = batch.retry()
    once_more = again.wait().retry()
    assert again.request_counts.total == 2
    assert again.to_openai().metadata == {"retry_of": batch.id}
    assert again.results()["error"].isna().tolist() == [True, True, True, False]
    kernel.engine._refusing = None
    third = once_more.wait().retry()
    assert (once_more.request_counts.total, third.wait().request_counts.completed) == (1, 1)
    complete = third.results()
    assert list(complete["response"]) == ["a", "refuse me", "c", "refuse me too"]
    assert list(complete.index) == [4, 3, 2, 1]
    with pytest.raises(ConflictError, match="nothing to retry"):
        third.retry()


def test_after_a_restart_results_come_by_position_or_beside_the_same_frame(tmp_path):
    df = pd.DataFrame({"text": ["a", "b"]}, index=["x", "y"])
    kernel = open_kernel(tmp_path)
    batch_id = kernel.submit(df, "{{ text }}").wait().id
    kernel.close()
    kernel = open_kernel(tmp_path, load=False)
    batch = kernel.attach(batch_id)
    assert list(batch.results()["response"]) == ["a", "b"]
    assert list(batch.results().columns) == ["response", "error"]
    assert list(batch.results(df.copy())["response"].loc[["y", "x"]]) == ["b", "a"]
    with pytest.raises(FrameError, match="another DataFrame"):
        batch.results(pd.DataFrame({"text": ["a", "c"]}, index=["x", "y"]))
    with pytest.raises(NotFoundError, match="No batch found with id 'batch_0'"):
        kernel.attach("batch_0")
    kernel.close()


def test_a_batch_tells_how_it_stands_can_be_awaited_and_cancelled(tmp_path):
    kernel = open_kernel(tmp_path, latency_seconds=30)
    batch = kernel.submit(pd.DataFrame({"text": ["a", "b"]}), "{{ text }}")
    with pytest.raises(TimeoutError, match=f"Batch {batch.id} has not ended within 0.3 s; it is in_progress"):
        batch.wait(0.3)
    with pytest.raises(ConflictError, match="its errors are known when it has ended"):
        batch.errors()
    assert repr(batch).startswith(f"{batch.id} in_progress 0/2 completed")
    began = time.monotonic()
    batch.cancel().wait(5)
    assert time.monotonic() - began < 1
    assert batch.status == "cancelled"
    assert (batch.request_counts.completed, batch.request_counts.failed) == (0, 0)
    assert set(batch.errors()["error"]) == {"This request was not executed: the batch was cancelled before it ran."}
    kernel.close()

    async def awaited():
        kernel = open_kernel(tmp_path / "other")
        batch = await kernel.submit(pd.DataFrame({"text": ["a"]}), "{{ text }}")
        kernel.close()
        return batch.id

    (tmp_path / "other").mkdir()
    assert asyncio.run(awaited()).startswith("batch_")


def interrupt(*after_seconds: float) -> None:
    def send() -> None:
        for seconds in after_seconds:
            time.sleep(seconds)
            os.kill(os.getpid(), signal.SIGINT)

    threading.Thread(target=send, daemon=True).start()


def test_one_interrupt_cancels_and_keeps_what_is_finished(tmp_path, capsys):
    kernel = open_kernel(tmp_path, latency_seconds=0.4)
    df = pd.DataFrame({"text": range(3000)})
    interrupt(1.5)
    out = kernel.run(df, "{{ text }}")
    record = next(kernel.batches())
    assert record.status == "cancelled"
    assert 0 < record.request_counts.completed < 3000
    assert int(out["error"].isna().sum()) == record.request_counts.completed
    assert "interrupted; cancelling it (interrupt again at once to leave it running)" in capsys.readouterr().out
    kernel.close()


def test_a_second_interrupt_leaves_the_batch_running(tmp_path):
    kernel = open_kernel(tmp_path, latency_seconds=0.4)
    interrupt(1.0, 0.2)
    with pytest.raises(KeyboardInterrupt):
        kernel.run(pd.DataFrame({"text": range(1500)}), "{{ text }}")
    record = next(kernel.batches())
    assert record.status == "in_progress"
    assert kernel.attach(record.id).wait(30).request_counts.completed == 1500
    kernel.close()


def test_without_an_engine_a_named_model_waits_and_an_unnamed_one_is_an_error(tmp_path):
    kernel = open_kernel(tmp_path, load=False)
    df = pd.DataFrame({"text": ["a"]})
    for call in (kernel.run, kernel.submit):
        with pytest.raises(EngineNotLoadedError, match="%vbatch load MODEL"):
            call(df, "{{ text }}")
    batch = kernel.submit(df, "{{ text }}", model="echo")
    with pytest.raises(TimeoutError, match="it is in_progress"):
        batch.wait(1)
    kernel.load("echo")
    assert batch.wait(5).request_counts.completed == 1
    kernel.unload()
    assert kernel.engine_stats() is None
    kernel.close()


def test_a_paused_batch_says_why_and_goes_on_when_an_engine_is_loaded_anew(tmp_path):
    said: list[str] = []
    kernel = open_kernel(tmp_path, said=said, killer="deadly", starts=1)
    batch = kernel.submit(pd.DataFrame({"text": ["deadly", "b"]}), "{{ text }}")
    with pytest.raises(BatchPausedError, match=r"could not be loaded again.*told to start no more"):
        batch.wait(10)
    assert said[0] == "The engine died; it is being loaded again, and the batch goes on."
    assert said[-1].startswith(f"Batch {batch.id} is paused: ")
    kernel.load("echo")
    with pytest.raises(BatchPausedError):
        batch.wait(10)
    kernel._make_engine = open_kernel(tmp_path / "x", load=False)._make_engine
    kernel.load("echo")
    assert list(batch.results()["response"]) == ["deadly", "b"]
    kernel.close()
