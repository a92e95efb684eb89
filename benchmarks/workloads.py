"""The workloads of `bench.py`: what is asked, of which engine, against whom, and what is aimed at.

Each is made at a scale of its whole size. With the scales that they have by default, all of them take about an hour on
two cores, five rounds and the starts included; (b) alone would take most of that at its whole size.
"""

from __future__ import annotations

import dataclasses
import json
import random
from collections.abc import Callable, Mapping
from typing import Any

OURS = "vb.run"
HTTP = "HTTP batch"
CHAT = "LLM.chat"
RUN_BATCH = "run-batch"
RUN_BATCH_DEFAULTS = "run-batch, defaults"
LOOP = "AsyncOpenAI"
LLAMA = "llama.cpp"

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
class Setting:
    """The engine that all sides have alike, apart from run-batch at its defaults.

    Parameters
    ----------
    model
        ``"demo"``, ``"demo-embeddings"``, or ``"tiny"``: two random layers, where the front end decides.
    kv_tokens
        Room in the KV cache, in tokens; 0 for an engine without one.
    max_model_len
        In tokens.
    reserved_cores
        On CPUs, how many cores vLLM's threads leave to the front end, which is one by default; with few cores, none is
        faster unless the model is tiny.
    """

    model: str
    kv_tokens: int
    max_model_len: int
    reserved_cores: int = 0


@dataclasses.dataclass(frozen=True, slots=True)
class Request:
    """One request: a prompt, and how many tokens each answer has; 0 for an embedding."""

    prompt: str
    max_tokens: int

    def body(self, model: str) -> dict[str, Any]:
        """Return the body of its call."""
        if not self.max_tokens:
            return {"model": model, "input": self.prompt}
        messages = [{"role": "user", "content": self.prompt}]
        return {"model": model, "messages": messages, **self.sampling()}

    @property
    def url(self) -> str:
        """Where it is sent."""
        return "/v1/chat/completions" if self.max_tokens else "/v1/embeddings"

    def sampling(self) -> dict[str, Any]:
        """Return the parameters of the body that say how it is answered."""
        return {"max_tokens": self.max_tokens, "temperature": 0, "ignore_eos": True} if self.max_tokens else {}


def as_lines(requests: list[Request], model: str) -> str:
    """Return the input file of requests."""
    lines = [
        {"custom_id": f"row-{number}", "method": "POST", "url": request.url, "body": request.body(model)}
        for number, request in enumerate(requests)
    ]
    return "".join(json.dumps(line) + "\n" for line in lines)


@dataclasses.dataclass(frozen=True, slots=True)
class Workload:
    """One workload.

    Parameters
    ----------
    title
        One line.
    setting
        The engine.
    requests
        Gives the requests of a round, in the order of the file. Rounds share no prompt, so that no round finds what
        an earlier one has left in a prefix cache, or an answer.
    sides
        Who takes part, after `OURS`, and the ratio that is aimed at, or None.
    shares_prefixes
        Whether the cached tokens are compared with those of the best order.
    """

    title: str
    setting: Setting
    requests: Callable[[int], list[Request]]
    sides: Mapping[str, float | None]
    shares_prefixes: bool = False


DEMO = Setting("demo", 46_000, 8192)


def _chosen(workload: int, turn: int) -> random.Random:
    return random.Random(1000 * workload + turn)  # noqa: S311 - not for secrets


def _text(chosen: random.Random, words: int) -> str:
    return " ".join(chosen.choices(WORDS, k=words))


def _numbers(turn: int, start: int, count: int) -> list[str]:
    first = 100_000 * (turn + 1) + start
    return [f"Write a sentence about the number {first + number}." for number in range(count)]


def unique(scale: float = 1.0) -> Workload:
    """Make (a): unique chats."""
    count = round(500 * scale)

    def requests(turn: int) -> list[Request]:
        return [Request(prompt, 16) for prompt in _numbers(turn, 0, count)]

    sides = {HTTP: None, CHAT: 0.98, RUN_BATCH: 1.0, RUN_BATCH_DEFAULTS: None, LOOP: 1.0, LLAMA: 3.0}
    return Workload(f"(a) {count} unique chats", DEMO, requests, sides)


