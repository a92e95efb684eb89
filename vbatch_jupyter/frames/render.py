"""A DataFrame's rows as the lines of an input file.

=============  ================================================  =========================  ==================
endpoint       the rendered template is                          ``system`` is              the schema is
=============  ================================================  =========================  ==================
chat           the user's message in ``messages``                the message before it      ``response_format``
completions    ``prompt``                                        refused                    ``response_format``
embeddings     ``input``                                         refused                    refused
responses      ``input``                                         ``instructions``           ``text.format``
=============  ================================================  =========================  ==================

``system`` is not a template: it is sent unchanged, the same for every row.
"""

from __future__ import annotations

import dataclasses
import functools
from collections.abc import Callable, Hashable, Iterator, Mapping
from typing import TYPE_CHECKING, Any

import msgspec
import numpy as np

from vbatch_jupyter.errors import BadRequestError, FrameError
from vbatch_jupyter.frames.ask import Ask
from vbatch_jupyter.frames.cells import cells_of, column_position, is_missing
from vbatch_jupyter.frames.field_order import Orders, field_orders
from vbatch_jupyter.frames.frame import FrameDescription, describe, describe_row, names_of_rows, sampled
from vbatch_jupyter.frames.schema import response_format
from vbatch_jupyter.frames.template import Template
from vbatch_jupyter.protocol.endpoints import Endpoint, endpoint_of
from vbatch_jupyter.protocol.lines import encode_request_line
from vbatch_jupyter.protocol.profiles import PROFILES

if TYPE_CHECKING:
    import pandas as pd

_EXACT = 2**53
"""Below this, a float with a whole number stands for exactly that number."""

_CUSTOM_ID_BYTES = PROFILES["local"].max_custom_id_bytes

_ROWS_AT_ONCE = 8_192
"""Rows whose cells are held as Python objects at one time."""


@dataclasses.dataclass(frozen=True)
class Requests:
    """The requests of a frame's rows; everything has been checked except the prompts of the rows.

    Parameters
    ----------
    df
        The rows.
    ask
        What is asked.
    description
        What a batch keeps of the frame.
    lines
        One line of the input file for each row, in order. The rows are rendered while the lines are read, a few
        thousand at a time. A row that cannot be rendered raises then, so complete the input file before you make a
        batch of it.
    """

    df: pd.DataFrame
    ask: Ask
    description: FrameDescription
    lines: Iterator[bytes]


def requests_of(df: pd.DataFrame, ask: Ask, *, reasons: bool = False) -> Requests:
    r"""Check an ask, and make the requests of a frame's rows.

    Parameters
    ----------
    df
        The frame; it is not changed.
    ask
        What is asked; it names the model.
    reasons
        As for `describe`.

    Raises
    ------
    TemplateError
        The template does not parse, or names an unknown column.
    FrameError
        Another argument does not fit the frame or the endpoint.
    BadRequestError
        The endpoint or a key of the body is not known.

    Examples
    --------
    >>> import pandas as pd
    >>> df = pd.DataFrame({"text": ["good", None]})
    >>> ask = Ask.of("Is it {{ text }}?", model="m", endpoint="completions")
    >>> print(b"".join(requests_of(df, ask).lines).decode(), end="")
    {"custom_id":"row-0","method":"POST","url":"/v1/completions","body":{"model":"m","prompt":"Is it good?"}}
    {"custom_id":"row-1","method":"POST","url":"/v1/completions","body":{"model":"m","prompt":"Is it ?"}}
    """
    df = sampled(df, ask.sample)
    endpoint = endpoint_of(ask.endpoint)
    template = Template(ask.template, df.columns)
    orders = _field_orders(df, template) if ask.reorder_fields else None
    names = custom_ids(df, ask.custom_id)
    lines = _lines(df, template, names, endpoint.path, _body_builder(endpoint, ask), orders=orders)
    return Requests(df, ask, describe(df, ask, endpoint.path, reasons=reasons), lines)


