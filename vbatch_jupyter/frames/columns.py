"""Labels of columns: finds them, suggests similar ones, adds new ones.

A label is any hashable. Labels need not be unique, and with a MultiIndex they are tuples.
"""

from __future__ import annotations

import re
from collections.abc import Hashable, Iterable, Sequence

import pandas as pd

from vbatch_jupyter.errors import FrameError, did_you_mean

_SHOWN = 12
_WORDS_OF_JINJA = frozenset("and else false if in is none not or recursive row true".split())  # noqa: SIM905


def positions_by_label(columns: Iterable[Hashable]) -> dict[Hashable, list[int]]:
    """Map every label to its positions.

    Examples
    --------
    >>> positions_by_label(["a", 1, "a"])
    {'a': [0, 2], 1: [1]}
    """
    positions: dict[Hashable, list[int]] = {}
    for position, label in enumerate(columns):
        positions.setdefault(label, []).append(position)
    return positions


def describe_columns(columns: Sequence[Hashable]) -> str:
    """Return one sentence with the names of the columns.

    Examples
    --------
    >>> describe_columns(["text", 0])
    "The columns are 'text', 0."
    >>> describe_columns([])
    'The DataFrame has no columns.'
    """
    if not columns:
        return "The DataFrame has no columns."
    shown = ", ".join(map(repr, columns[:_SHOWN]))
    more = f" and {len(columns) - _SHOWN} more" if len(columns) > _SHOWN else ""
    return f"The columns are {shown}{more}."


def placeholder(label: Hashable) -> str:
    """Return the placeholder for a column in a template.

    Examples
    --------
    >>> placeholder("text"), placeholder("Review text"), placeholder(0), placeholder(("a", "b"))
    ('{{ text }}', "{{ row['Review text'] }}", '{{ row[0] }}', "{{ row['a', 'b'] }}")
    """
    if isinstance(label, str) and re.fullmatch(r"[A-Za-z_]\w*", label) and label.lower() not in _WORDS_OF_JINJA:
        return f"{{{{ {label} }}}}"
    if isinstance(label, tuple) and all(isinstance(part, (str, int)) for part in label):
        return f"{{{{ row[{', '.join(map(repr, label))}] }}}}"
    # A label that cannot be written in a template is found by its text.
    return f"{{{{ row[{label if isinstance(label, int) else str(label)!r}] }}}}"


def column_position(df: pd.DataFrame, column: Hashable) -> int:
    """Find the column that names the requests.

    Raises
    ------
    FrameError
        There is no such column, or there are several.

    Examples
    --------
    >>> column_position(pd.DataFrame({"text": [], "ticket": []}), "ticket")
    1
    """
    labels = list(df.columns)
    try:
        positions = positions_by_label(labels).get(column, [])
    except TypeError as error:
        raise FrameError(f"custom_id= must be the label of a column, not {column!r}.", param="custom_id") from error
    if len(positions) == 1:
        return positions[0]
    if positions:
        raise FrameError(
            f"The DataFrame has the column {column!r} {len(positions)} times; custom_id= needs one.", param="custom_id"
        )
    hint = did_you_mean(column, labels) or f" {describe_columns(labels)}"
    raise FrameError(f"Unknown column {column!r} in custom_id=.{hint}", param="custom_id")


def full_label(columns: pd.Index, name: str) -> Hashable:
    """Return the label under which a new column `name` is added: as pandas does, padded if labels are tuples.

    Examples
    --------
    >>> full_label(pd.Index(["a"]), "response")
    'response'
    >>> full_label(pd.MultiIndex.from_tuples([("a", "b")]), "response")
    ('response', '')
    """
    return (name, *[""] * (columns.nlevels - 1)) if isinstance(columns, pd.MultiIndex) else name
