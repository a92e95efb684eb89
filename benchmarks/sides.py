"""One side of one round of `bench.py`, in a process of its own: ``python sides.py SIDE TASK.json``.

The task has prompts, max_tokens, the model's folder and the engine's flags. The last line of the output is a JSON
object: seconds from the first request to the last answer in hand, seconds that the engine took to start, and tokens.
"""

from __future__ import annotations

import argparse
import asyncio
import json
import sys
import tempfile
import time
from collections.abc import Callable
from pathlib import Path
from typing import Any

WARM_UP = 16
Figures = dict[str, float]


def ours(task: dict[str, Any]) -> Figures:
    """Run the prompts through `vb.run`."""
    import pandas as pd

    import vbatch_jupyter as vb
    from vbatch_jupyter.kernel import current

    begun = time.perf_counter()
    vb.load(task["model"], **_keywords(task["flags"]))
    started = time.perf_counter()
    body = {"max_tokens": task["max_tokens"], "temperature": 0, "ignore_eos": True}
    vb.run(pd.DataFrame({"n": range(WARM_UP)}), "Warm up {{ n }}.", max_tokens=1)
    df = pd.DataFrame({"prompt": task["prompts"]})
    ready = time.perf_counter()
    out = vb.run(df, "{{ prompt }}", **body)
    seconds = time.perf_counter() - ready
    assert out["error"].isna().all()
    full = current().attach(next(current().batches()).id).results(full=True)
    asked = full[~full["reused"].astype(bool)]
    vb.unload()
    return {
        "seconds": seconds,
        "startup_seconds": started - begun,
        "cached_tokens": float(asked["cached_tokens"].fillna(0).sum()),
        "prompt_tokens": float(full["prompt_tokens"].sum()),
        "output_tokens": float(full["completion_tokens"].sum()),
    }


def llm_chat(task: dict[str, Any]) -> Figures:
    """Run the prompts through vLLM's `LLM.chat`."""
    from vllm import LLM, SamplingParams

    def chats(prompts: list[str]) -> list[Any]:
        return [[{"role": "user", "content": prompt}] for prompt in prompts]

    begun = time.perf_counter()
    llm = LLM(**{**_keywords(task["flags"]), "model": task["model"]})
    started = time.perf_counter()
    llm.chat(chats([f"Warm up {n}." for n in range(WARM_UP)]), SamplingParams(max_tokens=1), use_tqdm=False)
    params = SamplingParams(max_tokens=task["max_tokens"], temperature=0, ignore_eos=True)
    ready = time.perf_counter()
    outputs = llm.chat(chats(task["prompts"]), params, use_tqdm=False)
    seconds = time.perf_counter() - ready
    return {
        "seconds": seconds,
        "startup_seconds": started - begun,
        "cached_tokens": float(sum(output.num_cached_tokens or 0 for output in outputs)),
        "prompt_tokens": float(sum(len(output.prompt_token_ids) for output in outputs)),
        "output_tokens": float(sum(len(output.outputs[0].token_ids) for output in outputs)),
    }


def run_batch(task: dict[str, Any]) -> Figures:
    """Run the prompts through vLLM's own batch runner, from the file that it reads to the file that it writes."""
    from vllm.entrypoints.launchers import run_batch as launcher

    with tempfile.TemporaryDirectory() as folder:
        asked, answered = Path(folder, "in.jsonl"), Path(folder, "out.jsonl")
        body = {"model": task["model"], "max_tokens": task["max_tokens"], "temperature": 0, "ignore_eos": True}
        with asked.open("w") as lines:
            for number, prompt in enumerate(task["prompts"]):
                whole = {**body, "messages": [{"role": "user", "content": prompt}]}
                request = {"custom_id": f"row-{number}", "method": "POST", "url": "/v1/chat/completions", "body": whole}
                lines.write(json.dumps(request) + "\n")
        sys.argv = ["run_batch", "-i", str(asked), "-o", str(answered), "--model", task["model"]]
        sys.argv += ["--enable-prompt-tokens-details", *task["flags"]]
        moments: list[float] = []
        run = launcher.run_batch

        async def timed(*arguments: Any) -> None:
            moments.append(time.perf_counter())
            await run(*arguments)
            moments.append(time.perf_counter())

        launcher.run_batch = timed
        begun = time.perf_counter()
        asyncio.run(launcher.main(launcher.parse_args()))
        answers = [json.loads(line)["response"]["body"]["usage"] for line in answered.read_text().splitlines()]
    details = [usage["prompt_tokens_details"] or {} for usage in answers]
    assert len(answers) == len(task["prompts"])
    return {
        "seconds": moments[1] - moments[0],
        "startup_seconds": moments[0] - begun,
        "cached_tokens": float(sum(known.get("cached_tokens") or 0 for known in details)),
        "prompt_tokens": float(sum(usage["prompt_tokens"] for usage in answers)),
        "output_tokens": float(sum(usage["completion_tokens"] for usage in answers)),
    }


SIDES: dict[str, Callable[[dict[str, Any]], Figures]] = {"vb.run": ours, "LLM.chat": llm_chat, "run-batch": run_batch}


def _keywords(flags: list[str]) -> dict[str, Any]:
    """Give flags as Python's keyword arguments: those that `bench.py` writes have a value, or are switches."""
    given: dict[str, Any] = {}
    for flag in flags:
        if flag.startswith("--"):
            name = flag.removeprefix("--").replace("-", "_")
            given[name] = True
        else:
            given[name] = int(flag) if flag.isdecimal() else flag
    return given


def main() -> None:
    """Run the side that is named."""
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("side", choices=SIDES)
    parser.add_argument("task", type=Path)
    options = parser.parse_args()
    figures = SIDES[options.side](json.loads(options.task.read_text()))
    print("FIGURES " + json.dumps(figures), flush=True)


if __name__ == "__main__":
    main()
