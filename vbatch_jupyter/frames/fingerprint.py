"""Recognising a DataFrame after the kernel that sent it is gone."""

from __future__ import annotations

import hashlib
from typing import Any

import numpy as np
import pandas as pd

from vbatch_jupyter.frames.cells import is_missing


def fingerprint(df: pd.DataFrame) -> str:
    """Hash a frame's values, index and column labels.

    Two frames that were read the same way have the same fingerprint, in any process. A changed cell, another order of
    the rows or of the columns, or another index gives another one; the names of index and columns do not count.

    Parameters
    ----------
    df
        Any frame: labels may stand twice, cells may be lists, dicts or arrays.

    Examples
    --------
    >>> fingerprint(pd.DataFrame({"a": [1, 2]})) == fingerprint(pd.DataFrame({"a": [1, 2]}))
    True
    >>> fingerprint(pd.DataFrame({"a": [1, 2]})) == fingerprint(pd.DataFrame({"a": [2, 1]}))
    False
    """
    digest = hashlib.sha256(f"{df.shape}".encode())
    for label in df.columns:
        digest.update(f"{_stable_text(label)}\n".encode(errors="surrogatepass"))
    for level in range(df.index.nlevels):
        digest.update(_hashes(df.index.get_level_values(level).to_series()).tobytes())
    for position in range(df.shape[1]):
        digest.update(_hashes(df.iloc[:, position]).tobytes())
    return f"sha256:{digest.hexdigest()}"


def _hashes(values: pd.Series[Any]) -> np.ndarray[Any, np.dtype[np.uint64]]:
    if values.dtype != object or pd.api.types.infer_dtype(values, skipna=True) == "string":
        try:
            return pd.util.hash_array(values.array, categorize=False)
        except (TypeError, UnicodeEncodeError):
            # Nested Arrow types, categories that are no scalars, lone surrogates.
            pass
    texts = np.array([_stable_text(value) for value in values.tolist()], dtype=object)
    return pd.util.hash_array(texts, categorize=False)


def _stable_text(value: object) -> str:
    """Write a cell so that equal cells have equal texts in every process."""
    if isinstance(value, np.ndarray):
        # repr() leaves the middle of a long array out.
        return f"array{_stable_text(value.tolist())}"
    if isinstance(value, (set, frozenset)):
        # The order of a set differs from process to process.
        return f"set{sorted(map(_stable_text, value))}"
    if isinstance(value, dict):
        return "{" + ",".join(f"{_stable_text(key)}:{_stable_text(cell)}" for key, cell in value.items()) + "}"
    if isinstance(value, (list, tuple)):
        return f"{type(value).__name__}[{','.join(map(_stable_text, value))}]"
    if is_missing(value):
        return "missing"
    return f"{type(value).__name__}:{value!a}"
