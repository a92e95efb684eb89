"""Lines of output and error files as the result DataFrame.

The result has the input's rows, index and columns, in order, and after them:

==================  ============================  ============================================================
column              of                            holds
==================  ============================  ============================================================
``response``        chat, completions, responses  text; lists of texts (``object``) where ``n`` > 1
``response``        embeddings                    a float32 vector (``object``), base64 or not; a list of
                                                  vectors if the input of the request is a list
*one per field*     ``schema=``                   the field's value; dtypes as `schema` says
``reasoning``       ``--reasoning-parser``        what the model thought before it answered (text)
``tool_calls``      ``tools`` or a call made      ``[{"id": …, "name": …, "arguments": {…}}]`` (``object``)
``logprobs``        ``logprobs`` asked or given   as the endpoint gives them (``object``)
``error``           always                        why the row has no answer (text)
*eight more*        ``full=True``                 ``custom_id``, and what `details` says
==================  ============================  ============================================================

A cell without a value is missing. Each row has a ``response`` (or fields), a call in ``tool_calls``, or an ``error``.
With ``output="mood"`` the columns are ``mood``, ``mood_tool_calls``, ``mood_logprobs``, ``mood_error``, and the fields
``mood_<field>``. Without the frame, ``custom_id`` comes first.

``reasoning`` is always there with ``full=True``. Without it, the column is there if the engine that was loaded when the
batch was made has a reasoning parser. It does not depend on the answers, so that the same cell makes the same columns.
If a column of the frame or a field of the schema is called ``reasoning``, ``custom_id`` or as a detail, the column here
ends in an underscore: ``reasoning_``.

Text has the dtype of the frame's own text: ``str`` or ``string``, if its columns of text have one dtype; else pandas'
default, which is ``str`` in pandas 3 and ``object`` in pandas 2. Comparing a missing ``str`` is false, so that failed
rows count: with 2 of 4 rows failed and 2 right, ``(r.response == r.gold).mean()`` is 0.5. Comparing a missing value of
a nullable dtype (``Int64``, ``boolean``, ``string``) is missing, and ``mean`` leaves it out: write
``(r.stars == r.gold).fillna(False).mean()`` to count failed rows as wrong, or drop them with ``r[r.error.isna()]``.

A row with several lines, as after a retry, takes the last answer; an error never replaces an answer.
"""

from __future__ import annotations

import functools
from array import array
from collections.abc import Callable, Iterable, Sequence
from typing import Any

import numpy as np
import pandas as pd

from vbatch_jupyter.errors import BadRequestError, FrameError
from vbatch_jupyter.frames.cells import full_label
from vbatch_jupyter.frames.details import DETAILS, TimedLine, detail_of
from vbatch_jupyter.frames.frame import (
    EXTRAS,
    REASONING,
    FrameDescription,
    check_output,
    names_of_rows,
    prefix_of,
    value_columns,
)
from vbatch_jupyter.frames.schema import Dtype, Schema, fields, parser
from vbatch_jupyter.protocol.endpoints import CHAT, ENDPOINTS
from vbatch_jupyter.protocol.reading import Reading, read_line
from vbatch_jupyter.protocol.shapes import Answer, Parse

_CUSTOM_ID = "custom_id"


