"""Python keyword arguments ⇄ the flags of ``vllm serve``."""

from __future__ import annotations

import json
from collections.abc import Mapping, Sequence
from typing import Any


def to_flags(arguments: Mapping[str, Any]) -> list[str]:
    """Write keyword arguments as ``vllm serve`` takes them on its command line.

    Parameters
    ----------
    arguments
        By name, with underscores. True and False switch a flag on and off, None leaves it out, a list gives several
        values, a mapping is sent as JSON.

    Examples
    --------
    >>> to_flags({"max_model_len": 2048, "enforce_eager": True, "served_model_name": ["a", "b"]})
    ['--max-model-len', '2048', '--enforce-eager', '--served-model-name', 'a', 'b']
    >>> to_flags({"enable_prefix_caching": False, "hf_overrides": {"a": 1}, "seed": None})
    ['--no-enable-prefix-caching', '--hf-overrides', '{"a": 1}']
    """
    flags: list[str] = []
    for name, value in arguments.items():
        flag = "--" + name.replace("_", "-")
        if value is None:
            continue
        if value is True:
            flags.append(flag)
        elif value is False:
            flags.append("--no-" + flag.removeprefix("--"))
        elif isinstance(value, Mapping):
            flags += [flag, json.dumps(value)]
        elif isinstance(value, list | tuple):
            flags += [flag, *map(str, value)]
        else:
            flags += [flag, str(value)]
    return flags


def served_names(model: str, flags: Sequence[str]) -> tuple[str, ...]:
    """Give the names under which a model will be served, before there is an engine to ask.

    Parameters
    ----------
    model
        What is loaded; its name where the flags give no other.
    flags
        Flags of ``vllm serve``.

    Examples
    --------
    >>> served_names("demo", ["--served-model-name", "a", "b", "--seed", "1"]), served_names("demo", ["--seed", "1"])
    (('a', 'b'), ('demo',))
    >>> served_names("demo", ["--served_model_name=a"])
    ('a',)
    """
    names: list[str] = []
    naming = False
    for flag in flags:
        if flag.startswith("-"):
            option, _, value = flag.replace("_", "-").partition("=")
            naming = option == "--served-model-name"
            # The name itself may have an underscore.
            names += [flag.partition("=")[2]] if naming and value else []
        elif naming:
            names.append(flag)
    return tuple(names) or (model,)
