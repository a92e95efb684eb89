"""A runner on a loop, an engine that tells what it was asked, and batches of prompts for it."""

from __future__ import annotations

import asyncio
import contextlib
import functools
import time
from collections import Counter
from collections.abc import AsyncIterator, Callable, Coroutine, Iterable, Sequence
from typing import Any

import msgspec

from tests.batches import ENDPOINT, content
from vbatch_jupyter.engine.base import BATCH_PRIORITY, Engine, EngineResponse
from vbatch_jupyter.engine.echo import EchoEngine
from vbatch_jupyter.errors import EngineDiedError
from vbatch_jupyter.loop import Attempts, Backoff, in_thread
from vbatch_jupyter.manager import Manager
from vbatch_jupyter.protocol.batch import TERMINAL_STATUSES, BatchRecord
from vbatch_jupyter.protocol.lines import encode_request_line
from vbatch_jupyter.runner import Runner
from vbatch_jupyter.runner.window import LEAST_WAITING
from vbatch_jupyter.store import Store

MORE_THAN_RUN = LEAST_WAITING
"""Requests that wait in the engine in addition to those that run, while it is not known to be fast."""

WITHOUT_HASTE = Backoff(first=3600, longest=3600)
"""The pauses of a runner that must not try again by itself while a test looks."""

_QUIET_TURNS = 50
"""A feed asks for its next request within a few turns of the loop, unless the window is full."""

Fault = Exception | tuple[int, bytes]


def on_a_loop(test: Callable[..., Coroutine[Any, Any, None]]) -> Callable[..., None]:
    """Let a test be a coroutine."""

    @functools.wraps(test)
    def run(*arguments: Any, **keywords: Any) -> None:
        asyncio.run(asyncio.wait_for(test(*arguments, **keywords), 240))

    return run


class WitnessEngine(EchoEngine):
    """The echo engine, with a memory.

    Parameters
    ----------
    max_num_seqs
        Requests that run at once; the runner's window is larger by `MORE_THAN_RUN`.
    hanging
        Text that, found in a prompt, makes the request run until it is aborted or released.
    faults
        By prompt, what happens at its first, second … request instead of an answer.
    dies_at
        How many requests each life of the engine takes; the last one kills it. A life beyond these is endless.
    in_steps
        Answer only when the feeds ask for nothing more, so that a window is always full, however slow the machine is.
    **arguments
        Of the echo engine.
    """

    def __init__(
        self,
        *,
        max_num_seqs: int = 256,
        hanging: str | None = None,
        faults: dict[str, list[Fault]] | None = None,
        dies_at: Sequence[int] = (),
        in_steps: bool = False,
        **arguments: Any,
    ) -> None:
        super().__init__(**arguments)
        self.max_num_seqs = max_num_seqs
        self.asked: list[str] = []
        self.running_when_asked: list[int] = []
        self.aborted: list[str] = []
        self.lives = 0
        self.released = asyncio.Event()
        self._hanging = hanging
        self._faults = faults or {}
        self._dies_at = list(dies_at)
        self._in_steps = in_steps
        self._step: asyncio.Future[None] | None = None
        self._left_to_live: int | None = None

    async def start(self) -> None:
        await super().start()
        self.lives += 1
        self._left_to_live = self._dies_at.pop(0) if self._dies_at else None
        if self._left_to_live == 0:
            self.die()

    async def _answer(self, path: str, body: bytes, content: dict[str, Any], *, priority: int) -> EngineResponse:
        assert (path, priority) == (ENDPOINT, BATCH_PRIORITY)
        prompt = content["messages"][-1]["content"]
        self.asked.append(prompt)
        self.running_when_asked.append(self._running + 1)
        if self._left_to_live is not None:
            self._left_to_live -= 1
            if self._left_to_live == 0:
                self.die()
        if self._faults.get(prompt):
            fault = self._faults[prompt].pop(0)
            if isinstance(fault, Exception):
                raise fault
            return EngineResponse(status=fault[0], headers={}, chunks=_chunks(fault[1]))
        try:
            if self._hanging is not None and self._hanging in prompt:
                await self.released.wait()
            return await super()._answer(path, body, content, priority=priority)
        except asyncio.CancelledError:
            self.aborted.append(prompt)
            raise

    async def _work(self, body: bytes) -> None:
        death = self._death
        if self._in_steps and (self._killer is None or self._killer not in body):
            if self._step is None or self._step.done():
                self._step = asyncio.ensure_future(self._until_no_more_is_asked())
            await asyncio.shield(self._step)
            if death.is_set():
                raise EngineDiedError("The engine died under the request.")
        await super()._work(body)

    async def _until_no_more_is_asked(self) -> None:
        asked = -1
        while asked != len(self.asked):
            asked = len(self.asked)
            for _ in range(_QUIET_TURNS):
                await asyncio.sleep(0)

    @property
    def times_asked(self) -> Counter[str]:
        return Counter(self.asked)


