"""Which requests of a batch have no answer, and why."""

from __future__ import annotations

from collections.abc import Iterable

import pandas as pd

from vbatch_jupyter.frames.schema import Schema, parser
from vbatch_jupyter.protocol.endpoints import CHAT, ENDPOINTS


def failures(output_lines: Iterable[bytes], *, endpoint: str = CHAT.path, schema: Schema | None = None) -> pd.DataFrame:
    """List the requests without an answer, by custom_id, with the message in the result's ``error``.

    Parameters
    ----------
    output_lines
        The lines of output and error file; those of a retry after those of the batch it retries.
    endpoint
        The batch's, as a path.
    schema
        The schema of the answers: an answer that does not fit it counts as a failure.

    Examples
    --------
    >>> line = b'{"id":"i","custom_id":"row-1","response":null,"error":{"code":"batch_expired","message":"Too late."}}'
    >>> failures([line])
      custom_id  status_code      error
    0     row-1         <NA>  Too late.
    """
    parse = None if schema is None else parser(schema)
    read = ENDPOINTS.get(endpoint, CHAT).read
    found: dict[str, tuple[int | None, str]] = {}
    answered: set[str] = set()
    for text in output_lines:
        reading = read(text, parse)
        if (error := reading.answer.error) is None:
            answered.add(reading.custom_id)
        else:
            found[reading.custom_id] = (reading.status_code, error)
    rows = [(name, code, error) for name, (code, error) in found.items() if name not in answered]
    out = pd.DataFrame(rows, columns=["custom_id", "status_code", "error"])
    return out.astype({"custom_id": "string", "status_code": "Int64", "error": "string"})
