"""What the size of a block of the KV cache costs on unique work, and gives on prompts that begin alike, with `vb.run`.

A prefix cache keeps whole blocks: small ones keep more of a prefix, and cost attention more jumps. vLLM's own size on
CPUs is 128, and its attention there takes multiples of 32.
"""

from __future__ import annotations

import argparse
import contextlib
import statistics
import tempfile
from pathlib import Path

from rounds import Engine, Side, in_turn
from settings import flags_of, folder_of, variables_of
from workloads import OURS, WORKLOADS, Workload

SIZES = (32, 64, 128)


def compare(workload: Workload, rounds: int, made: Path) -> None:
    """Run a workload with each size in turn, and print the medians."""
    folder = folder_of(workload.setting, made)
    flags = flags_of(workload.setting, folder, equal=True)
    variables = variables_of(workload.setting, equal=True)
    seconds: dict[int, list[float]] = {size: [] for size in SIZES}
    cached: dict[int, float] = {}
    with contextlib.ExitStack() as stack:
        sides = {}
        for size in SIZES:
            place = Path(tempfile.mkdtemp(dir=made))
            # The last of two equal flags counts.
            engine = Engine(str(folder), [*flags, "--block-size", str(size)], variables, str(place))
            sides[size] = stack.enter_context(Side(OURS, engine))
            sides[size].warm_up(workload.requests(0))
        for turn in range(rounds):
            for size in in_turn(SIZES, turn):
                figures = sides[size].run(workload.requests(turn))
                seconds[size].append(figures["seconds"])
                cached[size] = figures["cached_tokens"] / figures["prompt_tokens"]
    for size in SIZES:
        middle = statistics.median(seconds[size])
        ratio = statistics.median(seconds[128]) / middle
        print(f"{workload.title:<42} {size:>4} {middle:>7.1f} s {ratio:>6.2f} {cached[size]:>7.1%}", flush=True)


def main() -> None:
    """Run the workloads that are asked for."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--workloads", default="a,g,b")
    parser.add_argument("--rounds", type=int, default=3)
    parser.add_argument("--scale", type=float, default=0.4)
    options = parser.parse_args()
    print(f"{'workload':<42} {'size':>4} {'median':>9} {'speed':>6} {'cached':>7}")
    with tempfile.TemporaryDirectory() as made:
        for name in options.workloads.split(","):
            for make in WORKLOADS[name]:
                compare(make(options.scale), options.rounds, Path(made))


if __name__ == "__main__":
    main()
