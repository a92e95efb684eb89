"""Columns of a DataFrame: their labels, and their cells as a template sees them.

A label is any hashable. Labels need not be unique, and with a MultiIndex they are tuples.

What a template gets for a cell, and how it is written into the prompt:

======================  ================================================================================
text                    itself, untouched: it is data and is never read as a template
missing                 None, NaN, NaT, pd.NA: an empty string; false in ``{% if %}``; ``is none`` and
                        ``default()`` see it
integers, booleans      ``7``, ``True``
floating point          as pandas shows them: ``1.0``. Integers with gaps are floats to pandas, and read ``1.0``
                        too, unless the column has the dtype Int64 (``df.convert_dtypes()``)
timestamps, dates       ``2024-05-01 13:30:00``, ``2024-05-01``; time spans ``1 days 00:00:00``
categories, intervals   the category; ``(0, 10]``
lists, dicts            as Python writes them; ``| tojson`` and ``| join(', ')`` write them otherwise
arrays                  as lists
======================  ================================================================================
"""

from __future__ import annotations

import re
from collections.abc import Hashable, Iterable, Sequence
from typing import Any

import jinja2
import numpy as np
import pandas as pd

from vbatch_jupyter.errors import FrameError, did_you_mean

_SHOWN = 12
_WORDS_OF_JINJA = frozenset("and else false if in is none not or recursive row true".split())  # noqa: SIM905


class Missing(jinja2.ChainableUndefined):
    """A missing cell in a template: empty and false, and so is every attribute or method of it."""

    __slots__ = ()

    @property
    def _undefined_message(self) -> str:
        return f"column {self._undefined_name!r} is missing in this row; check it with {{% if %}}"

    def __call__(self, *_args: Any, **_options: Any) -> Missing:  # type: ignore[override]  # Jinja's raises
        """Stand in for a method of the missing cell."""
        return self

    def __eq__(self, other: object) -> bool:
        return other is None or isinstance(other, Missing)

    def __ne__(self, other: object) -> bool:
        return not self == other

    def __hash__(self) -> int:
        return hash(None)

    def __repr__(self) -> str:
        # What `{{ row }}` shows for the cell.
        return "None"


def is_missing(value: Any) -> bool:
    """Return whether a single value is missing; lists and arrays never are, whatever they hold.

    Examples
    --------
    >>> is_missing(float("nan")), is_missing(pd.NaT), is_missing([None]), is_missing("")
    (True, True, False, False)
    """
    if isinstance(value, str):
        return False
    return pd.api.types.is_scalar(value) and bool(pd.isna(value))


def cells_of(series: pd.Series[Any], label: object) -> list[Any]:
    """List the cells of one column as templates get them.

    Parameters
    ----------
    series
        The column; it is not changed.
    label
        Its label, named by the error of a template that computes with a missing cell.

    Examples
    --------
    >>> cells_of(pd.Series([1.5, None]), "price")
    [1.5, None]
    """
    values: list[Any] = series.tolist()
    if isinstance(series.dtype, np.dtype) and series.dtype.kind == "f" and series.dtype != np.float64:
        # tolist() widens float32, and 0.1 would read 0.10000000149011612.
        values = [float(str(value)) for value in series.to_numpy()]
    elif isinstance(series.dtype, np.dtype) and series.dtype.kind != "O":
        pass
    else:
        values = [_plain(value) for value in values]
    absent = series.isna().to_numpy()
    if absent.any():
        missing = Missing(name=str(label))
        values = [missing if is_absent else value for value, is_absent in zip(values, absent, strict=True)]
    return values


def cell_of(value: object, label: object) -> Any:
    """Return a single value as templates get it; see `cells_of`."""
    return Missing(name=str(label)) if is_missing(value) else _plain(value)


def _plain(value: object) -> Any:
    # An array of over 1,000 numbers prints without its middle, and has methods that write files.
    return value.tolist() if isinstance(value, np.ndarray) else value


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
