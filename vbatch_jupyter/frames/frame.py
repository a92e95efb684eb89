"""The DataFrame that a batch is made from: checks, its first rows, and what the batch keeps of it.

A batch keeps a description of its frame: its fingerprint, to recognise the frame after the kernel that sent
it is gone, and what is needed to build the result.
"""

from __future__ import annotations

import hashlib
import re
from collections.abc import Collection, Iterable, Mapping
from typing import Any, NamedTuple

import msgspec
import numpy as np
import pandas as pd

from vbatch_jupyter.errors import FrameError
from vbatch_jupyter.frames.ask import Ask
from vbatch_jupyter.frames.cells import column_position, is_missing
from vbatch_jupyter.frames.schema import Schema, fields, json_schema, parser
from vbatch_jupyter.protocol.conditions import number_of
from vbatch_jupyter.protocol.endpoints import ENDPOINTS

EXTRAS = ("tool_calls", "logprobs")
REASONING = "reasoning"
_ADDRESS = re.compile(r" at 0x[0-9a-fA-F]+")


def frames_among(names: Mapping[str, object]) -> list[str]:
    """List the variables with a DataFrame, latest first, without those that begin with an underscore.

    Examples
    --------
    >>> frames_among({"pi": 3.14})
    []
    """
    return [
        name
        for name, value in reversed(list(names.items()))
        if isinstance(value, pd.DataFrame) and not name.startswith("_")
    ]


def check_frame(df: object) -> None:
    """Raise an error if this is not a DataFrame.

    Raises
    ------
    FrameError
        The message says how to make one.

    Examples
    --------
    >>> check_frame(pd.Series(["a"], name="text"))
    Traceback (most recent call last):
        ...
    vbatch_jupyter.errors.FrameError: A Series is not a DataFrame; pass series.to_frame("text").
    """
    if isinstance(df, pd.DataFrame):
        return
    if isinstance(df, pd.Series):
        message = f'A Series is not a DataFrame; pass series.to_frame("{"text" if df.name is None else df.name}").'
    else:
        message = f"A {type(df).__name__} is not a pandas DataFrame; convert it first."
    raise FrameError(message, param="df")


def sampled(df: pd.DataFrame, sample: int | None) -> pd.DataFrame:
    """Return the first rows of a frame, or all of them.

    Raises
    ------
    FrameError
        It is not a DataFrame, or ``sample`` is less than 1.
    """
    check_frame(df)
    if sample is None:
        return df
    if sample < 1:
        raise FrameError(f"sample= must be the number of rows to run, not {sample}.", param="sample")
    return df.iloc[:sample]


def names_of_rows(rows: int) -> list[str]:
    """Return the custom_ids of rows that no column names.

    Examples
    --------
    >>> names_of_rows(2)
    ['row-0', 'row-1']
    """
    return [f"row-{position}" for position in range(rows)]


def describe_row(df: pd.DataFrame, position: int) -> str:
    """Name a row in an error by its position, and by its label if that is different.

    Examples
    --------
    >>> describe_row(pd.DataFrame({"a": [1, 2]}, index=["x", "y"]), 1)
    "row 1 (index 'y')"
    >>> describe_row(pd.DataFrame({"a": [1, 2]}), 1)
    'row 1'
    """
    if isinstance(df.index, pd.RangeIndex) and df.index.start == 0 and df.index.step == 1:
        return f"row {position}"
    label = df.index[position]
    return f"row {position} (index {label.item() if isinstance(label, np.generic) else label!r})"


class Unrendered(NamedTuple):
    """A row that cannot be rendered, and so has no request.

    Parameters
    ----------
    position
        Its position in the frame.
    custom_id
        The name that its request would have.
    error
        Why it cannot be rendered.
    """

    position: int
    custom_id: str
    error: str


