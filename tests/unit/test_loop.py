"""A loop that goes on whatever its step raises."""

from __future__ import annotations

import asyncio
import itertools
import threading
from collections.abc import Iterable, Iterator

import pytest

from tests.unit.runner.running import on_a_loop, until
from vbatch_jupyter.errors import StoreError
from vbatch_jupyter.loop import Attempts, Backoff, Loop, each_of, in_thread

SOON = Backoff(first=0.001, longest=0.001)


def raising(loop: Loop, errors: Iterable[BaseException | None]):
    """Return a step that raises one error after the other, or nothing for None, and then ends its loop."""
    left: Iterator[BaseException | None] = iter(errors)

    async def step() -> None:
        try:
            error = next(left)
        except StopIteration:
            loop.end()
            return
        if error is not None:
            raise error

    return step


@pytest.mark.parametrize(
    ("error", "text"),
    [
        (OSError(28, "No space left on device"), "OSError: [Errno 28] No space left on device"),
        (ValueError("could not convert"), "ValueError: could not convert"),
        (StoreError("The database cannot be used."), "The database cannot be used."),
    ],
)
@on_a_loop
async def test_a_step_that_fails_is_said_once_counted_and_taken_again(error, text):
    said: list[str] = []
    loop = Loop("example", say=said.append, backoff=SOON)
    await loop.run(raising(loop, [None, error, error, error, None]), every=0.001)
    assert said == [f"The example loop failed and will try again: {text}"]
    assert (loop.problems, loop.last_problem) == (3, None)


@on_a_loop
async def test_the_last_problem_says_since_when_and_how_often_until_a_step_succeeds():
    loop = Loop("example", say=lambda _: None, backoff=SOON)
    seen = []

    async def step() -> None:
        seen.append(loop.last_problem)
        if len(seen) == 5:
            loop.end()
        if len(seen) < 4:
            raise StoreError(f"Failure {len(seen)}.")

    await loop.run(step, every=0.001)
    first, *others = [problem for problem in seen if problem is not None]
    assert [(problem.text, problem.times, problem.since) for problem in (first, *others)] == [
        ("Failure 1.", 1, first.since),
        ("Failure 2.", 2, first.since),
        ("Failure 3.", 3, first.since),
    ]
    assert str(others[0]).startswith("example: Failure 2. (since ")
    assert seen[-1] is None


@on_a_loop
async def test_another_kind_of_problem_is_said_too():
    said: list[str] = []
    loop = Loop("example", say=said.append, backoff=SOON)
    await loop.run(raising(loop, [ValueError("a"), KeyError("b"), ValueError("c"), None, KeyError("d")]), every=0.001)
    assert said == [
        "The example loop failed and will try again: ValueError: a",
        "The example loop failed and will try again: KeyError: 'b'",
    ]


@on_a_loop
async def test_a_problem_that_cannot_be_said_ends_no_loop():
    def say(text: str) -> None:
        raise BrokenPipeError(text)

    loop = Loop("example", say=say, backoff=SOON)
    await loop.run(raising(loop, [ValueError("a")]), every=0.001)
    assert loop.problems == 1


@pytest.mark.parametrize("error", [KeyboardInterrupt, SystemExit])
def test_an_interrupt_and_the_end_of_the_process_are_not_held_up(error):
    loop = Loop("example", say=lambda _: None)
    with pytest.raises(error):
        asyncio.run(loop.run(raising(loop, [error()]), every=0.001))
    assert loop.problems == 0


@on_a_loop
async def test_a_cancel_of_what_a_step_waits_for_is_a_problem_and_a_cancel_of_the_loop_ends_it():
    said: list[str] = []
    loop, cancelled = Loop("example", say=said.append, backoff=SOON), asyncio.get_running_loop().create_future()
    cancelled.cancel()
    waits: Iterator[asyncio.Future[None]] = iter([cancelled, asyncio.get_running_loop().create_future()])

    async def step() -> None:
        await next(waits)

    running = asyncio.create_task(loop.run(step, every=0.001))
    await until(lambda: next(iter(said), None) is not None and loop.last_problem is not None)
    assert (said, loop.problems) == (["The example loop failed and will try again: CancelledError: "], 1)
    running.cancel()
    with pytest.raises(asyncio.CancelledError):
        await running


@on_a_loop
async def test_a_wake_cuts_the_pause_short_from_any_thread_also_while_the_step_fails():
    loop = Loop("example", say=lambda _: None, backoff=Backoff(first=3600, longest=3600))
    loop.start(raising(loop, itertools.repeat(ValueError("a"))), every=3600)
    for _ in range(3):
        await in_thread(loop.looked)
    await loop.stop()
    assert loop.problems >= 3


