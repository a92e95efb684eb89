"""Prompts that are a conversation: a list of messages, a column of messages, or what a function returns for a row.

- ``template=[{"role": "system", "content": "Be brief."}, {"role": "user", "content": "{{ text }}"}]``: every text in it
  except a role or a type is a template, also inside of content parts.
- ``messages="history"``: the cells of a column are lists of messages. The template, if there is one, comes after them.
- ``template=function``: called with a dict of the row's cells by label, None for what is missing; it returns a text or
  a list of messages.

In the magics and the builder, a template that begins with a line such as ``--- system`` is a conversation: each such
line begins a message (`ask.messages_of`).
"""

from __future__ import annotations

from collections.abc import Callable, Hashable, Iterable, Mapping, Sequence
from typing import Any

from vbatch_jupyter.errors import FrameError, TemplateError, did_you_mean
from vbatch_jupyter.frames.ask import ROLES
from vbatch_jupyter.frames.cells import Missing, column_position
from vbatch_jupyter.frames.template import Template

_NO_TEMPLATES = frozenset({"role", "type"})
_NO_CONTENT = (None, "assistant")

Place = tuple[Template, tuple[int, ...]]


class Conversation:
    """A prompt of several messages, checked against the columns; to be rendered as a `Template` is.

    Parameters
    ----------
    template
        A text, a list of messages, a function of a row, or None.
    messages
        The label of a column of messages; None if there is none.
    columns
        The labels of all columns.
    levels
        The names of the index's levels.

    Raises
    ------
    FrameError, TemplateError
        It is neither of these, or a message, a role or a template in it is not valid.

    Examples
    --------
    >>> asked = Conversation([{"role": "user", "content": "Say {{ word }}"}], None, ["word"])
    >>> asked.render_cells(["yes"])
    [{'role': 'user', 'content': 'Say yes'}]
    """

    sends_rows = False

    def __init__(
        self,
        template: object,
        messages: int | None,
        columns: Sequence[Hashable],
        *,
        levels: Iterable[Hashable] = (),
    ) -> None:
        self._columns, self._levels = columns, list(levels)
        self._history = messages is not None
        self._positions: dict[int, int] = {} if messages is None else {messages: 0}
        self._function: Callable[[dict[Hashable, Any]], object] | None = None
        self._places: list[Place] = []
        self._messages: list[Any] = []
        if callable(template):
            self._function = template
            self._places_of(range(len(columns)))
        elif isinstance(template, str):
            self._messages = [{"role": "user", "content": self._part("content", template, "the template")}]
        elif template is not None:
            self._messages = [
                self._part("", message, f"message {number} of the template")
                for number, message in enumerate(_checked(template, "the template"), 1)
            ]
        elif not self._history:
            raise FrameError("Say what to ask: give a template or messages=.", param="template")

    @property
    def positions(self) -> tuple[int, ...]:
        """Positions of the columns whose cells `render_cells` takes."""
        return tuple(self._positions)

    @property
    def notes(self) -> list[str]:
        """What the user should know, in sentences."""
        return [note for template, _ in self._places for note in template.notes]

    def refuse_no_column(self) -> None:
        """Raise an error if each row would get the same prompt; see `Template.refuse_no_column`."""
        if self._positions:
            return
        texts = [template.source for template, _ in self._places]
        Template("\n".join(texts), self._columns, levels=self._levels).refuse_no_column()

    def render_cells(
        self, cells: Sequence[Any], *, where: Callable[[], str] = lambda: "this row", order: Sequence[int] | None = None
    ) -> str | list[dict[str, Any]]:
        """Render one row from its cells.

        Parameters
        ----------
        cells
            One cell for each of `positions`.
        where
            Returns the row's name; called only for an error.
        order
            Not used.

        Raises
        ------
        TemplateError
            A template or the function fails, or the column or the function has no list of messages.
        """
        del order
        rendered = self._rendered(cells, where)
        if not self._history:
            return rendered
        said = [{"role": "user", "content": rendered}] if isinstance(rendered, str) else rendered
        history = [] if isinstance(cells[0], Missing) else cells[0]
        if said and history == []:
            return said
        try:
            return [*_without_none(_checked(history, "messages=")), *said]
        except FrameError as error:
            raise TemplateError(f"{error.message} This is in {where()}.", param="messages") from error

    def _rendered(self, cells: Sequence[Any], where: Callable[[], str]) -> str | list[dict[str, Any]]:
        if self._function is not None:
            return self._called(self._function, cells, where)
        texts = [
            template.render_cells([cells[place] for place in places], where=where) for template, places in self._places
        ]
        return [_filled(message, texts) for message in self._messages]

    def _called(
        self, function: Callable[[dict[Hashable, Any]], object], cells: Sequence[Any], where: Callable[[], str]
    ) -> str | list[dict[str, Any]]:
        places = self._positions
        row = {label: cells[places[at]] for at, label in enumerate(self._columns)}
        try:
            value = function({label: None if isinstance(cell, Missing) else cell for label, cell in row.items()})
            return value if isinstance(value, str) else _checked(value, "what the function returned")
        except FrameError as error:
            raise TemplateError(f"{error.message} This is in {where()}.", param="template") from error
        # It is the user's, and may raise anything.
        except Exception as error:
            reason = f"{type(error).__name__}: {error}".rstrip(".: ")
            raise TemplateError(f"The function cannot be called for {where()}: {reason}.", param="template") from error

    def _part(self, key: str, value: Any, name: str) -> Any:
        """Return a part of a message, with a `_Text` instead of each template."""
        if isinstance(value, Mapping):
            return {inner: self._part(inner, item, name) for inner, item in value.items()}
        if isinstance(value, (list, tuple)):
            return [self._part(key, item, name) for item in value]
        if not isinstance(value, str) or key in _NO_TEMPLATES:
            return value
        template = Template(value, self._columns, levels=self._levels, name=name)
        if not template.is_computed and not template.notes:
            return value
        self._places.append((template, self._places_of(template.positions)))
        return _Text(len(self._places) - 1)

    def _places_of(self, positions: Iterable[int]) -> tuple[int, ...]:
        return tuple(self._positions.setdefault(position, len(self._positions)) for position in positions)


