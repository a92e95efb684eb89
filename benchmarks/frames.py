"""An earlier commit against this checkout, in turn: a frame's rows as requests, and output lines as a frame.

Each round runs both commits, each in a process of its own, in an order that turns. Printed are the seconds of a round
and, for each part, the ratio of the speeds' medians with the interval that 95 of 100 redrawn samples of the rounds lie
in. The exit status is 1 where this checkout has less than 0.95 of the earlier speed.

``python benchmarks/frames.py 2ecf096 --rows 300000 --rounds 5``
"""

from __future__ import annotations

import argparse
import json
import os
import statistics
import subprocess
import sys
import tempfile
import time
from pathlib import Path

import msgspec
import pandas as pd
from report import interval
from rounds import in_turn
from two_commits import BEFORE, NOW, ROOT, check_out

LEAST = 0.95
_SCHEMA = {"type": "object", "properties": {"mood": {"type": "string"}, "stars": {"type": "integer"}}}


def _output_lines(contents: list[str]) -> list[bytes]:
    usage = {"prompt_tokens": 30, "completion_tokens": 12, "total_tokens": 42}
    lines = []
    for position, content in enumerate(contents):
        choice = {"index": 0, "message": {"role": "assistant", "content": content}, "finish_reason": "stop"}
        body = {"id": f"chatcmpl-{position}", "object": "chat.completion", "created": 1, "model": "m"}
        response = {"status_code": 200, "request_id": "r", "body": {**body, "choices": [choice], "usage": usage}}
        line = {"id": f"batch_req_{position}", "custom_id": f"row-{position}", "response": response, "error": None}
        lines.append(msgspec.json.encode(line) + b"\n")
    return lines


def measure(rows: int) -> dict[str, float]:
    """Measure the parts of the package that this process imports.

    Parameters
    ----------
    rows
        Rows of the frame.

    Returns
    -------
    dict
        Seconds of each part.
    """
    from vbatch_jupyter.frames.ask import Ask
    from vbatch_jupyter.frames.render import requests_of
    from vbatch_jupyter.frames.results import results

    texts = [f"The kettle number {position} boils fast, and its lid is loose." for position in range(rows)]
    df = pd.DataFrame({"text": texts, "n": range(rows)})
    df["price"] = df["n"] / 8
    ask = Ask.of("Is this good or bad? {{ text }} It costs {{ price }} ({{ n }}).", model="m", max_tokens=8)
    seconds = {}
    began = time.perf_counter()
    requests = requests_of(df, ask)
    assert sum(1 for _ in requests.lines) == rows
    seconds["rendering"] = time.perf_counter() - began
    plain = _output_lines([f"Answer {position}" for position in range(rows)])
    began = time.perf_counter()
    assert results(plain, requests.description, df=df)["response"].notna().sum() == rows
    seconds["reading text"] = time.perf_counter() - began
    typed = _output_lines([f'{{"mood": "good", "stars": {position % 5}}}' for position in range(rows)])
    began = time.perf_counter()
    assert results(typed, requests.description, df=df, schema=_SCHEMA)["stars"].notna().sum() == rows
    seconds["reading fields"] = time.perf_counter() - began
    return seconds


def main() -> int:
    """Compare this checkout with a commit."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("commit", nargs="?", help="the earlier commit")
    parser.add_argument("--rows", type=int, default=300_000)
    parser.add_argument("--rounds", type=int, default=5)
    options = parser.parse_args()
    if options.commit is None:
        print(json.dumps(measure(options.rows)))
        return 0
    with tempfile.TemporaryDirectory() as made:
        checkouts = {BEFORE: check_out(options.commit, Path(made)), NOW: ROOT}
        found: dict[str, list[dict[str, float]]] = {name: [] for name in checkouts}
        for turn in range(options.rounds):
            for name in in_turn(list(checkouts), turn):
                environment = {**os.environ, "PYTHONPATH": str(checkouts[name])}
                command = [sys.executable, __file__, "--rows", str(options.rows)]
                done = subprocess.run(command, env=environment, check=True, stdout=subprocess.PIPE, text=True)
                found[name].append(json.loads(done.stdout))
                print(f"round {turn + 1}, {name}:", ", ".join(f"{k} {v:.2f} s" for k, v in found[name][-1].items()))
    met = []
    for part in found[NOW][0]:
        now, before = ([1 / each[part] for each in found[name]] for name in (NOW, BEFORE))
        ratio = statistics.median(now) / statistics.median(before)
        low, high = interval(now, before)
        print(f"{part}: speed, now / before: {ratio:.3f} ({low:.3f}-{high:.3f})")
        met.append(ratio >= LEAST)
    return int(not all(met))


if __name__ == "__main__":
    sys.exit(main())
