"""A store under everything at once, for as long as one likes: kills, errors, stops, cancels, deletes, retries.

``python -m tests.acceptance.soak MINUTES`` runs it by a seed that it prints, says at once what is not as it must be,
and ends with one line of counts. Processes with a runner and an echo engine, and one that tends and sweeps, share the
store. This process is their user and their enemy. No error falls into its own calls.
"""

from __future__ import annotations

import argparse
import contextlib
import dataclasses
import multiprocessing
import os
import random
import secrets
import signal
import sys
import tempfile
import threading
import time
from collections import Counter
from collections.abc import Callable
from multiprocessing.process import BaseProcess
from pathlib import Path

from tests.acceptance import soak_owner
from tests.acceptance.faults import ERRORS, Faults
from tests.acceptance.soak_owner import clock, run_batches, tend_batches
from tests.batches import ENDPOINT, custom_ids, error_codes, input_lines, open_store
from vbatch_jupyter.errors import ConflictError, NotFoundError, StoreBusyError
from vbatch_jupyter.manager import Manager
from vbatch_jupyter.manager.retry import retry
from vbatch_jupyter.protocol.batch import TERMINAL_STATUSES, BatchRecord
from vbatch_jupyter.protocol.ids import new_batch_id
from vbatch_jupyter.protocol.lines import parse_request_line
from vbatch_jupyter.store.fsck import check

RUNNERS = 2
MOST_UNFINISHED = 4
SIZES = (1, 5, 50, 400, 2000)
KEPT_SECONDS = 3600
SETTLING_SECONDS = 300
UNEXECUTED = {"cancelled": {"batch_cancelled"}, "expired": {"batch_expired"}, "completed": set[str]()}


@dataclasses.dataclass
class Counts:
    """What a soak has done, and found."""

    kills: int = 0
    errors: int = 0
    stops: int = 0
    batches: int = 0
    cancels: int = 0
    expiries: int = 0
    retries: int = 0
    deletes: int = 0
    lines: int = 0
    busy: int = 0
    lost: int = 0
    doubled: int = 0
    paused: int = 0
    wrong: int = 0
    fsck_alarms: int = 0

    def __str__(self) -> str:
        return ", ".join(f"{count:,} {name.replace('_', ' ')}" for name, count in dataclasses.asdict(self).items())


