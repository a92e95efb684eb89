from __future__ import annotations

import dataclasses

import pytest

from vbatch_jupyter.display.progress import Progress, Snapshot
from vbatch_jupyter.protocol.batch import BatchRecord, RequestCounts, Status
from vbatch_jupyter.records import EngineStats


def look(
    time: float,
    completed: int = 0,
    failed: int = 0,
    *,
    total: int = 1_000,
    status: Status = "in_progress",
    waiting: str | None = None,
    tokens_per_second: float | None = None,
) -> Snapshot:
    batch = BatchRecord(
        id="batch_1a2b" + "0" * 28,
        endpoint="/v1/chat/completions",
        input_file_id="file-0",
        created_at=0,
        status=status,
        request_counts=RequestCounts(total, completed, failed),
    )
    engine = None
    if tokens_per_second is not None:
        engine = EngineStats(model="m", state="ready", generation_tokens_per_second=tokens_per_second)
    return Snapshot(time=time, batch=batch, waiting=waiting, engine=engine)


def test_a_batch_that_runs_says_counts_rate_and_time_left():
    progress = Progress(look(100.0)).see(look(108.5, 412, 3, tokens_per_second=1_321.4))

    assert progress.pace.requests_per_second == pytest.approx(415 / 8.5)
    assert progress.pace.seconds_left == pytest.approx(585 / (415 / 8.5))
    assert progress.line() == "batch_1a2b… in_progress 412/1,000 completed, 3 failed · 1,321 tokens/s · 12 s left"


def test_without_generated_tokens_the_rate_is_in_requests():
    assert Progress(look(0.0)).see(look(10.0, 400)).line() == (
        "batch_1a2b… in_progress 400/1,000 completed · 40.0 requests/s · 15 s left"
    )
    assert Progress(look(0.0)).see(look(10.0, 400, tokens_per_second=0.0)).line() == (
        "batch_1a2b… in_progress 400/1,000 completed · 40.0 requests/s · 15 s left"
    )


def test_at_the_first_answer_those_that_are_nearly_answered_count_for_the_time_left():
    now = look(5.0, 1, total=6_000, tokens_per_second=100.0)
    assert now.engine is not None
    running = dataclasses.replace(now, engine=dataclasses.replace(now.engine, running=256))
    assert Progress(look(0.0, total=6_000)).see(running).pace.seconds_left == pytest.approx((6_000 - 129) * 5 / 129)


@pytest.mark.parametrize(
    ("left", "text"),
    [
        (1, "1 s"),
        (59, "59 s"),
        (60, "1 min 0 s"),
        (3_599, "59 min 59 s"),
        (3_600, "1 h 0 min"),
        (360_000, "100 h 0 min"),
    ],
)
def test_time_left_is_written_in_the_units_that_matter(left, text):
    line = Progress(look(0.0, total=left + 1)).see(look(1.0, 1, total=left + 1)).line()

    assert line.endswith(f" · {text} left")


def test_a_first_look_knows_neither_rate_nor_time():
    first = look(5.0, 10)

    progress = Progress(first)

    assert (progress.pace.requests_per_second, progress.pace.seconds_left) == (None, None)
    assert progress.line() == "batch_1a2b… in_progress 10/1,000 completed"


def test_a_batch_that_stands_still_promises_nothing_and_says_why():
    why = "No engine holds\nthe model 'x'."

    progress = Progress(look(0.0, 10)).see(look(5.0, 10, waiting=why))

    assert (progress.pace.requests_per_second, progress.pace.seconds_left) == (None, None)
    assert progress.line() == "batch_1a2b… in_progress 10/1,000 completed · No engine holds the model 'x'."


def test_counts_that_went_back_are_no_negative_rate():
    progress = Progress(look(0.0, 10)).see(look(5.0, 8))

    assert (progress.pace.requests_per_second, progress.pace.seconds_left) == (None, None)
    assert progress.see(look(6.0, 12)).pace.requests_per_second == 4.0


def test_a_batch_that_validates_has_no_counts():
    progress = Progress(look(0.0, total=0, status="validating")).see(look(1.0, total=0, status="validating"))

    assert progress.pace.seconds_left is None
    assert progress.line() == "batch_1a2b… validating"


@pytest.mark.parametrize("status", ["completed", "expired", "cancelled", "failed"])
def test_a_batch_that_is_over_has_no_rate_and_no_time_left(status):
    progress = Progress(look(0.0, 400)).see(look(1.0, 998, 2, status=status, tokens_per_second=300.0))

    assert progress.pace.seconds_left == 0
    assert progress.line() == f"batch_1a2b… {status} 998/1,000 completed, 2 failed"


@pytest.mark.parametrize("status", ["finalizing", "cancelling"])
def test_a_batch_on_its_way_out_has_no_time_left_to_tell(status):
    progress = Progress(look(0.0, 400)).see(look(1.0, 500, status=status, tokens_per_second=300.0))

    assert progress.pace.seconds_left is None
    assert progress.line() == f"batch_1a2b… {status} 500/1,000 completed"


def test_when_every_request_is_answered_no_time_is_left():
    progress = Progress(look(0.0, 400)).see(look(1.0, 1_000))

    assert progress.pace.seconds_left == 0
    assert progress.line() == "batch_1a2b… in_progress 1,000/1,000 completed · 600.0 requests/s"


def test_what_the_engine_does_is_said_where_it_is_asked_for_and_before_the_reason():
    now = look(10.0, 400, waiting="The disk is full.", tokens_per_second=1_321.4)
    assert now.engine is not None
    engine = dataclasses.replace(
        now.engine,
        running=256,
        waiting=1_012,
        prompt_tokens_per_second=8_150.2,
        kv_cache_usage=0.416,
        prefix_cache_hit_rate=0.65,
    )
    progress = Progress(look(0.0)).see(dataclasses.replace(now, engine=engine))
    assert progress.line(with_engine=True) == (
        "batch_1a2b… in_progress 400/1,000 completed · 1,321 tokens/s · 8,150 prompt tokens/s · "
        "256 running, 1,012 waiting · KV cache usage 42% · prefix cache hit rate 65% · The disk is full."
    )
    assert "running" not in progress.line()
    assert Progress(look(0.0)).see(now).line(with_engine=True) == Progress(look(0.0)).see(now).line()
