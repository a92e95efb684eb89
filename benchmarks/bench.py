"""`vb.run` against vLLM's own ways to run a batch, `LLM.chat` and run-batch, with equal engine arguments.

Each round runs every side once, each in a process of its own, in an order that turns from round to round. The table
has medians, and the ratio of medians (ours over theirs, in requests per second) with the interval that 95 of 100
redrawn samples of the rounds lie in. It is written as JSON and as a picture, too. The engine's start is no part of the
time.

On CPUs leave VLLM_CPU_OMP_THREADS_BIND alone: by default vLLM keeps a core free for the front end, and without that its
threads wait for each other wherever a front end works beside them.

``BENCH=a,b ROUNDS=5 python benchmarks/bench.py``; ``--scale 0.1`` makes all workloads smaller, to try it.
"""

from __future__ import annotations

import argparse
import json
import os
import random
import statistics
import subprocess
import sys
import tempfile
import threading
import time
from pathlib import Path
from typing import Any

import psutil
from sides import SIDES
from workloads import MAX_MODEL_LEN, WORKLOADS, Workload, folder_of

OURS = "vb.run"
_REDRAWN = 2_000
Figures = dict[str, float]


def flags_of(workload: Workload, folder: Path) -> list[str]:
    """Give the engine arguments that all sides have."""
    from vbatch_jupyter.engine.vllm_arguments import parse_arguments

    arguments = parse_arguments(str(folder), [])
    config = json.loads((folder / "config.json").read_text())
    size = 2 if arguments.dtype in {"bfloat16", "float16", "half", "auto"} else 4
    per_token = 2 * config["num_hidden_layers"] * config["num_key_value_heads"] * config["head_dim"] * size
    flags = ["--max-model-len", str(MAX_MODEL_LEN), "--max-num-seqs", str(arguments.max_num_seqs)]
    flags += ["--kv-cache-memory-bytes", str(per_token * workload.kv_tokens), "--dtype", arguments.dtype]
    if arguments.max_num_batched_tokens:
        flags += ["--max-num-batched-tokens", str(arguments.max_num_batched_tokens)]
    return [*flags, "--enforce-eager"] if arguments.enforce_eager else flags


def measure(side: str, task: dict[str, Any]) -> Figures:
    """Run one side once, and watch the memory of its processes."""
    with tempfile.TemporaryDirectory() as folder:
        path = Path(folder, "task.json")
        path.write_text(json.dumps(task))
        environment = {**os.environ, "VBATCH_STORE": str(Path(folder, "store")), "VLLM_NO_USAGE_STATS": "1"}
        environment["HF_HUB_OFFLINE"] = "1"
        log = Path(folder, "log")
        with log.open("wb") as output:
            script = Path(__file__).with_name("sides.py")
            process = subprocess.Popen(
                [sys.executable, str(script), side, str(path)], env=environment, stdout=output, stderr=output
            )
            peak = _watch(process)
        for line in log.read_text(errors="replace").splitlines():
            if line.startswith("FIGURES "):
                return {**json.loads(line.removeprefix("FIGURES ")), "peak_mb": peak}
        raise SystemExit(f"{side} failed:\n{log.read_text(errors='replace')[-4000:]}")


def _watch(process: subprocess.Popen[bytes]) -> float:
    peak = 0.0
    ended = threading.Event()
    while process.poll() is None:
        used = 0
        for each in [psutil.Process(process.pid), *psutil.Process(process.pid).children(recursive=True)]:
            try:
                used += each.memory_full_info().pss
            except psutil.Error:
                continue
        peak = max(peak, used / 1e6)
        ended.wait(1.0)
    return peak


def interval(ours: list[float], theirs: list[float]) -> tuple[float, float]:
    """Give what 95 of 100 ratios of medians of redrawn rounds lie between."""
    chosen = random.Random(0)  # noqa: S311 - not for secrets
    ratios = sorted(
        statistics.median(chosen.choices(theirs, k=len(theirs))) / statistics.median(chosen.choices(ours, k=len(ours)))
        for _ in range(_REDRAWN)
    )
    return ratios[round(0.025 * _REDRAWN)], ratios[round(0.975 * _REDRAWN) - 1]


