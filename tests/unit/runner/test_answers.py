"""What is in the output and error file after a runner has finished a batch."""

from __future__ import annotations

import pytest

from tests.batches import assert_every_request_once, content, hold
from tests.unit.runner.running import (
    MORE_THAN_RUN,
    WitnessEngine,
    a_runner,
    answers,
    batch_of,
    ended,
    errors,
    expected,
    on_a_loop,
    order_of_answers,
    until,
)
from vbatch_jupyter.errors import RequestAbortedError
from vbatch_jupyter.manager import lifecycle
from vbatch_jupyter.protocol.batch import RequestCounts, Usage
from vbatch_jupyter.protocol.ids import request_id
from vbatch_jupyter.protocol.lines import error_body, parse_output_line
from vbatch_jupyter.runner.window import MOST_WAITING
from vbatch_jupyter.store.fsck import check


@on_a_loop
async def test_every_request_is_asked_once_and_answered_once(store):
    prompts = [f"question {position}" for position in range(1000)]
    engine = WitnessEngine()
    async with a_runner(store, engine) as (_, notices):
        record = await ended(store, batch_of(store, prompts))
    assert record.status == "completed"
    assert answers(store, record) == expected(prompts)
    assert record.error_file_id is None
    assert record.request_counts == RequestCounts(1000, 1000, 0)
    assert record.usage == Usage(input_tokens=2000, output_tokens=2000)
    assert set(engine.times_asked.values()) == {1}
    assert len(engine.asked) == 1000
    assert notices == []
    assert check(store) == []


@on_a_loop
async def test_a_line_has_the_ids_that_follow_from_batch_and_position(store):
    async with a_runner(store, WitnessEngine()):
        record = await ended(store, batch_of(store, ["a", "b"]))
    lines = [parse_output_line(line) for line in content(store, record.output_file_id).splitlines()]
    names = [request_id(record.id, position) for position in range(2)]
    assert [line.id for line in lines] == names
    responses = [line.response for line in lines if line.response is not None]
    assert [response.request_id for response in responses] == [name.replace("batch_req_", "req_") for name in names]
    assert [response.status_code for response in responses] == [200, 200]


@on_a_loop
async def test_requests_run_in_the_order_of_the_plan_so_that_shared_beginnings_meet(store):
    documents = [f"{name} " * 100 for name in ("apple", "berry", "cherry")]
    prompts = [documents[position % 3] + str(position) for position in range(30)]
    engine = WitnessEngine()
    async with a_runner(store, engine):
        record = await ended(store, batch_of(store, prompts))
    grouped = [*range(0, 30, 3), *range(1, 30, 3), *range(2, 30, 3)]
    assert engine.asked == [prompts[position] for position in grouped]
    assert order_of_answers(store, record) == [f"row-{position}" for position in grouped]


@on_a_loop
async def test_deterministic_duplicates_run_once_and_all_are_answered(store):
    prompts = [f"question {position % 3}" for position in range(600)]
    engine = WitnessEngine()
    async with a_runner(store, engine):
        record = await ended(store, batch_of(store, prompts, temperature=0))
    assert engine.asked == ["question 0", "question 1", "question 2"]
    assert answers(store, record) == expected(prompts)
    assert record.request_counts == RequestCounts(600, 600, 0)
    assert record.usage == Usage(input_tokens=1200, output_tokens=1200)
    lines = [parse_output_line(line) for line in content(store, record.output_file_id).splitlines()]
    assert len({line.id for line in lines}) == 600


@on_a_loop
async def test_duplicates_that_may_be_answered_differently_each_run(store):
    engine = WitnessEngine()
    async with a_runner(store, engine):
        record = await ended(store, batch_of(store, ["same"] * 5, temperature=0.7))
    assert engine.asked == ["same"] * 5
    assert answers(store, record) == expected(["same"] * 5)


@on_a_loop
async def test_a_request_whose_hash_collides_with_another_runs_by_itself(store):
    prompts = ["same", "other", "same", "different"]
    batch_id = batch_of(store, prompts, seed=1)
    with hold(store, batch_id) as lease:
        lifecycle.validate(store, lease)
        index = lease.load_index()
        for position in range(4):
            index.request_hashes[position] = 7
        lease.save_index(index)
    engine = WitnessEngine()
    async with a_runner(store, engine):
        record = await ended(store, batch_id)
    assert sorted(engine.asked) == ["different", "other", "same"]
    assert answers(store, record) == expected(prompts)
    assert check(store) == []


@on_a_loop
async def test_refused_requests_go_to_the_error_file_and_count_as_failed(store):
    prompts = [f"refuse {position}" if position % 10 == 4 else f"question {position}" for position in range(100)]
    engine = WitnessEngine(refusing="refuse")
    async with a_runner(store, engine):
        record = await ended(store, batch_of(store, prompts))
    refused = range(4, 100, 10)
    assert record.status == "completed"
    assert answers(store, record) == expected(prompts, without=refused)
    message = "This request is refused, as it asked to be."
    assert errors(store, record) == {f"row-{position}": (400, None, message) for position in refused}
    assert record.request_counts == RequestCounts(100, 90, 10)
    assert set(engine.times_asked.values()) == {1}
    assert check(store) == []


