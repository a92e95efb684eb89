"""Defaults of the magics' flags: ``[tool.vbatch]`` of the project, ``vbatch.toml`` of the user.

The project's are in the nearest ``pyproject.toml`` above the working directory. The user's, which it overrides, are
in Jupyter's configuration directory. A table ``targets`` next to them is read by `targets.configuration`.
``%config VBatchMagics.…`` overrides both, and a flag overrides everything.
"""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any

import msgspec

from vbatch_jupyter.errors import BadRequestError, did_you_mean
from vbatch_jupyter.frames.ask import offered
from vbatch_jupyter.targets.configuration import configured_tables
from vbatch_jupyter.widgets.frontend import ProgressStyle

_KINDS: dict[str, Any] = {
    **{name: option.type for name, option in offered("trait").items()},
    # How a cell waits for its batch.
    "background": bool,
    "progress": ProgressStyle,
    # How long an engine may give no sign of life.
    "engine_silence_seconds": float,
    "engine_rebuild_seconds": float,
}

Defaults = msgspec.defstruct(
    "Defaults",
    [(name, kind | None, None) for name, kind in sorted(_KINDS.items())],
    frozen=True,
    kw_only=True,
    omit_defaults=True,
)
"""The defaults that can be set; their names are those of the flags, and of the traits of the magics."""


def from_files() -> dict[str, Any]:
    """Return the defaults that the files set, by name.

    Raises
    ------
    BadRequestError
        A file is not TOML, or has something that is not a default.
    """
    found: dict[str, Any] = {}
    for path, name, table in configured_tables():
        found |= _defaults_in(f"[{name}] in {path}" if name else str(path), table)
    return found


def _defaults_in(where: str, table: Mapping[str, Any]) -> dict[str, Any]:
    table = {name: value for name, value in table.items() if name != "targets"}
    known = Defaults.__struct_fields__
    for name in table:
        if name not in known:
            hint = did_you_mean(name, known, written=str) or f" The keys are {', '.join(known)}."
            raise BadRequestError(f"Unknown key {name!r} in {where}.{hint}")
    try:
        defaults = msgspec.convert(table, Defaults)
    except msgspec.ValidationError as error:
        raise BadRequestError(f"{where} is not valid: {error}.") from error
    read: dict[str, Any] = msgspec.to_builtins(defaults)
    return read
