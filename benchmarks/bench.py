"""`vb.run` and the HTTP batch against what people would use instead, on real engines.

The peers are vLLM's own `LLM.chat`, its batch runner with equal engine arguments and with its defaults, the loop of
AsyncOpenAI against ``vllm serve``, and llama.cpp, the engine inside Ollama. Each engine is started once, apart from
the clock; then every round runs every side once, on the same requests, in an order that turns from round to round. The
table has medians, and the ratio of medians (ours over theirs, in requests per second) with the interval that 95 of 100
redrawn samples of the rounds lie in; a goal is met when the interval reaches it. It is written as JSON and as a
picture, too.

``BENCH=a,b ROUNDS=5 SCALE=1 python benchmarks/bench.py``; without a scale, all of it takes about an hour on two cores.
"""

from __future__ import annotations

import argparse
import contextlib
import itertools
import json
import os
import sys
import tempfile
import time
from collections.abc import Iterator, Mapping
from pathlib import Path
from typing import Any

import llama
from report import HEADER, about, draw, rows_of, show, show_starts
from rounds import Engine, Figures, Side, in_turn
from settings import flags_of, folder_of, ideal_cached, variables_of
from workloads import LLAMA, OURS, RUN_BATCH_DEFAULTS, WORKLOADS, Setting, Workload


@contextlib.contextmanager
def started(setting: Setting, names: list[str], place: Path) -> Iterator[dict[str, Side]]:
    """Start the sides that workloads of one setting have, one after the other."""
    folder = folder_of(setting, place)
    with contextlib.ExitStack() as stack:
        sides = {}
        for number, name in enumerate(names):
            own = place / f"{setting.model}-{setting.kv_tokens}-{number}"
            own.mkdir()
            equal = name != RUN_BATCH_DEFAULTS
            flags, variables = flags_of(setting, folder, equal=equal), variables_of(setting, equal=equal)
            sides[name] = stack.enter_context(Side(name, Engine(str(folder), flags, variables, str(own))))
            print(f"  {name} has started: {sides[name].startup_seconds:.0f} s", file=sys.stderr, flush=True)
        yield sides


def measure(workload: Workload, sides: Mapping[str, Side], rounds: int) -> dict[str, list[Figures]]:
    """Run the sides of a workload in turn."""
    names = [OURS, *(name for name in workload.sides if name in sides)]
    found: dict[str, list[Figures]] = {name: [] for name in names}
    for turn in range(rounds):
        requests = workload.requests(turn)
        for name in in_turn(names, turn):
            # llama.cpp's slots are full with a part of them too, and the rest would take minutes.
            given = requests[:: llama.ONE_OF] if name == LLAMA else requests
            if not turn:
                sides[name].warm_up(requests)
            found[name].append({**sides[name].run(given), "requests": float(len(given))})
            seconds = found[name][-1]["seconds"]
            print(f"  {workload.title}, round {turn + 1}, {name}: {seconds:.1f} s", file=sys.stderr, flush=True)
    return found


def run(options: argparse.Namespace, made: Path) -> list[dict[str, Any]]:
    """Run the workloads that are asked for, those of one setting together, and print their lines."""
    begun = time.monotonic()
    rows: list[dict[str, Any]] = []
    picked = options.workloads.split(",")
    scale = [] if options.scale is None else [options.scale]
    # In an order that keeps workloads of one setting together, whatever order was asked for.
    asked = [make(*scale) for name, makers in WORKLOADS.items() if name in picked for make in makers]
    for setting, group in itertools.groupby(asked, key=lambda workload: workload.setting):
        workloads = list(group)
        names = list(dict.fromkeys(name for each in workloads for name in each.sides))
        if LLAMA in names:
            llama.prepare()
            print(f"llama.cpp: {llama.system_info()}", flush=True)
        with started(setting, [OURS, *names], made) as sides:
            for workload in workloads:
                found = measure(workload, sides, options.rounds)
                ideal = ideal_cached(workload, folder_of(setting, made)) if workload.shares_prefixes else None
                rows += rows_of(workload, found, ideal)
                for row in rows[-len(found) :]:
                    show(row)
                written = json.dumps(about(rows, time.monotonic() - begun), indent=1)
                (options.out / "bench.json").write_text(written)
                draw(rows, options.out / "bench.png")
    show_starts(rows)
    print(f"{time.monotonic() - begun:,.0f} s; {options.out}/bench.json and bench.png have it too")
    return rows


def main() -> None:
    """Parse what is asked for, and run it."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--workloads", default=os.environ.get("BENCH", ",".join(WORKLOADS)))
    parser.add_argument("--rounds", type=int, default=int(os.environ.get("ROUNDS", "5")))
    parser.add_argument("--scale", type=float, default=os.environ.get("SCALE"))
    parser.add_argument("--out", type=Path, default=Path(__file__).parents[1] / "build/bench")
    options = parser.parse_args()
    if unknown := set(options.workloads.split(",")) - WORKLOADS.keys():
        parser.error(f"no such workload: {', '.join(sorted(unknown))}; there are {', '.join(sorted(WORKLOADS))}")
    options.out.mkdir(parents=True, exist_ok=True)
    print(HEADER, flush=True)
    with tempfile.TemporaryDirectory() as made:
        run(options, Path(made))


if __name__ == "__main__":
    main()
