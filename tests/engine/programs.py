"""What the tests of this folder have a kernel do, as functions that they call there: each returns what is then checked.

Imported into the kernel's namespace whole, so it also brings the names that short cells use.
"""

from __future__ import annotations

import asyncio
import codecs
import contextlib
import io
import itertools
import json
import os
import signal
import sys
import tempfile
import time
from pathlib import Path
from typing import Any, Literal
from unittest.mock import patch

import numpy as np
import pandas as pd
import psutil
from pydantic import BaseModel

import vbatch_jupyter as vb
from tests.engine.schema_features import FEATURES, sent
from tests.waiting import wait_for
from vbatch_jupyter.engine.demo_model import demo_model_path
from vbatch_jupyter.protocol.endpoints import ENDPOINTS
from vbatch_jupyter.session.batch import Batch
from vbatch_jupyter.session.input_file import submit_file
from vbatch_jupyter.session.session import current

__all__ = [
    "ANIMALS",
    "HELLO",
    "TOOL",
    "Batch",
    "alone_and_together",
    "arguments_of",
    "ask",
    "asked_by_person_and_batch",
    "asked_of_every_endpoint",
    "asyncio",
    "begin_batch",
    "cancelled_call",
    "choices_of",
    "count_of_engines",
    "counts_of_newest",
    "current",
    "cut",
    "dry_run_and_run",
    "end_the_engine",
    "engine",
    "errors_and_retry",
    "features_asked",
    "figures_that_move_and_rest",
    "json",
    "limits",
    "noise_of",
    "np",
    "os",
    "pd",
    "prompt_of",
    "prompts_sent",
    "rated",
    "rendered_in_place",
    "run_with_a_broken_logger",
    "said_of_long_rows",
    "samples_of_equal_rows",
    "show",
    "states_during",
    "temperature_and_invariance",
    "time",
    "tokens_of_each_endpoint",
    "unchecked",
    "vb",
    "vectors",
    "vectors_as_asked",
    "wait_until_loading",
]

HELLO = [{"role": "user", "content": "Say hello."}]
CHAT, TEXT, RESPONSE = "/v1/chat/completions", "/v1/completions", "/v1/responses"
VOLATILE = {"id", "created", "created_at", "completed_at", "request_id", "service_tier"}


def engine() -> Any:
    return current().engine


def ask(path: str, priority: int = 0, **body: Any) -> tuple[int, Any]:
    """Ask the engine, and return status and body of its answer."""

    async def call() -> tuple[int, Any]:
        response = await engine().request("POST", path, json.dumps(body).encode(), priority=priority)
        return int(response.status), json.loads(await response.read())

    return current()._thread.call(call(), timeout=100)


def prompt_of(messages: list[dict[str, Any]]) -> str:
    """Return the prompt that the demo model's chat template makes of messages."""
    from transformers import AutoTokenizer

    from vbatch_jupyter.engine.demo_model import demo_model_path

    _, body = ask(CHAT, model="demo", messages=messages, max_tokens=1, return_token_ids=True)
    return str(AutoTokenizer.from_pretrained(demo_model_path()).decode(body["prompt_token_ids"]))


def prompts_sent(df: pd.DataFrame, template: Any = None, **options: Any) -> list[str]:
    """Return the prompts that the demo model's chat template makes of a frame's rows."""
    from transformers import AutoTokenizer

    batch = vb.submit(df, template, max_tokens=2, return_token_ids=True, **options)
    batch.wait()
    record, tokenizer = current().store.batches.get(batch.id), AutoTokenizer.from_pretrained(demo_model_path())
    assert record.output_file_id is not None, batch.errors()
    with current().manager.files.content(record.output_file_id) as output:
        bodies = {line["custom_id"]: line["response"]["body"] for line in map(json.loads, output)}
    return [str(tokenizer.decode(bodies[f"row-{row}"]["prompt_token_ids"])) for row in range(len(df))]


