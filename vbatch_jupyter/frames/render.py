"""A DataFrame's rows as the lines of an input file.

=============  ================================================  =========================  ==================
endpoint       the rendered template is                          ``system`` is              the schema is
=============  ================================================  =========================  ==================
chat           the user's message in ``messages``                the message before it      ``response_format``
completions    ``prompt``                                        refused                    ``response_format``
embeddings     ``input``                                         refused                    refused
responses      ``input``                                         ``instructions``           ``text.format``
=============  ================================================  =========================  ==================

``system`` is a template too, which may do without columns; a text without Jinja's braces is sent unchanged.
"""

from __future__ import annotations

import dataclasses
import functools
import itertools
from collections.abc import Callable, Hashable, Iterable, Iterator, Mapping, Sequence
from typing import TYPE_CHECKING, Any

from msgspec import structs

from vbatch_jupyter.errors import BadRequestError, FrameError, TemplateError
from vbatch_jupyter.frames.ask import ON_ERROR, Ask
from vbatch_jupyter.frames.cells import cells_of, column_position, is_missing, plain_body
from vbatch_jupyter.frames.field_order import Orders, field_orders
from vbatch_jupyter.frames.frame import FrameDescription, Unrendered, describe, describe_row, names_of_rows, sampled
from vbatch_jupyter.frames.schema import left_out, response_format, unheld_in_body
from vbatch_jupyter.frames.template import Template
from vbatch_jupyter.protocol import policy
from vbatch_jupyter.protocol.endpoints import Endpoint, endpoint_of
from vbatch_jupyter.protocol.keys import check_keys
from vbatch_jupyter.protocol.lines import encode_request_line
from vbatch_jupyter.protocol.profiles import PROFILES

if TYPE_CHECKING:
    import pandas as pd

    from vbatch_jupyter.frames.conversation import Conversation

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
        thousand at a time, so complete the input file before you make a batch of it. Reading raises an error if no
        row can be rendered, and with ``on_error="raise"`` at the first one that cannot.
    unrendered
        The rows that cannot be rendered and have no line; complete when the lines have been read.
    notes
        What the user should know before anything runs, in sentences.
    """

    df: pd.DataFrame
    ask: Ask
    description: FrameDescription
    lines: Iterator[bytes]
    unrendered: list[Unrendered]
    notes: Sequence[str] = ()

    def described(self) -> FrameDescription:
        """Return what a batch keeps of the frame, with the rows that cannot be rendered, after the lines were read."""
        by_error: dict[str, list[tuple[int, str]]] = {}
        for row in self.unrendered:
            by_error.setdefault(row.error, []).append((row.position, row.custom_id))
        return structs.replace(self.description, unrendered=by_error)

    def late_notes(self) -> list[str]:
        """Return what the user should know about the rows that cannot be rendered, after the lines were read."""
        if not self.unrendered:
            return []
        count, first = len(self.unrendered), self.unrendered[0]
        rows = "1 row" if count == 1 else f"{count:,} rows"
        where = describe_row(self.df, first.position)
        return [f"{rows} cannot be rendered and will not be sent. The first is {where}: {first.error}"]


def requests_of(
    df: pd.DataFrame,
    ask: Ask,
    by: policy.Answering = policy.LOCAL,
    *,
    reasons: bool = False,
    grammar: str = "vllm",
) -> Requests:
    r"""Check an ask, and make the requests of a frame's rows.

    Parameters
    ----------
    df
        The frame; it is not changed.
    ask
        What is asked; it names the model.
    by
        Who will answer.
    reasons
        As for `describe`.
    grammar
        Which grammars hold the answers to its schema; one of `grammar_schema.GRAMMARS`.

    Raises
    ------
    TemplateError
        The template does not parse, names an unknown column, or uses no column.
    FrameError
        Another argument does not fit the frame or the endpoint.
    BadRequestError
        The endpoint or a key of the body is not known, or each request would be answered with an error.

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
    if ask.on_error not in ON_ERROR:
        raise FrameError(
            f"on_error= must be {' or '.join(map(repr, ON_ERROR))}, not {ask.on_error!r}.", param="on_error"
        )
    prompt: Template | Conversation
    if isinstance(ask.template, str) and ask.messages is None:
        prompt = Template(ask.template, df.columns, levels=df.index.names)
    else:
        from vbatch_jupyter.frames.conversation import conversation_of

        prompt = conversation_of(ask.template, ask.messages, df)
    prompt.refuse_no_column()
    system = None if ask.system is None else Template(ask.system, df.columns, levels=df.index.names, param="system")
    common = plain_body(ask.body)
    rows = _Rows(
        df=df,
        ask=ask,
        common=common,
        continues=by.server != "openai" and "continue_final_message" in endpoint.known_keys,
        prompt=prompt,
        # A text is sent as it is: Jinja drops a newline at its end.
        system=system if system is not None and system.is_computed else None,
        orders=_field_orders(df, prompt) if ask.reorder_fields else None,
        names=custom_ids(df, ask.custom_id),
        url=endpoint.path,
        build=_body_builder(endpoint, ask, common, by, grammar),
    )
    if ask.col:
        from vbatch_jupyter.frames.row_parameters import parameters_by_row

        rows.parameters = parameters_by_row(df, ask.col, common, lambda rest: _refuse(endpoint, rows.build, rest, by))
    return Requests(
        df,
        ask,
        describe(df, ask, endpoint.path, reasons=reasons),
        rows.lines(),
        rows.unrendered,
        [*prompt.notes, *(system.notes if system else ()), *_notes(endpoint, ask, grammar)],
    )


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


