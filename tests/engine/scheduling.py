"""Play steps of the scheduler without an engine: ``python scheduling.py MODEL NAME …`` prints them as JSON.

The scheduler, its requests and its memory are vLLM's; only the model is missing, whose answer is always the same token.
"""

from __future__ import annotations

import itertools
import json
import sys
from collections.abc import Callable, Sequence
from typing import Any

import torch
from vllm.sampling_params import SamplingParams
from vllm.usage.usage_lib import UsageContext
from vllm.utils.hashing import sha256
from vllm.v1.core.kv_cache_utils import get_request_block_hasher, init_none_hash
from vllm.v1.kv_cache_interface import FullAttentionSpec, KVCacheConfig, KVCacheGroupSpec
from vllm.v1.outputs import ModelRunnerOutput
from vllm.v1.request import Request
from vllm.v1.structured_output import StructuredOutputManager

from vbatch_jupyter.engine.vllm import scheduler as ours
from vbatch_jupyter.engine.vllm.arguments import bounded_engine_args, parse_arguments

SLOTS, BLOCK, BLOCKS = 4, 32, 400
BATCH, CHATS = [f"batch-{number}" for number in range(6)], ["chat-0", "chat-1", "chat-2"]


class Play:
    """A batch that has all slots, and chats that come while it runs."""

    def __init__(self, model: str, *, broken: type | None = None) -> None:
        flags = ["--max-model-len", "512", "--max-num-seqs", str(SLOTS), "--max-num-active-seqs", str(SLOTS)]
        arguments = parse_arguments(model, [*flags, "--kv-cache-memory-bytes", "50M", "--no-async-scheduling"])
        config = bounded_engine_args(arguments).create_engine_config(usage_context=UsageContext.LLM_CLASS)
        ours.put_into(config.scheduler_config)
        assert config.scheduler_config.scheduler_cls == "vbatch_jupyter.engine.vllm.scheduler.InteractiveFirstScheduler"
        config.cache_config.num_gpu_blocks = BLOCKS
        layers = FullAttentionSpec(block_size=BLOCK, num_kv_heads=1, head_size=64, dtype=torch.float32)
        memory = KVCacheConfig(BLOCKS, [], [KVCacheGroupSpec(["layer"], layers)])
        kind = broken or ours.InteractiveFirstScheduler
        self.scheduler: Any = kind(config, memory, StructuredOutputManager(config), block_size=BLOCK)
        self.steps: list[list[str]] = []
        self.finished: set[str] = set()
        self.arrived = itertools.count()

    def add(self, name: str, priority: int, tokens: int) -> None:
        params = SamplingParams(max_tokens=tokens, ignore_eos=True)
        hasher = get_request_block_hasher(BLOCK, sha256)
        moment = float(next(self.arrived))
        prompt = [5 + next(self.arrived)] * 40
        self.scheduler.add_request(
            Request(name, prompt, params, None, arrival_time=moment, priority=priority, block_hasher=hasher)
        )

    def step(self) -> None:
        plan = self.scheduler.schedule()
        names = list(plan.num_scheduled_tokens)
        self.steps.append(sorted(names))
        places = {name: place for place, name in enumerate(names)}
        result = ModelRunnerOutput(req_ids=names, req_id_to_index=places, sampled_token_ids=[[7] for _ in names])
        for outputs in self.scheduler.update_from_output(plan, result).values():
            self.finished |= {output.request_id for output in outputs.outputs if output.finished}

    def run(self) -> dict[str, Any]:
        for name in BATCH:
            self.add(name, 1000, 12)
        self.step()
        self.step()
        for name in CHATS:
            self.add(name, 0, 3)
            self.step()
        for _ in range(100):
            if len(self.finished) == len(BATCH) + len(CHATS):
                break
            self.step()
        return {"steps": self.steps, "finished": sorted(self.finished), "is_on": self.scheduler.vbatch_is_on}


def hidden(name: str, kind: type) -> property:
    """Make an attribute that vLLM sees, and our scheduler does not."""
    before = getattr(kind, name, None)

    def read(holder: Any) -> Any:
        if sys._getframe(1).f_globals["__name__"] == ours.__name__:
            raise AttributeError(f"'{kind.__name__}' object has no attribute '{name}'")
        if isinstance(before, property):
            return before.__get__(holder)
        return before.__get__(holder) if callable(before) else holder.__dict__[name]

    def write(holder: Any, value: Any) -> None:
        holder.__dict__[name] = value

    return property(read, write)


def played_without(model: str, name: str) -> dict[str, Any]:
    owner, _, attribute = name.partition("(")[0].partition(".")
    if owner == "Scheduler":
        kind = ours.InteractiveFirstScheduler
        return Play(model, broken=type("Broken", (kind,), {attribute: hidden(attribute, kind)})).run()
    before = vars(Request).get(attribute)
    setattr(Request, attribute, hidden(attribute, Request))
    try:
        return Play(model).run()
    finally:
        setattr(Request, attribute, before) if before is not None else delattr(Request, attribute)


def main(model: str, names: Sequence[str]) -> dict[str, Any]:
    init_none_hash(sha256)
    played: dict[str, Any] = {"whole": Play(model).run()}
    timed: dict[str, Callable[[Any], None]] = {
        "v2": lambda scheduler: setattr(scheduler, "use_v2_model_runner", True),
        "interval": lambda scheduler: setattr(scheduler.scheduler_config, "prefill_schedule_interval", 2),
    }
    for name, change in timed.items():
        play = Play(model)
        change(play.scheduler)
        played[name] = play.run()
    return {**played, "without": {name: played_without(model, name) for name in names}}


if __name__ == "__main__":
    sys.stdout.write("JSON" + json.dumps(main(sys.argv[1], sys.argv[2:])))