def custom_ids(df: pd.DataFrame, column: Hashable | None = None) -> list[str]:
    """List the custom_id of every row: its position, or the text of a column.

    Parameters
    ----------
    df
        The frame.
    column
        Label of the column. As text, its values must be unique and have 1 to 512 bytes.

    Raises
    ------
    FrameError
        The column cannot name the rows.

    Examples
    --------
    >>> import pandas as pd
    >>> df = pd.DataFrame({"ticket": [17, 23]})
    >>> custom_ids(df), custom_ids(df, "ticket")
    (['row-0', 'row-1'], ['17', '23'])
    """
    if column is None:
        return names_of_rows(len(df))
    names: list[str] = []
    seen: dict[str, int] = {}
    for position, value in enumerate(df.iloc[:, column_position(df, column)].tolist()):
        name = "" if is_missing(value) else str(value)
        where = describe_row(df, position)
        if not name:
            raise _custom_id_error(f"The column {column!r} cannot be the custom_id: it is missing or empty in {where}.")
        if len(name.encode(errors="replace")) > _CUSTOM_ID_BYTES:
            raise _custom_id_error(
                f"The column {column!r} cannot be the custom_id: it has more than {_CUSTOM_ID_BYTES} bytes in {where}."
            )
        if name in seen:
            message = f"The column {column!r} cannot be the custom_id: {name!r} is in row {seen[name]} and in {where}."
            raise _custom_id_error(f"{message} Choose a column with unique values.")
        seen[name] = position
        names.append(name)
    return names


def _lines(
    df: pd.DataFrame,
    template: Template,
    names: list[str],
    url: str,
    build: Callable[[str], dict[str, Any]],
    *,
    orders: Orders | None,
) -> Iterator[bytes]:
    for start in range(0, len(names), _ROWS_AT_ONCE):
        stop = min(start + _ROWS_AT_ONCE, len(names))
        cells = [cells_of(df.iloc[start:stop, place], df.columns[place]) for place in template.positions]
        # zip of no columns would give no row, but a template that uses none still has one prompt a row.
        rows = zip(*cells, strict=True) if cells else iter([()] * (stop - start))
        for position, row in enumerate(rows, start):
            order = None if orders is None else orders[position].tolist()
            prompt = template.render_cells(row, where=functools.partial(describe_row, df, position), order=order)
            try:
                line = encode_request_line(names[position], url, build(prompt))
            except BadRequestError as error:
                message = f"The prompt of {describe_row(df, position)} cannot be sent: {error.message}"
                raise FrameError(message, param="template") from error
            yield line + b"\n"


def _field_orders(df: pd.DataFrame, template: Template) -> Orders | None:
    if not template.sends_rows:
        message = "reorder_fields= is for templates that send whole rows, such as {{ row | tojson }}; "
        raise FrameError(f"{message}with named columns, you choose the order.", param="reorder_fields")
    names = template.row_names
    places = template.positions[-len(names) :]
    return field_orders([cells_of(df.iloc[:, at], df.columns[at]) for at in places], names) if names else None


def _body_builder(endpoint: Endpoint, ask: Ask) -> Callable[[str], dict[str, Any]]:
    """Return a function from a prompt to its request's body, after checking everything else in the body."""
    endpoint.check_keys(ask.body)
    for taken in ("model", endpoint.prompt_key, "stream"):
        if taken in ask.body:
            reason = "a batch does not stream" if taken == "stream" else "it comes from the DataFrame and the arguments"
            raise FrameError(f"{taken!r} cannot be set in the body: {reason}.", param=taken)
    if ask.model is None:
        raise FrameError("Name the model with model=.", param="model")
    build = functools.partial(
        endpoint.body,
        model=ask.model,
        system=ask.system,
        response_format=None if ask.schema is None else response_format(ask.schema),
        rest=_plain_body(ask.body),
    )
    try:
        build("")
    except BadRequestError as error:
        raise FrameError(error.message, param=error.param) from error
    return build


def _plain_body(body: Mapping[str, Any]) -> dict[str, Any]:
    try:
        plain: dict[str, Any] = msgspec.to_builtins(dict(body), enc_hook=_plain_value)
    except (TypeError, ValueError, RecursionError) as error:
        raise FrameError(f"A body parameter cannot be written as JSON: {error}.", param="body") from error
    # Equal requests must be equal bytes, so that they share their answers. Not deeper than this: what is in a tool or
    # a schema may be shown to the model as it is written.
    return {name: _shortest(value) for name, value in plain.items()}


def _shortest(value: object) -> object:
    if isinstance(value, float) and value.is_integer() and abs(value) < _EXACT:
        return int(value)
    return value


def _plain_value(value: object) -> object:
    if isinstance(value, (np.generic, np.ndarray)):
        return value.tolist()
    if isinstance(value, Mapping):
        return dict(value)
    raise TypeError(f"a {type(value).__name__} cannot be written as JSON")


def _custom_id_error(message: str) -> FrameError:
    return FrameError(message, param="custom_id")
