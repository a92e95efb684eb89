"""Lines of output and error files as the result DataFrame.

The result has the input's rows, index and columns, in order, and after them:

==================  ============================  ============================================================
column              of                            holds
==================  ============================  ============================================================
``response``        chat, completions, responses  text (``string``); lists of texts (``object``) where ``n`` > 1
``response``        embeddings                    a float32 vector (``object``), base64 or not
*one per field*     ``schema=``                   the field's value; dtypes as `schema` says
``tool_calls``      ``tools`` or a call made      ``[{"id": …, "name": …, "arguments": {…}}]`` (``object``)
``logprobs``        ``logprobs`` asked or given   as the endpoint gives them (``object``)
``error``           always                        why the row has no answer (``string``)
*seven more*        ``full=True``                 `details` says which
==================  ============================  ============================================================

A cell without a value is missing. Both ``response`` and ``error`` are missing if the model
answered without a word: it called a tool, or only reasoned. With ``output="mood"`` the columns are ``mood``,
``mood_tool_calls``, ``mood_logprobs``, ``mood_error``, and the fields ``mood_<field>``.

A row with several lines, as after a retry, takes the last answer; an error never replaces an answer.
"""

from __future__ import annotations

import functools
import sys
from array import array
from collections.abc import Iterable, Mapping, Sequence
from typing import Any

import numpy as np
import pandas as pd

from vbatch_jupyter.errors import BadRequestError, FrameError
from vbatch_jupyter.frames.cells import full_label
from vbatch_jupyter.frames.details import DETAILS, TimedLine, detail_of
from vbatch_jupyter.frames.frame import EXTRAS, FrameDescription, check_output, names_of_rows, prefix_of
from vbatch_jupyter.frames.schema import Dtype, Field, Schema, fields, parser
from vbatch_jupyter.protocol.endpoints import CHAT, ENDPOINTS
from vbatch_jupyter.protocol.reading import read_line
from vbatch_jupyter.protocol.shapes import Answer


def results(
    output_lines: Iterable[bytes | TimedLine],
    description: FrameDescription,
    *,
    df: pd.DataFrame | None = None,
    custom_ids: Sequence[str] | None = None,
    schema: Schema | None = None,
    full: bool = False,
) -> pd.DataFrame:
    """Build the result of a batch; the module's docstring lists its columns.

    Parameters
    ----------
    output_lines
        The lines of output and error file, in any order; blank lines are skipped. The lines of a retry come after
        those of the batch it retries. Each may come with its timing.
    description
        What the batch keeps of its frame. Its endpoint says how answers are read, and what the column is if no row has
        an answer.
    df
        The frame that the batch was made from; it is not changed. Without it the result has its own columns only, by
        position.
    custom_ids
        The rows' custom_ids in order; ``row-0``, ``row-1``, … without it.
    schema
        The schema as it was given, instead of the description's; a pydantic model class runs its own validators.
    full
        Whether to add the columns of `details` at the end.

    Raises
    ------
    FrameError
        Frame, rows and custom_ids do not fit together, or a line belongs to no row.
    """
    rows, output, endpoint = description.rows, description.output, description.endpoint
    schema = schema or description.schema
    if df is not None and len(df) != rows:
        message = f"The batch was made from a DataFrame of {rows:,} rows; this one has {len(df):,}."
        raise FrameError(message, param="df")
    names = names_of_rows(rows) if custom_ids is None else list(custom_ids)
    if len(names) != rows:
        raise FrameError(f"There are {len(names):,} custom_ids for {rows:,} rows.", param="custom_id")
    out = pd.DataFrame(index=pd.RangeIndex(rows)) if df is None else df.copy()
    answers, details = _collect(output_lines, names, schema, endpoint, full=full)
    for row in description.unrendered_rows():
        answers[row.position] = Answer(error=row.error)
    found = [
        name for name in EXTRAS if name in description.extras or any(getattr(a, name) is not None for a in answers)
    ]
    check_output(out, output, schema, [*found, *(DETAILS if full else ())])
    columns = _value_arrays(answers, output, schema, endpoint)
    for name in found:
        columns[prefix_of(output) + name] = _objects([getattr(answer, name) for answer in answers])
    columns[prefix_of(output) + "error"] = pd.array([answer.error for answer in answers], dtype="string")
    for name, dtype in DETAILS.items() if full else ():
        values = [row.get(name) for row in details]
        columns[prefix_of(output) + name] = pd.array(values, dtype=dtype)  # type: ignore[call-overload]  # a name
    return _append(out, columns)


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