def unchecked(asked: list[tuple[str, dict[str, Any]]]) -> list[tuple[int, str]]:
    """Ask the engine past our own rules, one after the other; return status and answer of each."""

    async def call() -> list[tuple[int, str]]:
        answers = []
        for path, body in asked:
            response = await engine()._answer(path, json.dumps(body).encode(), body, priority=0)
            answers.append((int(response.status), (await response.read()).decode()))
        return answers

    return current()._thread.call(call(), timeout=300)


def limits() -> list[Any]:
    """Return what is known of the engine's limits."""
    known = engine().limits
    return [known.max_model_len, sorted(known.paths), known.takes_tools]


def show(value: object) -> None:
    sys.stdout.write("JSON" + json.dumps(value))


# ------------------------------------------------------------------------------------------------------- test_semantics


def figures_that_move_and_rest() -> dict[str, Any]:
    long = [{"role": "user", "content": "the same long beginning " * 60}]
    start = engine().stats()

    def usage() -> Any:
        return ask(CHAT, model="demo", messages=long, max_tokens=4, ignore_eos=True)[1]["usage"]

    usages = [usage()]
    missed = engine().stats()
    usages += [usage(), usage()]
    busy = engine().stats()
    until = time.monotonic() + 30
    while (idle := engine().stats()).generation_tokens_per_second and time.monotonic() < until:
        time.sleep(0.1)  # the rates are those of the last seconds
    return {
        "cached": [usage["prompt_tokens_details"]["cached_tokens"] for usage in usages],
        "prompt": [sum(usage["prompt_tokens"] for usage in usages), busy.prompt_tokens - start.prompt_tokens],
        "generation": busy.generation_tokens - start.generation_tokens,
        "hit_rate": [missed.prefix_cache_hit_rate, busy.prefix_cache_hit_rate],
        "rates": [busy.prompt_tokens_per_second, busy.generation_tokens_per_second],
        "rest": [
            idle.prompt_tokens_per_second,
            idle.generation_tokens_per_second,
            idle.running,
            idle.waiting,
            idle.state,
        ],
    }


class Mood(BaseModel):
    happy: bool
    stars: Literal[1, 2, 3]


def rated() -> list[Any]:
    df = pd.DataFrame({"text": ["Great!", "word " * 3000, "Awful."]}, index=[7, 7, 3])
    out = vb.run(df, "Rate: {{ text }}", schema=Mood, max_tokens=300, temperature=0, fresh=True)
    return [
        list(out.columns),
        [str(dtype) for dtype in out.dtypes[["happy", "stars"]]],
        list(out.index),
        [None if pd.isna(one) else one for one in out["error"]],
        out["stars"].notna().tolist(),
    ]


def errors_and_retry() -> list[Any]:
    df = pd.DataFrame({"text": ["a", "word " * 3000, "b"]})
    batch = vb.submit(df, "Say {{ text }}", max_tokens=3).wait()
    again = batch.retry().wait()
    metadata = again.to_openai().metadata
    assert metadata is not None
    return [
        batch.errors()["custom_id"].tolist(),
        again.request_counts.total,
        metadata["retry_of"] == batch.id,
        again.results()["error"].isna().tolist(),
        list(again.results()["text"]) == list(df["text"]),
    ]


def cancelled_call(priority: int) -> list[Any]:
    """Cancel a call that the engine works on; return what it did before and after."""

    async def cancelled() -> list[Any]:
        body = json.dumps({"model": "demo", "messages": HELLO, "max_tokens": 900, "ignore_eos": True}).encode()
        task = asyncio.ensure_future(engine().request("POST", CHAT, body, priority=priority))
        until = time.monotonic() + 30
        while not engine().stats().kv_cache_usage and time.monotonic() < until:  # noqa: ASYNC110 - vLLM tells nobody
            await asyncio.sleep(0.05)
        before = engine().stats()
        task.cancel()
        await asyncio.wait([task])
        until = time.monotonic() + 30
        while engine().stats().running and time.monotonic() < until:  # noqa: ASYNC110
            await asyncio.sleep(0.05)
        after = engine().stats()
        return [before.running, before.kv_cache_usage > 0, after.running, after.kv_cache_usage, task.cancelled()]

    return current()._thread.call(cancelled())


