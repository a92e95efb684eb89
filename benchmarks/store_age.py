"""What a store's age costs: CPU with few former batches in it and with many, and the ratio.

It makes a store, fills it with batches of five rows, and measures in one process: a batch of five new rows and the same
five rows again, on the echo engine; the first listing, the panel's snapshot, what ``/vbatch/readyz`` asks of the store,
and a sweep::

    python benchmarks/store_age.py 50 10000

The goals are those of the issue: at most 1.3 times for a batch, and 2 times for the others. Once a day a sweep lists
all files, which grows with the store; it is printed without a goal.
"""

from __future__ import annotations

import argparse
import contextlib
import sys
import tempfile
import time
from collections.abc import Callable, Iterator
from pathlib import Path

import pandas as pd

from vbatch_jupyter.engine.echo import EchoEngine
from vbatch_jupyter.frames.ask import Ask
from vbatch_jupyter.manager import Manager, lifecycle
from vbatch_jupyter.manager.retry import has_unanswered
from vbatch_jupyter.manager.waiting import why_waiting
from vbatch_jupyter.protocol.ids import request_id
from vbatch_jupyter.protocol.lines import encode_request_line, output_line
from vbatch_jupyter.session.session import Session
from vbatch_jupyter.store import SpoolRecord, Store

ENDPOINT = "/v1/chat/completions"
ROWS = 5
ROUNDS = 15
MOST_OF_A_BATCH, MOST_OF_OTHERS = 1.3, 2.0
_BODY = b'{"choices":[{"message":{"content":"an answer"}}],"usage":{"prompt_tokens":3,"completion_tokens":2}}'


def fill(store: Store, key: str, begin: int, end: int) -> None:
    """Put batches that have ended into a store.

    Parameters
    ----------
    store
        The store.
    key
        The engine's `answers_key`.
    begin, end
        The numbers of the batches.
    """
    manager = Manager(store, profile="local")
    for number in range(begin, end):
        lines = [
            encode_request_line(
                f"row-{row}", ENDPOINT, {"model": "echo", "messages": [{"role": "user", "content": f"{number} {row}"}]}
            )
            + b"\n"
            for row in range(ROWS)
        ]
        file = manager.files.create(lines, filename="in.jsonl", purpose="batch")
        lease = store.batches.acquire(manager.batches.create(input_file_id=file.id, endpoint=ENDPOINT).id)
        assert lease is not None
        with lease:
            lifecycle.validate(store, lease)
            lease.update(answers_key=key)
            lease.append([SpoolRecord(row, False, _line(lease.id, row), 0.0) for row in range(ROWS)])
            lifecycle.finish(store, lease)


def _line(batch_id: str, row: int) -> bytes:
    name = request_id(batch_id, row)
    return output_line(
        id=name, custom_id=f"row-{row}", status_code=200, request_id=name.removeprefix("batch_"), body=_BODY
    )


def measure(path: Path, batches: int) -> dict[str, float]:
    """Return the milliseconds of CPU of each thing, the least of some rounds.

    Parameters
    ----------
    path
        The store's directory.
    batches
        How many former batches are in it, for the texts of new rows.
    """
    with _session(path) as session:
        store, manager = session.store, session.manager
        number = iter(range(1_000_000))

        def run() -> None:
            session.run(
                pd.DataFrame({"text": [f"{batches} {next(number)}" for _ in range(ROWS)]}), Ask.of("{{ text }}")
            )

        def again() -> None:
            session.run(pd.DataFrame({"text": ["the same"] * ROWS}), Ask.of("{{ text }}"))

        def snapshot() -> None:
            store.bytes()
            engines = store.engines.live(planned=True)
            for record in [*store.batches.list(limit=100).data, *store.batches.unfinished()]:
                why_waiting(record, engines)
                has_unanswered(manager, record)
                manager.batches.notes(record)

        def ready() -> None:
            store.space.free()
            store.engines.live(planned=True)
            store.check_writable()

        # What only the first batch of a process does is no part of it.
        run()
        again()
        return {
            "a batch of new rows": _least(run),
            "the same rows again": _least(again),
            "the first listing": _least(lambda: (manager.batches.list(limit=20), store.batches.count())),
            "the panel's snapshot": _least(snapshot),
            "readyz": _least(ready),
            "a sweep": _least(lambda: store.sweep(at_most_every_seconds=1e-9)),
            "a sweep that lists all files": _least(store.sweep, rounds=3),
        }


@contextlib.contextmanager
def _session(path: Path) -> Iterator[Session]:
    store = Store(path, floor_bytes=0, reserve_bytes=0)
    session = Session(store, make_engine=lambda *_, **__: EchoEngine(), say=lambda _: None)
    try:
        session.progress = "none"
        session.load("echo")
        yield session
    finally:
        session.close()


def _least(function: Callable[[], object], rounds: int = ROUNDS) -> float:
    least = float("inf")
    for _ in range(rounds):
        begun = time.process_time()
        function()
        least = min(least, time.process_time() - begun)
    return least * 1000


def main() -> int:
    """Measure two stores, and print the figures and what misses its goal."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("few", nargs="?", type=int, default=50)
    parser.add_argument("many", nargs="?", type=int, default=10_000)
    options = parser.parse_args()
    figures = []
    with tempfile.TemporaryDirectory() as directory:
        path, filled = Path(directory) / "store", 0
        for batches in (options.few, options.many):
            with Store(path, floor_bytes=0, reserve_bytes=0) as store:
                fill(store, EchoEngine().answers_key, filled, batches)
                filled = batches
            figures.append(measure(path, batches))
    few, many = figures
    print(f"{'CPU in ms':<30} {options.few:>10,} {options.many:>10,} {'ratio':>8} {'goal':>6}")
    missed = []
    for name, value in few.items():
        goal = MOST_OF_A_BATCH if "rows" in name else None if "all files" in name else MOST_OF_OTHERS
        print(f"{name:<30} {value:>10.2f} {many[name]:>10.2f} {many[name] / value:>8.2f} {goal or '':>6}")
        if goal is not None and many[name] > goal * value:
            missed.append(name)
    print("missed: " + ", ".join(missed) if missed else "all goals are met")
    return int(bool(missed))


if __name__ == "__main__":
    sys.exit(main())