@dataclasses.dataclass(kw_only=True)
class _Rows:
    """Renders the rows of a frame."""

    df: pd.DataFrame
    ask: Ask
    common: Mapping[str, Any]
    continues: bool
    prompt: Template | Conversation
    system: Template | None
    orders: Orders | None
    names: list[str]
    url: str
    build: Callable[..., dict[str, Any]]
    parameters: Sequence[Mapping[str, Any]] | None = None
    unrendered: list[Unrendered] = dataclasses.field(default_factory=list)

    def lines(self) -> Iterator[bytes]:
        """Render all rows.

        Raises
        ------
        TemplateError
            No row can be rendered, or one cannot and it must.
        FrameError
            A value has no text: bytes, a picture, the messages of a chat.
        """
        rendered = 0
        for start in range(0, len(self.names), _ROWS_AT_ONCE):
            stop = min(start + _ROWS_AT_ONCE, len(self.names))
            for line in map(
                self._line, range(start, stop), self._cells(self.prompt, start, stop), self._systems(start, stop)
            ):
                if line is not None:
                    rendered += 1
                    yield line
        if self.names and not rendered:
            cells, system = next(zip(self._cells(self.prompt, 0, 1), self._systems(0, 1), strict=False))
            # The same error again, now with the row's name.
            self._rendered(0, cells, system, lambda: f"{describe_row(self.df, 0)}, nor for any other row")

    def _line(self, position: int, cells: Sequence[Any], system: Sequence[Any] | None) -> bytes | None:
        """Render one row; None if it cannot be rendered."""
        try:
            # Without the row's name equal reasons are equal texts.
            return self._rendered(position, cells, system, _this_row)
        except (FrameError, TemplateError) as error:
            if isinstance(error, FrameError) or self.ask.on_error == "raise":
                # Nothing runs, so the same error again, now with the row's name.
                return self._rendered(position, cells, system, functools.partial(describe_row, self.df, position))
            self.unrendered.append(Unrendered(position, self.names[position], error.message))
            return None

    def _rendered(
        self, position: int, cells: Sequence[Any], system: Sequence[Any] | None, where: Callable[[], str]
    ) -> bytes:
        order = None if self.orders is None else self.orders[position].tolist()
        prompt = self.prompt.render_cells(cells, where=where, order=order)
        own: dict[str, Any] = {}
        if self.system is not None and system is not None:
            own["system"] = self.system.render_cells(system, where=where)
        if self.parameters is not None:
            own["rest"] = self.parameters[position]
        if isinstance(prompt, list):
            own |= self._own_of_messages(prompt, own, where)
        body = self.build(prompt, **own)
        try:
            return encode_request_line(self.names[position], self.url, body) + b"\n"
        except BadRequestError as error:
            message = f"The prompt of {where()} cannot be sent: {error.message}"
            raise TemplateError(message, param="template") from error

    def _own_of_messages(
        self, messages: Sequence[Mapping[str, Any]], own: Mapping[str, Any], where: Callable[[], str]
    ) -> dict[str, Any]:
        """Return the parameters that let the model continue a last message of the assistant, and not answer it."""
        if self.ask.system is not None and messages[0]["role"] in ("system", "developer"):
            message = f"The messages of {where()} begin with a system message, and system= is another. Leave one out."
            raise TemplateError(message, param="system")
        if messages[-1]["role"] != "assistant":
            return {}
        if not self.continues:
            message = f"The last message of {where()} is the assistant's, and only vLLM's chats can continue one."
            raise TemplateError(message, param="template")
        rest = own.get("rest", self.common)
        return {"rest": {"add_generation_prompt": False, "continue_final_message": True, **rest}}

    def _systems(self, start: int, stop: int) -> Iterable[Sequence[Any] | None]:
        return itertools.repeat(None) if self.system is None else self._cells(self.system, start, stop)

    def _cells(self, template: Template | Conversation, start: int, stop: int) -> Iterable[Sequence[Any]]:
        columns, levels = self.df.columns, self.df.index.names
        cells = [
            cells_of(self.df.iloc[start:stop, place], columns[place])
            if place < len(columns)
            else cells_of(
                self.df.index[start:stop].get_level_values(place - len(columns)).to_series(),
                levels[place - len(columns)],
            )
            for place in template.positions
        ]
        # zip of no columns would give no row, but a template that uses none still has one prompt a row.
        return zip(*cells, strict=True) if cells else itertools.repeat((), stop - start)


