"""What `make bench` asks, and how it counts: the parts of it that need no engine."""

from __future__ import annotations

import pytest
from report import rows_of
from rounds import in_turn
from workloads import CHAT, OURS, RUN_BATCH, WORKLOADS, Request, as_lines

LETTERS = ["a", "b", "c", "d", "e", "f", "g"]


def test_no_round_asks_what_an_earlier_one_or_another_workload_of_the_same_engine_has_asked():
    assert sorted(WORKLOADS) == LETTERS
    seen: set[tuple[str, str]] = set()
    for workload in (make(1.0) for group in WORKLOADS.values() for make in group):
        for turn in range(5):
            prompts = {(workload.setting.model, request.prompt) for request in workload.requests(turn)}
            assert not prompts & seen, workload.title
            seen |= prompts


def test_the_workloads_are_what_their_titles_say():
    made = {name: [make(1.0).requests(0) for make in group] for name, group in WORKLOADS.items()}
    assert len({request.prompt for request in made["a"][0]}) == len(made["a"][0]) == 500
    documents = {request.prompt.partition("\n\n")[0] for request in made["b"][0]}
    assert (len(documents), len(made["b"][0])) == (80, 400)
    assert len({request.prompt for request in made["c"][0]}) == 0.3 * len(made["c"][0]) == 150
    assert len(made["d"][0]) == 5000
    lengths = sorted(request.max_tokens for request in made["e"][0])
    assert (lengths[0], lengths[-1]) == (16, 512)
    assert {request.max_tokens for request in made["f"][0]} == {0}
    at_once, long = made["g"]
    assert (len(at_once), len(long)) == (256, 4)


def test_each_round_begins_with_another_side():
    assert [in_turn("abc", turn) for turn in range(4)] == [list("abc"), list("bca"), list("cab"), list("abc")]


def test_a_request_is_the_same_call_in_a_file_and_in_a_loop():
    body = '{"model": "m", "messages": [{"role": "user", "content": "Hi."}]'
    chat = body + ', "max_tokens": 3, "temperature": 0, "ignore_eos": true}'
    line = '{"custom_id": "row-0", "method": "POST", "url": "%s", "body": %s}\n'
    assert as_lines([Request("Hi.", 3)], "m") == line % ("/v1/chat/completions", chat)
    assert as_lines([Request("Hi.", 0)], "m") == line % ("/v1/embeddings", '{"model": "m", "input": "Hi."}')


def test_a_ratio_is_of_medians_per_second_and_a_goal_is_met_when_its_interval_reaches_it():
    def rounds(seconds: list[float], requests: float = 10.0) -> list[dict[str, float]]:
        alike = {"requests": requests, "cached_tokens": 5.0, "prompt_tokens": 20.0, "output_tokens": 40.0}
        return [{**alike, "seconds": each} for each in seconds]

    (unique,) = WORKLOADS["a"]
    found = {
        OURS: rounds([2.0, 2.0, 2.0, 1.0, 8.0]),
        CHAT: rounds([1.9, 1.9, 2.0, 1.8, 1.9]),
        # It ran a fifth of the requests.
        RUN_BATCH: rounds([0.3, 0.3, 0.3, 0.3, 0.3], requests=2.0),
    }
    ours, chat, run_batch = rows_of(unique(1.0), found, ideal=6.0)
    assert (ours["ratio"], ours["goal"], ours["goal_met"], ours["ideal_cached_tokens"]) == (1.0, None, None, 6.0)
    assert (ours["requests_per_second"], ours["tokens_per_second"]) == (5.0, 20.0)
    assert chat["ratio"] == pytest.approx(0.95)
    assert (chat["goal"], chat["goal_met"]) == (0.98, True)
    assert chat["ratio_low"] < 0.95 < chat["ratio_high"]
    assert run_batch["ratio"] == pytest.approx(0.75)
    assert (run_batch["goal"], run_batch["goal_met"]) == (1.0, True)
    # Where no round differs from another there is no interval, and a goal above it is missed.
    _, chat, _ = rows_of(unique(1.0), found | {OURS: rounds([2.0] * 5), CHAT: rounds([1.9] * 5)}, ideal=None)
    assert (chat["ratio_low"], chat["ratio_high"]) == (chat["ratio"], chat["ratio"])
    assert chat["goal_met"] is False
