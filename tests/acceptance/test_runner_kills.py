"""200 random kills of a process that holds store, runner and echo engine: nothing is lost, and nothing doubled."""

from __future__ import annotations

import random
import subprocess
import sys
import time
from pathlib import Path

import pytest

from tests.batches import assert_every_request_once, error_codes, make_batch, open_store
from vbatch_jupyter.protocol.batch import TERMINAL_STATUSES
from vbatch_jupyter.store.fsck import check

KILLS = 200
ROOT = Path(__file__).parents[2]


def start(store: Path) -> subprocess.Popen[bytes]:
    return subprocess.Popen(
        [sys.executable, "-m", "tests.acceptance.runner_owner", str(store)], cwd=ROOT, stdout=subprocess.PIPE
    )


@pytest.mark.timeout(600)
def test_two_hundred_random_kills_lose_nothing_and_double_nothing(tmp_path):
    chance = random.Random(20261124)
    made: dict[str, int] = {}
    kills = 0
    with open_store(tmp_path / "store") as store:
        while kills < KILLS:
            # Fed as it goes, so that kills fall into validation, feeding, finalising and cancelling alike.
            while len(store.batches.unfinished()) < 3:
                requests = chance.choice([1, 50, 400, 1500])
                batch = make_batch(store, requests)
                made[batch.id] = requests
                if chance.random() < 0.1:
                    store.batches.cancel(batch.id)
            owner = start(tmp_path / "store")
            assert owner.stdout is not None
            assert owner.stdout.readline() == b"ready\n"
            time.sleep(chance.uniform(0.0, 0.6))
            if owner.poll() is None:
                owner.kill()
                kills += 1
            owner.wait()
            owner.stdout.close()
        last = start(tmp_path / "store")
        last.communicate()
        assert last.returncode == 0
        assert kills == KILLS
        assert len(made) >= 20
        statuses = set()
        for batch_id, requests in made.items():
            record = store.batches.get(batch_id)
            statuses.add(record.status)
            assert record.status in TERMINAL_STATUSES
            if record.request_counts.total == 0:
                assert record.status == "cancelled"
                continue
            assert_every_request_once(store, record, requests)
            unexecuted = len(error_codes(store, record))
            counts = record.request_counts
            assert counts.completed + counts.failed + unexecuted == counts.total == requests
            if record.status == "completed":
                # "question 7", "question 70" … "question 799" are refused.
                assert counts.failed == sum(str(position).startswith("7") for position in range(requests))
        assert statuses == {"completed", "cancelled"}
        assert check(store) == []
