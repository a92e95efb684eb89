"""Parameters of a request's body that each row says for itself: ``max_tokens=vb.col("limit")``."""

from __future__ import annotations

import decimal
from collections.abc import Callable, Hashable, Mapping
from typing import TYPE_CHECKING, Any

import msgspec

from vbatch_jupyter.errors import BadRequestError, FrameError
from vbatch_jupyter.frames.cells import Missing, cells_of, column_position, plain_body
from vbatch_jupyter.frames.frame import describe_row

if TYPE_CHECKING:
    import pandas as pd


def parameters_by_row(
    df: pd.DataFrame,
    columns: Mapping[str, Hashable],
    common: Mapping[str, Any],
    refuse: Callable[[Mapping[str, Any]], object],
) -> list[dict[str, Any]]:
    """Return the parameters of each row, in order; rows with equal cells share one object.

    Parameters
    ----------
    df
        The rows.
    columns
        The label of each parameter's column.
    common
        The parameters that are the same in all rows.
    refuse
        Raises an error for parameters that no request could be sent with. It is called once for all equal rows.

    Raises
    ------
    FrameError
        There is no such column, or a cell cannot be sent; the message names the row and the column.

    Examples
    --------
    >>> import pandas as pd
    >>> df = pd.DataFrame({"limit": [8, None]})
    >>> parameters_by_row(df, {"max_tokens": "limit"}, {"temperature": 0}, lambda parameters: None)
    [{'temperature': 0, 'max_tokens': 8}, {'temperature': 0}]
    """
    cells = [cells_of(df.iloc[:, column_position(df, label, f"col({name})")], label) for name, label in columns.items()]
    checked: dict[bytes, dict[str, Any]] = {}
    rows = []
    for position, row in enumerate(zip(*cells, strict=True)):
        try:
            own = plain_body(
                {
                    name: float(cell) if isinstance(cell, decimal.Decimal) else cell
                    for name, cell in zip(columns, row, strict=True)
                    if not isinstance(cell, Missing)
                }
            )
            key = msgspec.json.encode(own)
            if key not in checked:
                parameters = {**common, **own}
                refuse(parameters)
                checked[key] = parameters
        except (BadRequestError, FrameError) as error:
            raise _located(error, df, position, columns) from error
        rows.append(checked[key])
    return rows


def _located(
    error: BadRequestError | FrameError, df: pd.DataFrame, position: int, columns: Mapping[str, Hashable]
) -> FrameError:
    where = describe_row(df, position)
    if error.param is not None and error.param in columns:
        where = f"column {columns[error.param]!r} of {where}"
    return FrameError(f"What the {where} says cannot be sent: {error.message}", param=error.param)