def plain(value: Any) -> Any:
    """Return an answer without what differs each time."""
    if isinstance(value, dict):
        return {key: plain(each) for key, each in value.items() if key not in VOLATILE and "cached" not in key}
    if isinstance(value, float):
        return round(value, 2)  # what is in the prefix cache was computed together with other requests
    return [plain(each) for each in value] if isinstance(value, list | tuple) else value


def asked_by_person_and_batch() -> list[Any]:
    """Ask all kinds of things as a person and as a batch; return the pairs, and which were understood as a batch's."""
    asked: list[tuple[str, dict[str, Any]]] = [
        (CHAT, {"messages": HELLO, "temperature": 0, "max_tokens": 6}),
        (
            CHAT,
            {"messages": HELLO, "temperature": 1, "seed": 3, "n": 2, "logprobs": True, "top_logprobs": 1}
            | {"max_tokens": 4},
        ),
        (CHAT, {"messages": HELLO, "temperature": "hot"}),
        (CHAT, {"messages": [{"role": "user", "content": "word " * 3000}]}),
        (CHAT, {"messages": HELLO, "response_format": {"type": "json_schema"}}),
        (CHAT, {"messages": "Hello."}),
        (CHAT, {"messages": [{"role": "user", "content": [{"type": "text", "text": "Hi"}, {"type": "nothing"}]}]}),
        (TEXT, {"prompt": ["One, two,", "Three,"], "temperature": 0, "max_tokens": 2, "echo": True}),
        (TEXT, {"prompt": [5, 6, 7], "temperature": 0, "max_tokens": 1}),
        (RESPONSE, {"input": "Hi", "temperature": 0, "max_output_tokens": 2}),
        (RESPONSE, {"input": "Hi", "temperature": 5}),
        ("/v1/embeddings", {"input": "a"}),
    ]
    routes, made = engine()._routes, list[bool]()
    call = routes.call

    async def counted(*arguments: Any) -> Any:
        made.append(False)
        answer = await call(*arguments)
        made[-1] = answer is not None
        return answer

    routes.call = counted
    pairs = [[plain(ask(path, priority, model="demo", **body)) for priority in (0, 1000)] for path, body in asked]
    routes.call = call
    return [pairs, made]


def rendered_in_place() -> list[Any]:
    """Ask as a person and as a batch; return the pairs, and how many steps of each went to other threads."""
    executor, handed = engine()._llm.renderer._executor._inner, list[int]()
    submit = executor._threads.submit

    def counted(*arguments: Any, **keywords: Any) -> Any:
        handed[-1] += 1
        return submit(*arguments, **keywords)

    def answer(text: str, priority: int) -> tuple[int, str]:
        handed.append(0)
        messages = [{"role": "user", "content": text}]
        status, body = ask(CHAT, priority, model="demo", messages=messages, max_tokens=4, temperature=0)
        return status, body["choices"][0]["message"]["content"] if status == 200 else body["error"]["code"]

    executor._threads.submit = counted
    texts = ["Say hello.", "Say hello. " * 200, "1" * 1500, "1" * 3000]
    pairs = [[answer(text, priority) for priority in (0, 1000)] for text in texts]
    executor._threads.submit = submit
    return [pairs, handed]


def asked_of_every_endpoint() -> dict[str, Any]:
    df = pd.DataFrame({"word": ["one", "two"]})
    likely = vb.run(df, "{{ word }}", logprobs=True, top_logprobs=2, max_tokens=2, ignore_eos=True)
    continued = vb.run(df, "{{ word }}", endpoint="completions", max_tokens=12, temperature=0)
    responded = vb.run(df, "{{ word }}", endpoint="responses", max_output_tokens=12, temperature=0)
    schema = {"type": "object", "properties": {"n": {"enum": [1, 2, 3]}}, "required": ["n"]}
    tool = {"type": "function", "function": {"name": "count", "strict": True, "parameters": schema}}
    choice = {"type": "function", "function": {"name": "count"}}
    called = vb.run(df, "{{ word }}", tools=[tool], tool_choice=choice, max_tokens=60, temperature=0)
    return {
        "errors": [int(out["error"].notna().sum()) for out in (likely, continued, responded, called)],
        "calls": [[(one["name"], one["arguments"]["n"] in {1, 2, 3}) for one in row] for row in called["tool_calls"]],
        "likely": [list(likely.columns), [len(one["content"]) for one in likely["logprobs"]]],
        "texts": [type(text).__name__ for out in (continued, responded) for text in out["response"]],
    }


