"""Columns of a DataFrame: their labels, and their cells as a template sees them.

A label is any hashable. Labels need not be unique, and with a MultiIndex they are tuples.

How a cell is written into the prompt, at every depth, whether pandas keeps it in numpy or in Arrow:

======================  ===================================  ===================================  ==================
a cell                  ``{{ a }}``                          inside a list or a dict              ``| tojson``
======================  ===================================  ===================================  ==================
text                    itself; it is never a template       ``'a'``                              ``"a"``
missing                 empty; false in ``{% if %}``;        ``None``                             ``null``
                        ``is none``, ``default()`` see it
integers, booleans      ``7``, ``True``                      ``7``, ``True``                      ``7``, ``true``
floating point          ``1.0``, as pandas shows it          ``1.0``                              ``1.0``
infinity                ``inf``                              ``inf``                              ``"inf"``
dates, times, decimals  ``2024-05-01 13:30:00``, ``12.50``   ``'2024-05-01 13:30:00'``            the same in quotes
intervals, categories   ``(0, 10]``; the category            the same in quotes                   the same in quotes
lists, arrays, structs  all elements, as Python writes them  all elements                         array, object
maps (Arrow)            a list of pairs; ``dict(a)``         a list of pairs                      array of pairs
bytes, pictures         an error that says what to do        an error                             an error
messages of a chat      an error that says what to do        as any list                          array
======================  ===================================  ===================================  ==================

Missing is None, NaN, NaT and pd.NA. Integers with gaps are floats to pandas, and read ``1.0`` too, unless the column
has the dtype Int64 (``df.convert_dtypes()``).
"""

from __future__ import annotations

import datetime as dt
import decimal
import math
import re
from collections.abc import Hashable, Iterable, Mapping, Sequence
from typing import Any

import jinja2
import msgspec
import numpy as np
import pandas as pd

from vbatch_jupyter.errors import FrameError, did_you_mean

_EXACT = 2**53
"""Below this, a float with a whole number stands for exactly that number."""

_SHOWN = 12
_WORDS_OF_JINJA = frozenset("and else false if in is none not or recursive row true".split())  # noqa: SIM905
_WHOLE = frozenset({str, int, bool, type(None)})
_LEAVES = _WHOLE | {float, dt.date, dt.datetime, pd.Timestamp, pd.Timedelta, decimal.Decimal}


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
    dtype = series.dtype
    if isinstance(dtype, pd.CategoricalDtype):
        categories = [*cells_of(dtype.categories.to_series(), label), Missing(name=str(label))]
        return [categories[code] for code in series.cat.codes.tolist()]
    if isinstance(dtype, pd.SparseDtype):
        return cells_of(series.astype(dtype.subtype), label)
    absent: Any = series.isna().to_numpy()
    values = _values(series)
    if isinstance(dtype, pd.ArrowDtype) and dtype.kind == "f":
        # Arrow tells NaN from a missing value.
        absent = absent | np.array([isinstance(value, float) and math.isnan(value) for value in values])
    if absent.any():
        missing = Missing(name=str(label))
        values = [missing if is_absent else value for value, is_absent in zip(values, absent, strict=True)]
    return values


def _values(series: pd.Series[Any]) -> list[Any]:
    dtype, values = series.dtype, series.tolist()
    numpy: Any = getattr(dtype, "numpy_dtype", dtype)
    if dtype.kind == "f" and numpy != np.float64:
        # tolist() widens float32, and 0.1 would read 0.10000000149011612.
        return [_short(value) for value in series.to_numpy(numpy, na_value=np.nan)]
    if dtype.kind != "O" or isinstance(dtype, pd.StringDtype):
        return values
    if isinstance(dtype, pd.ArrowDtype) and "float" in str(dtype.pyarrow_dtype):
        values = [_shortened(value, dtype.pyarrow_dtype) for value in values]
    return [value if type(value) in _LEAVES else plain(value) for value in values]


def _short(value: Any) -> float:
    return float(str(value))


def _shortened(value: Any, kind: Any) -> Any:
    """Return a cell of an Arrow type with its floats of less than 64 bits as short as Arrow shows them."""
    from pyarrow import types

    if isinstance(value, float):
        is_narrow = types.is_float16(kind) or types.is_float32(kind)
        return _short(kind.to_pandas_dtype()(value)) if is_narrow else value
    if isinstance(value, dict):
        return {field.name: _shortened(value[field.name], field.type) for field in kind}
    if isinstance(value, list) and types.is_map(kind):
        return [(_shortened(key, kind.key_type), _shortened(item, kind.item_type)) for key, item in value]
    if isinstance(value, list):
        return [_shortened(item, getattr(kind, "value_type", kind)) for item in value]
    return value


