"""Which requests of a batch have no answer, and why."""

from __future__ import annotations

from collections.abc import Iterable

import pandas as pd

from vbatch_jupyter.frames.answers import answer_of, parser
from vbatch_jupyter.frames.schema import Schema
from vbatch_jupyter.protocol.lines import parse_output_line


def failures(output_lines: Iterable[bytes], *, schema: Schema | None = None) -> pd.DataFrame:
    """List the requests without an answer, by custom_id, with the sentence that stands in the result's ``error``.

    Parameters
    ----------
    output_lines
        The lines of output and error file; those of a retry after those of the batch it retries.
    schema
        What the answers are read by: one that does not fit it is none.

    Examples
    --------
    >>> line = b'{"id":"i","custom_id":"row-1","response":null,"error":{"code":"batch_expired","message":"Too late."}}'
    >>> failures([line])
      custom_id  status_code      error
    0     row-1         <NA>  Too late.
    """
    parse = None if schema is None else parser(schema)
    found: dict[str, tuple[int | None, str]] = {}
    answered: set[str] = set()
    for text in output_lines:
        line = parse_output_line(text)
        if (error := answer_of(line, parse).error) is None:
            answered.add(line.custom_id)
        else:
            found[line.custom_id] = (None if line.response is None else line.response.status_code, error)
    rows = [(name, code, error) for name, (code, error) in found.items() if name not in answered]
    out = pd.DataFrame(rows, columns=["custom_id", "status_code", "error"])
    return out.astype({"custom_id": "string", "status_code": "Int64", "error": "string"})
