"""The cell that does what was chosen in the builder, as text."""

from __future__ import annotations

import json
import re
import shlex
from collections.abc import Mapping
from typing import Any

from vbatch_jupyter.frames.ask import Option, offered, prompt_of


def cell_text(df: str, template: str, options: Mapping[str, Any], *, out: str) -> str:
    r"""Write the ``%%vbatch`` cell, or Python if a text has several lines or what a magic would fill.

    Parameters
    ----------
    df
        Name of the DataFrame.
    template
        The prompt.
    options
        What else is asked, as the flags have it: a schema is the name of its variable, and ``body`` a dict. Those that
        are not set are left out.
    out
        Name of the variable for the result.

    Examples
    --------
    >>> print(cell_text("df", "Say {{ n }}", {"system": "Be brief.", "max_tokens": 8}, out="out"))
    %%vbatch df -o out --system 'Be brief.' --max-tokens 8
    Say {{ n }}
    >>> print(cell_text("df", "Say {{ n }}", {"system": "Be brief.\nBe kind.", "schema": "Mood"}, out="out"))
    out = df.vbatch.run('Say {{ n }}', system='Be brief.\nBe kind.', schema=Mood)
    """
    chosen = {name: options[name] for name in offered("flag") if options.get(name) is not None}
    # A magic fills {name} and $name from the notebook's variables.
    columns: Mapping[str, str] = chosen.pop("col", {})
    if any(re.search(r"[\n{$]", str(value)) for name, value in [*chosen.items(), *columns.items()] if name != "body"):
        body = chosen.pop("body", {})
        arguments = [f"{name}={_as_python(offered('flag')[name], value)}" for name, value in chosen.items()]
        arguments += [f"{name}=vb.col({label!r})" for name, label in columns.items()]
        arguments += [f"**{body!r}"] if body else []
        return f"{out} = {df}.vbatch.run({', '.join([repr(prompt_of(template, options)), *arguments])})"
    flags = "".join(
        f" --{name.replace('_', '-')}{_as_word(value)}" for name, value in chosen.items() if value is not False
    )
    flags += "".join(f" --col {shlex.quote(f'{name}={label}')}" for name, label in columns.items())
    # IPython refuses a cell magic with an empty cell.
    return f"%%vbatch {df} -o {out}{flags}\n{template or ' '}"


def _as_python(option: Option, value: object) -> str:
    return str(value) if option.names_variable else repr(value)


def _as_word(value: object) -> str:
    if value is True:
        return ""
    return " " + shlex.quote(json.dumps(value) if isinstance(value, dict) else str(value))