def cell_of(value: object, label: object) -> Any:
    """Return a single value as templates get it; see `cells_of`."""
    return Missing(name=str(label)) if is_missing(value) else plain(value)


def plain(value: Any) -> Any:
    """Return a cell with Python's own lists, dicts and numbers at every depth, and None for what is missing inside.

    Examples
    --------
    >>> plain({"a": np.array([1.5, np.nan]), "b": (np.int64(1), pd.NA)})
    {'a': [1.5, None], 'b': (1, None)}
    """
    kind = type(value)
    if kind is list and _WHOLE.issuperset(map(type, value)):
        return value
    if isinstance(value, Mapping):
        return {inner(key): inner(item) for key, item in value.items()}
    if isinstance(value, np.generic):
        return _plain_scalar(value)
    if isinstance(value, tuple):
        items = [inner(item) for item in value]
        return kind(*items) if hasattr(value, "_fields") else tuple(items)
    if isinstance(value, pd.DataFrame):
        value = value.to_dict("records")
    elif isinstance(value, (pd.Series, pd.Index, pd.api.extensions.ExtensionArray)):
        value = value.to_numpy()
    elif hasattr(kind, "__array__"):
        # An array prints without its middle, and has methods that write files.
        value = np.asarray(value)
    if isinstance(value, np.ndarray):
        value = value.tolist() if value.dtype.kind in "biuU" else list(value) if value.ndim else inner(value[()])
    return [inner(item) for item in value] if isinstance(value, list) else value


def _plain_scalar(value: np.generic) -> Any:
    if isinstance(value, np.datetime64):
        return pd.Timestamp(value)
    if isinstance(value, np.timedelta64):
        return pd.Timedelta(value)
    return _short(value) if isinstance(value, np.floating) else value.item()


def inner(value: Any) -> Any:
    """Return what is inside of a cell, None if it is missing.

    Examples
    --------
    >>> inner(pd.NaT), inner(np.float32(0.1))
    (None, 0.1)
    """
    kind = type(value)
    if kind in _WHOLE:
        return value
    if kind is float:
        return None if math.isnan(value) else value
    return None if is_missing(value) else plain(value)


def plain_body(body: Mapping[str, Any]) -> dict[str, Any]:
    """Return parameters of a body as JSON has them.

    Raises
    ------
    FrameError
        A value is nothing that JSON has, or a number that is not finite.

    Examples
    --------
    >>> plain_body({"seed": np.int64(7), "stop": ("a", "b"), "temperature": 1.0})
    {'seed': 7, 'stop': ['a', 'b'], 'temperature': 1}
    """
    try:
        plain: dict[str, Any] = msgspec.to_builtins(dict(body), str_keys=True, enc_hook=_plain_value)
    except (TypeError, ValueError, RecursionError) as error:
        raise FrameError(f"A body parameter cannot be written as JSON: {error}.", param="body") from error
    # Equal requests must be equal bytes, so that they share their answers. Not deeper than this: what is in a tool or
    # a schema may be shown to the model as it is written.
    return {name: _shortest(_as_json(name, value)) for name, value in plain.items()}


def _as_json(name: str, value: Any) -> Any:
    if isinstance(value, float) and not math.isfinite(value):
        # JSON has no such number: it would be sent as null, and the default apply.
        raise FrameError(f"{name} has a number that is not finite (nan or inf), which cannot be sent.", param=name)
    if isinstance(value, dict):
        return {key: _as_json(name, item) for key, item in value.items()}
    return [_as_json(name, item) for item in value] if isinstance(value, (list, tuple)) else value


def _shortest(value: object) -> object:
    if isinstance(value, float) and value.is_integer() and abs(value) < _EXACT:
        return int(value)
    return value


def _plain_value(value: object) -> object:
    if isinstance(value, (np.generic, np.ndarray)):
        return value.tolist()
    if isinstance(value, Mapping):
        return dict(value)
    raise TypeError(f"a {type(value).__name__} cannot be written as JSON")


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


def column_position(df: pd.DataFrame, column: Hashable, param: str = "custom_id") -> int:
    """Find a column by its label.

    Parameters
    ----------
    df
        The frame.
    column
        The label.
    param
        The argument that names it.

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
        raise FrameError(f"{param}= must be the label of a column, not {column!r}.", param=param) from error
    if len(positions) == 1:
        return positions[0]
    if positions:
        message = f"The DataFrame has the column {column!r} {len(positions)} times; {param}= needs one."
    elif column in df.index.names:
        message = f"{column!r} is a level of the index: {param}= needs a column, as of df.reset_index({column!r})."
    else:
        hint = did_you_mean(column, labels) or f" {describe_columns(labels)}"
        message = f"Unknown column {column!r} in {param}=.{hint}"
    raise FrameError(message, param=param)


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
