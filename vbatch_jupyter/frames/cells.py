"""Cells of a DataFrame as a template sees them.

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

from typing import Any

import jinja2
import numpy as np
import pandas as pd


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