@on_a_loop
async def test_a_refusal_is_shared_by_deterministic_duplicates(store):
    engine = WitnessEngine(refusing="refuse")
    async with a_runner(store, engine):
        record = await ended(store, batch_of(store, ["refuse"] * 3, temperature=0))
    assert engine.asked == ["refuse"]
    assert sorted(errors(store, record)) == ["row-0", "row-1", "row-2"]
    assert record.output_file_id is None


@pytest.mark.parametrize(
    "fault",
    [
        RequestAbortedError("The engine gave the request up."),
        (503, error_body("overloaded", code="overloaded")),
        (429, error_body("too many", code="rate_limit_exceeded")),
        ConnectionError("the connection was lost"),
    ],
    ids=["aborted", "503", "429", "lost"],
)
@on_a_loop
async def test_a_request_that_was_given_up_is_asked_again(store, fault):
    engine = WitnessEngine(faults={"b": [fault]})
    async with a_runner(store, engine):
        record = await ended(store, batch_of(store, ["a", "b", "c"]))
    assert engine.times_asked == {"a": 1, "b": 2, "c": 1}
    assert answers(store, record) == expected(["a", "b", "c"])
    assert record.error_file_id is None


@on_a_loop
async def test_after_three_attempts_a_request_has_an_error_line_and_the_others_their_answers(store):
    aborted = [RequestAbortedError("The engine gave the request up.")] * 3
    overloaded = [(503, error_body("The engine is overloaded.", type="server_error", code="overloaded"))] * 3
    broken = [KeyError("logits")] * 3
    engine = WitnessEngine(faults={"a": [*aborted], "o": [*overloaded], "k": [*broken]})
    async with a_runner(store, engine):
        record = await ended(store, batch_of(store, ["x", "a", "o", "k", "y"]))
    assert engine.times_asked == {"x": 1, "a": 3, "o": 3, "k": 3, "y": 1}
    assert answers(store, record) == {"row-0": "x", "row-4": "y"}
    attempts = "The engine gave no answer in 3 attempts: "
    assert errors(store, record) == {
        "row-1": (500, "engine_error", attempts + "The engine gave the request up."),
        "row-2": (503, "overloaded", "The engine is overloaded."),
        "row-3": (500, "engine_error", attempts + "KeyError: 'logits'"),
    }
    assert record.request_counts == RequestCounts(5, 2, 3)


@on_a_loop
async def test_what_was_the_engines_trouble_is_not_shared_by_duplicates(store):
    engine = WitnessEngine(faults={"same": [(500, error_body("out of luck", type="server_error"))]})
    async with a_runner(store, engine):
        record = await ended(store, batch_of(store, ["same"] * 4, temperature=0))
    assert engine.asked == ["same"] * 4
    assert errors(store, record) == {"row-0": (500, None, "out of luck")}
    assert sorted(answers(store, record)) == ["row-1", "row-2", "row-3"]
    assert_every_request_once(store, record, 4)


@on_a_loop
async def test_an_answer_that_is_no_json_becomes_an_error_line_that_shows_it(store):
    engine = WitnessEngine(faults={"b": [(200, b"<html>Bad gateway</html>")]})
    async with a_runner(store, engine):
        record = await ended(store, batch_of(store, ["a", "b"]))
    assert answers(store, record) == {"row-0": "a"}
    status, code, message = errors(store, record)["row-1"]
    assert (status, code) == (500, "engine_error")
    assert message.startswith("The answer to request 'row-1' (status 200) is not JSON: ")
    assert message.endswith("It begins '<html>Bad gateway</html>'.")
    assert record.request_counts == RequestCounts(2, 1, 1)


@on_a_loop
async def test_the_window_bounds_what_runs_and_is_filled(store, monkeypatch):
    # It does not grow, however fast the engine is.
    monkeypatch.setattr("vbatch_jupyter.runner.window._LOOK_SECONDS", 3600)
    prompts = [f"question {position}" for position in range(500)]
    engine = WitnessEngine(max_num_seqs=8, in_steps=True)
    async with a_runner(store, engine):
        record = await ended(store, batch_of(store, prompts))
    assert answers(store, record) == expected(prompts)
    assert engine.peak_running == 8 + MORE_THAN_RUN


@on_a_loop
async def test_two_batches_share_the_window_and_neither_starves(store):
    first = [f"first {position}" for position in range(900)]
    second = [f"second {position}" for position in range(300)]
    engine = WitnessEngine(max_num_seqs=1, in_steps=True, hanging="first")
    async with a_runner(store, engine) as (runner, _):
        first_id = batch_of(store, first)
        # The window is full of the first batch.
        await until(lambda: len(engine.asked) == 1 + MORE_THAN_RUN)
        second_id = batch_of(store, second)
        await until(lambda: runner.resumed == {first_id, second_id})
        engine.released.set()
        second_record = await ended(store, second_id)
        first_record = await ended(store, first_id)
    assert answers(store, first_record) == expected(first)
    assert answers(store, second_record) == expected(second)
    assert 1 + MORE_THAN_RUN <= engine.peak_running <= 1 + MOST_WAITING
    begun = engine.asked.index("second 0")
    last = engine.asked.index("second 299")
    between = sum(prompt.startswith("first") for prompt in engine.asked[begun:last])
    # They take turns, one to one, from the moment at which the second is there.
    assert 270 <= between <= 330
