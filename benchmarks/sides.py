"""The sides of `bench.py`, each in a process of its own: ``python sides.py SIDE ENGINE REPLY_TO``.

Each gives for each round the seconds from the first request to the last answer in hand, and tokens.
"""

from __future__ import annotations

import asyncio
import inspect
import json
import sys
import time
from collections.abc import Callable
from pathlib import Path
from typing import Any

from rounds import Engine, Rounds, of_usages
from serving import async_openai, http_batch, llama_cpp
from workloads import CHAT, HTTP, LLAMA, LOOP, OURS, RUN_BATCH, RUN_BATCH_DEFAULTS, Request, as_lines


def vb_run(engine: Engine, rounds: Rounds) -> None:
    """Run a frame through `vb.run`; where requests differ in more than the prompt, their file, as ``%vbatch run``."""
    import pandas as pd

    import vbatch_jupyter as vb
    from vbatch_jupyter.session.input_file import submit_file
    from vbatch_jupyter.session.session import current

    def ask(requests: list[Request]) -> Any:
        if len({request.max_tokens for request in requests}) > 1:
            path = Path(engine.place, "in.jsonl")
            path.write_text(as_lines(requests, engine.folder))
            return current().follow(submit_file(current(), path)).results()
        df = pd.DataFrame({"prompt": [request.prompt for request in requests]})
        endpoint = "chat" if requests[0].max_tokens else "embeddings"
        return vb.run(df, "{{ prompt }}", endpoint=endpoint, **requests[0].sampling())

    vb.load(engine.folder, **engine.keywords())
    for requests in rounds:
        begun = time.perf_counter()
        out = ask(requests)
        seconds = time.perf_counter() - begun
        assert out["error"].isna().all()
        full = current().attach(next(current().batches()).id).results(full=True)
        asked = full[~full["reused"].astype(bool)]
        rounds.reply(
            {
                "seconds": seconds,
                "cached_tokens": float(asked["cached_tokens"].fillna(0).sum()),
                "prompt_tokens": float(full["prompt_tokens"].sum()),
                "output_tokens": float(full["completion_tokens"].fillna(0).sum()),
            }
        )
    vb.unload()


def llm_chat(engine: Engine, rounds: Rounds) -> None:
    """Run the prompts through vLLM's `LLM.chat`, or `LLM.embed`."""
    from vllm import LLM, SamplingParams

    llm = LLM(**{**engine.keywords(), "model": engine.folder})

    def ask(requests: list[Request]) -> list[Any]:
        if not requests[0].max_tokens:
            return list(llm.embed([request.prompt for request in requests], use_tqdm=False))
        chats: list[Any] = [[{"role": "user", "content": request.prompt}] for request in requests]
        params = [SamplingParams(**request.sampling()) for request in requests]
        return list(llm.chat(chats, params, use_tqdm=False))

    def generated(output: Any) -> int:
        return len(output.outputs[0].token_ids) if isinstance(output.outputs, list) else 0

    for requests in rounds:
        begun = time.perf_counter()
        outputs = ask(requests)
        seconds = time.perf_counter() - begun
        rounds.reply(
            {
                "seconds": seconds,
                "cached_tokens": float(sum(output.num_cached_tokens or 0 for output in outputs)),
                "prompt_tokens": float(sum(len(output.prompt_token_ids) for output in outputs)),
                "output_tokens": float(sum(map(generated, outputs))),
            }
        )


def run_batch(engine: Engine, rounds: Rounds) -> None:
    """Run the file through vLLM's own batch runner: from the file that it reads to the file that it writes."""
    from vllm.entrypoints.launchers import run_batch as launcher

    asked, answered = Path(engine.place, "in.jsonl"), Path(engine.place, "out.jsonl")
    # 0.33 reads the file before it starts; engine/vllm/contract.toml has both signatures, the newer one was not run.
    takes_file = "input_file" in inspect.signature(launcher.run_batch).parameters
    build, run = launcher.build_endpoint_registry, launcher.run_batch
    built: list[Any] = []

    async def build_once(**arguments: Any) -> Any:
        # It belongs to the start: the program runs one file, and makes it for that.
        if not built:
            built.append(await build(**arguments))
        return built[0]

    async def ask(client: Any, args: Any, requests: list[Request]) -> float:
        await asyncio.to_thread(asked.write_text, as_lines(requests, engine.folder))
        begun = time.perf_counter()
        with asked.open() as file:  # noqa: ASYNC230
            await run(client, args, *((file, len(requests)) if takes_file else ()))
        return time.perf_counter() - begun

    async def run_rounds(client: Any, args: Any, *_: Any) -> None:
        given = iter(rounds)
        while (requests := await asyncio.to_thread(next, given, None)) is not None:
            seconds = await ask(client, args, requests)
            output = await asyncio.to_thread(answered.read_text)
            answers = [json.loads(line)["response"]["body"] for line in output.splitlines()]
            assert len(answers) == len(requests)
            rounds.reply(of_usages(seconds, (answer["usage"] for answer in answers)))

    launcher.build_endpoint_registry, launcher.run_batch = build_once, run_rounds
    asked.write_text(as_lines([Request("Hello.", 1)], engine.folder) if takes_file else "")
    sys.argv = ["run_batch", "-i", str(asked), "-o", str(answered), "--model", engine.folder]
    sys.argv += ["--enable-prompt-tokens-details", *engine.flags]
    asyncio.run(launcher.main(launcher.parse_args()))


SIDES: dict[str, Callable[[Engine, Rounds], None]] = {
    OURS: vb_run,
    HTTP: http_batch,
    CHAT: llm_chat,
    RUN_BATCH: run_batch,
    RUN_BATCH_DEFAULTS: run_batch,
    LOOP: async_openai,
    LLAMA: llama_cpp,
}


def main() -> None:
    """Run the side that is named, as often as it is asked to."""
    side, engine, reply_to = sys.argv[1:]
    SIDES[side](Engine(**json.loads(engine)), Rounds(int(reply_to)))


if __name__ == "__main__":
    main()
