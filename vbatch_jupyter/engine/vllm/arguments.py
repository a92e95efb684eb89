"""The arguments of an engine: those of ``vllm serve``, with defaults for batches."""

from __future__ import annotations

import argparse
import os
import re
import secrets
from collections.abc import Iterator, Sequence
from typing import NoReturn

import psutil
import torch
from vllm.engine.arg_utils import AsyncEngineArgs
from vllm.platforms import current_platform
from vllm.utils.argparse_utils import FlexibleArgumentParser

from vbatch_jupyter.engine.vllm import installed
from vbatch_jupyter.errors import EngineArgumentError, did_you_mean

MAX_MODEL_LEN = 8192
"""The default limit of the context length, in tokens, because many requests share the KV cache."""

MAX_NUM_SEQS = 256

_SEEDS = 1 << 32
"""How many seeds there are: numpy takes no larger ones, and vLLM gives it the engine's."""

_MAX_KV_CACHE_BYTES = 4 << 30
_SHARE_OF_FREE_MEMORY = 4


def parse_arguments(model: str, flags: Sequence[str]) -> argparse.Namespace:
    """Parse what follows ``%vbatch load``.

    Parameters
    ----------
    model
        A Hugging Face id or a folder.
    flags
        Flags of ``vllm serve``. What they leave open is filled in: 256 sequences, priority scheduling, no fetching of
        media, and on CPUs 4,096 batched tokens, blocks of 32 tokens in the KV cache, eager mode and a KV cache of at
        most 4 GiB or a quarter of the free memory (vLLM's own default is a share of all memory, and fails on a shared
        machine). A file that ``--config`` names counts as flags. The seed is None if they do not have it.

    Raises
    ------
    EngineArgumentError
        A flag that ``vllm serve`` does not have, or a value that it refuses; the message names it.
    """
    cli_args = installed.load("vllm.entrypoints.common.cli_args")
    parser = cli_args.make_arg_parser(_Parser(add_help=False))
    # Not put among the flags: there they would come before those of a file that --config names.
    words = [word for option in _defaults() for word in option]
    filled = vars(parser.parse_args([model, *words]))
    parser.set_defaults(seed=None, **{name: filled[name] for name in map(_name, words) if name in filled})
    arguments: argparse.Namespace = parser.parse_args([model, *flags])
    arguments.model = model
    if arguments.served_model_name is None:
        arguments.served_model_name = [model]
    try:
        cli_args.validate_parsed_serve_args(arguments)
    except (ValueError, TypeError) as error:
        raise EngineArgumentError(str(error)) from error
    return arguments


def bounded_engine_args(arguments: argparse.Namespace) -> AsyncEngineArgs:
    """Build vLLM's engine arguments, with what the caller has left open.

    The context length is at most `MAX_MODEL_LEN`. The seed is chosen by chance: vLLM's is always 0, so that the first
    answers of each new engine would be the same ones.
    """
    engine_args = AsyncEngineArgs.from_cli_args(arguments)
    if arguments.seed is None:
        engine_args.seed = secrets.randbelow(_SEEDS)
    if arguments.max_model_len is None and engine_args.create_model_config().max_model_len > MAX_MODEL_LEN:
        engine_args.max_model_len = arguments.max_model_len = MAX_MODEL_LEN
    return engine_args


def _name(flag: str) -> str:
    return flag.removeprefix("--").replace("-", "_")


def _defaults() -> Iterator[list[str]]:
    yield ["--max-num-seqs", str(MAX_NUM_SEQS)]
    yield ["--scheduling-policy", "priority"]
    yield ["--enable-prompt-tokens-details"]
    # vLLM fetches any URL unless it is given a list of hosts; this list admits none (RFC 6761).
    yield ["--allowed-media-domains", "media-disabled.invalid"]
    if current_platform.is_cpu():
        yield ["--max-num-batched-tokens", "4096"]
        yield ["--enforce-eager"]
        # A prefix cache keeps whole blocks, and rows of a short template have less than vLLM's 128 tokens in common:
        # with 32 they run up to 1.9 times as fast. A prompt of 8,000 tokens that is like no other takes 1 % longer
        # (benchmarks/block_size.py).
        yield ["--block-size", "32"]
        if not installed.missing("bfloat16") and not torch.cpu._is_avx512_bf16_supported():  # noqa: SLF001
            # Without the instructions bfloat16 is emulated: measured at a fifth of float32's speed.
            yield ["--dtype", "float32"]
        if "VLLM_CPU_KVCACHE_SPACE" not in os.environ:
            size = min(_MAX_KV_CACHE_BYTES, psutil.virtual_memory().available // _SHARE_OF_FREE_MEMORY)
            yield ["--kv-cache-memory-bytes", str(size)]


class _Parser(FlexibleArgumentParser):  # type: ignore[misc, unused-ignore]
    """vLLM's parser, which raises instead of printing its usage and leaving the process."""

    def error(self, message: str) -> NoReturn:
        hint = ""
        if unknown := re.search(r"unrecognized arguments: (--[\w-]+)", message):
            hint = did_you_mean(unknown[1], self._option_string_actions, written=str)
        raise EngineArgumentError(f"vllm serve refuses the arguments: {message}.{hint}")
