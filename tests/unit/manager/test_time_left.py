"""How long a batch will still take, from looks at it."""

from __future__ import annotations

import pytest

from vbatch_jupyter.manager.time_left import Pace
from vbatch_jupyter.protocol.batch import BatchRecord, RequestCounts


def see(pace: Pace, time: float, completed: int, *, total: int = 1000, waits: bool = False) -> Pace:
    batch = BatchRecord(
        id="batch_0",
        endpoint="/v1/embeddings",
        input_file_id="file-0",
        created_at=0,
        status="in_progress",
        request_counts=RequestCounts(total, completed),
    )
    pace.see(batch, time=time, waits=waits)
    return pace


def test_only_the_last_minute_counts():
    pace = Pace()
    for second in range(100):
        see(pace, second, second)
    for second in range(100, 161):
        see(pace, second, 100 + 10 * (second - 100), total=2000)
    assert pace.requests_per_second == pytest.approx(10)
    assert pace.seconds_left == pytest.approx(130)


def test_where_a_request_takes_longer_than_a_minute_the_last_one_that_ended_still_counts():
    pace = see(Pace(), 0, 0)
    for second in range(1, 600):
        see(pace, second, second // 100)
    assert pace.requests_per_second == pytest.approx(1 / 100, rel=0.5)
    assert pace.seconds_left == pytest.approx(100_000, rel=0.5)


def test_the_time_that_a_batch_waits_for_an_engine_does_not_count():
    pace = see(Pace(), 0, 0, waits=True)
    see(pace, 40, 0, waits=True)
    assert see(pace, 50, 100).seconds_left == pytest.approx(90)


def test_after_answers_were_taken_back_or_nobody_looked_for_minutes_it_begins_again():
    pace = see(see(Pace(), 0, 50), 1, 60)
    assert see(pace, 2, 40).requests_per_second is None
    assert see(pace, 3, 41).requests_per_second == pytest.approx(1)
    assert see(pace, 500, 45).requests_per_second is None