def results(
    output_lines: Iterable[bytes | TimedLine],
    description: FrameDescription,
    *,
    df: pd.DataFrame | None = None,
    custom_ids: Sequence[str] | None = None,
    schema: Schema | None = None,
    parser_of: Callable[[bytes], Parse | None] | None = None,
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
        The frame that the batch was made from; it is not changed. Without it the result has its own columns only, in
        the order of the requests.
    custom_ids
        The rows' custom_ids in order; ``row-0``, ``row-1``, … without it.
    schema
        The schema as it was given, instead of the description's; a pydantic model class runs its own validators.
    parser_of
        Finds how the answer in a line is read, where lines differ and there is no schema.
    full
        Whether to add the reasoning, the custom_id and the columns of `details`.

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
    parse = None if schema is None else parser(schema)
    answers, details = _collect(
        output_lines,
        names,
        read=functools.partial(read_line, shapes=ENDPOINTS.get(endpoint, CHAT).shapes()),
        parser_of=parser_of if parse is None and parser_of is not None else lambda _: parse,
        full=full,
    )
    for row in description.unrendered_rows():
        answers[row.position] = Answer(error=row.error)
    extras = [
        name for name in EXTRAS if name in description.extras or any(getattr(a, name) is not None for a in answers)
    ]
    check_output(out, output, schema, extras)
    prefix = prefix_of(output)
    columns = _Columns(out, [*value_columns(output, schema), *(prefix + name for name in (*extras, "error"))])
    if df is None:
        columns.add(columns.free(_CUSTOM_ID), names, "str")
    for name, values, dtype in _answer_columns(answers, description, schema):
        columns.add(name, values, dtype)
    if full or REASONING in description.extras:
        columns.add(columns.free(prefix + REASONING), [answer.reasoning for answer in answers], "str")
    for name in extras:
        columns.add(prefix + name, [getattr(answer, name) for answer in answers], "object")
    columns.add(prefix + "error", [answer.error for answer in answers], "str")
    if full:
        if df is not None and not _is_custom_id(df, description.custom_id):
            columns.add(columns.free(prefix + _CUSTOM_ID), names, "str")
        for name, dtype in DETAILS.items():
            columns.add(columns.free(prefix + name), [row.get(name) for row in details], dtype)
    return out


def _is_in(name: str, answers: Iterable[Answer]) -> bool:
    return any(getattr(answer, name) is not None for answer in answers)


def _is_custom_id(df: pd.DataFrame, position: int | None) -> bool:
    """Return whether the column that names the requests is called custom_id already."""
    return position is not None and df.columns[position] == _CUSTOM_ID


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
    text = _text_dtype(pd.DataFrame())
    return out.astype({"custom_id": text, "status_code": "Int64", "error": text})


def _text_dtype(df: pd.DataFrame) -> Any:
    """Return the dtype of a frame's columns of text if they have one, else pandas' default."""
    found = {dtype for dtype in df.dtypes if _is_text(dtype)}
    return found.pop() if len(found) == 1 else pd.Series([""]).dtype


def _is_text(dtype: Any) -> bool:
    try:
        return getattr(dtype, "type", None) is str
    except NotImplementedError:  # a type of Arrow that pandas does not know, such as string_view
        return False


class _Columns:
    """Adds columns to a frame.

    Parameters
    ----------
    out
        The frame.
    names
        The columns that will be added under exactly these names.
    """

    def __init__(self, out: pd.DataFrame, names: Iterable[str]) -> None:
        self._out = out
        self._text = _text_dtype(out)
        self._taken = {*out.columns.get_level_values(0), *names}
        if isinstance(out.columns, pd.CategoricalIndex):
            # Categories are closed: a new label would be refused.
            out.columns = out.columns.astype(object)

    def free(self, name: str) -> str:
        """Return a name that no other column has: this one, or with underscores after it."""
        while name in self._taken:
            name += "_"
        self._taken.add(name)
        return name

    def add(self, name: str, values: list[Any], dtype: str) -> None:
        """Add a column; ``str`` stands for the dtype of text, and values that have no text are objects."""
        if dtype == "str" and any(value.__class__ is list for value in values):
            dtype = "object"
        kind: Any = self._text if dtype == "str" else dtype
        column: Any
        if kind == "object":
            # pandas makes text of an array of objects that holds only texts, and leaves such a Series as it is.
            column = pd.Series(_objects(values), index=self._out.index, dtype=object)
        else:
            column = pd.array(values, dtype=kind)
        self._out[full_label(self._out.columns, name)] = column


def _collect(
    lines: Iterable[bytes | TimedLine],
    names: list[str],
    *,
    read: Callable[..., Reading],
    parser_of: Callable[[bytes], Parse | None],
    full: bool,
) -> tuple[list[Answer], list[dict[str, Any]]]:
    positions = {name: position for position, name in enumerate(names)}
    answers: list[Answer | None] = [None] * len(names)
    details: list[dict[str, Any]] = [{}] * len(names)
    for number, item in enumerate(lines, 1):
        text, timings = item if isinstance(item, tuple) else (item, {})
        if not text.strip():
            continue
        try:
            reading = read(text, parse=parser_of(text))
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
        else answer
        for name, answer in zip(names, answers, strict=True)
    ]
    return complete, details


def _answer_columns(
    answers: list[Answer], description: FrameDescription, schema: Schema | None
) -> Iterable[tuple[str, list[Any], str]]:
    """Return the names, values and dtypes of the columns with the answers."""
    values, output = [answer.value for answer in answers], description.output
    if schema is not None:
        for field in fields(schema):
            of_field = [None if row is None else row.get(field.name) for row in values]
            yield prefix_of(output) + field.name, _converted(of_field, field.dtype), field.dtype
    elif ENDPOINTS.get(description.endpoint, CHAT).generates and not any(isinstance(value, array) for value in values):
        yield output, values, "object" if description.has_choices else "str"
    else:
        yield output, [_vectors(value) for value in values], "object"


def _vectors(value: Any) -> Any:
    if isinstance(value, array):
        return np.asarray(value)
    return [_vectors(one) for one in value] if isinstance(value, list) else value


def _converted(values: list[Any], dtype: Dtype) -> list[Any]:
    if dtype == "Int64":
        # JSON schema counts 4.0 as an integer.
        return [None if value is None else int(value) for value in values]
    if dtype == "Float64":
        return [None if value is None else float(value) for value in values]
    return values


def _objects(values: list[Any]) -> np.ndarray[Any, np.dtype[np.object_]]:
    # np.array() would make a matrix of lists that have one length.
    objects = np.empty(len(values), dtype=object)
    for position, value in enumerate(values):
        objects[position] = value
    return objects