def run(workload: Workload, rounds: int, folder: Path) -> dict[str, list[Figures]]:
    """Run all sides in turn."""
    flags = flags_of(workload, folder)
    task = {"prompts": workload.prompts, "max_tokens": workload.max_tokens, "model": str(folder), "flags": flags}
    found: dict[str, list[Figures]] = {side: [] for side in SIDES}
    sides = list(SIDES)
    for turn in range(rounds):
        for side in sides[turn % len(sides) :] + sides[: turn % len(sides)]:
            found[side].append(measure(side, task))
            print(f"  round {turn + 1}, {side}: {found[side][-1]['seconds']:.1f} s", file=sys.stderr, flush=True)
    return found


def rows_of(workload: Workload, found: dict[str, list[Figures]]) -> list[dict[str, Any]]:
    """Make the lines of the table."""
    rows = []
    ours = [figures["seconds"] for figures in found[OURS]]
    for side, measured in found.items():
        middle = {key: statistics.median(figures[key] for figures in measured) for key in measured[0]}
        seconds = [figures["seconds"] for figures in measured]
        low, high = interval(ours, seconds)
        rows.append(
            {
                "workload": workload.title,
                "side": side,
                "ratio": middle["seconds"] / statistics.median(ours),
                "ratio_low": low,
                "ratio_high": high,
                "requests_per_second": len(workload.prompts) / middle["seconds"],
                "tokens_per_second": middle["output_tokens"] / middle["seconds"],
                "cached": middle["cached_tokens"] / middle["prompt_tokens"],
                "rounds": seconds,
                **middle,
            }
        )
    return rows


def show(row: dict[str, Any]) -> None:
    """Print one line of the table."""
    print(
        f"{row['workload']:<40} {row['side']:<10} {row['seconds']:>8.1f} s {row['requests_per_second']:>8.1f} "
        f"{row['tokens_per_second']:>9.0f} {row['cached']:>7.1%} {row['peak_mb']:>8,.0f} "
        f"{row['startup_seconds']:>7.0f} s {row['ratio']:>6.2f} ({row['ratio_low']:.2f} to {row['ratio_high']:.2f})",
        flush=True,
    )


def draw(rows: list[dict[str, Any]], path: Path) -> None:
    """Draw the ratios."""
    import matplotlib as mpl

    mpl.use("Agg")
    from matplotlib import pyplot as plt

    theirs = [row for row in rows if row["side"] != OURS]
    figure, axes = plt.subplots(figsize=(9, 1 + 0.45 * len(theirs)))
    names = [f"{row['workload']}\nagainst {row['side']}" for row in theirs]
    ratios = [row["ratio"] for row in theirs]
    spread = [[row["ratio"] - row["ratio_low"] for row in theirs], [row["ratio_high"] - row["ratio"] for row in theirs]]
    axes.barh(names, ratios, xerr=spread, color="#4c72b0")
    axes.axvline(1, color="black", linewidth=0.8)
    axes.invert_yaxis()
    axes.set_xlabel(f"times as many requests per second with {OURS}")
    axes.tick_params(labelsize=7)
    figure.tight_layout()
    figure.savefig(path, dpi=150)


def main() -> None:
    """Run the workloads that are asked for."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--workloads", default=os.environ.get("BENCH", ",".join(WORKLOADS)))
    parser.add_argument("--rounds", type=int, default=int(os.environ.get("ROUNDS", "5")))
    parser.add_argument("--scale", type=float, default=1.0)
    parser.add_argument("--out", type=Path, default=Path(__file__).parents[1] / "build/bench")
    options = parser.parse_args()
    options.out.mkdir(parents=True, exist_ok=True)
    print(
        f"{'workload':<40} {'side':<10} {'median':>10} {'req./s':>8} {'tokens/s':>9} {'cached':>7} {'peak MB':>8} "
        f"{'start':>9} {'ours over theirs':>24}"
    )
    rows: list[dict[str, Any]] = []
    with tempfile.TemporaryDirectory() as made:
        for name in options.workloads.split(","):
            workload = WORKLOADS[name](options.scale)
            found = run(workload, options.rounds, folder_of(workload.model, Path(made)))
            rows += rows_of(workload, found)
            for row in rows[-len(found) :]:
                show(row)
            about = {"date": time.strftime("%Y-%m-%d"), "cpus": os.cpu_count(), "load": os.getloadavg(), "rows": rows}
            (options.out / "bench.json").write_text(json.dumps(about, indent=1))
            draw(rows, options.out / "bench.png")
    print(f"{options.out}/bench.json and bench.png have it too")


if __name__ == "__main__":
    main()
