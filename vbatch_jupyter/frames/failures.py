"""The requests of a batch that have no answer, as a DataFrame."""

from __future__ import annotations

from collections.abc import Iterable

import pandas as pd


def failures(unanswered: Iterable[tuple[str, int | None, str]]) -> pd.DataFrame:
    """List requests without an answer.

    Parameters
    ----------
    unanswered
        The custom_id, the response's status code and the reason of each.

    Examples
    --------
    >>> failures([("row-1", None, "Too late.")])
      custom_id  status_code      error
    0     row-1         <NA>  Too late.
    """
    out = pd.DataFrame(list(unanswered), columns=["custom_id", "status_code", "error"])
    return out.astype({"custom_id": "string", "status_code": "Int64", "error": "string"})
