"""Equal requests that are not deterministic are samples: each has an answer of its own, also when they run again."""

from __future__ import annotations

from collections.abc import Iterator
from pathlib import Path
from typing import Any

import pandas as pd
import pytest

from tests.waiting import wait_for
from vbatch_jupyter.engine.base import EngineResponse
from vbatch_jupyter.engine.echo import EchoEngine
from vbatch_jupyter.frames.ask import Ask
from vbatch_jupyter.session.batch import Batch
from vbatch_jupyter.session.dry_run import dry_run
from vbatch_jupyter.session.input_file import submit_file
from vbatch_jupyter.session.session import Session
from vbatch_jupyter.store import Store

TEMPLATE = "Say {{ word }}"


class Sampler(EchoEngine):
    """Answers with the number of the request."""

    refused: frozenset[int] = frozenset()

    async def _answer(self, path: str, body: bytes, content: dict[str, Any], *, priority: int) -> EngineResponse:
        number = self.requests + 1
        said = "refused" if number in self.refused else f"answer {number}"
        asked = content | {"messages": [{"role": "user", "content": said}]}
        return await super()._answer(path, body + said.encode(), asked, priority=priority)


class Kernel:
    def __init__(self, folder: Path) -> None:
        self._folder = folder
        self.start()

    def start(self, *, requests: int = 0, seed: int | None = None) -> None:
        self.engine = Sampler(refusing="refused")
        self.engine.requests, self.engine.seed = requests, seed
        store = Store(self._folder / "store", floor_bytes=0, reserve_bytes=0)
        self.session = Session(store, make_engine=lambda *_, **__: self.engine, say=lambda _: None)
        self.session.load("echo")

    def run(self, rows: int, **asked: Any) -> list[int]:
        """Run equal rows; return the numbers of the requests that answered them, 0 for none."""
        return numbers(self.session.run(equal(rows), Ask.of(TEMPLATE, **asked)))

    def begin(self, rows: int, **asked: Any) -> Batch:
        """Submit equal rows, three of them with a kept answer; return the batch when the engine has the others."""
        self.engine.latency_seconds = 3600
        batch = self.session.submit(equal(rows), Ask.of(TEMPLATE, **asked))
        wait_for(lambda: self.engine.stats().running == rows - 3, 60)
        return batch


@pytest.fixture
def kernel(tmp_path: Path) -> Iterator[Kernel]:
    kernel = Kernel(tmp_path)
    yield kernel
    kernel.session.close()


def numbers(out: pd.DataFrame) -> list[int]:
    return [0 if pd.isna(text) else int(text.removeprefix("answer ")) for text in out["response"]]


def equal(rows: int) -> pd.DataFrame:
    return pd.DataFrame({"word": ["this"] * rows})


def test_equal_rows_keep_their_answers_in_order_and_only_those_beyond_are_asked(kernel: Kernel) -> None:
    first = kernel.run(8, temperature=1)
    assert sorted(first) == list(range(1, 9))
    assert kernel.run(8, temperature=1) == first
    assert kernel.engine.requests == 8
    longer = kernel.run(12, temperature=1)
    assert longer[:8] == first
    assert sorted(longer[8:]) == [9, 10, 11, 12]
    # The answers that three batches have by now count once.
    assert kernel.run(12, temperature=1) == longer
    assert kernel.run(3, temperature=1) == longer[:3]
    assert len(set(kernel.run(16, temperature=1))) == 16
    assert kernel.engine.requests == 16


@pytest.mark.parametrize(
    ("asked", "requests"),
    [
        ({"temperature": 0}, 1),
        ({"seed": 7}, 1),
        ({"temperature": 1, "seed": 7}, 1),
        ({"seed": -1}, 4),
        ({"temperature": 1}, 4),
        ({"temperature": None}, 4),
        # The model's own defaults apply, and they may say anything.
        ({}, 4),
        ({"top_k": 1}, 4),
    ],
)
def test_only_a_seed_or_temperature_0_makes_equal_rows_share_an_answer(
    kernel: Kernel, asked: dict[str, Any], requests: int
) -> None:
    """Seed -1 is no seed (vLLM 0.32, vllm/sampling_params.py): three requests have three texts."""
    first = kernel.run(4, **asked)
    assert (kernel.engine.requests, len(set(first))) == (requests, requests)
    assert kernel.run(4, **asked) == first
    assert kernel.engine.requests == requests