def dry_run_and_run(endpoint: str) -> list[Any]:
    """Count the prompt tokens of a batch beforehand, run it, and count again."""
    df = pd.DataFrame({"text": ["a cat", "Straßenbahn 🚋", "tax law", "tax law"]})
    asked: dict[str, Any] = {"endpoint": endpoint, "temperature": 0}
    asked["max_output_tokens" if endpoint == "responses" else "max_tokens"] = 4
    if endpoint != "completions":
        asked["system"] = "Be brief."
    dry = vb.dry_run(df, "What is {{ text }}?", **asked)
    batch = vb.submit(df, "What is {{ text }}?", **asked).wait()
    full = batch.results(full=True)
    again = vb.dry_run(df, "What is {{ text }}?", **asked)
    usage = batch.to_openai().usage
    assert usage is not None
    return [
        dry.prompt_tokens,
        usage.input_tokens,
        dry.duplicates,
        full["error"].isna().all().item(),
        full["reused"].tolist(),
        bool(full["latency"].dropna().between(0, 60).all()) and int(full["latency"].notna().sum()),
        full["completion_tokens"].tolist(),
        full["cached_tokens"].notna().all().item(),
        [again.reused, again.to_run],
    ]


def tokens_of_each_endpoint() -> dict[str, list[int]]:
    """Return the prompt tokens of one request: as the builder counts, as the dry run does, and as vLLM reports them."""
    df = pd.DataFrame({"text": ["Grüße from a cat"]})
    tool = {"name": "pet", "description": "Pet a cat.", "parameters": {"type": "object", "properties": {}}}
    options: dict[str, dict[str, Any]] = {
        "chat": {"system": "Be brief.", "tools": [{"type": "function", "function": tool}], "max_tokens": 1},
        "completions": {"max_tokens": 1},
        "responses": {"system": "Be brief.", "tools": [{"type": "function", **tool}], "max_output_tokens": 16},
    }
    found = {}
    for endpoint in ENDPOINTS.values():
        if endpoint.generates:
            asked = {"endpoint": endpoint.name, "model": "demo", **options[endpoint.name]}
            dry = vb.dry_run(df, "Say {{ text }}", **asked)
            (body,) = dry.requests.values()
            usage = vb.submit(df, "Say {{ text }}", fresh=True, **asked).wait().to_openai().usage
            assert usage is not None
            assert dry.prompt_tokens is not None
            counted = current().tokenize(endpoint, body)
            assert counted is not None
            found[endpoint.name] = [counted, dry.prompt_tokens, usage.input_tokens]
    return found


def vectors() -> list[Any]:
    """Embed three texts; return their lengths, whether the alike are alike, and the tokens counted before and after."""
    df = pd.DataFrame({"text": ["a cat", "a kitten", "tax law"]})
    out = vb.run(df, "{{ text }}", endpoint="embeddings")
    cat, kitten, law = (np.asarray(vector) / np.linalg.norm(vector) for vector in out["response"])
    dry = vb.dry_run(df, "{{ text }}", endpoint="embeddings")
    usage = vb.submit(df, "{{ text }}", endpoint="embeddings", fresh=True).wait().to_openai().usage
    assert usage is not None
    return [
        [len(vector) for vector in out["response"]],
        bool(cat @ kitten > cat @ law),
        out["error"].isna().all().item(),
        [dry.prompt_tokens, usage.input_tokens],
    ]


