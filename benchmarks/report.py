"""The table of `bench.py`, its JSON and its picture."""

from __future__ import annotations

import os
import random
import statistics
import time
from collections.abc import Mapping
from pathlib import Path
from typing import TYPE_CHECKING, Any

from workloads import OURS, Workload

if TYPE_CHECKING:
    from rounds import Figures

HEADER = (
    f"{'workload':<42} {'side':<20} {'median':>9} {'req./s':>8} {'tokens/s':>9} {'cached':>17} {'peak MB':>8} "
    f"{'ours over theirs':>20}  goal"
)
_REDRAWN = 2_000


def interval(ours: list[float], theirs: list[float]) -> tuple[float, float]:
    """Return what 95 of 100 ratios of medians of redrawn rounds lie between.

    Parameters
    ----------
    ours, theirs
        Requests per second in each round.
    """
    chosen = random.Random(0)  # noqa: S311 - not for secrets
    ratios = sorted(
        statistics.median(chosen.choices(ours, k=len(ours))) / statistics.median(chosen.choices(theirs, k=len(theirs)))
        for _ in range(_REDRAWN)
    )
    return ratios[round(0.025 * _REDRAWN)], ratios[round(0.975 * _REDRAWN) - 1]


def rows_of(workload: Workload, found: Mapping[str, list[Figures]], ideal: float | None) -> list[dict[str, Any]]:
    """Make the lines of the table.

    Parameters
    ----------
    workload
        What ran.
    found
        The figures of each side's rounds.
    ideal
        How many prompt tokens the best order would find in an unbounded prefix cache; None if nobody asks.
    """
    rows = []
    rate = {side: [each["requests"] / each["seconds"] for each in rounds] for side, rounds in found.items()}
    for side, rounds in found.items():
        middle = {key: statistics.median(each[key] for each in rounds) for key in rounds[0]}
        low, high = interval(rate[OURS], rate[side])
        goal = workload.sides.get(side)
        rows.append(
            {
                **middle,
                "workload": workload.title,
                "side": side,
                "ratio": statistics.median(rate[OURS]) / statistics.median(rate[side]),
                "ratio_low": low,
                "ratio_high": high,
                "goal": goal,
                "goal_met": None if goal is None else high >= goal,
                "requests_per_second": statistics.median(rate[side]),
                # Embeddings have no output; what their engine works on is the prompt.
                "tokens_per_second": (middle["output_tokens"] or middle["prompt_tokens"]) / middle["seconds"],
                "ideal_cached_tokens": ideal,
                "rounds": [each["seconds"] for each in rounds],
            }
        )
    return rows


def show(row: Mapping[str, Any]) -> None:
    """Print one line of the table."""
    cached = f"{row['cached_tokens']:,.0f} ({row['cached_tokens'] / row['prompt_tokens']:.0%})"
    ratio = f"{row['ratio']:.2f} ({row['ratio_low']:.2f} to {row['ratio_high']:.2f})" if row["side"] != OURS else ""
    goal = "" if row["goal"] is None else f"{row['goal']:.2f} {'met' if row['goal_met'] else 'missed'}"
    if row["side"] == OURS and row["ideal_cached_tokens"]:
        goal = f"{row['cached_tokens'] / row['ideal_cached_tokens']:.1%} of what the best order has cached"
    print(
        f"{row['workload']:<42} {row['side']:<20} {row['seconds']:>7.1f} s {row['requests_per_second']:>8.1f} "
        f"{row['tokens_per_second']:>9.0f} {cached:>17} {row['peak_mb']:>8,.0f} {ratio:>20}  {goal}",
        flush=True,
    )


def show_starts(rows: list[dict[str, Any]]) -> None:
    """Print how long the engines took to start, which is not part of the other figures."""
    for side in dict.fromkeys(row["side"] for row in rows):
        seconds = sorted({row["startup_seconds"] for row in rows if row["side"] == side})
        print(f"start of {side}: {', '.join(f'{each:.0f} s' for each in seconds)}")


def about(rows: list[dict[str, Any]], seconds: float) -> dict[str, Any]:
    """Return what goes into the JSON file."""
    return {
        "date": time.strftime("%Y-%m-%d"),
        "cpus": os.cpu_count(),
        "load": os.getloadavg(),
        "seconds": seconds,
        "rows": rows,
    }


def draw(rows: list[dict[str, Any]], path: Path) -> None:
    """Draw the ratios, with their intervals and goals."""
    import matplotlib as mpl

    mpl.use("Agg")
    from matplotlib import pyplot as plt

    theirs = [row for row in rows if row["side"] != OURS]
    figure, axes = plt.subplots(figsize=(9, 1 + 0.32 * len(theirs)))
    places = range(len(theirs))
    ratios = [row["ratio"] for row in theirs]
    spread = [[row["ratio"] - row["ratio_low"] for row in theirs], [row["ratio_high"] - row["ratio"] for row in theirs]]
    axes.barh(places, ratios, xerr=spread, color="#4c72b0", ecolor="#222222", height=0.6)
    for place, row in zip(places, theirs, strict=True):
        if row["goal"] is not None:
            axes.plot([row["goal"]] * 2, [place - 0.42, place + 0.42], color="#c44e52", linewidth=2)
    axes.set_yticks(places, [f"{row['workload']} · {row['side']}" for row in theirs])
    axes.set_xscale("log")
    marks = [0.5, 1, 2, 3, 5, 10]
    axes.set_xticks(marks, map(str, marks))
    axes.minorticks_off()
    axes.axvline(1, color="black", linewidth=0.8)
    axes.invert_yaxis()
    axes.set_xlabel(f"times as many requests per second with {OURS}; the red line is the goal")
    axes.tick_params(labelsize=8)
    figure.tight_layout()
    figure.savefig(path, dpi=150)
    plt.close(figure)
