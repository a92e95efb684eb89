"""What identifies the answers of an engine: reuse takes only those that an engine with the same key has given."""

from __future__ import annotations

import argparse
import dataclasses
import hashlib
import json
import os
from collections.abc import Iterator
from pathlib import Path
from typing import Any

_NEUTRAL_ARGUMENTS = frozenset(
    {"max_num_seqs", "max_num_batched_tokens", "kv_cache_memory_bytes", "served_model_name", "scheduling_policy"}
)
"""Arguments that change how fast an engine answers, but not its answers."""

_FOLDER_ARGUMENTS = ("generation_config", "hf_config_path", "lora_modules", "speculative_config", "tokenizer")
"""Arguments that may name a folder whose files decide an answer."""


def answers_key(model: str, arguments: argparse.Namespace) -> str:
    """Identify what decides an answer. A seed is part of it only if the user has given one.

    Parameters
    ----------
    model
        A Hugging Face id or a folder.
    arguments
        What the engine is started with.
    """
    options = {name: repr(value) for name, value in sorted(vars(arguments).items()) if name not in _NEUTRAL_ARGUMENTS}
    template = Path(arguments.chat_template).read_text() if _is_file(arguments.chat_template) else ""
    # An adapter that was trained once more has the same path.
    named = [text for name in _FOLDER_ARGUMENTS for text in _texts_in(getattr(arguments, name, None))]
    places = [_state_of(text) for text in named if len(text) < os.pathconf("/", "PC_PATH_MAX")]
    return hashlib.sha256(json.dumps([_state_of(model), options, template, places]).encode()).hexdigest()


def _state_of(place: str) -> list[Any]:
    """Return the files of a folder with their sizes and times; the text itself if it does not name one."""
    folder = Path(place)
    if not folder.is_dir():
        return [place]
    return sorted((path.name, path.stat().st_size, path.stat().st_mtime_ns) for path in folder.iterdir())


def _texts_in(value: Any) -> Iterator[str]:
    if isinstance(value, str):
        yield value
    for inner in value.values() if isinstance(value, dict) else value if isinstance(value, list) else ():
        yield from _texts_in(inner)
    if dataclasses.is_dataclass(value):
        yield from _texts_in(vars(value))


def _is_file(name: str | None) -> bool:
    return name is not None and len(name) < os.pathconf("/", "PC_PATH_MAX") and Path(name).is_file()
