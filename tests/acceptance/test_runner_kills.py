"""200 random kills of a process that holds store, runner and echo engine: nothing is lost, and nothing doubled."""

from __future__ import annotations

import contextlib
import multiprocessing
import random
import signal
from collections import Counter

import pytest

from tests.acceptance import runner_owner
from tests.batches import assert_every_request_once, error_codes, make_batch, open_store
from vbatch_jupyter.errors import ConflictError
from vbatch_jupyter.store.fsck import check

KILLS = 200
SIZES = (1, 50, 400, 3000)


@pytest.fixture(scope="module")
def processes():
    """Start processes in milliseconds: they are forked from one that has everything imported and nothing opened."""
    context = multiprocessing.get_context("forkserver")
    context.set_forkserver_preload([runner_owner.__name__])
    return context


@pytest.mark.timeout(600)
def test_two_hundred_random_kills_lose_nothing_and_double_nothing(tmp_path, processes):
    chance = random.Random(20261124)
    made: dict[str, int] = {}
    fell_into: Counter[str] = Counter()
    kills = 0
    with open_store(tmp_path / "store") as store:
        while kills < KILLS:
            # Fed as it goes, so that kills fall into validation, feeding, finalising and cancelling alike.
            while len(store.batches.unfinished()) < 3:
                requests = chance.choice(SIZES)
                made[make_batch(store, requests).id] = requests
            owner = processes.Process(target=runner_owner.run, args=(store.path,))
            owner.start()
            owner.join(timeout=chance.uniform(0.0, 0.3))
            if kills % 4 == 0 and (unfinished := store.batches.unfinished()):
                with contextlib.suppress(ConflictError):
                    store.batches.cancel(chance.choice(unfinished).id)
                owner.join(timeout=chance.uniform(0.0, 0.1))
            if owner.exitcode is None:
                owner.kill()  # nothing happens where it has just ended by itself
                owner.join()
            assert owner.exitcode in {0, -signal.SIGKILL}
            if owner.exitcode == 0:
                continue
            kills += 1
            held = [record for record in store.batches.unfinished() if record.owner is not None]
            fell_into.update({record.status for record in held})
            fell_into["writing"] += any(store.batches.has_uncounted(record.id) for record in held)
        last = processes.Process(target=runner_owner.run, args=(store.path,))
        last.start()
        last.join()
        assert last.exitcode == 0

        assert kills == KILLS
        # None would mean that a moment is no longer met.
        for moment in ("validating", "in_progress", "writing", "finalizing", "cancelling"):
            assert fell_into[moment] >= 1, fell_into
        statuses = set()
        for batch_id, requests in made.items():
            record = store.batches.get(batch_id)
            statuses.add(record.status)
            counts = record.request_counts
            if counts.total == 0:
                # Cancelled before it was validated.
                assert (record.status, record.output_file_id, record.error_file_id) == ("cancelled", None, None)
                continue
            assert_every_request_once(store, record, requests)
            unexecuted = error_codes(store, record)
            assert counts.completed + counts.failed + len(unexecuted) == counts.total == requests
            if record.status == "completed":
                # "question 7", "question 70" … are refused.
                assert counts.failed == sum(str(position).startswith("7") for position in range(requests))
                assert unexecuted == {}
            else:
                assert set(unexecuted.values()) <= {"batch_cancelled"}
        assert statuses == {"completed", "cancelled"}
        assert check(store) == []