def arguments_of(*flags: str) -> dict[str, Any]:
    """Return what an engine would be started with, and by what reuse would know it."""
    from vbatch_jupyter.engine.vllm import answers_key, arguments

    model = str(demo_model_path())
    # vLLM sets variables when it reads them; a load puts the environment back.
    with patch.dict(os.environ):
        parsed = arguments.parse_arguments(model, ["--max-model-len", "512", *flags])
        built = arguments.bounded_engine_args(parsed)
    names = ("seed", "max_num_seqs", "scheduling_policy")
    return {**{name: getattr(built, name) for name in names}, "key": answers_key.answers_key(model, parsed)}


def temperature_and_invariance() -> list[Any]:
    """Return what vLLM makes of a temperature close to 0, and whether attention on a CPU can be batch-invariant."""
    with patch.dict(os.environ):
        from vllm import SamplingParams
        from vllm.v1.attention.backends.cpu_attn import CPUAttentionBackend

    return [SamplingParams(temperature=0.001).temperature, CPUAttentionBackend.supports_batch_invariance()]


def samples_of_equal_rows() -> dict[str, Any]:
    """Run equal rows again and again; return their answers, and how many of them the engine was asked for."""
    answers, asked = {}, {}
    for name, rows, seed in (
        ("eight", 8, None),
        ("eight again", 8, None),
        ("twelve", 12, None),
        ("seed -1", 3, -1),
        ("seed -1 again", 3, -1),
        ("seed 7", 3, 7),
    ):
        df = pd.DataFrame({"animal": ["fox"] * rows})
        batch = vb.submit(df, "Tell a story about a {{ animal }}.", temperature=1.2, max_tokens=24, seed=seed)
        full = batch.results(full=True)
        answers[name], asked[name] = full["response"].tolist(), int((~full["reused"]).sum())
    return {"answers": answers, "asked": asked}


ANIMALS = ("fox", "cat", "bear", "crow")


def alone_and_together(**sampling: Any) -> list[tuple[bool, float]]:
    """Return whether answers of requests that run alone are those among 32, and how far log probabilities are apart."""
    asked = {"max_tokens": 12, "logprobs": True, "fresh": True, **sampling}
    kinds = ("red", "old", "small", "wise", "sad", "tame", "wild")
    crowd = [f"{kind} {animal}" for kind in kinds for animal in ANIMALS]

    def said(*animals: str) -> list[list[tuple[str, float]]]:
        out = vb.run(pd.DataFrame({"animal": animals}), "Invent a name for a {{ animal }}, and say why.", **asked)
        return [[(one["token"], one["logprob"]) for one in content["content"]] for content in out["logprobs"]]

    found = []
    for alone, together in zip([said(animal)[0] for animal in ANIMALS], said(*ANIMALS, *crowd), strict=False):
        shared = list(itertools.takewhile(lambda pair: pair[0][0] == pair[1][0], zip(alone, together, strict=False)))
        found.append((len(shared) == 12, max((abs(one[1] - other[1]) for one, other in shared), default=0.0)))
    return found


def noise_of(**sampling: Any) -> dict[str, Any]:
    """Compare two prompts with a second run of the rows that changed; return what a third run then has as well."""
    df, asked = pd.DataFrame({"animal": ANIMALS}), {"max_tokens": 24, **sampling}
    story, poem = (vb.submit(df, f"Write a {kind} about a {{{{ animal }}}}.", **asked) for kind in ("story", "poem"))
    out = vb.compare(story, poem, names=("story", "poem"), noise=True)
    again = vb.submit(df, "Write a story about a {{ animal }}.", **asked).results(full=True)
    return {
        "columns": list(out.columns),
        "changed": out["changed"].tolist(),
        "noise": [None if pd.isna(noise) else bool(noise) for noise in out["noise"]],
        # The second run is not kept: a third has the answers of the first.
        "kept": (again["response"] == out["story"]).tolist(),
        "reused": again["reused"].tolist(),
    }


def said_of_long_rows() -> dict[str, Any]:
    """Submit rows of which two are longer than the model takes; return what is said before, and which failed."""
    said = io.StringIO()
    with contextlib.redirect_stdout(said):
        batch = vb.submit(pd.DataFrame({"n": [10, 1500, 900, 3000]}), "{{ 'word ' * n }}", max_tokens=1)
    return {"said": said.getvalue(), "failed": batch.results()["error"].notna().tolist()}


