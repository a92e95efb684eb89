"""The engines of `bench.py`: their models, the arguments that all sides have, and what their prefix cache can give."""

from __future__ import annotations

import itertools
import json
import sys
from pathlib import Path
from typing import TYPE_CHECKING

sys.path.insert(0, str(Path(__file__).parents[1]))

from tests.models import make_tiny_model

if TYPE_CHECKING:
    from workloads import Setting, Workload


def folder_of(setting: Setting, made: Path) -> Path:
    """Return a model's folder; the tiny one is made.

    Parameters
    ----------
    setting
        What names the model.
    made
        Where it may be made.
    """
    from vbatch_jupyter.engine.demo_model import demo_embedding_model_path, demo_model_path

    if setting.model == "demo":
        return demo_model_path()
    if setting.model == "demo-embeddings":
        return demo_embedding_model_path()
    folder = made / setting.model
    return folder if folder.exists() else make_tiny_model(folder)


def flags_of(setting: Setting, folder: Path, *, equal: bool) -> list[str]:
    """Return the engine arguments that all sides have, or only the room that the side with its own defaults has too."""
    from vbatch_jupyter.engine.vllm.arguments import parse_arguments

    arguments = parse_arguments(str(folder), [])
    flags = ["--max-model-len", str(setting.max_model_len)]
    flags += ["--kv-cache-memory-bytes", str(_kv_bytes(setting, folder, arguments.dtype))]
    if not equal:
        return flags
    flags += ["--dtype", arguments.dtype, "--max-num-seqs", str(arguments.max_num_seqs)]
    if arguments.max_num_batched_tokens:
        flags += ["--max-num-batched-tokens", str(arguments.max_num_batched_tokens)]
    if arguments.block_size:
        flags += ["--block-size", str(arguments.block_size)]
    return [*flags, "--enforce-eager"] if arguments.enforce_eager else flags


def variables_of(setting: Setting, *, equal: bool) -> dict[str, str]:
    """Return the environment variables that all sides have, or none for the side with its own defaults."""
    return {"VLLM_CPU_NUM_OF_RESERVED_CPU": str(setting.reserved_cores)} if equal else {}


def _kv_bytes(setting: Setting, folder: Path, dtype: str) -> int:
    if not setting.kv_tokens:
        # A model without a KV cache; by default vLLM would ask for a share of the machine's memory all the same.
        return 64 << 20
    config = json.loads((folder / "config.json").read_text())
    size = 2 if dtype in {"bfloat16", "float16", "half", "auto"} else 4
    heads = int(config["num_key_value_heads"]) * int(config["head_dim"])
    return 2 * int(config["num_hidden_layers"]) * heads * size * setting.kv_tokens


def ideal_cached(workload: Workload, folder: Path) -> float | None:
    """Count the prompt tokens of a round that the best order finds in a prefix cache without bounds.

    None if the size of a block is left to vLLM, as on a GPU.

    Whatever the order, a request finds at most the whole blocks that it shares with one before it, and sorted ones
    share most with their neighbour.
    """
    from transformers import AutoTokenizer

    flags = flags_of(workload.setting, folder, equal=True)
    if "--block-size" not in flags:
        return None
    block_size = int(flags[flags.index("--block-size") + 1])
    tokenizer = AutoTokenizer.from_pretrained(folder)
    chats = [[{"role": "user", "content": request.prompt}] for request in workload.requests(0)]
    prompts = sorted(tokenizer.apply_chat_template(chats, add_generation_prompt=True, return_dict=True)["input_ids"])
    cached = 0
    for before, after in itertools.pairwise(prompts):
        shared = len(list(itertools.takewhile(lambda pair: pair[0] == pair[1], zip(before, after, strict=False))))
        # The last token is always computed: it gives the first of the answer.
        cached += min(shared, len(after) - 1) // block_size * block_size
    return float(cached)
