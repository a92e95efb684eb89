from __future__ import annotations

import asyncio

from tests.unit.runner.running import on_a_loop
from vbatch_jupyter.runner.window import Window


async def admitted(window: Window) -> int:
    """Take every place that is free."""
    count = 0
    while True:
        try:
            await asyncio.wait_for(window.acquire(), 0.01)
        except TimeoutError:
            return count
        count += 1


def finish(window: Window, now: list[float], *, requests: int) -> None:
    """Let requests end within half a second."""
    for _ in range(requests - 1):
        window.release()
    now[0] += 0.5
    window.release()


@on_a_loop
async def test_a_window_grows_with_what_the_engine_finishes_and_shrinks_again_within_its_bounds():
    now = [0.0]
    window = Window(8, clock=lambda: now[0])
    assert await admitted(window) == 8 + 64

    finish(window, now, requests=60)
    assert (window.size, await admitted(window)) == (8 + 64, 60)

    finish(window, now, requests=70)
    # A new place comes with each that is given back, so that batches share them.
    assert (window.size, await admitted(window)) == (8 + 70, 70)
    finish(window, now, requests=6)
    assert (window.size, await admitted(window)) == (8 + 64, 12)

    # Places too many are not given again when their requests have ended.
    finish(window, now, requests=10)
    assert await admitted(window) == 4


@on_a_loop
async def test_a_window_has_an_upper_bound():
    now = [0.0]
    window = Window(200, clock=lambda: now[0])
    taken = await admitted(window)
    assert taken == 200 + 200
    for _ in range(9):
        finish(window, now, requests=258)
        taken += await admitted(window) - 258
        assert window.size == 200 + 256
    assert taken == window.size


@on_a_loop
async def test_an_idle_engine_gets_two_waves_at_once_and_then_what_it_keeps_up_with():
    now = [0.0]
    window = Window(100, clock=lambda: now[0])
    for _ in range(2):
        assert await admitted(window) == 100 + 100
        # The first wave ends in one step, after a while: it is slow, and the second runs already.
        now[0] += 7
        for _ in range(100):
            window.release()
        assert (window.size, await admitted(window)) == (100 + 64, 64)
        # All has ended, and hours later there is a new batch.
        for _ in range(100 + 64):
            window.release()
        now[0] += 7200
