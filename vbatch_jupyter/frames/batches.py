"""What a batch is made of where it is made of a frame: the lines of its input file, and what it keeps of the frame."""

from __future__ import annotations

from collections.abc import Hashable, Iterator, Mapping
from typing import TYPE_CHECKING, Any

from vbatch_jupyter.errors import FrameError
from vbatch_jupyter.frames.render import check_frame, render_requests
from vbatch_jupyter.frames.results import FrameDescription, describe, results
from vbatch_jupyter.frames.schema import Schema, response_format
from vbatch_jupyter.protocol.body import endpoint_path

if TYPE_CHECKING:
    import pandas as pd


def frames_among(names: Mapping[str, object]) -> list[str]:
    """List the names that stand for a DataFrame, the latest first; those that begin with an underscore are left out.

    Examples
    --------
    >>> frames_among({"pi": 3.14})
    []
    """
    import pandas as pd

    return [
        name
        for name, value in reversed(list(names.items()))
        if isinstance(value, pd.DataFrame) and not name.startswith("_")
    ]


def sampled(df: pd.DataFrame, sample: int | None) -> pd.DataFrame:
    """Give the first rows of a frame, or all of them.

    Raises
    ------
    FrameError
        It is no frame, or less than one row was asked for.
    """
    check_frame(df)
    if sample is None:
        return df
    if sample < 1:
        raise FrameError(f"sample= is how many of the first rows to run, not {sample}.", param="sample")
    return df.iloc[:sample]


def requests_of(
    df: pd.DataFrame,
    template: str,
    *,
    model: str,
    system: str | None = None,
    schema: Schema | None = None,
    endpoint: str = "chat",
    output: str = "response",
    custom_id: Hashable | None = None,
    reorder_fields: bool = False,
    **body: Any,
) -> tuple[Iterator[bytes], FrameDescription]:
    """Check all that can be wrong, and give the lines of the input file and what the batch keeps of the frame."""
    lines = render_requests(
        df,
        template,
        endpoint=endpoint,
        model=model,
        system=system,
        response_format=None if schema is None else response_format(schema),
        custom_id=custom_id,
        body=body,
        reorder_fields=reorder_fields,
    )
    path = endpoint_path(endpoint)
    return lines, describe(df, endpoint=path, output=output, schema=schema, custom_id=custom_id, body=body)


def empty_result(
    df: pd.DataFrame,
    template: str,
    *,
    fresh: bool = False,
    target: str | None = None,
    schema: Schema | None = None,
    **options: Any,
) -> pd.DataFrame:
    """Give the result of a frame without rows, for which no batch is made; what is wrong is an error all the same."""
    del fresh, target
    _, description = requests_of(df, template, schema=schema, **options)
    return results(
        [],
        rows=0,
        df=df,
        output=description.output,
        schema=schema,
        endpoint=description.endpoint,
        extras=description.extras,
    )
