"""What becomes of a batch whose engine dies: nothing is lost, nothing is given twice, and the killer is found."""

from __future__ import annotations

import asyncio

import pytest

from tests.batches import hold
from tests.unit.runner.running import (
    MORE_THAN_RUN,
    WitnessEngine,
    a_runner,
    answers,
    batch_of,
    ended,
    errors,
    expected,
    looks,
    on_a_loop,
    order_of_answers,
    paused,
    until,
)
from vbatch_jupyter.manager import lifecycle
from vbatch_jupyter.protocol.batch import RequestCounts
from vbatch_jupyter.store.fsck import check

REBUILDING = "The engine died. It is being loaded again, and the batch continues."
GIVEN_UP_MESSAGE = (
    "The engine died each time it ran this request, so the request was skipped. The engine's log says why it died."
)
GIVEN_UP = (500, "engine_error", GIVEN_UP_MESSAGE)
ADVICE = " Load an engine again, or resume the batch, to continue. The engine's log says why it died."


def with_killers(requests: int, *killers: int) -> list[str]:
    return [("killer" if position in killers else "question") + f" {position}" for position in range(requests)]


@on_a_loop
async def test_an_engine_that_dies_is_rebuilt_and_what_it_ran_is_run_again(store):
    prompts = [f"hang {position}" if position % 2 else f"question {position}" for position in range(60)]
    engine = WitnessEngine(hanging="hang")
    async with a_runner(store, engine) as (_, notices):
        batch_id = batch_of(store, prompts)
        await until(lambda: store.batches.get(batch_id).request_counts.completed == 30)
        engine.die()
        engine.released.set()
        record = await ended(store, batch_id)
    assert engine.lives == 2
    assert notices == [REBUILDING, f"Resuming batch {batch_id}: 30 of 60 requests are answered."]
    assert answers(store, record) == expected(prompts)
    assert (record.error_file_id, record.request_counts) == (None, RequestCounts(60, 60, 0))
    assert engine.times_asked == {prompt: 2 if "hang" in prompt else 1 for prompt in prompts}
    # Counted are deaths with no answer between.
    assert (record.deaths, record.careful) == (1, False)
    assert check(store) == []


@on_a_loop
async def test_the_request_that_kills_is_found_and_all_others_are_answered(store):
    prompts = with_killers(400, 123)
    engine = WitnessEngine(max_num_seqs=16, killer="killer", in_steps=True)
    async with a_runner(store, engine) as (_, notices):
        record = await ended(store, batch_of(store, prompts))
    assert record.status == "completed"
    assert errors(store, record) == {"row-123": GIVEN_UP}
    assert answers(store, record) == expected(prompts, without=[123])
    assert record.request_counts == RequestCounts(400, 399, 1)
    assert notices.count(REBUILDING) == engine.lives - 1
    # Together, together, alone: no death is wasted.
    assert engine.times_asked["killer 123"] == 3
    assert engine.lives == 4
    assert check(store) == []


@on_a_loop
async def test_a_killer_takes_its_duplicates_with_it(store):
    prompts = ["question 0", "killer", "killer", "question 1", "killer"]
    engine = WitnessEngine(killer="killer", in_steps=True)
    async with a_runner(store, engine):
        record = await ended(store, batch_of(store, prompts, temperature=0))
    assert errors(store, record) == {"row-1": GIVEN_UP, "row-2": GIVEN_UP, "row-4": GIVEN_UP}
    assert answers(store, record) == {"row-0": "question 0", "row-3": "question 1"}
    assert engine.times_asked["killer"] == 3


@on_a_loop
async def test_several_killers_with_answers_between_do_not_pause_a_batch(store):
    killers = (10, 50, 90, 130)
    prompts = with_killers(150, *killers)
    engine = WitnessEngine(max_num_seqs=1, killer="killer", in_steps=True)
    async with a_runner(store, engine):
        record = await ended(store, batch_of(store, prompts))
    assert record.status == "completed"
    assert errors(store, record) == {f"row-{position}": GIVEN_UP for position in killers}
    assert answers(store, record) == expected(prompts, without=killers)


