"""Whatever owners, users, kills and the clock do in whatever order: a status moves forward, and nothing is lost."""

from __future__ import annotations

import itertools
import os
import shutil
import tempfile
from pathlib import Path

import pytest
from hypothesis import settings
from hypothesis import strategies as st
from hypothesis.stateful import Bundle, RuleBasedStateMachine, initialize, invariant, precondition, rule

from tests.batches import assert_every_request_once, custom_ids, group, is_error, make_batch, open_store
from vbatch_jupyter.errors import ConflictError, FencedError
from vbatch_jupyter.manager import lifecycle
from vbatch_jupyter.protocol.batch import NEXT_STATUSES, TERMINAL_STATUSES
from vbatch_jupyter.store.fsck import check

REQUESTS = 6
WINDOW = 86_400


class StoreMachine(RuleBasedStateMachine):
    batches = Bundle("batches")

    @initialize()
    def open(self):
        # Where pytest makes its folders too.
        self.folder = Path(tempfile.mkdtemp(dir=os.environ.get("PYTEST_DEBUG_TEMPROOT")))
        self.now = 1_000_000
        self.store = self._opened()
        self.leases = {}
        self.zombies = []
        self.statuses = {}
        self.finished = {}

    def _opened(self):
        return open_store(self.folder / "store", clock=lambda: self.now)

    def teardown(self):
        self.now += WINDOW
        for batch_id in list(self.leases):
            self.release(batch_id)
        lifecycle.tend(self.store)
        self.store.sweep()
        self.statuses_move_forward()
        assert set(self.statuses.values()) <= TERMINAL_STATUSES
        assert check(self.store) == []
        for lease in self.zombies:
            lease.release()
        self.store.close()
        shutil.rmtree(self.folder)

    @rule(target=batches)
    def create(self):
        batch_id = make_batch(self.store, REQUESTS).id
        self.statuses[batch_id] = "validating"
        self.finished[batch_id] = set()
        return batch_id

    @rule(batch_id=batches)
    def acquire(self, batch_id):
        lease = self.store.batches.acquire(batch_id)
        if batch_id in self.leases or self.store.batches.get(batch_id).status in TERMINAL_STATUSES:
            assert lease is None
        else:
            assert lease is not None
            self.leases[batch_id] = lease
            lifecycle.validate(self.store, lease)
            if self.store.batches.get(batch_id).status == "in_progress":
                # Whatever was ever appended is found again.
                finished = lease.recover().finished
                assert {position for position, kind in enumerate(finished) if kind} == self.finished[batch_id]

    @rule(batch_id=batches, positions=st.lists(st.integers(0, REQUESTS - 1), max_size=4))
    def append(self, batch_id, positions):
        if batch_id not in self.leases or self.store.batches.get(batch_id).in_progress_at is None:
            return
        try:
            self.leases[batch_id].append(group(batch_id, positions))
        except ConflictError:
            assert self.store.batches.get(batch_id).status != "in_progress"
        else:
            self.finished[batch_id] |= set(positions)

    @rule(batch_id=batches)
    def release(self, batch_id):
        if batch_id in self.leases:
            self.leases.pop(batch_id).release()

    @rule(batch_id=batches, tail=st.binary(max_size=30))
    def die(self, batch_id, tail):
        """End the owner as a kill does, with a group half written."""
        if batch_id in self.leases:
            lease = self.leases.pop(batch_id)
            lease._file_lock.release()
            self.zombies.append(lease)
            for segment in sorted((self.store.batches.directory / batch_id).glob("spool-*"))[-1:]:
                with segment.open("ab") as file:
                    file.write(tail)

    @precondition(lambda self: any(self._is_superseded(lease) for lease in self.zombies))
    @rule()
    def a_former_owner_comes_back(self):
        lease = next(lease for lease in self.zombies if self._is_superseded(lease))
        with pytest.raises(FencedError):
            lease.update(reason="a zombie's")
        with pytest.raises(FencedError):
            lease.publish("cancelled")

    def _is_superseded(self, lease):
        return self.store.batches.get(lease.id).epoch > lease.epoch

    @rule(batch_id=batches)
    def cancel(self, batch_id):
        try:
            self.store.batches.cancel(batch_id)
        except ConflictError:
            assert self.store.batches.get(batch_id).status in {"completed", "failed", "expired"}

    @rule(batch_id=batches)
    def finish(self, batch_id):
        if batch_id in self.leases:
            try:
                lifecycle.finish(self.store, self.leases[batch_id])
            except ConflictError:
                ended = self.store.batches.get(batch_id).status in TERMINAL_STATUSES
                assert ended or len(self.finished[batch_id]) < REQUESTS

    @rule()
    def tend(self):
        lifecycle.tend(self.store)

    @rule(seconds=st.sampled_from([1, 3600, WINDOW]))
    def time_passes(self, seconds):
        self.now += seconds

    @rule()
    def every_process_dies(self):
        for lease in [*self.leases.values(), *self.zombies]:
            lease._file_lock.release()
        self.leases, self.zombies = {}, []
        self.store.close()
        self.store = self._opened()

    @invariant()
    def statuses_move_forward(self):
        for batch_id, before in self.statuses.items():
            record = self.store.batches.get(batch_id)
            assert record.status == before or record.status in _reachable(before)
            self.statuses[batch_id] = record.status

    @invariant()
    def counts_are_what_was_appended(self):
        for batch_id, positions in self.finished.items():
            record = self.store.batches.get(batch_id)
            counts = record.request_counts
            failed = sum(is_error(position) for position in positions)
            if record.in_progress_at is not None:
                assert (counts.total, counts.completed, counts.failed) == (REQUESTS, len(positions) - failed, failed)

    @invariant()
    def an_ended_batch_has_each_request_once(self):
        for batch_id in self.statuses:
            record = self.store.batches.get(batch_id)
            if record.status in TERMINAL_STATUSES and record.in_progress_at is not None:
                assert_every_request_once(self.store, record, REQUESTS)
                answered = {f"row-{position}" for position in self.finished[batch_id] if not is_error(position)}
                assert set(custom_ids(self.store, record.output_file_id)) == answered


def _reachable(status):
    after = set()
    following = set(NEXT_STATUSES[status])
    while following:
        after |= following
        following = set(itertools.chain.from_iterable(NEXT_STATUSES[status] for status in following)) - after
    return after


StoreMachine.TestCase.settings = settings(max_examples=60, stateful_step_count=30)
test_any_order_of_events_keeps_every_promise = StoreMachine.TestCase
