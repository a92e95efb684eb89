"""The workloads of `bench.py`: what is asked, of which model, with which engine arguments."""

from __future__ import annotations

import dataclasses
import random
from collections.abc import Callable
from pathlib import Path

MAX_MODEL_LEN = 2048
KV_TOKENS = 46_000
"""Room in the KV cache; enough for 256 short chats."""

_WORDS = [
    "about after again along answer before began between both city close cold could country during early",
    "earth enough every father field figure final first follow found friend garden great green group hand",
    "heard heavy history house island large later learn letter light little machine measure might minute",
    "morning mountain music never night north notice number often order paper people picture place plain",
    "point power question quick remember river round second several short simple sleep small south stand",
    "start state still stood story street study system table thing thought three through today toward tree",
]
WORDS = " ".join(_WORDS).split()


@dataclasses.dataclass(frozen=True, slots=True)
class Workload:
    """One workload.

    Parameters
    ----------
    title
        One line.
    prompts
        One for each request, in the order of the file.
    max_tokens
        Of each answer; every answer has as many.
    model
        ``"demo"`` or ``"tiny"``.
    kv_tokens
        Room in the KV cache, in tokens.
    """

    title: str
    prompts: list[str]
    max_tokens: int
    model: str = "demo"
    kv_tokens: int = KV_TOKENS


def _text(chosen: random.Random, words: int) -> str:
    return " ".join(chosen.choices(WORDS, k=words))


def unique(scale: float) -> Workload:
    """Make (a): unique chats."""
    count = round(500 * scale)
    prompts = [f"Write a sentence about the number {number}." for number in range(count)]
    return Workload(f"(a) {count} unique chats", prompts, 48)


def documents(scale: float) -> Workload:
    """Make (b): questions about documents, shuffled; the KV cache holds a quarter of them."""
    chosen = random.Random(1)  # noqa: S311 - not for secrets
    count = round(80 * scale)
    texts = [_text(chosen, 600) for _ in range(count)]
    asked = ("Who?", "Where?", "When?", "Why?", "How?")
    prompts = [f"{text}\n\n{question}" for text in texts for question in asked]
    chosen.shuffle(prompts)
    return Workload(f"(b) {count} documents x 5 questions, shuffled", prompts, 8, kv_tokens=round(630 * count / 4))


def repeated(scale: float) -> Workload:
    """Make (c): a frame with 70 % repeated rows."""
    chosen = random.Random(2)  # noqa: S311 - not for secrets
    count = round(500 * scale)
    distinct = [f"Write a sentence about the number {number}." for number in range(round(0.3 * count))]
    prompts = distinct + chosen.choices(distinct, k=count - len(distinct))
    chosen.shuffle(prompts)
    return Workload(f"(c) {count} rows, 70 % repeated", prompts, 48)


def front_end(scale: float) -> Workload:
    """Make (d): short chats to a model of two layers, where the front end decides."""
    count = round(5000 * scale)
    return Workload(f"(d) {count:,} short chats, 2 layers", [f"Say {number}." for number in range(count)], 4, "tiny")


WORKLOADS: dict[str, Callable[[float], Workload]] = {"a": unique, "b": documents, "c": repeated, "d": front_end}


def folder_of(model: str, made: Path) -> Path:
    """Give a model's folder; the tiny one is made.

    Parameters
    ----------
    model
        As `Workload.model`.
    made
        Where it may be made.
    """
    import subprocess
    import sys

    from vbatch_jupyter.engine.demo_model import demo_model_path

    if model == "demo":
        return demo_model_path()
    folder = made / model
    if not folder.exists():
        script = Path(__file__).parents[1] / "tests/engine/tiny_model.py"
        subprocess.run([sys.executable, str(script), str(folder)], check=True, capture_output=True)
    return folder