def _append(out: pd.DataFrame, columns: Mapping[str, Any]) -> pd.DataFrame:
    if isinstance(out.columns, pd.CategoricalIndex):
        # Categories are closed: a new label would be refused.
        out.columns = out.columns.astype(object)
    for name, column in columns.items():
        out[full_label(out.columns, name)] = column
    return out


def _collect(
    lines: Iterable[bytes | TimedLine], names: list[str], schema: Schema | None, endpoint: str, *, full: bool
) -> tuple[list[Answer], list[dict[str, Any]]]:
    positions = {name: position for position, name in enumerate(names)}
    parse = None if schema is None else parser(schema)
    read = functools.partial(read_line, shapes=ENDPOINTS.get(endpoint, CHAT).shapes(), parse=parse)
    schema_fields = () if schema is None else fields(schema)
    answers: list[Answer | None] = [None] * len(names)
    details: list[dict[str, Any]] = [{}] * len(names)
    for number, item in enumerate(lines, 1):
        text, timings = item if isinstance(item, tuple) else (item, {})
        if not text.strip():
            continue
        try:
            reading = read(text)
        except BadRequestError as error:
            raise FrameError(f"Line {number} of the output cannot be read: {error.message}", param="output") from error
        position = positions.get(reading.custom_id)
        if position is None:
            message = f"Line {number} of the output has the custom_id {reading.custom_id!r}, which no row has."
            raise FrameError(f"{message} The lines belong to a batch of another DataFrame.", param="custom_id")
        answer = reading.answer
        before = answers[position]
        if before is None or answer.error is None or before.error is not None:
            answers[position] = answer
            details[position] = detail_of(reading, timings.get(reading.id or "")) if full else {}
    complete = [
        Answer(error=f"No line for this row in the output file or the error file (custom_id {name!r}).")
        if answer is None
        else _storable(answer, schema_fields)
        for name, answer in zip(names, answers, strict=True)
    ]
    return complete, details


def _storable(answer: Answer, schema_fields: Sequence[Field]) -> Answer:
    """Turn an answer that does not fit its column into an error of its row, instead of failing the whole result."""
    if not isinstance(answer.value, dict):
        return answer
    for field in schema_fields:
        value = answer.value.get(field.name)
        if value is not None and not _fits(value, field.dtype):
            return Answer(
                error=f"The answer's field {field.name!r} does not fit a column of {field.dtype}: {value!r:.50}."
            )
    return answer


def _fits(value: object, dtype: Dtype) -> bool:
    number = isinstance(value, (int, float)) and not isinstance(value, bool)
    if dtype == "Int64":
        return number and value == value // 1 and -(2**63) <= value < 2**63  # type: ignore[operator]  # a number
    if dtype == "Float64":
        return number and abs(value) <= sys.float_info.max  # type: ignore[arg-type]  # a number
    return dtype == "object" or isinstance(value, bool if dtype == "boolean" else str)


def _value_arrays(answers: list[Answer], output: str, schema: Schema | None, endpoint: str) -> dict[str, Any]:
    values = [answer.value for answer in answers]
    if schema is None:
        generates = ENDPOINTS.get(endpoint, CHAT).generates
        is_text = generates and all(value is None or isinstance(value, str) for value in values)
        vectors = [np.asarray(value) if isinstance(value, array) else value for value in values]
        return {output: pd.array(values, dtype="string") if is_text else _objects(vectors)}
    return {
        prefix_of(output) + field.name: _typed(
            [None if row is None else row.get(field.name) for row in values], field.dtype
        )
        for field in fields(schema)
    }


def _typed(values: list[Any], dtype: Dtype) -> Any:
    if dtype == "object":
        return _objects(values)
    if dtype == "Int64":
        # JSON schema counts 4.0 as an integer.
        values = [None if value is None else int(value) for value in values]
    elif dtype == "Float64":
        values = [None if value is None else float(value) for value in values]
    return pd.array(values, dtype=dtype)


def _objects(values: list[Any]) -> np.ndarray[Any, np.dtype[np.object_]]:
    # np.array() would make a matrix of lists that have one length.
    objects = np.empty(len(values), dtype=object)
    for position, value in enumerate(values):
        objects[position] = value
    return objects
