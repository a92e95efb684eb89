"""The rule by which an engine that hangs is told from one that works for long."""

from __future__ import annotations

import asyncio
import json

import pytest

from tests.unit.runner.running import on_a_loop
from vbatch_jupyter.engine.base import BATCH_PRIORITY
from vbatch_jupyter.engine.echo import EchoEngine
from vbatch_jupyter.engine.silence import Silence
from vbatch_jupyter.errors import EngineSilentError
from vbatch_jupyter.records import Patience

PATH = "/v1/completions"
BODY = json.dumps({"model": "m", "prompt": "hello there"}).encode()


def looks(silence: Silence, *, times: int, **seen) -> list[str]:
    return [silence.look(1, **{"is_busy": True, "steps": 1, "works": False} | seen) for _ in range(times)]


@pytest.fixture
def silence() -> Silence:
    silence = Silence(Patience(silence_seconds=4, rebuild_seconds=2))
    looks(silence, times=1)
    return silence


def test_neither_steps_nor_work_is_silence_and_then_a_hang(silence):
    assert looks(silence, times=6) == ["alive"] * 3 + ["not responding"] * 2 + ["hung"]


def test_a_step_ends_a_silence(silence):
    assert looks(silence, times=5)[-1] == "not responding"
    assert looks(silence, times=4, steps=2) == ["alive"] * 4
    assert silence.without_step == 3


def test_work_without_a_step_is_life_for_ten_times_as_long(silence):
    verdicts = looks(silence, times=60, works=True)
    assert verdicts == ["alive"] * 39 + ["not responding"] * 20 + ["hung"]


def test_work_in_between_begins_the_silence_again(silence):
    assert looks(silence, times=3) == ["alive"] * 3
    assert looks(silence, times=1, works=True) == ["alive"]
    assert looks(silence, times=4) == ["alive"] * 3 + ["not responding"]


def test_an_engine_without_requests_is_not_silent_but_one_that_has_lost_its_clients_is(silence):
    assert looks(silence, times=9, is_busy=False) == ["alive"] * 9
    assert looks(silence, times=4)[-1] == "not responding"
    assert looks(silence, times=2, is_busy=False) == ["not responding", "hung"]
    silence.end()
    assert looks(silence, times=1, is_busy=False) == ["alive"]


@pytest.mark.parametrize(
    ("patience", "last"),
    [(Patience(silence_seconds=0), "alive"), (Patience(silence_seconds=3, rebuild_seconds=0), "not responding")],
)
def test_nought_is_never(patience, last):
    assert looks(Silence(patience), times=9999)[-1] == last


def test_a_change_of_the_patience_counts_at_once():
    patience = Patience(silence_seconds=100)
    silence = Silence(patience)
    assert looks(silence, times=9)[-1] == "alive"
    patience.silence_seconds = 5
    assert looks(silence, times=1) == ["not responding"]


def test_a_server_gives_its_patience_to_its_kernels(monkeypatch):
    assert Patience.of_environment() == Patience(60.0, 60.0)
    for name, value in Patience(5, 0.5).variables().items():
        monkeypatch.setenv(name, value)
    assert Patience.of_environment() == Patience(5.0, 0.5)


class HangingEngine(EchoEngine):
    """Gives no answer, and can be told not to respond."""

    def hang(self) -> None:
        self.state = "not responding"
        self._give_up_interactive()


@on_a_loop
async def test_a_chat_is_given_up_when_the_engine_hangs_and_a_request_of_a_batch_waits():
    engine = HangingEngine(["m"], latency_seconds=3600)
    await engine.start()
    chat = asyncio.create_task(engine.request("POST", PATH, BODY))
    batch = asyncio.create_task(engine.request("POST", PATH, BODY, priority=BATCH_PRIORITY))
    while engine.requests < 2:  # noqa: ASYNC110 - an engine has no event
        await asyncio.sleep(0)
    engine.hang()
    with pytest.raises(EngineSilentError, match="no sign of life"):
        await chat
    with pytest.raises(EngineSilentError):
        await engine.request("POST", PATH, BODY)
    assert not batch.done()
    assert engine.stats().running == 1
    engine.state, engine.latency_seconds = "ready", 0
    answer = json.loads(await (await batch).read())
    assert answer["choices"][0]["text"] == "hello there"
    response = await engine.request("POST", PATH, BODY)
    assert response.status == 200
