"""Interrupt, restart and shutdown of a real kernel while a cell waits for a batch; the engine is the echo engine."""

from __future__ import annotations

import json
from collections.abc import Iterator
from pathlib import Path

import pytest

from tests.batches import open_store
from tests.kernels import NotebookKernel, lines_of
from tests.waiting import wait_for
from vbatch_jupyter.store import Store

PREPARE = """
%load_ext vbatch_jupyter
import json, pandas as pd
import vbatch_jupyter as vb
from vbatch_jupyter.session import session
from vbatch_jupyter.engine.echo import EchoEngine

class HalfwayEngine(EchoEngine):
    # The first answers come at once, the others when the latency is taken away.
    async def _work(self, body):
        if self.requests > 1000:
            await super()._work(body)

session.current()._loader._make_engine = lambda *_, **__: HalfwayEngine(latency_seconds=3600)
session.current()._loader.engine = None
df = pd.DataFrame({"n": range(3000)})
"""
HURRY = "session.current().engine.latency_seconds = 0"
RUN = "%%vbatch df -o out\nSay {{ n }}"


@pytest.fixture
def kernel(tmp_path: Path) -> Iterator[NotebookKernel]:
    kernel = NotebookKernel(tmp_path / "store")
    kernel.run(PREPARE).checked()
    kernel.run("%vbatch load echo").checked()
    yield kernel
    kernel.close()


@pytest.fixture
def store(kernel: NotebookKernel, tmp_path: Path) -> Iterator[Store]:
    with open_store(tmp_path / "store") as store:
        yield store


def start_and_wait_for_answers(kernel: NotebookKernel, store: Store) -> str:
    sent = kernel.start(RUN)
    wait_for(lambda: any(record.request_counts.completed for record in store.batches.unfinished()))
    return sent


def test_one_interrupt_cancels_and_the_frame_comes_back_with_what_is_finished(kernel, store):
    sent = start_and_wait_for_answers(kernel, store)
    kernel.manager.interrupt_kernel()
    cell = kernel.finish(sent).checked()
    (record,) = store.batches.list().data
    assert record.status == "cancelled"
    assert 0 < record.request_counts.completed < 3000
    assert record.request_counts.failed == 0
    interrupted, ended = lines_of(cell.stdout)
    assert interrupted == f"{record.id}: interrupted, cancelling (interrupt again to leave it running)"
    assert "cancelled" in ended
    code = "print(json.dumps([len(out), int(out['error'].isna().sum()), sorted(set(out['error'].dropna()))]))"
    assert json.loads(kernel.run(code).checked().stdout) == [
        3000,
        record.request_counts.completed,
        ["This request was not executed: the batch was cancelled before it ran."],
    ]


def test_two_interrupts_leave_the_batch_running(kernel, store):
    kernel.run("from vbatch_jupyter.widgets import frontend; frontend._GRACE_SECONDS = 3600").checked()
    sent = start_and_wait_for_answers(kernel, store)
    kernel.manager.interrupt_kernel()
    kernel.wait_for_output(sent, "interrupt again to leave it running")
    kernel.manager.interrupt_kernel()
    assert kernel.finish(sent).error.startswith("KeyboardInterrupt")
    (record,) = store.batches.list().data
    assert record.status == "in_progress"
    kernel.run(HURRY).checked()
    cell = kernel.run("batch = %vbatch attach\nprint(batch.status, batch.request_counts.completed)").checked()
    assert cell.stdout.endswith("completed 3000\n")


def test_a_restart_is_no_cancel_and_the_batch_is_resumed(kernel, store):
    start_and_wait_for_answers(kernel, store)
    kernel.manager.restart_kernel()
    kernel.client.wait_for_ready(timeout=60)
    (record,) = store.batches.list().data
    assert record.status == "in_progress"
    assert 0 < record.request_counts.completed < 3000
    kernel.run(PREPARE).checked()
    cell = kernel.run("%vbatch load echo").checked()
    assert lines_of(cell.stdout)[-1].startswith(f"Resuming batch {record.id}: ")
    kernel.run(HURRY).checked()
    results = "out = %vbatch results\nprint(list(out.columns), len(out), out['error'].isna().all())"
    assert lines_of(kernel.run(results).checked().stdout)[-1] == "['n', 'response', 'error'] 3000 True"
    code = f"again = vb.attach({record.id!r}).results(df); print(list(again.columns), again['response'].iloc[2999])"
    assert kernel.run(code).checked().stdout == "['n', 'response', 'error'] Say 2999\n"


def test_a_shutdown_is_no_cancel(kernel, store):
    start_and_wait_for_answers(kernel, store)
    kernel.manager.shutdown_kernel()
    (record,) = store.batches.list().data
    assert record.status == "in_progress"
    assert 0 < record.request_counts.completed < 3000


def test_an_interrupt_does_not_touch_a_background_batch(kernel, store):
    kernel.run("%%vbatch df -b -o batch\nSay {{ n }}").checked()
    sent = kernel.start("print('waiting')\nbatch.wait()")
    kernel.wait_for_output(sent, "waiting")
    kernel.manager.interrupt_kernel()
    assert kernel.finish(sent).error.startswith("KeyboardInterrupt")
    kernel.run(HURRY).checked()
    assert kernel.run("print(batch.wait(60).request_counts.completed)").checked().stdout == "3000\n"