class Soak:
    """One soak.

    Parameters
    ----------
    folder
        Where the store is.
    seed
        Of everything that is done; what the processes make of it depends on the machine.
    """

    def __init__(self, folder: Path, seed: int) -> None:
        self._chance = random.Random(seed)
        self._faults = Faults(folder)
        self._path = folder / "store"
        self._store = open_store(self._path, clock=clock)
        self._manager = Manager(self._store, profile="local")
        self._made: dict[str, set[str]] = {}
        self._timers: list[threading.Timer] = []
        self.counts = Counts()
        os.environ.update(self._faults.environment)
        # The processes are forked from one that has everything imported and nothing opened.
        self._processes = multiprocessing.get_context("forkserver")
        self._processes.set_forkserver_preload([soak_owner.__name__])
        self._owners: list[tuple[Callable[[Path], None], BaseProcess]] = []
        for own in (*[run_batches] * RUNNERS, tend_batches):
            self._owners.append((own, self._started(own)))
        for name in self._faults.environment:
            os.environ.pop(name)

    def _started(self, own: Callable[[Path], None]) -> BaseProcess:
        process = self._processes.Process(target=own, args=(self._path,), daemon=True)
        process.start()
        return process

    def run(self, seconds: float) -> None:
        """Do something at random until the time is over, then let everything come to its end."""
        until = time.monotonic() + seconds
        acts = {
            self._make: 6,
            self._kill: 6,
            self._fail: 12,
            self._stop: 3,
            self._cancel: 2,
            self._retry: 1,
            self._check: 1,
            self._look: 6,
        }
        while time.monotonic() < until:
            (act,) = self._chance.choices(list(acts), list(acts.values()))
            try:
                act()
            except StoreBusyError as error:
                self.counts.busy += 1
                self._say(str(error))
            self._restart()
            time.sleep(self._chance.expovariate(1 / 0.15))
        self._faults.disarm()
        for timer in self._timers:
            timer.join()
        self._settle()
        self.close()

    def close(self) -> None:
        """End the processes, and close the store."""
        self._faults.disarm()
        for _, owner in self._owners:
            owner.kill()
            owner.join()
        self._store.close()

    # ------------------------------------------------------------------------------------------------------- its enemy

    def _kill(self) -> None:
        number = self._chance.randrange(len(self._owners))
        own, owner = self._owners[number]
        owner.kill()
        owner.join()
        self._owners[number] = own, self._started(own)
        self.counts.kills += 1

    def _restart(self) -> None:
        """Start again what has ended by itself, which is as wrong as it is for a kernel."""
        for number, (own, owner) in enumerate(self._owners):
            if owner.exitcode is not None:
                self._say(f"{own.__name__} has ended with {owner.exitcode}")
                self._owners[number] = own, self._started(own)

    def _fail(self) -> None:
        self.counts.errors += self._faults.disarm().failed
        owner = self._chance.choice(self._owners)[1]
        times = 1 if self._chance.random() < 0.9 else self._chance.randint(2, 100)
        at = self._chance.randint(1, 200)
        self._faults.arm(self._path, self._chance.choice(ERRORS), at, times=times, pid=owner.pid or 0)

    def _stop(self) -> None:
        owner = self._chance.choice(self._owners)[1]
        assert owner.pid is not None
        os.kill(owner.pid, signal.SIGSTOP)
        # It may hold the database, which this process then waits for as well.
        timer = threading.Timer(self._chance.uniform(0.05, 3), self._continue, (owner,))
        timer.start()
        self._timers.append(timer)
        self.counts.stops += 1

    @staticmethod
    def _continue(owner: BaseProcess) -> None:
        # Killed meanwhile, it has been waited for, and its number is another's.
        with contextlib.suppress(ProcessLookupError):
            if owner.is_alive() and owner.pid is not None:
                os.kill(owner.pid, signal.SIGCONT)

    # -------------------------------------------------------------------------------------------------------- its user

    def _make(self) -> None:
        if len(self._store.batches.unfinished()) >= MOST_UNFINISHED:
            return
        size = self._chance.choice(SIZES)
        file = self._manager.files.create(input_lines(size), filename="input.jsonl", purpose="batch")
        now = int(clock())
        ends = now + (self._chance.randint(0, 240) if self._chance.random() < 0.15 else 86_400)
        record = BatchRecord(
            id=new_batch_id(),
            endpoint=ENDPOINT,
            input_file_id=file.id,
            created_at=now,
            expires_at=ends,
            output_expires_after_seconds=KEPT_SECONDS,
            profile="local",
            fresh=self._chance.random() < 0.5,
        )
        self._store.batches.create(record)
        self.counts.batches += 1
        self._made[record.id] = {f"row-{position}" for position in range(size)}

    def _cancel(self) -> None:
        if unfinished := self._store.batches.unfinished():
            with contextlib.suppress(ConflictError):
                self._store.batches.cancel(self._chance.choice(unfinished).id)
                self.counts.cancels += 1

    def _retry(self) -> None:
        ended = [record for record in self._store.batches.list(limit=20).data if record.status in TERMINAL_STATUSES]
        if ended:
            record = self._chance.choice(ended)
            # It may have no errors, and its files may have been deleted or have expired.
            with contextlib.suppress(ConflictError, NotFoundError):
                again = retry(self._manager, record.id)
                with self._store.files.open(again.input_file_id) as content:
                    self._made[again.id] = {parse_request_line(line).custom_id for line in content}
                self.counts.batches += 1
                self.counts.retries += 1

    def _check(self) -> None:
        for alarm in check(self._store):
            self.counts.fsck_alarms += 1
            self._say(f"fsck: {alarm}")

    def _look(self) -> None:
        """Look at every batch that has ended, and at those that wait for a person."""
        for batch_id in list(self._made):
            try:
                record = self._store.batches.get(batch_id)
                if record.status in TERMINAL_STATUSES:
                    self._look_at(record, self._made.pop(batch_id))
                elif record.paused:
                    self.counts.paused += 1
                    self._say(f"{record.id} is paused while {record.status}: {record.reason}")
                    self._store.batches.resume(batch_id)
            except NotFoundError:
                # It went when its time had passed, which is long after the look that was due.
                self._made.pop(batch_id, None)
                self.counts.wrong += 1
                self._say(f"{batch_id} is gone before anyone has seen its end")

    def _look_at(self, record: BatchRecord, custom_ids_: set[str]) -> None:
        found = Counter(custom_ids(self._store, record.output_file_id) + custom_ids(self._store, record.error_file_id))
        self.counts.lines += found.total()
        self.counts.expiries += record.status == "expired"
        if record.in_progress_at is None and record.status in {"cancelled", "expired"}:
            custom_ids_ = set()
        lost, doubled = custom_ids_ - set(found), {name for name, times in found.items() if times > 1}
        self.counts.lost += len(lost)
        self.counts.doubled += len(doubled)
        unexecuted = error_codes(self._store, record)
        codes = set(unexecuted.values())
        counts = record.request_counts
        counted = counts.completed + counts.failed + len(unexecuted)
        wrong = [
            record.status == "failed" and f"failed: {record.errors}",
            lost and f"{len(lost)} lines are lost, such as {min(lost)}",
            doubled and f"{len(doubled)} lines are there twice, such as {min(doubled)}",
            set(found) - custom_ids_ and "it has lines of nobody",
            not codes <= UNEXECUTED.get(record.status, set()) and f"codes: {codes}",
            counted != len(custom_ids_) and f"{counts} and {len(unexecuted)} not executed for {len(custom_ids_)}",
        ]
        for sentence in filter(None, wrong):
            self.counts.wrong += 1
            self._say(f"{record.id}, {record.status}: {sentence}")
        if self._chance.random() < 0.2:
            for file_id in filter(None, (record.input_file_id, record.output_file_id, record.error_file_id)):
                # Retries may read the input file, and another process may remove what has expired.
                with contextlib.suppress(ConflictError, NotFoundError):
                    self._store.files.delete(file_id)
                    self.counts.deletes += 1

    def _settle(self) -> None:
        """Wait until every batch has ended without further harm."""
        until = time.monotonic() + SETTLING_SECONDS
        while self._made and time.monotonic() < until:
            self._look()
            self._restart()
            time.sleep(0.1)
        for batch_id in self._made:
            record = self._store.batches.get(batch_id)
            self.counts.wrong += 1
            self._say(f"{batch_id} does not end: {record.status}, {record.request_counts}, {record.reason}")
        self._store.sweep()
        self._check()

    @staticmethod
    def _say(sentence: str) -> None:
        print(f"{time.strftime('%H:%M:%S')} {sentence}", flush=True)


def main() -> int:
    parser = argparse.ArgumentParser(description="Soak a store.")
    parser.add_argument("minutes", type=float)
    parser.add_argument("--seed", type=int, default=secrets.randbelow(2**31))
    parser.add_argument("--folder", type=Path, help="where the store is made; by default in memory, where there is any")
    chosen = parser.parse_args()
    place = chosen.folder or (Path("/dev/shm") if os.access("/dev/shm", os.W_OK) else None)
    print(f"seed {chosen.seed}", flush=True)
    # The processes must not outlive this one, and one that is stopped would.
    signal.signal(signal.SIGTERM, lambda *_: sys.exit(1))
    with tempfile.TemporaryDirectory(dir=place, prefix="soak-") as folder:
        soak = Soak(Path(folder), chosen.seed)
        try:
            soak.run(60 * chosen.minutes)
        finally:
            soak.close()
    counts = soak.counts
    print(f"soak: {chosen.minutes:g} minutes, seed {chosen.seed}: {counts}")
    return bool(counts.lost or counts.doubled or counts.paused or counts.wrong or counts.fsck_alarms)


if __name__ == "__main__":
    sys.exit(main())