async def _chunks(body: bytes) -> AsyncIterator[bytes]:
    yield body[:3]
    yield body[3:]


@contextlib.asynccontextmanager
async def a_runner(
    store: Store, engine: Engine | None = None, attempts: Attempts | None = None
) -> AsyncIterator[tuple[Runner, list[str]]]:
    """Run a runner; gives it and the notices that it has made."""
    notices: list[str] = []
    runner = Runner(store, on_notice=notices.append, attempts=attempts)
    if engine is not None:
        await engine.start()
        await runner.attach(engine)
    running = asyncio.create_task(runner.run())
    try:
        yield runner, notices
    finally:
        await runner.stop()
        await running
    assert runner.running == frozenset()


def batch_of(store: Store, prompts: Iterable[str], **body: Any) -> str:
    """Create a batch; its custom_ids are row-0, row-1 ….

    Parameters
    ----------
    store
        Where.
    prompts
        One for each request.
    **body
        Further keys of each request's body.
    """
    manager = Manager(store, profile="local")
    lines = [
        encode_request_line(
            f"row-{position}", ENDPOINT, {"model": "echo", "messages": [{"role": "user", "content": prompt}], **body}
        )
        + b"\n"
        for position, prompt in enumerate(prompts)
    ]
    file = manager.files.create(lines, filename="input.jsonl", purpose="batch")
    return manager.batches.create(input_file_id=file.id, endpoint=ENDPOINT).id


async def until(condition: Callable[[], bool], *, seconds: float = 60.0) -> None:
    """Wait for something to become true."""
    end = time.monotonic() + seconds
    while not condition():
        assert time.monotonic() < end, "waited in vain"
        await asyncio.sleep(0.005)


async def looks(runner: Runner, times: int = 3, *, loop: int = 0) -> None:
    """Wait until one of the runner's loops has looked at the store so many times more."""
    for _ in range(times):
        runner.loops[loop].wake()
        await in_thread(runner.loops[loop].looked)


async def ended(store: Store, batch_id: str) -> BatchRecord:
    """Wait for a batch's end."""
    await until(lambda: store.batches.get(batch_id).status in TERMINAL_STATUSES)
    return store.batches.get(batch_id)


async def paused(store: Store, batch_id: str) -> BatchRecord:
    """Wait until a batch is paused, and held by nobody."""
    await until(lambda: store.batches.get(batch_id).paused and store.batches.get(batch_id).owner is None)
    return store.batches.get(batch_id)


def _lines(store: Store, file_id: str | None) -> list[dict[str, Any]]:
    return [msgspec.json.decode(line) for line in content(store, file_id).splitlines()]


def order_of_answers(store: Store, record: BatchRecord) -> list[str]:
    return [line["custom_id"] for line in _lines(store, record.output_file_id)]


def answers(store: Store, record: BatchRecord) -> dict[str, str]:
    """Return the text of each line of the output file, by custom_id."""
    lines = _lines(store, record.output_file_id)
    found = {line["custom_id"]: line["response"]["body"]["choices"][0]["message"]["content"] for line in lines}
    assert len(found) == len(lines)
    return found


def errors(store: Store, record: BatchRecord) -> dict[str, tuple[int | None, str | None, str]]:
    """Return status, code and message of each line of the error file, by custom_id."""
    lines = _lines(store, record.error_file_id)
    found: dict[str, tuple[int | None, str | None, str]] = {}
    for line in lines:
        if line["response"] is None:
            found[line["custom_id"]] = (None, line["error"]["code"], line["error"]["message"])
        else:
            error = line["response"]["body"]["error"]
            found[line["custom_id"]] = (line["response"]["status_code"], error["code"], error["message"])
    assert len(found) == len(lines)
    return found


def expected(prompts: Sequence[str], *, without: Iterable[int] = ()) -> dict[str, str]:
    """Return what the echo engine answers to prompts, by custom_id."""
    return {f"row-{position}": prompt for position, prompt in enumerate(prompts) if position not in set(without)}
