"""A cell that is run again takes the answers that the same engine has given before."""

from __future__ import annotations

from collections.abc import Iterator
from pathlib import Path

import numpy as np
import pandas as pd
import pytest

from vbatch_jupyter.engine.echo import EchoEngine
from vbatch_jupyter.frames.ask import Ask
from vbatch_jupyter.session.session import Session
from vbatch_jupyter.store import Store

TEMPLATE = "Say {{ word }}"


class Kernels:
    """Kernels on one store, one after the other, each with its engine."""

    def __init__(self, folder: Path) -> None:
        self.folder = folder
        self.said: list[str] = []
        self.open: list[Session] = []

    def start(self, *, answers_key: str = "echo", refusing: str | None = None) -> tuple[Session, EchoEngine]:
        engine = EchoEngine(refusing=refusing)
        engine.answers_key = answers_key
        store = Store(self.folder / "store", floor_bytes=0, reserve_bytes=0)
        session = Session(store, make_engine=lambda *_, **__: engine, say=self.said.append)
        self.open.append(session)
        session.load("echo")
        return session, engine

    def close(self) -> None:
        while self.open:
            self.open.pop().close()


@pytest.fixture
def kernels(tmp_path: Path) -> Iterator[Kernels]:
    kernels = Kernels(tmp_path)
    yield kernels
    kernels.close()


def words(*texts: str) -> pd.DataFrame:
    return pd.DataFrame({"word": texts})


def test_an_unchanged_cell_costs_no_request_and_says_so(kernels: Kernels) -> None:
    session, engine = kernels.start()
    first = session.run(words("one", "two", "three"), Ask.of(TEMPLATE, temperature=0.7))
    assert engine.requests == 3
    again = session.run(words("one", "two", "three"), Ask.of(TEMPLATE, temperature=0.7))
    assert engine.requests == 3
    pd.testing.assert_frame_equal(first, again)
    assert list(again["response"]) == ["Say one", "Say two", "Say three"]
    newest = next(session.batches())
    assert kernels.said == [f"Batch {newest.id}: 3 of 3 answers are reused from earlier batches."]
    assert newest.request_counts.completed == 3
    assert newest.usage is not None
    assert newest.usage.output_tokens == 6


def test_a_changed_row_runs_alone(kernels: Kernels) -> None:
    session, engine = kernels.start()
    session.run(words("one", "two", "three"), Ask.of(TEMPLATE))
    out = session.run(words("three", "four", "one"), Ask.of(TEMPLATE))
    assert engine.requests == 4
    assert list(out["response"]) == ["Say three", "Say four", "Say one"]


def test_fresh_asks_for_every_row(kernels: Kernels) -> None:
    session, engine = kernels.start()
    session.run(words("one", "two"), Ask.of(TEMPLATE))
    session.run(words("one", "two"), Ask.of(TEMPLATE, fresh=True))
    assert engine.requests == 4


def test_another_parameter_is_another_request(kernels: Kernels) -> None:
    session, engine = kernels.start()
    session.run(words("one"), Ask.of(TEMPLATE, max_tokens=5))
    session.run(words("one"), Ask.of(TEMPLATE, max_tokens=6))
    assert engine.requests == 2


def test_a_number_is_the_same_however_it_is_written(kernels: Kernels) -> None:
    session, engine = kernels.start()
    for temperature in (0, 0.0, np.float32(0)):
        session.run(words("one"), Ask.of(TEMPLATE, temperature=temperature, top_p=1.0))
    assert engine.requests == 1
    session.run(words("one"), Ask.of(TEMPLATE, temperature=0.5, top_p=1))
    assert engine.requests == 2


def test_answers_outlive_the_kernel_but_are_not_taken_from_another_engine(kernels: Kernels) -> None:
    session, _ = kernels.start(answers_key="these weights")
    session.run(words("one", "two"), Ask.of(TEMPLATE))
    kernels.close()
    session, engine = kernels.start(answers_key="these weights")
    session.run(words("one", "two"), Ask.of(TEMPLATE))
    assert engine.requests == 0
    kernels.close()
    session, engine = kernels.start(answers_key="other weights")
    session.run(words("one", "two"), Ask.of(TEMPLATE))
    assert engine.requests == 2


@pytest.mark.parametrize("deleted", ["output_file_id", "input_file_id"])
def test_deleting_a_file_takes_its_answers_out(kernels: Kernels, deleted: str) -> None:
    session, engine = kernels.start()
    session.run(words("one", "two"), Ask.of(TEMPLATE))
    session.manager.files.delete(getattr(next(session.batches()), deleted))
    session.run(words("one", "two"), Ask.of(TEMPLATE))
    assert engine.requests == 4


def test_errors_are_never_taken_again(kernels: Kernels) -> None:
    session, engine = kernels.start(refusing="bad")
    for _ in range(2):
        out = session.run(words("good", "bad"), Ask.of(TEMPLATE))
        assert out["error"].isna().tolist() == [True, False]
    assert engine.requests == 3
