"""The cell that does what was chosen in the builder, as text."""

from __future__ import annotations

import shlex
from collections.abc import Mapping
from typing import Any

_FLAGS = ("endpoint", "model", "target", "system", "max_tokens", "temperature", "seed")


def cell_text(df: str, template: str, options: Mapping[str, Any], *, out: str) -> str:
    r"""Write the ``%%vbatch`` cell, or Python if a text has several lines.

    Parameters
    ----------
    df
        Name of the DataFrame.
    template
        The prompt.
    options
        The options of `submit`; those that are not set are left out.
    out
        Name of the variable for the result.

    Examples
    --------
    >>> print(cell_text("df", "Say {{ n }}", {"system": "Be brief.", "max_tokens": 8}, out="out"))
    %%vbatch df -o out --system 'Be brief.' --max-tokens 8
    Say {{ n }}
    >>> print(cell_text("df", "Say {{ n }}", {"system": "Be brief.\nBe kind."}, out="out"))
    out = df.vbatch.run('Say {{ n }}', system='Be brief.\nBe kind.')
    """
    chosen = {name: options[name] for name in _FLAGS if options.get(name) is not None}
    if any("\n" in str(value) for value in chosen.values()):
        arguments = ", ".join(f"{name}={value!r}" for name, value in chosen.items())
        return f"{out} = {df}.vbatch.run({template!r}, {arguments})"
    flags = "".join(f" --{name.replace('_', '-')} {shlex.quote(str(value))}" for name, value in chosen.items())
    return f"%%vbatch {df} -o {out}{flags}\n{template}"
