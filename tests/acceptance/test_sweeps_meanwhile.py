"""Two processes sweep a store without a pause while a third makes and ends hundreds of batches: nothing is lost."""

from __future__ import annotations

import multiprocessing
from concurrent.futures import ThreadPoolExecutor
from typing import Any

import pytest

from tests.acceptance import store_owner
from tests.batches import ENDPOINT, assert_every_request_once, content, open_store
from vbatch_jupyter.engine.echo import EchoEngine
from vbatch_jupyter.protocol.lines import encode_request_line
from vbatch_jupyter.session.session import Session
from vbatch_jupyter.store.fsck import check

BATCHES = 500
SAME = 5
"""So many batches ask the same; those with an odd number look for the answers of the others."""


@pytest.fixture
def removed(tmp_path):
    """Sweep in two processes; the list that is returned has what they removed, once `stop` was called on it."""
    context = multiprocessing.get_context("forkserver")
    context.set_forkserver_preload([store_owner.__name__])
    stop, names = context.Event(), context.Queue()
    open_store(tmp_path / "store").close()
    sweepers = [
        context.Process(target=store_owner.sweep_until, args=(tmp_path / "store", stop, names)) for _ in range(2)
    ]
    for sweeper in sweepers:
        sweeper.start()
    found: list[dict[str, Any]] = []

    def removed():
        if not found:
            stop.set()
            found.extend(names.get(timeout=60) for _ in sweepers)
            for sweeper in sweepers:
                sweeper.join()
        return found

    yield removed
    removed()


def lines(number):
    for position in range(2):
        messages = [{"role": "user", "content": f"question {number // SAME} {position}"}]
        yield encode_request_line(f"row-{position}", ENDPOINT, {"model": "echo", "messages": messages}) + b"\n"


def test_sweeps_in_two_processes_take_nothing_from_five_hundred_batches_and_pause_none(tmp_path, removed):
    session = Session(open_store(tmp_path / "store"), make_engine=lambda *_, **__: EchoEngine())
    session.load("echo")
    manager = session.manager

    def make(number):
        file = manager.files.create(lines(number), filename="input.jsonl", purpose="batch")
        return manager.batches.create(input_file_id=file.id, endpoint=ENDPOINT, fresh=number % 2 == 0).id

    with ThreadPoolExecutor(4) as pool:
        ids = list(pool.map(make, range(BATCHES)))
    for batch_id in ids:
        # One that is paused is an error here.
        session.attach(batch_id).wait(120)
    sweeps = removed()
    session.close()
    with open_store(tmp_path / "store") as store:
        for number, batch_id in enumerate(ids):
            record = store.batches.get(batch_id)
            assert (record.status, record.reason) == ("completed", None)
            assert_every_request_once(store, record, 2)
            for position in range(2):
                assert b"question %d %d" % (number // SAME, position) in content(store, record.output_file_id)
            assert store.files.sidecar(record.output_file_id or "", "answers").exists()
            assert len(store.files.timings(record)) == 2
        assert len(set(ids)) == BATCHES
        assert [sweep["files"] for sweep in sweeps] == [[], []]
        assert min(sweep["sweeps"] for sweep in sweeps) > 20
        assert check(store) == []