@on_a_loop
async def test_a_stop_waits_for_the_step_that_is_being_taken():
    begun, go_on, steps = asyncio.Event(), asyncio.Event(), []
    loop = Loop("example")

    async def step() -> None:
        begun.set()
        await go_on.wait()
        steps.append("done")

    loop.start(step, every=0.0)
    await begun.wait()
    stopping = asyncio.create_task(loop.stop())
    await asyncio.sleep(0)
    go_on.set()
    await stopping
    assert steps == ["done"]


@on_a_loop
async def test_a_step_that_does_not_end_is_cancelled():
    begun, ends = asyncio.Event(), []
    loop = Loop("example")

    async def step() -> None:
        begun.set()
        try:
            await asyncio.Event().wait()
        except asyncio.CancelledError:
            ends.append("cancelled")
            raise

    loop.start(step, every=0.0)
    await begun.wait()
    await loop.stop(within=0)
    assert ends == ["cancelled"]


@on_a_loop
async def test_a_loop_that_was_stopped_before_it_began_takes_no_step():
    loop, steps = Loop("example"), []

    async def step() -> None:
        steps.append("done")

    await loop.stop()
    await loop.run(step, every=0.0)
    assert steps == []


@on_a_loop
async def test_a_loop_that_is_started_again_while_it_ends_goes_on_and_runs_once():
    loop, running = Loop("example"), []

    async def step() -> None:
        running.append(asyncio.current_task())

    loop.start(step, every=3600)
    await until(lambda: len(running) == 1)
    loop.end()
    loop.start(step, every=3600)
    await until(lambda: len(running) == 2)
    await loop.stop()
    loop.start(step, every=3600)
    await until(lambda: len(running) == 3)
    await loop.stop()
    assert len(set(running)) == 2


def test_a_loop_runs_in_a_thread_of_its_own():
    loop, names = Loop("example"), []

    async def step() -> None:
        names.append(threading.current_thread().name)

    thread = threading.Thread(target=lambda: asyncio.run(loop.run(step, every=0.001)), name="own")
    thread.start()
    loop.looked()
    loop.end()
    thread.join(10)
    assert set(names) == {"own"}
    # There is nothing left to wake.
    loop.wake()


def test_who_waits_for_a_loop_that_does_not_run_is_told():
    with pytest.raises(TimeoutError, match="No step of the example loop ended"):
        Loop("example").looked(timeout=0.01)


def test_pauses_grow_up_to_the_longest_and_a_part_of_each_may_be_random():
    kernels = Backoff(first=1.0, longest=25.0, growth=5.0)
    assert [kernels.pause(failures) for failures in (1, 2, 3, 4, 10_000)] == [1, 5, 25, 25, 25]
    spread = Backoff(first=8.0, longest=8.0, spread=0.5)
    pauses = [spread.pause(1) for _ in range(100)]
    assert 4 <= min(pauses) < max(pauses) <= 8


def test_a_server_that_says_how_long_to_wait_is_obeyed_and_one_is_given_up_after_its_attempts():
    backoff = Backoff(first=0.5, longest=30.0, attempts=3)
    assert [backoff.after(1, asked=asked) for asked in ("7", "3600", "soon", None)] == [7, 30, 0.5, 0.5]
    assert [backoff.after(failures, asked="7") for failures in (2, 3, 4)] == [7, None, None]
    assert Backoff(first=0.5, longest=30.0).after(1000) == 30


@on_a_loop
async def test_each_of_several_is_done_whatever_becomes_of_the_others():
    done = []

    async def do(item: int) -> None:
        done.append(item)
        if item in {1, 2}:
            raise ValueError(item)

    with pytest.raises(ValueError, match="2"):
        await each_of(range(4), do)
    assert done == [0, 1, 2, 3]
    done.clear()
    with pytest.raises(ValueError, match="1"):
        await each_of(range(4), do, give_up_on=ValueError)
    assert done == [0, 1]


def test_a_kernel_takes_its_pauses_from_the_environment_that_its_server_gives_it(monkeypatch):
    monkeypatch.setenv("VBATCH_RETRY_LONGEST_SECONDS", "0.2")
    monkeypatch.setenv("VBATCH_PAUSE_AFTER_SECONDS", "0")
    attempts = Attempts.from_environment()
    assert [attempts.failed("a").times for _ in range(9)] == list(range(1, 10))
    # The ninth pause would be 25.6 s.
    assert attempts.pause("a") <= 0.2
    assert attempts.stays("a")
    assert not Attempts().stays("a")