def documents(scale: float = 0.125) -> Workload:
    """Make (b): questions about documents, shuffled; the KV cache holds a quarter of them."""
    count = round(80 * scale)
    asked = ("Who?", "Where?", "When?", "Why?", "How?")

    def requests(turn: int) -> list[Request]:
        chosen = _chosen(2, turn)
        texts = [_text(chosen, 600) for _ in range(count)]
        prompts = [f"{text}\n\n{question}" for text in texts for question in asked]
        chosen.shuffle(prompts)
        return [Request(prompt, 8) for prompt in prompts]

    setting = Setting("demo", round(630 * count / 4), 1024)
    sides = {RUN_BATCH: 1.6, RUN_BATCH_DEFAULTS: 2.5}
    return Workload(f"(b) {count} documents x 5 questions, shuffled", setting, requests, sides, shares_prefixes=True)


def repeated(scale: float = 1.0) -> Workload:
    """Make (c): a frame with 70 % repeated rows."""
    count = round(500 * scale)

    def requests(turn: int) -> list[Request]:
        chosen = _chosen(3, turn)
        distinct = _numbers(turn, 10_000, round(0.3 * count))
        prompts = distinct + chosen.choices(distinct, k=count - len(distinct))
        chosen.shuffle(prompts)
        return [Request(prompt, 16) for prompt in prompts]

    return Workload(f"(c) {count} rows, 70 % repeated", DEMO, requests, {HTTP: None, CHAT: None, RUN_BATCH: 3.0})


def front_end(scale: float = 1.0) -> Workload:
    """Make (d): short chats to a model of two layers, where the front end decides."""
    count = round(5000 * scale)

    def requests(turn: int) -> list[Request]:
        return [Request(f"Say {10_000 * (turn + 1) + number}.", 4) for number in range(count)]

    sides = {HTTP: None, CHAT: 0.9, RUN_BATCH: None, LOOP: 1.15}
    setting = Setting("tiny", 46_000, 2048, reserved_cores=1)
    return Workload(f"(d) {count:,} short chats, 2 layers", setting, requests, sides)


def mixed(scale: float = 0.25) -> Workload:
    """Make (e): answers of 16 to 512 tokens, most of them short."""
    count = round(100 * scale)

    def requests(turn: int) -> list[Request]:
        chosen = _chosen(5, turn)
        lengths = [round(16 * 32 ** (number / max(count - 1, 1))) for number in range(count)]
        chosen.shuffle(lengths)
        return list(map(Request, _numbers(turn, 20_000, count), lengths))

    return Workload(f"(e) {count} answers of 16 to 512 tokens", DEMO, requests, {CHAT: 0.98, RUN_BATCH: 1.0, LOOP: 1.0})


def embeddings(scale: float = 0.2) -> Workload:
    """Make (f): embeddings."""
    count = round(500 * scale)

    def requests(turn: int) -> list[Request]:
        chosen = _chosen(6, turn)
        return [Request(_text(chosen, 60), 0) for _ in range(count)]

    sides = {HTTP: None, CHAT: None, RUN_BATCH: None, LOOP: None}
    return Workload(f"(f) {count} embeddings", Setting("demo-embeddings", 0, 256), requests, sides)


def wide(scale: float = 1.0) -> Workload:
    """Make (g): as many at once as the engine has sequences."""
    count = round(256 * scale)

    def requests(turn: int) -> list[Request]:
        return [Request(prompt, 32) for prompt in _numbers(turn, 30_000, count)]

    return Workload(f"(g) {count} at once", DEMO, requests, {CHAT: 0.98, RUN_BATCH: 1.0, LOOP: 1.0})


def long(scale: float = 0.25) -> Workload:
    """Make (h), the second half of (g): four long prompts."""
    words = round(7_950 * scale)

    def requests(turn: int) -> list[Request]:
        chosen = _chosen(8, turn)
        return [Request(_text(chosen, words), 16) for _ in range(4)]

    return Workload(f"(g) 4 prompts of {words:,} words", DEMO, requests, {CHAT: 0.98, RUN_BATCH: 1.0, LOOP: 1.0})


WORKLOADS: dict[str, tuple[Callable[..., Workload], ...]] = {
    "a": (unique,),
    "c": (repeated,),
    "e": (mixed,),
    "g": (wide, long),
    "b": (documents,),
    "d": (front_end,),
    "f": (embeddings,),
}
"""By letter; those on the same engine are together, because it is started once for all of them."""
