"""Defaults of the magics' flags: ``[tool.vbatch]`` of the project, ``vbatch.toml`` of the user.

The project's are in the nearest ``pyproject.toml`` upwards of the working directory; the user's, which it goes before,
in Jupyter's configuration directory. Beside them there may be a table ``targets``, which `targets.configuration` reads.
What ``%config VBatchMagics.…`` sets goes before both, and a flag before everything.
"""

from __future__ import annotations

from collections.abc import Mapping
from pathlib import Path
from typing import Any, Literal

import msgspec

from vbatch_jupyter.errors import BadRequestError
from vbatch_jupyter.magics.grammar import near_misses
from vbatch_jupyter.targets.configuration import configured_tables


class Defaults(msgspec.Struct, frozen=True, kw_only=True, omit_defaults=True):
    """What may be set; the names are those of the flags, and of the traits of the magics."""

    background: bool | None = None
    endpoint: str | None = None
    fresh: bool | None = None
    max_tokens: int | None = None
    model: str | None = None
    output: str | None = None
    progress: Literal["auto", "widget", "text", "none"] | None = None
    sample: int | None = None
    seed: int | None = None
    system: str | None = None
    target: str | None = None
    temperature: float | None = None


def from_files(folder: Path | None = None) -> dict[str, Any]:
    """Give the defaults that the files set, by name.

    Parameters
    ----------
    folder
        Where to look upwards for ``pyproject.toml``; the working directory by default.

    Raises
    ------
    BadRequestError
        A file is no TOML, or says something that is no default.
    """
    found: dict[str, Any] = {}
    for path, name, table in configured_tables(folder):
        found |= _defaults_in(f"[{name}] in {path}" if name else str(path), table)
    return found


def _defaults_in(where: str, table: Mapping[str, Any]) -> dict[str, Any]:
    table = {name: value for name, value in table.items() if name != "targets"}
    known = Defaults.__struct_fields__
    for name in table:
        if name not in known:
            hint = near_misses(name, known) or f" The keys are {', '.join(known)}."
            raise BadRequestError(f"{where} has the key {name!r}, which is none.{hint}")
    try:
        defaults = msgspec.convert(table, Defaults)
    except msgspec.ValidationError as error:
        raise BadRequestError(f"{where} is wrong: {error}.") from error
    read: dict[str, Any] = msgspec.to_builtins(defaults)
    return read
