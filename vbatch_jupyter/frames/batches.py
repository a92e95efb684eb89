"""Makes a batch from a frame: the lines of its input file, and what the batch keeps of the frame."""

from __future__ import annotations

from collections.abc import Hashable, Iterator
from typing import TYPE_CHECKING, Any

from vbatch_jupyter.frames.frame import FrameDescription, describe
from vbatch_jupyter.frames.render import render_requests
from vbatch_jupyter.frames.results import results
from vbatch_jupyter.frames.schema import Schema, response_format
from vbatch_jupyter.protocol.endpoints import endpoint_of

if TYPE_CHECKING:
    import pandas as pd


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
    """Check everything, and return the lines of the input file and what the batch keeps of the frame."""
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
    path = endpoint_of(endpoint).path
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
    """Return the result of a frame without rows, for which no batch is made. Arguments are checked all the same."""
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
