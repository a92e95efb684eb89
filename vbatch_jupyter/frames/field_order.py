"""The order of each row's fields in a prompt that sends whole rows, so that prompts share long beginnings.

An engine computes a beginning that prompts share only once. In a table the repeated values are rarely in the first
columns. Here each row's fields get their own order: fields come first whose values are shared with most other text
of the table. The idea is GGR's ("Optimizing LLM Queries in Relational Workloads", arXiv 2403.05821): take the column
whose repeated values save most, split the rows by its values, and continue in each part with the other fields;
rows whose value is unique are ordered among themselves.
"""

from __future__ import annotations

from collections.abc import Sequence

import numpy as np
import numpy.typing as npt
import pandas as pd

Orders = npt.NDArray[np.uint16]


def field_orders(columns: Sequence[Sequence[object]], names: Sequence[str]) -> Orders:
    """Find for each row the order of its fields.

    Parameters
    ----------
    columns
        The cells of each field, all of the same number.
    names
        The names of the fields; the prompt has them next to the cells.

    Returns
    -------
    Orders
        One line for each row: positions in ``columns``, the field that comes first in front.

    Examples
    --------
    >>> field_orders([["a", "b", "c"], ["the same text"] * 3], ["id", "text"]).tolist()
    [[1, 0], [1, 0], [1, 0]]
    """
    codes, sizes = [], []
    for name, cells in zip(names, columns, strict=True):
        code, values = pd.factorize(np.array([str(cell) for cell in cells], dtype=object))
        codes.append(code)
        sizes.append(np.array([len(name) + len(value) for value in values], dtype=np.int64))
    arranger = _Arranger(np.array(codes, dtype=np.int64), sizes)
    return arranger.orders


class _Arranger:
    """Puts the fields of all rows in order.

    Parameters
    ----------
    codes
        A number for each cell, equal for equal cells of a column; one line for each column.
    sizes
        For each column the characters that a cell of each number takes.
    """

    def __init__(self, codes: npt.NDArray[np.int64], sizes: Sequence[npt.NDArray[np.int64]]) -> None:
        self._codes = codes
        self._sizes = sizes
        fields, rows = codes.shape
        self.orders: Orders = np.tile(np.arange(fields, dtype=np.uint16), (rows, 1))
        if rows > 1:
            self._arrange(np.arange(rows), np.array([], dtype=np.int64), np.arange(fields))

    def _arrange(self, rows: npt.NDArray[np.int64], placed: npt.NDArray[np.int64], left: npt.NDArray[np.int64]) -> None:
        """Order the remaining fields of rows that share the fields placed so far."""
        shared = (self._codes[np.ix_(left, rows)] == self._codes[left, rows[0]][:, None]).all(axis=1)
        placed, left = np.concatenate([placed, left[shared]]), left[~shared]
        # Of two rows all that they share is placed now.
        while len(rows) > 2 and len(left):  # noqa: PLR2004
            gains = [self._gain(field, rows) for field in left]
            if not any(gains):
                break
            column = left[np.argmax(gains)]
            _, inverse, counts = np.unique(self._codes[column, rows], return_inverse=True, return_counts=True)
            by_value = rows[np.argsort(inverse, kind="stable")]
            for group in np.split(by_value, np.cumsum(counts)[:-1]):
                if len(group) > 1:
                    self._arrange(group, np.append(placed, column), left[left != column])
            rows = rows[counts[inverse] == 1]
        if len(rows):
            self.orders[rows] = np.concatenate([placed, left])

    def _gain(self, column: int, rows: npt.NDArray[np.int64]) -> int:
        """Count the characters that need not be computed if rows with equal values are neighbours."""
        values, counts = np.unique(self._codes[column, rows], return_counts=True)
        return int(((counts - 1) * self._sizes[column][values]).sum())
