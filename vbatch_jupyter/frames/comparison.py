"""Two results of the same rows side by side."""

from __future__ import annotations

from collections.abc import Callable, Sequence
from typing import TYPE_CHECKING, Any, TypeAlias

import numpy as np
import numpy.typing as npt
import pandas as pd

from vbatch_jupyter.errors import FrameError
from vbatch_jupyter.frames.cells import full_label, is_missing
from vbatch_jupyter.frames.frame import FrameDescription

if TYPE_CHECKING:
    from pandas.arrays import BooleanArray

MOST_ROWS = 32
"""How many rows are run again, at most."""

RunAgain: TypeAlias = "Callable[[Sequence[str]], Sequence[pd.DataFrame]]"
"""Runs the requests of these names again, and returns the result of each side, without the frame's columns."""

_CHANGED, _NOISE = "changed", "noise"
_APART = frozenset({"custom_id", "error"})


def compare(
    first: pd.DataFrame,
    second: pd.DataFrame,
    *,
    custom_ids: tuple[Sequence[str], Sequence[str]],
    names: tuple[str, str] = ("a", "b"),
    df: pd.DataFrame | None = None,
    run_again: RunAgain | None = None,
) -> pd.DataFrame:
    """Join two results on the custom_id, and mark what differs.

    If both have one column of answers, these get the two names; each field of a schema gets two columns,
    such as ``stars_a`` and ``stars_b``. Errors come after them if there are any, and then ``changed``: true if an
    answer differs, or only one of both has one. ``noise`` is last, with ``run_again``.

    Parameters
    ----------
    first, second
        Results without the frame's columns, as `results` gives them without ``df``.
    custom_ids
        The rows' custom_ids of both.
    names
        Their names.
    df
        The frame that the first was made from; its rows come before the answers, instead of ``custom_id``.
    run_again
        Run requests of both again. It is called for up to `MOST_ROWS` of the rows that have changed. ``noise`` is true
        for those whose second run differs from the first, on one side or on both, and missing for the rows that were
        not run again.

    Raises
    ------
    FrameError
        They have no row or no column in common, or a column of one of these names is in the frame.

    Examples
    --------
    >>> one, two = (pd.DataFrame({"response": [*says], "error": pd.NA}) for says in ("xy", "zy"))
    >>> compare(one, two, custom_ids=(["r", "s"], ["r", "s"]))
      custom_id  a  b  changed
    0         r  x  z     True
    1         s  y  y    False
    """
    places = {name: place for place, name in enumerate(custom_ids[1])}
    pairs = [(place, places[name]) for place, name in enumerate(custom_ids[0]) if name in places]
    if not pairs:
        raise FrameError("These two batches have no row in common: they share no custom_id.", param="b")
    lefts, rights = (list(side) for side in zip(*pairs, strict=True))
    one, other = first.iloc[lefts].reset_index(drop=True), second.iloc[rights].reset_index(drop=True)
    shared = [name for name in one.columns if name in other.columns and name not in _APART]
    if not shared:
        message = "These two batches have no column of answers in common"
        raise FrameError(f"{message}: {_listed(one)} against {_listed(other)}.", param="b")
    columns: dict[str, Any] = {}
    for name in shared:
        labels = names if name == "response" else tuple(f"{name}_{side}" for side in names)
        columns |= {label: side[name] for label, side in zip(labels, (one, other), strict=True)}
    columns |= {
        f"{label}_error": side["error"].array
        for label, side in zip(names, (one, other), strict=True)
        if side["error"].notna().any()
    }
    columns[_CHANGED] = changed = _differs(one, other, shared)
    if run_again is not None:
        ids = [custom_ids[0][place] for place in lefts]
        columns[_NOISE] = _noise(ids, changed, (one, other), run_again, shared)
    if df is None:
        out = pd.DataFrame({"custom_id": [custom_ids[0][place] for place in lefts]})
    else:
        out = df.iloc[lefts].copy()
    for label, array in columns.items():
        if label in out.columns.get_level_values(0):
            message = f"The DataFrame already has a column {label!r}"
            raise FrameError(f"{message}; choose other names for the two batches with names=.", param="names")
        # pandas makes text of an array of objects that holds only texts, and leaves such a Series as it is.
        column = array.set_axis(out.index) if isinstance(array, pd.Series) else array
        out[full_label(out.columns, label)] = column
    return out


def refuse_other_frame(one: str | None, other: str | None) -> None:
    """Raise an error if a position is not the same row in both batches.

    Parameters
    ----------
    one, other
        What each keeps of its frame, as `FrameDescription` writes it; None if it was made from an input file.

    Raises
    ------
    FrameError
        They were made from different DataFrames, and no column names their rows.
    """
    if one is None or other is None:
        return
    first, second = FrameDescription.from_json(one), FrameDescription.from_json(other)
    by_position = first.custom_id is None and second.custom_id is None
    # A sample has fewer rows and so another fingerprint; it can still be compared row by row.
    if by_position and first.rows == second.rows and first.fingerprint != second.fingerprint:
        message = "These two batches were made from different DataFrames, and no column names their rows."
        raise FrameError(f"{message} To compare them, name the rows with custom_id=.", param="b")


def _differs(one: pd.DataFrame, other: pd.DataFrame, columns: Sequence[str]) -> npt.NDArray[np.bool_]:
    differs = np.asarray(one["error"].isna() != other["error"].isna())
    for name in columns:
        differs = differs | [not _is_same(x, y) for x, y in zip(one[name], other[name], strict=True)]
    return differs


def _noise(
    custom_ids: Sequence[str],
    changed: npt.NDArray[np.bool_],
    sides: Sequence[pd.DataFrame],
    run_again: RunAgain,
    columns: Sequence[str],
) -> BooleanArray:
    noise = pd.array([None] * len(changed), dtype="boolean")
    places = np.flatnonzero(changed)
    if len(places) > MOST_ROWS:
        places = places[np.arange(MOST_ROWS) * len(places) // MOST_ROWS]  # evenly spread
    if len(places):
        noise[places] = False
        for before, again in zip(sides, run_again([custom_ids[place] for place in places]), strict=True):
            noise[places] |= _differs(before.iloc[places].reset_index(drop=True), again, columns)
    return noise


def _listed(result: pd.DataFrame) -> str:
    return ", ".join(repr(name) for name in result.columns if name not in _APART)


def _is_same(one: Any, other: Any) -> bool:
    if isinstance(one, np.ndarray) or isinstance(other, np.ndarray):
        return bool(np.array_equal(one, other))
    if is_missing(one) or is_missing(other):
        return is_missing(one) and is_missing(other)
    return bool(one == other)