def vectors_as_asked() -> list[Any]:
    """Return how far vectors in base64 are from the same in numbers, in a frame and in a file, and their counts."""
    df = pd.DataFrame({"text": ["a cat"]})
    (plain,) = vb.run(df, "{{ text }}", endpoint="embeddings")["response"]
    furthest = {}
    for dtype in ("float32", "float16", "bfloat16", "fp8_e4m3", "fp8_e5m2"):
        asked = {"encoding_format": "base64", "embed_dtype": dtype, "endianness": "big"}
        (found,) = vb.run(df, "{{ text }}", endpoint="embeddings", **asked)["response"]
        furthest[dtype] = [len(found), float(np.abs(found - plain).max())]
    request = {"custom_id": "both", "method": "POST", "url": "/v1/embeddings"}
    body = {
        "model": "demo-embeddings",
        "input": ["a cat", "tax law"],
        "encoding_format": "base64",
        "embed_dtype": "float16",
    }
    path = Path(tempfile.mkdtemp()) / "in.jsonl"
    path.write_bytes(codecs.BOM_UTF8 + json.dumps({**request, "body": body}).encode())
    out = current().follow(submit_file(current(), path)).results()
    (both,) = out["response"]
    return [furthest, out["custom_id"].tolist(), [len(one) for one in both], float(np.abs(both[0] - plain).max())]


TOOL = {
    "type": "function",
    "function": {"name": "count", "parameters": {"type": "object", "properties": {"n": {"type": "integer"}}}},
}


def cut(**asked: Any) -> dict[str, Any]:
    """Ask what is cut off after a few tokens; return the plain result, the failures, and what a retry would run."""
    batch = vb.submit(pd.DataFrame({"text": ["a", "b"]}), "Say {{ text }}", fresh=True, **asked).wait()
    out = batch.results()
    return {
        "columns": list(out.columns),
        "has_answer": out["response"].notna().tolist(),
        "errors": sorted(set(out["error"].dropna())),
        "failed": batch.errors()["custom_id"].tolist(),
        "reasoning": batch.results(full=True)["reasoning"].notna().tolist(),
        "retried": batch.retry().wait().request_counts.total,
        "nulls": [name for usage in usages_of(batch) for name, value in usage.items() if value is None],
    }


def usages_of(batch: Batch) -> list[dict[str, Any]]:
    """Return the usage in each line of a batch, details too."""
    with current().manager.files.content(batch.to_openai().output_file_id) as lines:
        usages = [json.loads(line)["response"]["body"]["usage"] for line in lines]
    return [*usages, *(details for usage in usages for details in usage.values() if isinstance(details, dict))]


# ----------------------------------------------------------------------------------------------------------- test_traps


def features_asked() -> dict[str, Any]:
    """Ask for each feature of a schema, a token each; return what the engine refuses, and how many were asked."""

    def body(schema: dict[str, Any]) -> dict[str, Any]:
        form = {"type": "json_schema", "json_schema": {"name": "made", "schema": schema, "strict": True}}
        return {"model": "tiny", "messages": HELLO, "max_tokens": 1, "response_format": form}

    async def ask_all() -> list[Any]:
        bodies = [json.dumps(body(sent(feature))).encode() for feature in FEATURES.values()]
        responses = await asyncio.gather(*(engine().request("POST", CHAT, one, priority=0) for one in bodies))
        return [(int(response.status), json.loads(await response.read())) for response in responses]

    answers = current()._thread.call(ask_all(), timeout=200)
    refused = {name: body for name, (status, body) in zip(FEATURES, answers, strict=True) if status != 200}
    return {"refused": refused, "asked": len(answers)}


def begin_batch(prompt: str) -> Batch:
    """Submit 150 requests of some length, and return the batch when it is in the middle."""
    batch = vb.submit(pd.DataFrame({"n": range(150)}), prompt, max_tokens=60, ignore_eos=True, fresh=True)
    while batch.request_counts.completed < 20:
        time.sleep(0.02)
    return batch


