"""How `bench.py` and a side of it, a process of its own, talk: a line of JSON each way for each round.

A side starts its engine once and then runs every round that it is given, so that what is measured is the work and not
the start. What it prints goes into a log.
"""

from __future__ import annotations

import dataclasses
import json
import os
import subprocess
import sys
import threading
import time
from collections.abc import Iterable, Iterator, Mapping, Sequence
from pathlib import Path
from typing import Any, Self, TypeVar

import psutil
from workloads import Request

T = TypeVar("T")
Figures = dict[str, float]
_WARM_UP = 16
_WATCH_SECONDS = 5.0
"""Adding up the memory of a process costs it 10 to 20 ms."""


@dataclasses.dataclass(frozen=True, slots=True)
class Engine:
    """What a side is told of the engine: the model's folder, flags and variables of vLLM, and where it may write."""

    folder: str
    flags: list[str]
    variables: dict[str, str]
    place: str

    def keywords(self) -> dict[str, Any]:
        """Return the flags as Python's keyword arguments: they have a value, or are switches."""
        given: dict[str, Any] = {}
        name = ""
        for word in self.flags:
            if word.startswith("--"):
                name = word.removeprefix("--").replace("-", "_")
                given[name] = True
            else:
                given[name] = int(word) if word.isdecimal() else word
        return given


def in_turn(sides: Sequence[T], turn: int) -> list[T]:
    """Return the order of a round, another one in each.

    Examples
    --------
    >>> in_turn("abc", 0), in_turn("abc", 1)
    (['a', 'b', 'c'], ['b', 'c', 'a'])
    """
    first = turn % len(sides)
    return [*sides[first:], *sides[:first]]


def of_usages(seconds: float, usages: Iterable[Mapping[str, Any]]) -> Figures:
    """Add up what OpenAI's ``usage`` objects say."""
    known = list(usages)
    details = [usage.get("prompt_tokens_details") or {} for usage in known]
    return {
        "seconds": seconds,
        "cached_tokens": float(sum(each.get("cached_tokens") or 0 for each in details)),
        "prompt_tokens": float(sum(usage["prompt_tokens"] for usage in known)),
        "output_tokens": float(sum(usage.get("completion_tokens") or 0 for usage in known)),
    }


class Rounds:
    """The rounds of a side; iterating waits for the next one, and the first time says that the engine has started."""

    def __init__(self, reply_to: int) -> None:
        os.set_inheritable(reply_to, False)
        self._replies = os.fdopen(reply_to, "w")
        self._begun = time.perf_counter()

    def __iter__(self) -> Iterator[list[Request]]:
        self.reply({"startup_seconds": time.perf_counter() - self._begun})
        for line in sys.stdin:
            yield [Request(*fields) for fields in json.loads(line)]

    def reply(self, figures: Figures) -> None:
        """Send what a round has measured."""
        self._replies.write(json.dumps(figures) + "\n")
        self._replies.flush()


class Side:
    """A side's process, as `bench.py` sees it.

    Parameters
    ----------
    name
        As in `workloads`.
    engine
        What it is told.
    checkout
        The checkout that it runs; this one by default.
    """

    def __init__(self, name: str, engine: Engine, checkout: Path = Path(__file__).parents[1]) -> None:
        self.name = name
        self._log = Path(engine.place, "log")
        answers, reply_to = os.pipe()
        environment = {**os.environ, "VBATCH_STORE": str(Path(engine.place, "store"))}
        environment |= {"VLLM_NO_USAGE_STATS": "1", "HF_HUB_OFFLINE": "1", **engine.variables}
        environment["PYTHONPATH"] = str(checkout)
        command = [sys.executable, str(checkout / "benchmarks" / "sides.py"), name]
        with self._log.open("wb") as log:
            self._process = subprocess.Popen(
                [*command, json.dumps(dataclasses.asdict(engine)), str(reply_to)],
                stdin=subprocess.PIPE,
                stdout=log,
                stderr=log,
                env=environment,
                pass_fds=[reply_to],
            )
        os.close(reply_to)
        self._answers = os.fdopen(answers)
        self.startup_seconds = self._answer()["startup_seconds"]

    def run(self, requests: list[Request]) -> Figures:
        """Run a round; measure the memory of the side's processes and the CPU time of its first one, the front end."""
        assert self._process.stdin is not None
        ended = threading.Event()
        peak = [0.0]
        before = psutil.Process(self._process.pid).cpu_times()
        watch = threading.Thread(target=self._watch, args=(ended, peak))
        watch.start()
        self._process.stdin.write(json.dumps([dataclasses.astuple(each) for each in requests]).encode() + b"\n")
        self._process.stdin.flush()
        try:
            figures = self._answer()
        finally:
            ended.set()
            watch.join()
        after = psutil.Process(self._process.pid).cpu_times()
        cpu_seconds = after.user + after.system - before.user - before.system
        known = {"peak_mb": peak[0], "startup_seconds": self.startup_seconds, "cpu_seconds": cpu_seconds}
        return {**figures, **known}

    def warm_up(self, like: list[Request]) -> None:
        """Run a few requests of the kind of others, of which nothing is kept."""
        tokens = min(like[0].max_tokens, 2)
        self.run([Request(f"Warm up {number}.", tokens) for number in range(_WARM_UP)])

    def _answer(self) -> Figures:
        line = self._answers.readline()
        if not line:
            raise SystemExit(f"{self.name} has ended:\n{self._log.read_text(errors='replace')[-4000:]}")
        return dict(json.loads(line))

    def _watch(self, ended: threading.Event, peak: list[float]) -> None:
        """Look now and then, and once more when the round has ended."""
        looks = True
        while looks:
            looks = not ended.wait(_WATCH_SECONDS)
            used = 0
            for each in self._tree():
                try:
                    used += each.memory_full_info().pss
                except psutil.Error:
                    continue
            peak[0] = max(peak[0], used / 1e6)

    def _tree(self) -> list[psutil.Process]:
        process = psutil.Process(self._process.pid)
        return [process, *process.children(recursive=True)]

    def __enter__(self) -> Self:
        return self

    def __exit__(self, *_: object) -> None:
        """End the process: no more rounds; what does not heed that is killed."""
        tree = self._tree()
        assert self._process.stdin is not None
        self._process.stdin.close()
        for process in psutil.wait_procs(tree, timeout=30)[1]:
            process.kill()
        self._process.wait()
        self._answers.close()