@on_a_loop
async def test_three_killers_in_a_row_pause_a_batch_until_another_engine_comes(store):
    prompts = with_killers(6, 0, 1, 2, 3)
    engine, sound = WitnessEngine(killer="killer", in_steps=True), WitnessEngine()
    async with a_runner(store, engine) as (runner, notices):
        batch_id = batch_of(store, prompts)
        record = await paused(store, batch_id)
        assert record.status == "in_progress"
        assert record.reason == "The engine died on 3 requests in a row, each of which ran alone." + ADVICE
        assert record.request_counts == RequestCounts(6, 0, 3)
        assert notices[-1] == f"Batch {batch_id} is paused: {record.reason}"
        await runner.detach()
        await sound.start()
        await runner.attach(sound)
        record = await ended(store, batch_id)
    assert errors(store, record) == {f"row-{position}": GIVEN_UP for position in range(3)}
    assert answers(store, record) == expected(prompts, without=range(3))
    assert (record.reason, record.paused) == (None, False)
    assert sorted(sound.asked) == ["killer 3", "question 4", "question 5"]


@on_a_loop
async def test_an_engine_that_cannot_be_rebuilt_pauses_its_batches_until_another_comes(store):
    first, second = [f"hang {n}" for n in range(5)], [f"hang too {n}" for n in range(5)]
    engine, sound = WitnessEngine(hanging="hang", starts=1), WitnessEngine()
    async with a_runner(store, engine) as (runner, notices):
        ids = [batch_of(store, first), batch_of(store, second)]
        await until(lambda: len(engine.asked) == 10)
        engine.die()
        engine.released.set()
        reason = "The engine died and could not be loaded again: The echo engine was told to start no more." + ADVICE
        for batch_id in ids:
            assert (await paused(store, batch_id)).reason == reason
        late = batch_of(store, ["late"])
        assert (await paused(store, late)).reason == reason
        assert notices.count(REBUILDING) == 1
        for batch_id in [*ids, late]:
            assert notices.count(f"Batch {batch_id} is paused: {reason}") == 1
        await sound.start()
        await runner.attach(sound)
        records = [await ended(store, batch_id) for batch_id in [*ids, late]]
    assert [answers(store, record) for record in records] == [expected(first), expected(second), expected(["late"])]


class SlowToReturn(WitnessEngine):
    """The first start takes a moment, the second one never ends."""

    given_up = False

    async def start(self) -> None:
        await super().start()
        if self.lives > 1:
            self.state = "loading"
            try:
                await asyncio.Event().wait()
            finally:
                self.given_up = True


@on_a_loop
async def test_an_engine_that_is_given_up_while_it_is_rebuilt_is_not_waited_for_and_another_goes_on(store):
    engine, sound = SlowToReturn(hanging="hang"), WitnessEngine()
    async with a_runner(store, engine) as (runner, notices):
        batch_id = batch_of(store, ["hang", "b"])
        await until(lambda: "hang" in engine.asked)
        engine.die()
        engine.released.set()
        await until(lambda: engine.state == "loading")
        # The second start does not end by itself.
        await runner.detach()
        assert engine.given_up
        record = store.batches.get(batch_id)
        assert (record.status, record.paused) == ("in_progress", False)
        await sound.start()
        await runner.attach(sound)
        record = await ended(store, batch_id)
    assert answers(store, record) == {"row-0": "hang", "row-1": "b"}
    assert notices[0] == REBUILDING
    assert engine.lives == 2


@on_a_loop
async def test_an_engine_that_dies_a_third_time_with_no_request_to_blame_pauses_the_batch(store):
    engine = WitnessEngine(dies_at=[0, 0, 0, 0, 0, 0, 0, 0])
    async with a_runner(store, engine) as (_, notices):
        batch_id = batch_of(store, ["a", "b"])
        record = await paused(store, batch_id)
    assert record.reason == "The engine died 3 times without an answer in between." + ADVICE
    assert record.request_counts == RequestCounts(2, 0, 0)
    assert notices[-1] == f"Batch {batch_id} is paused: {record.reason}"