def end_the_engine(how: Literal["SIGTERM", "SIGKILL"]) -> None:
    """End the engine's core, and with SIGKILL all of its processes."""
    for child in psutil.Process().children(recursive=True):
        with contextlib.suppress(psutil.NoSuchProcess):  # it may end when another of them does
            name = " ".join(child.cmdline())
            if "EngineCore" in name or (how == "SIGKILL" and "resource_tracker" not in name):
                child.send_signal(signal.Signals[how])


def states_during(slow_tokens: int) -> list[Any]:
    """Ask two prompts of 8,190 tokens, then what is slow; return the states meanwhile, and the pauses of the engine."""

    async def call() -> list[Any]:
        long = {"model": "tiny", "prompt": [5] * 8190, "max_tokens": 2, "ignore_eos": True}
        slow = {"model": "tiny", "prompt": "a", "max_tokens": slow_tokens, "ignore_eos": True}
        states, pauses, counters = set[str](), [0.0], engine()._counters
        statuses, tokens = [], []

        async def ask(body: dict[str, Any]) -> None:
            response = await engine().request("POST", TEXT, json.dumps(body).encode())
            statuses.append(response.status)
            tokens.append(json.loads(await response.read())["usage"]["prompt_tokens"])

        for asked in ([long, {**long, "prompt": [6] * 8190}], [slow]):
            asking = asyncio.gather(*map(ask, asked))
            steps, since = counters.steps, time.monotonic()
            while not asking.done():
                states.add(engine().state)
                if counters.steps != steps:
                    steps, since = counters.steps, time.monotonic()
                pauses.append(time.monotonic() - since)
                await asyncio.sleep(0.02)
            await asking
        return [statuses, tokens, sorted(states), pauses]

    return current()._thread.call(call(), timeout=300)


def wait_until_loading() -> None:
    while engine().state != "loading":
        time.sleep(0.01)


def count_of_engines(*, at_most: int) -> int:
    """Wait a while until no more engines than that are there; return how many there are."""
    until = time.monotonic() + 60
    while (found := _engines()) > at_most and time.monotonic() < until:
        time.sleep(0.1)
    return found


def _engines() -> int:
    found = 0
    for child in psutil.Process().children(recursive=True):
        with contextlib.suppress(psutil.NoSuchProcess):  # it may end, or be a zombie, meanwhile
            found += "EngineCore" in " ".join(child.cmdline())
    return found


def choices_of(batch: Batch) -> list[Any]:
    """Return whether a batch of 150 has each request once, each answer is whole, and no row has an error."""
    file_id = batch.to_openai().output_file_id
    assert file_id is not None
    lines = [json.loads(line) for line in current().manager.files.content(file_id)]
    return [
        sorted(line["custom_id"] for line in lines) == sorted(f"row-{n}" for n in range(150)),
        {choice["finish_reason"] for line in lines for choice in line["response"]["body"]["choices"]} == {"length"},
        batch.results()["error"].isna().all().item(),
    ]


def run_with_a_broken_logger() -> list[Any]:
    def broken(*_: object) -> None:
        raise RuntimeError("the figures are broken")

    engine()._counters.observe = broken
    out = vb.run(pd.DataFrame({"n": range(3)}), "Try {{ n }}", max_tokens=5, fresh=True)
    # vLLM records a step after it has handed out what the step has made.
    logged = wait_for(lambda: "the figures are broken" in engine().log_path.read_text())
    del engine()._counters.observe
    return [out["error"].isna().all().item(), engine().state, logged]


def counts_of_newest(out: pd.DataFrame) -> list[Any]:
    """Return how the newest batch has ended, and what a frame of 2,000 rows has of it."""
    newest = next(current().batches())
    counts = newest.request_counts
    return [
        newest.status,
        0 < counts.completed < 2000,
        counts.failed,
        len(out),
        int(out["error"].isna().sum()) == counts.completed,
        sorted(set(out["error"].dropna())),
        engine().state,
    ]