class _Text(int):
    """The number of a rendered text."""


def _filled(part: Any, texts: Sequence[str]) -> Any:
    kind = type(part)
    if kind is _Text:
        return texts[part]
    if kind is dict:
        return {key: _filled(item, texts) for key, item in part.items()}
    return [_filled(item, texts) for item in part] if kind is list else part


def _checked(messages: object, name: str) -> list[dict[str, Any]]:
    """Return messages, after a look at what they are.

    Raises
    ------
    FrameError
        They are not a list of objects with a role that is known, and a content or tool calls.
    """
    if isinstance(messages, str) or not isinstance(messages, Sequence) or not messages:
        kind = "an empty list" if isinstance(messages, Sequence) and not messages else f"a {type(messages).__name__}"
        what = "a text, a list of messages or a function of a row" if name == "the template" else "a list of messages"
        subject = name if name.endswith("=") else name[0].upper() + name[1:]
        raise FrameError(f"{subject} must be {what}, not {kind}.", param="template")
    for number, message in enumerate(messages, 1):
        if not isinstance(message, Mapping):
            what = f"must be an object with role and content, not a {type(message).__name__}."
        elif (role := message.get("role")) not in ROLES:
            hint = did_you_mean(role, ROLES, written=str) or f" The roles are {', '.join(ROLES)}."
            what = f"has the role {role!r}, which is not known.{hint}"
        elif not isinstance(content := message.get("content"), (str, list, tuple)) and (content, role) != _NO_CONTENT:
            what = f"must have a content that is a text or a list, not a {type(content).__name__}."
        else:
            continue
        raise FrameError(f"Message {number} of {name} {what}", param="template")
    return list(messages)


def _without_none(value: Any) -> Any:
    # Arrow and `datasets` write the fields that one object has into all of them.
    if isinstance(value, Mapping):
        return {key: _without_none(item) for key, item in value.items() if item is not None or key == "content"}
    return [_without_none(item) for item in value] if isinstance(value, (list, tuple)) else value


def conversation_of(template: object, messages: Hashable | None, df: Any) -> Conversation:
    """Return the conversation of an ask, checked against its frame."""
    position = None if messages is None else column_position(df, messages, "messages")
    return Conversation(template, position, list(df.columns), levels=df.index.names)