@on_a_loop
async def test_an_engine_that_died_before_a_batch_came_is_rebuilt_and_the_batch_is_not_blamed(store):
    engine = WitnessEngine()
    async with a_runner(store, engine) as (_, notices):
        engine.die()
        record = await ended(store, batch_of(store, ["a"]))
    assert answers(store, record) == {"row-0": "a"}
    assert (record.deaths, engine.lives, engine.asked) == (0, 2, ["a"])
    assert notices == [REBUILDING]


@on_a_loop
async def test_only_suspects_run_one_at_a_time_and_where_none_kills_the_rest_runs_together(store):
    prompts = [f"question {position}" for position in range(400)]
    window = 1 + MORE_THAN_RUN
    # Twice it dies under a full window, with nothing answered; then it is well.
    engine = WitnessEngine(max_num_seqs=1, in_steps=True, dies_at=[window, window])
    async with a_runner(store, engine):
        record = await ended(store, batch_of(store, prompts))
    assert answers(store, record) == expected(prompts)
    assert (record.deaths, record.careful) == (0, False)
    assert engine.asked == prompts[:window] * 2 + prompts
    assert engine.running_when_asked[2 * window : 3 * window] == [1] * window
    assert engine.running_when_asked[3 * window : 4 * window] == list(range(1, window + 1))
    assert order_of_answers(store, record)[:window] == [f"row-{position}" for position in range(window)]


@on_a_loop
async def test_a_batch_that_runs_with_care_is_alone_and_waits_for_none_that_came_later(store):
    engine = WitnessEngine(max_num_seqs=4, in_steps=True, hanging="hang")
    careful_id = batch_of(store, [f"careful {position}" for position in range(20)])
    running_id = batch_of(store, [f"hang {position}" for position in range(20)])
    for batch_id in (careful_id, running_id):
        with hold(store, batch_id) as lease:
            lifecycle.validate(store, lease)
    held = hold(store, careful_id)
    async with a_runner(store, engine) as (runner, _):
        await until(lambda: len(engine.asked) == 20)
        held.update(careful=True, deaths=2)
        later_id = batch_of(store, [f"later {position}" for position in range(20)])
        held.release()
        # Both are there now, and wait: the one to be alone, the other for it.
        await until(lambda: store.batches.get(later_id).status == "in_progress" and runner.running == {running_id})
        await looks(runner)
        assert runner.running == {running_id}
        engine.released.set()
        records = [await ended(store, batch_id) for batch_id in (running_id, careful_id, later_id)]
    assert [record.request_counts for record in records] == [RequestCounts(20, 20, 0)] * 3
    assert [prompt.split()[0] for prompt in engine.asked] == ["hang"] * 20 + ["careful"] * 20 + ["later"] * 20
    assert engine.running_when_asked[20:40] == [1] * 20
    assert max(engine.running_when_asked[40:]) == 20


@pytest.mark.parametrize("innocent_first", [True, False])
@on_a_loop
async def test_a_killer_in_one_batch_costs_another_batch_nothing_but_time(store, innocent_first):
    guilty, innocent = with_killers(50, 20), [f"innocent {position}" for position in range(50)]
    engine = WitnessEngine(killer="killer", in_steps=True)
    async with a_runner(store, engine):
        pair = [innocent, guilty] if innocent_first else [guilty, innocent]
        ids = [batch_of(store, prompts) for prompts in pair]
        if innocent_first:
            ids.reverse()
        records = [await ended(store, batch_id) for batch_id in ids]
    assert errors(store, records[0]) == {"row-20": GIVEN_UP}
    assert answers(store, records[0]) == expected(guilty, without=[20])
    assert records[1].error_file_id is None
    assert answers(store, records[1]) == expected(innocent)
    assert check(store) == []
