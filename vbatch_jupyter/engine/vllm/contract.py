"""Every name of vLLM that is used, as data: ``contract.toml``.

`installed` compares it with the vLLM that is there whenever an engine is loaded, ``make vllm-next VERSION=…`` with the
sources of any release, and ``docs/upgrading-vllm.md`` says how to support a new one. Nothing here imports vLLM.
"""

from __future__ import annotations

import dataclasses
import tomllib
from collections.abc import Iterable, Iterator, Mapping
from pathlib import Path
from typing import Any

_TABLE = tomllib.loads(Path(__file__).with_suffix(".toml").read_text(encoding="utf-8"))

REQUIREMENT: str = _TABLE["requirement"]
"""The versions that work, for pip."""

VERSIONS: Mapping[str, str] = _TABLE["versions"]
"""The same by release, with how that is known."""

MOVED: Mapping[str, str] = _TABLE["moved"]
"""Modules, and their names in older releases."""

NOT_FOUND: Mapping[str, Any] = _TABLE["not_found"]
"""The names of the exceptions for a model that there is not, and a pattern for the messages of others."""

ABORTED = b'"finish_reason":"abort"'
"""Part of vLLM's answer to a request that it aborted. An unescaped quote cannot be inside a JSON string, so these
bytes are the key itself and never a model's words."""

CORE_FAILED = "Engine core initialization failed"
"""What vLLM raises if its process did not start; the reason is in the log."""


@dataclasses.dataclass(frozen=True, slots=True)
class Touch:
    """What is used of one module.

    Parameters
    ----------
    module
        Its name in the newest release.
    names
        Such as ``"SomeClass.attribute"`` and ``"some_function(parameter,another)"``.
    texts
        Parts of its source: names of environment variables, metrics and routes, words of messages.
    """

    module: str
    names: tuple[str, ...] = ()
    texts: tuple[str, ...] = ()


@dataclasses.dataclass(frozen=True, slots=True)
class Use:
    """What a part of vLLM is used for.

    Parameters
    ----------
    purpose
        The end of a sentence after "is needed to".
    without
        What happens if something of it is missing; None if no engine can be loaded then.
    touches
        Where it is.
    """

    purpose: str
    without: str | None
    touches: tuple[Touch, ...]


def _expanded(lines: Iterable[str]) -> Iterator[str]:
    for line in lines:
        owner, _, attributes = line.rpartition(": ")
        yield from (f"{owner}.{attribute}" for attribute in attributes.split()) if owner else (line,)


def _use(table: Mapping[str, Any]) -> Use:
    texts = table.get("texts", {})
    modules = dict.fromkeys(name for name in (*table, *texts) if "." in name)
    touches = (Touch(name, tuple(_expanded(table.get(name, ()))), tuple(texts.get(name, ()))) for name in modules)
    return Use(table["purpose"], table.get("without"), tuple(touches))


CONTRACT: dict[str, Use] = {name: _use(table) for name, table in _TABLE["uses"].items()}
"""What is compared when an engine is loaded."""

ELSEWHERE: dict[str, Use] = {name: _use(table) for name, table in _TABLE["elsewhere"].items()}
"""What is used outside of this folder."""