def test_fresh_asks_every_sample_and_what_it_gets_is_kept_before_older_answers(kernel: Kernel) -> None:
    first = kernel.run(3, temperature=1)
    second = kernel.run(2, temperature=1, fresh=True)
    assert sorted(second) == [4, 5]
    assert kernel.run(5, temperature=1) == second + first


def test_a_dry_run_counts_the_samples_that_would_be_asked(kernel: Kernel) -> None:
    kernel.run(8, temperature=1)
    dry = dry_run(kernel.session, equal(12), Ask.of(TEMPLATE, temperature=1))
    assert (dry.reused, dry.duplicates, dry.to_run) == (8, 0, 4)


def test_a_retried_sample_is_asked_and_takes_no_answer_of_an_equal_row(kernel: Kernel) -> None:
    kernel.engine.refused = frozenset({3, 5})
    batch = kernel.session.submit(equal(8), Ask.of(TEMPLATE, temperature=1))
    first = numbers(batch.results())
    assert sorted(first) == [0, 0, 1, 2, 4, 6, 7, 8]
    whole = numbers(batch.retry().results())
    assert sorted(whole) == [1, 2, 4, 6, 7, 8, 9, 10]
    assert all(before in (0, after) for before, after in zip(first, whole, strict=True))
    assert sorted(kernel.run(8, temperature=1)) == sorted(whole)
    assert kernel.engine.requests == 10


def test_a_batch_that_is_resumed_does_not_take_a_kept_answer_twice(kernel: Kernel) -> None:
    kept = kernel.run(3, temperature=1)
    id = kernel.begin(8, temperature=1).id  # noqa: A001 - OpenAI's word
    kernel.session.close()
    kernel.start(requests=100)
    out = numbers(kernel.session.attach(id).results())
    assert out[:3] == kept
    assert sorted(out[3:]) == [101, 102, 103, 104, 105]


def test_answers_of_a_cancelled_batch_are_kept_also_when_those_that_it_reused_are_deleted(kernel: Kernel) -> None:
    kept = kernel.run(3, temperature=1)
    origin = next(kernel.session.batches())
    batch = kernel.begin(8, temperature=1).cancel()
    batch.wait()
    kernel.engine.latency_seconds = 0
    kernel.session.manager.files.delete(str(origin.output_file_id))
    again = kernel.run(4, temperature=1)
    assert again[:3] == kept
    assert again[3] == kernel.engine.requests == 9  # five requests were cancelled


def test_a_file_and_a_frame_take_each_others_samples(kernel: Kernel, tmp_path: Path) -> None:
    ask = Ask.of(TEMPLATE, temperature=1)
    path = tmp_path / "in.jsonl"
    path.write_bytes(b"".join(kernel.session.requests_of(equal(4), ask).lines))
    kept = kernel.run(3, temperature=1)
    assert numbers(submit_file(kernel.session, path).results()) == [*kept, 4]
    assert sorted(numbers(submit_file(kernel.session, path, fresh=True).results())) == [5, 6, 7, 8]
    assert kernel.run(8, temperature=1)[4:] == [*kept, 4]
    assert kernel.engine.requests == 8


def test_a_comparison_shows_that_samples_differ_without_a_difference_of_the_prompt(kernel: Kernel) -> None:
    one, two = (kernel.session.submit(equal(3), Ask.of(TEMPLATE, temperature=1, fresh=True)).wait() for _ in range(2))
    out = one.compare(two, noise=True)
    assert (out["changed"].tolist(), out["noise"].tolist()) == ([True] * 3, [True] * 3)
    assert kernel.engine.requests == 12
    # The newest answers that are kept are those of the batches, and not those of the second runs.
    assert kernel.run(6, temperature=1) == numbers(two.results()) + numbers(one.results())


@pytest.mark.parametrize("profile", ["local", "openai"])
def test_a_batch_keeps_the_seeds_of_the_engines_that_ran_it(kernel: Kernel, profile: str) -> None:
    kernel.engine.seed = 5
    manager, lines = kernel.session.manager, kernel.session.requests_of(equal(2), Ask.of(TEMPLATE)).lines
    file = manager.files.create(lines, filename="in.jsonl", purpose="batch")
    kernel.engine.latency_seconds = 3600
    id = manager.batches.create(input_file_id=file.id, endpoint="/v1/chat/completions", profile=profile).id  # noqa: A001
    wait_for(lambda: kernel.engine.stats().running == 2, 60)
    assert kernel.session.attach(id).engine_seeds == (5,)
    kernel.session.close()
    kernel.start(seed=6)
    assert kernel.session.attach(id).wait().engine_seeds == (5, 6)