class FrameDescription(msgspec.Struct, frozen=True, kw_only=True, omit_defaults=True):
    """What a batch keeps of the frame it was made from, as JSON in `BatchRecord.frame`.

    Parameters
    ----------
    fingerprint
        The frame's; see `fingerprint`.
    rows
        Its number of rows.
    endpoint
        The batch's, as a path.
    output
        Name of the response column.
    schema
        The JSON schema of ``schema=``.
    custom_id
        Position of the column that names the requests.
    extras
        Which of the columns ``reasoning``, ``tool_calls`` and ``logprobs`` the result has, whatever the answers are.
    has_choices
        Whether each answer is a list of texts, as ``n`` > 1 asks.
    unrendered
        The position and the custom_id of each row that has no request, by the reason.
    """

    fingerprint: str
    rows: int
    endpoint: str
    output: str = "response"
    schema: dict[str, Any] | None = None
    custom_id: int | None = None
    extras: tuple[str, ...] = ()
    has_choices: bool = False
    unrendered: dict[str, list[tuple[int, str]]] = {}

    def unrendered_rows(self) -> list[Unrendered]:
        """Return the rows that have no request, in the frame's order.

        Examples
        --------
        >>> kept = {"division by zero": [(1, "row-1")]}
        >>> FrameDescription(fingerprint="", rows=2, endpoint="", unrendered=kept).unrendered_rows()
        [Unrendered(position=1, custom_id='row-1', error='division by zero')]
        """
        return sorted(Unrendered(*row, error) for error, rows in self.unrendered.items() for row in rows)

    def all_names(self, requested: Iterable[str]) -> list[str]:
        """Return the custom_ids of all rows, from those of the rows that have a request.

        Parameters
        ----------
        requested
            The custom_ids of the input file, in its order.
        """
        others = {row.position: row.custom_id for row in self.unrendered_rows()}
        names = iter(requested)
        return [others[position] if position in others else next(names) for position in range(self.rows)]

    def to_json(self) -> str:
        """Write the description.

        Examples
        --------
        >>> FrameDescription(fingerprint="sha256:0", rows=2, endpoint="/v1/embeddings").to_json()
        '{"fingerprint":"sha256:0","rows":2,"endpoint":"/v1/embeddings"}'
        """
        return msgspec.json.encode(self).decode()

    @classmethod
    def from_json(cls, text: str) -> FrameDescription:
        """Read a description; keys that a newer release has added are ignored.

        Examples
        --------
        >>> FrameDescription.from_json('{"fingerprint":"sha256:0","rows":2,"endpoint":"/v1/embeddings"}').output
        'response'
        """
        return msgspec.json.decode(text, type=cls)

    def is_of(self, df: pd.DataFrame) -> bool:
        """Return whether this is the frame the batch was made from."""
        try:
            self.check(df)
        except (FrameError, ValueError):  # another frame may have what a batch cannot be made from
            return False
        return True

    def check(self, df: pd.DataFrame) -> None:
        """Raise an error if this is not the frame the batch was made from.

        Raises
        ------
        FrameError
            It has other rows, or the same number of rows with another content.
        """
        check_frame(df)
        if len(df) != self.rows:
            message = f"The batch was made from a DataFrame of {self.rows:,} rows; this one has {len(df):,}."
        elif fingerprint(df) != self.fingerprint:
            message = "The batch was made from another DataFrame: values, index, columns or their order differ."
        else:
            return
        raise FrameError(f"{message} To get the answers by position, call results() without a DataFrame.", param="df")


def describe(df: pd.DataFrame, ask: Ask, endpoint: str, *, reasons: bool = False) -> FrameDescription:
    """Describe a frame for its batch, after checking that its result can be built.

    Parameters
    ----------
    df
        The rows that are asked about.
    ask
        What is asked.
    endpoint
        The endpoint's path.
    reasons
        Whether the engine parts what the model thinks from its answers.

    Raises
    ------
    FrameError
        A column of the result is in the frame already, or ``schema`` and ``n`` are given together.
    """
    # A column may say anything.
    body, schema = {**ask.body, **dict.fromkeys(ask.col, "a column")}, ask.schema
    if schema is not None:
        parser(schema)
        if body.get("n") not in (None, 1):
            raise FrameError("schema= makes one column per field, so n= must be 1.", param="n")
    requested = {"tool_calls": body.get("tools"), "logprobs": body.get("logprobs") not in (None, False)}
    if "message.output_text.logprobs" in (body.get("include") or ()) or body.get("top_logprobs"):
        requested["logprobs"] = True
    extras = tuple(name for name in EXTRAS if requested[name])
    check_output(df, ask.output, schema, extras)
    return FrameDescription(
        fingerprint=fingerprint(df),
        rows=len(df),
        endpoint=endpoint,
        output=ask.output,
        schema=None if schema is None else json_schema(schema),
        custom_id=None if ask.custom_id is None else column_position(df, ask.custom_id),
        has_choices="n" in ask.col or ("n" in body and (number_of(body["n"]) or 1) > 1),
        extras=(REASONING, *extras) if reasons and ENDPOINTS[endpoint].generates else extras,
    )