def _this_row() -> str:
    return "this row"


def _field_orders(df: pd.DataFrame, template: Template | Conversation) -> Orders | None:
    if not isinstance(template, Template) or not template.sends_rows:
        message = "reorder_fields= is for templates that send whole rows, such as {{ row | tojson }}; "
        raise FrameError(f"{message}with named columns, you choose the order.", param="reorder_fields")
    names = template.row_names
    places = template.positions[-len(names) :]
    return field_orders([cells_of(df.iloc[:, at], df.columns[at]) for at in places], names) if names else None


def _body_builder(
    endpoint: Endpoint, ask: Ask, common: Mapping[str, Any], by: policy.Answering, grammar: str
) -> Callable[..., dict[str, Any]]:
    """Return a function from a prompt to its request's body, after checking everything else in the body."""
    for taken in ("model", endpoint.prompt_key, "stream"):
        if taken in ask.body or (taken in ask.col and taken != "model"):
            reason = "a batch does not stream" if taken == "stream" else "it comes from the DataFrame and the arguments"
            raise FrameError(f"{taken!r} cannot be set in the body: {reason}.", param=taken)
    if "model" in ask.col and by.server != "compatible":
        raise FrameError("All requests of a batch must have the same model here and at OpenAI.", param="model")
    if ask.model is None and "model" not in ask.col:
        raise FrameError("Name the model with model=.", param="model")
    if ask.schema is not None and (ask.body.get("ignore_eos") or "ignore_eos" in ask.col):
        message = "ignore_eos= makes a model write on after its JSON, so that no answer fits schema=. Leave one out."
        raise FrameError(message, param="ignore_eos")
    build = functools.partial(
        endpoint.body,
        model=ask.model or "",
        system=ask.system,
        response_format=None if ask.schema is None else response_format(ask.schema, grammar),
        rest=common,
    )
    try:
        if ask.col:  # unless the rows say the rest of the body, it is checked whole below
            check_keys(endpoint, ask.col)
        body = build("a")
    except BadRequestError as error:
        raise FrameError(error.message, param=error.param) from error
    if not ask.col:
        policy.refuse(endpoint, body, by)
    return build


def _refuse(
    endpoint: Endpoint, build: Callable[..., dict[str, Any]], rest: Mapping[str, Any], by: policy.Answering
) -> None:
    body = build("a", rest=rest)
    if not isinstance(model := body["model"], str) or not model:
        raise FrameError(f"the model must be a name, not {model!r}.", param="model")
    policy.refuse(endpoint, body, by)


def _notes(endpoint: Endpoint, ask: Ask, grammar: str) -> Iterator[str]:
    if ask.schema is not None and (note := left_out(ask.schema, grammar)):
        yield note
    in_body = endpoint.schema(ask.body)
    if in_body is not None and (note := unheld_in_body(in_body, grammar)):
        yield note
    if ask.schema is not None and ask.body.get("min_tokens"):
        yield "min_tokens= does nothing with schema=: an answer ends where its JSON does."


def _custom_id_error(message: str) -> FrameError:
    return FrameError(message, param="custom_id")
