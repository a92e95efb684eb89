"""`fsck` checks a store without a pause while other processes make, run, end and delete batches: it says nothing."""

from __future__ import annotations

import multiprocessing
from pathlib import Path

from tests.batches import group, make_batch, open_store
from vbatch_jupyter.manager import lifecycle
from vbatch_jupyter.store.fsck import check

BATCHES = 60


def live(path: Path) -> None:
    """Take batches through their lives: some are cancelled, and of every second one the files are deleted."""
    with open_store(path) as store:
        for number in range(BATCHES):
            made = make_batch(store, 6)
            lease = store.batches.acquire(made.id)
            assert lease is not None
            with lease:
                lifecycle.validate(store, lease)
                for position in range(3 if number % 5 == 0 else 6):
                    lease.append(group(lease.id, [position]))
                if number % 5 == 0:
                    store.batches.cancel(lease.id)
                record = lifecycle.finish(store, lease)
            if number % 2:
                for file_id in filter(None, (record.output_file_id, record.error_file_id, record.input_file_id)):
                    store.files.delete(file_id)


def test_fsck_says_nothing_about_batches_that_live_while_it_looks(tmp_path):
    open_store(tmp_path / "store").close()
    context = multiprocessing.get_context("forkserver")
    living = [context.Process(target=live, args=(tmp_path / "store",)) for _ in range(2)]
    for process in living:
        process.start()
    checks = 0
    with open_store(tmp_path / "store") as store:
        while any(process.is_alive() for process in living):
            # What is being deleted is without a row for as long as its process is not given the processor.
            assert [problem for problem in check(store) if "the next sweep removes it" not in problem] == []
            checks += 1
        for process in living:
            process.join()
        assert [process.exitcode for process in living] == [0, 0]
        store.sweep()
        assert check(store) == []
        assert store.batches.count() == 2 * BATCHES
    assert checks > 0
