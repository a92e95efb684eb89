"""What ``results(full=True)`` has besides the answers."""

from __future__ import annotations

import json

import pandas as pd
import pytest

from tests.unit.session_surface import open_session
from vbatch_jupyter.frames.ask import Ask
from vbatch_jupyter.frames.details import detail_of
from vbatch_jupyter.protocol.endpoints import CHAT
from vbatch_jupyter.records import Timing
from vbatch_jupyter.store import Store

FULL = [
    "custom_id",
    "status_code",
    "finish_reason",
    "prompt_tokens",
    "completion_tokens",
    "cached_tokens",
    "latency",
    "reused",
]


@pytest.fixture
def session(tmp_path):
    session = open_session(tmp_path, refusing="refuse me", latency_seconds=0.2)
    yield session
    session.close()


def line(body: object, status: int = 200) -> bytes:
    return json.dumps({"custom_id": "a", "response": {"status_code": status, "body": body}}).encode()


def test_a_full_result_has_the_figures_of_each_request_after_its_error(session):
    df = pd.DataFrame({"text": ["one two", "refuse me", "three"]}, index=["x", "y", "z"])
    batch = session.submit(df, Ask.of("{{ text }}"))
    out = batch.results(full=True)
    assert list(out.columns) == ["text", "response", "reasoning", "error", *FULL]
    assert list(out.index) == ["x", "y", "z"]
    assert out["status_code"].tolist() == [200, 400, 200]
    assert out["custom_id"].tolist() == ["row-0", "row-1", "row-2"]
    assert out["finish_reason"].fillna("-").tolist() == ["stop", "-", "stop"]
    assert out["prompt_tokens"].tolist() == [2, pd.NA, 1]
    assert out["completion_tokens"].tolist() == [2, pd.NA, 1]
    assert out["cached_tokens"].isna().all()
    assert out["latency"].between(0.2, 60).all()
    assert out["reused"].tolist() == [False, False, False]
    assert list(batch.results().columns) == ["text", "response", "error"]


def test_a_full_result_says_which_rows_were_reused(session):
    df = pd.DataFrame({"text": ["a", "b", "b"], "n": [1, 2, 3]})
    first = session.submit(df, Ask.of("{{ text }}", temperature=0, output="said")).results(full=True)
    assert first["said_reused"].tolist() == [False, False, True]
    assert first["said_latency"].isna().tolist() == [False, False, True]
    changed = df.assign(text=["a", "new", "b"])
    again = session.submit(changed, Ask.of("{{ text }}", temperature=0)).results(full=True)
    assert again["reused"].tolist() == [True, False, True]
    assert again["latency"].isna().tolist() == [True, False, True]
    assert again["completion_tokens"].tolist() == [1, 1, 1]
    assert session.engine.requests == 3


def test_timings_outlive_the_kernel_and_go_with_the_files(tmp_path):
    session = open_session(tmp_path, latency_seconds=0.1)
    batch = session.submit(pd.DataFrame({"text": ["a", "b"]}), Ask.of("{{ text }}")).wait(60)
    session.close()
    session = open_session(tmp_path, load=False)
    again = session.attach(batch.id)
    assert again.results(full=True)["latency"].between(0.1, 60).all()
    output_file_id = again.to_openai().output_file_id
    # A session sweeps when it begins, too, and may take what the sweep here then misses.
    session.close()
    with Store(tmp_path / "store") as store:
        kept = store.files.sidecar(output_file_id, "timings")
        store.sweep()
        assert kept.exists()
        store.files.delete(output_file_id)
        assert not kept.exists()


def test_a_retry_has_the_figures_of_the_batch_that_answered(session):
    batch = session.submit(pd.DataFrame({"text": ["a", "refuse me"]}), Ask.of("{{ text }}")).wait(60)
    session.engine._refusing = None
    full = batch.retry().results(full=True)
    assert full["status_code"].tolist() == [200, 200]
    assert full["reused"].tolist() == [False, False]
    assert full["latency"].notna().all()


def test_a_request_that_never_ran_has_no_figures_but_is_not_reused(session):
    batch = session.submit(pd.DataFrame({"text": ["a"]}), Ask.of("{{ text }}", model="other")).cancel().wait(60)
    full = batch.results(full=True)
    assert full[FULL[1:7]].isna().all(axis=None)
    assert full["error"].str.contains("cancelled").all()


@pytest.mark.parametrize(
    ("body", "expected"),
    [
        (
            {"choices": [{"finish_reason": "stop"}, {"finish_reason": "length"}]},
            (200, "stop, length", None, None, None),
        ),
        (
            {
                "output": [],
                "status": "incomplete",
                "incomplete_details": {"reason": "max_output_tokens"},
                "usage": {"input_tokens": 7, "output_tokens": 3, "input_tokens_details": {"cached_tokens": 4}},
            },
            (200, "max_output_tokens", 7, 3, 4),
        ),
        ({"data": [{}], "usage": {"prompt_tokens": 9}}, (200, None, 9, None, None)),
        (["no object"], (200, None, None, None, None)),
        ({"usage": "none"}, (200, None, None, None, None)),
    ],
)
def test_any_endpoints_body_is_read_and_one_of_another_shape_has_no_figures(body, expected):
    assert tuple(detail_of(CHAT.read(line(body))).values())[:5] == expected


def test_an_answer_without_a_latency_was_reused_only_where_it_is_one():
    known = Timing(1.0, None)
    assert detail_of(CHAT.read(line({})), known)["reused"] is True
    assert detail_of(CHAT.read(line({}, 500)), known)["reused"] is False
    assert detail_of(CHAT.read(line({})))["reused"] is None


def test_timings_that_a_crash_has_torn_count_as_none(session):
    batch = session.submit(pd.DataFrame({"text": ["a", "b"]}), Ask.of("{{ text }}")).wait(60)
    kept = session.store.files.sidecar(batch.to_openai().output_file_id, "timings")
    for content in (kept.read_bytes()[:-1], b"", bytes(kept.stat().st_size - 1)):
        kept.write_bytes(content)
        full = batch.results(full=True)
        assert full["latency"].isna().all()
        assert full["reused"].isna().all()
        assert full["status_code"].tolist() == [200, 200]
