"""One error at a file system call, wherever it falls in a batch's life: every batch ends complete without a person."""

from __future__ import annotations

import os
import random

import pytest

from tests.acceptance.fault_matrix import LIVES, cases

SEED = int(os.environ.get("VBATCH_FAULTS_SEED", "20261130"))
"""Chooses the cases; the same ones each time, so that a commit either passes or fails."""


@pytest.mark.timeout(600)
@pytest.mark.parametrize(("kind", "sampled"), [("runner", 110), ("server", 40)])
def test_one_error_at_any_file_system_call_of_a_life_leaves_every_batch_complete(tmp_path, kind, sampled):
    with LIVES[kind](tmp_path) as living:
        sample = random.Random(SEED).sample(cases(living), sampled)
        results = [living.run(case) for case in sample]
    wrong = [str(result) for result in results if result.wrong]
    assert wrong == [], f"VBATCH_FAULTS_SEED={SEED}"
    # Fewer would mean that the calls are no longer seen; how many there are differs a little from life to life.
    assert sum(result.seen.failed for result in results) > sampled / 2