def check_output(df: pd.DataFrame, output: str, schema: Schema | None, extras: Collection[str] = ()) -> None:
    """Raise an error if the frame already has columns of ``output``.

    Raises
    ------
    FrameError
        Names the column, and what to do.

    Examples
    --------
    >>> check_output(pd.DataFrame({"error": []}), "response", None)
    Traceback (most recent call last):
        ...
    vbatch_jupyter.errors.FrameError: The DataFrame already has a column 'error'; choose other names with output=.
    """
    if not output:
        raise FrameError(f"output= must be the name of a column, not {output!r}.", param="output")
    names = [*value_columns(output, schema), *(prefix_of(output) + name for name in (*extras, "error"))]
    for name in names:
        if names.count(name) > 1:
            field = name.removeprefix(prefix_of(output))
            message = f"The schema's field {field!r} is also a column of the result; rename it."
            raise FrameError(message, param="schema")
        if name in df.columns.get_level_values(0):
            message = f"The DataFrame already has a column {name!r}; choose other names with output=."
            raise FrameError(message, param="output")


def value_columns(output: str, schema: Schema | None) -> list[str]:
    """Return the names of the columns with the answers: one, or one for each field of the schema."""
    return [output] if schema is None else [prefix_of(output) + field.name for field in fields(schema)]


def prefix_of(output: str) -> str:
    """Return the prefix of the names of the result's other columns."""
    return "" if output == "response" else f"{output}_"


def fingerprint(df: pd.DataFrame) -> str:
    """Hash a frame's values, index and column labels.

    Two frames that were read the same way have the same fingerprint, in any process. A changed cell, another order of
    the rows or of the columns, or another index gives another one; the names of index and columns do not count.

    Parameters
    ----------
    df
        Any frame: labels may repeat, cells may be lists, dicts or arrays.

    Examples
    --------
    >>> fingerprint(pd.DataFrame({"a": [1, 2]})) == fingerprint(pd.DataFrame({"a": [1, 2]}))
    True
    >>> fingerprint(pd.DataFrame({"a": [1, 2]})) == fingerprint(pd.DataFrame({"a": [2, 1]}))
    False
    """
    digest = hashlib.sha256(f"{df.shape}".encode())
    for label in df.columns:
        digest.update(f"{_stable_text(label)}\n".encode(errors="surrogatepass"))
    for level in range(df.index.nlevels):
        digest.update(_hashes(df.index.get_level_values(level).to_series()).tobytes())
    for position in range(df.shape[1]):
        digest.update(_hashes(df.iloc[:, position]).tobytes())
    return f"sha256:{digest.hexdigest()}"


def _hashes(values: pd.Series[Any]) -> np.ndarray[Any, np.dtype[np.uint64]]:
    if values.dtype != object or pd.api.types.infer_dtype(values, skipna=True) == "string":
        try:
            return pd.util.hash_array(values.array, categorize=False)
        except (TypeError, ValueError, NotImplementedError):
            # Lists, maps and bytes of Arrow, categories that are not scalars, lone surrogates.
            pass
    texts = np.array([_stable_text(value) for value in values.tolist()], dtype=object)
    return pd.util.hash_array(texts, categorize=False)


def _stable_text(value: object) -> str:  # noqa: PLR0911 - one for each kind of cell
    """Return the text of a cell, the same for equal cells in every process."""
    if type(value) is str:
        return f"str:{value!a}"
    if isinstance(value, np.ndarray):
        # repr() leaves the middle of a long array out.
        return f"array{_stable_text(value.tolist())}"
    if isinstance(value, (set, frozenset)):
        # The order of a set differs from process to process.
        return f"set{sorted(map(_stable_text, value))}"
    if isinstance(value, dict):
        return "{" + ",".join(f"{_stable_text(key)}:{_stable_text(cell)}" for key, cell in value.items()) + "}"
    if isinstance(value, (list, tuple)):
        return f"{type(value).__name__}[{','.join(map(_stable_text, value))}]"
    if not isinstance(value, (str, int)) and is_missing(value):
        return "missing"
    text = ascii(value)
    if _ADDRESS.search(text):
        # The address differs from process to process. A picture has bytes.
        content = value.tobytes() if hasattr(value, "tobytes") else b""
        text = _ADDRESS.sub("", text) + hashlib.sha256(content).hexdigest()
    return f"{type(value).__name__}:{text}"
