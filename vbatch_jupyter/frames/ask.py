"""What a user asks of a frame's rows: one object, made from the user's input and passed on whole.

Each field carries an `Option`: what it is, and which faces do not offer it, with the reason. The faces are made of
these records:

===========  =======================================================================================================
``keyword``  ``vb.submit``, ``vb.run``, ``vb.dry_run`` and ``df.vbatch``
``flag``     ``%%vbatch`` and ``%vbatch export``, and the cell that the builder writes
``trait``    the flags' defaults: ``%config VBatchMagics.…`` and ``[tool.vbatch]``
``builder``  ``%vbatch build``
===========  =======================================================================================================
"""

from __future__ import annotations

import dataclasses
import re
from collections.abc import Callable, Hashable, Mapping, Sequence
from dataclasses import MISSING, field
from numbers import Integral
from typing import Any, Literal, Self, TypeAlias

from vbatch_jupyter.errors import FrameError
from vbatch_jupyter.frames.schema import Schema

ON_ERROR = ("row", "raise")
"""What a row that cannot be rendered may be: a row with its error, or an error before anything runs."""

Prompt: TypeAlias = str | Sequence[Mapping[str, Any]] | Callable[[dict[Hashable, Any]], Any]
"""A template, a list of messages with templates, or a function that returns a text or messages for a row."""

ROLES = ("system", "developer", "user", "assistant", "tool", "function")
TURN = re.compile(rf"^---[ \t]*(?P<role>{'|'.join(ROLES)})[ \t]*$", re.MULTILINE)
"""A line that begins a message in the magics and the builder, such as ``--- system``."""

Face: TypeAlias = Literal["keyword", "flag", "trait", "builder"]


@dataclasses.dataclass(frozen=True, slots=True)
class Column:
    """A column as the value of a body parameter; see `vbatch_jupyter.col`.

    Parameters
    ----------
    label
        The column's label.
    """

    label: Hashable


@dataclasses.dataclass(frozen=True, slots=True, kw_only=True)
class Option:
    """One option, as the faces offer it.

    Parameters
    ----------
    help
        The help text.
    type
        What a face reads: `str`, `int`, `float`, `bool`, or `dict` for a JSON object.
    short
        The one-letter flag.
    metavar
        The name of the flag's value in the help.
    label
        The builder's label; its name by default.
    names_variable
        Whether the flag takes the name of a notebook variable.
    has_lines
        Whether it is a text that may have several lines.
    pairs
        Whether its flag takes ``KEY=VALUE`` and may be repeated, for a `dict` of texts.
    of_run
        Whether it is about running the batch, not about its requests.
    of_body
        Whether it is a key of the request's body, so that only some endpoints take it.
    absent
        The faces that do not offer it, each with the reason.
    """

    help: str
    type: type = str
    short: str = ""
    metavar: str | None = None
    label: str = ""
    names_variable: bool = False
    has_lines: bool = False
    pairs: bool = False
    of_run: bool = False
    of_body: bool = False
    absent: Mapping[Face, str] = field(default_factory=dict)


def _asked(text: str, *, default: Any = MISSING, default_factory: Any = MISSING, **option: Any) -> Any:
    """Declare a field of `Ask` with its `Option`, whose help is the text."""
    return field(default=default, default_factory=default_factory, metadata={"option": Option(help=text, **option)})


@dataclasses.dataclass(frozen=True, kw_only=True)
class Ask:
    """What is asked of every row of a frame; the fields are described at `vbatch_jupyter.submit`.

    Examples
    --------
    >>> ask = Ask.of("Is this positive? {{ review }}", max_tokens=8)
    >>> ask.endpoint, ask.body
    ('chat', {'max_tokens': 8})
    """

    template: Prompt | None = _asked(  # noqa: RUF009 - it is a field
        "the prompt, with {{ column }} for a row's values",
        default=None,
        label="prompt",
        has_lines=True,
        absent={"flag": "the text of the cell is the template", "trait": "each cell has a template of its own"},
    )
    messages: Hashable | None = _asked(  # noqa: RUF009 - it is a field
        "column of lists of messages; the prompt comes after them", default=None, metavar="COLUMN"
    )
    system: str | None = _asked("the system prompt", default=None, short="s", metavar="TEXT", has_lines=True)
    schema: Schema | None = _asked(  # noqa: RUF009 - it is a field
        "variable with a pydantic model class or a JSON schema", default=None, metavar="NAME", names_variable=True
    )
    endpoint: str = _asked("chat (the default), completions, embeddings or responses", default="chat")
    model: str | None = _asked("the model's name; the loaded engine's by default", default=None, short="m")
    target: str | None = _asked(
        "run it at a batch service, such as parasail",
        default=None,
        short="t",
        metavar="T",
        label="runs at",
        of_run=True,
    )
    output: str = _asked("name of the response column; response by default", default="response", metavar="COLUMN")
    custom_id: Hashable | None = _asked(  # noqa: RUF009 - it is a field
        "column whose values name the requests", default=None, metavar="COLUMN"
    )
    sample: int | None = _asked(
        "run only the first N rows",
        default=None,
        type=int,
        short="n",
        metavar="N",
        absent={"builder": "a button of its own runs a sample"},
    )
    fresh: bool = _asked("ask the engine even if an answer is known", default=False, type=bool, of_run=True)
    on_error: str = _asked(
        "row (the default: a row that cannot be rendered gets its error) or raise",
        default="row",
        metavar="WHAT",
        absent={"builder": "its preview shows the rows that cannot be rendered"},
    )
    reorder_fields: bool = _asked(
        "in {{ row }}, put fields that many rows share first",
        default=False,
        type=bool,
        absent={"trait": "a template that names its columns refuses it, so each cell says it for itself"},
    )
    body: Mapping[str, Any] = _asked(
        "other parameters of each request",
        default_factory=dict,
        type=dict,
        metavar="JSON",
        absent={"keyword": "each key of the body is a keyword"},
    )
    col: Mapping[str, Hashable] = _asked(
        "take a parameter of the body from a column, such as max_tokens=limit; may be repeated",
        default_factory=dict,
        type=dict,
        metavar="KEY=COLUMN",
        pairs=True,
        absent={
            "keyword": "the value of a parameter is vb.col(label)",
            "trait": "each frame has columns of its own",
        },
    )

    def __post_init__(self) -> None:
        columns = {name: value.label for name, value in self.body.items() if isinstance(value, Column)}
        if isinstance(self.messages, Column):
            object.__setattr__(self, "messages", self.messages.label)
        model: Any = self.model
        if isinstance(model, Column):
            columns["model"] = model.label
            object.__setattr__(self, "model", None)
        if twice := self.col.keys() & self.body.keys():
            raise FrameError(f"{min(twice)!r} is both a parameter and taken from a column.", param=min(twice))
        if columns:
            # As with the flags: what is the same in all rows, and what is not.
            object.__setattr__(self, "col", {**self.col, **columns})
            object.__setattr__(self, "body", {key: value for key, value in self.body.items() if key not in columns})
        for one in dataclasses.fields(self):
            kind, value = _KINDS.get(str(one.type).removesuffix(" | None")), getattr(self, one.name)
            if kind is None or (value is None and one.default is None):
                continue
            # True is an integer to Python, and numpy's integers are not ints.
            if not isinstance(value, kind) or (kind is Integral and isinstance(value, bool)):
                raise FrameError(f"{one.name}= must be {_WORDS[kind]}, not {value!r:.50}.", param=one.name)

    @classmethod
    def of(cls, template: Prompt | None = None, **options: Any) -> Self:
        """Sort options into the fields and the body.

        Parameters
        ----------
        template
            The prompt's template.
        **options
            Fields by name; all others are keys of the body.
        """
        fields = {name: options.pop(name) for name in _FIELD_OPTIONS if name in options and name != "body"}
        return cls(template=template, body=options, **fields)


_KINDS: Mapping[str, type] = {"str": str, "int": Integral, "bool": bool}
_WORDS: Mapping[type, str] = {str: "a text", Integral: "a whole number", bool: "True or False"}
_FIELD_OPTIONS: Mapping[str, Option] = {field.name: field.metadata["option"] for field in dataclasses.fields(Ask)}
_BODY_OPTIONS: Mapping[str, Option] = {
    name: Option(
        help=text, type=kind, metavar=metavar, of_body=True, absent={"keyword": "each key of the body is a keyword"}
    )
    for name, text, kind, metavar in (
        ("max_tokens", "the most tokens that an answer may have", int, "N"),
        ("temperature", "the temperature of sampling", float, "T"),
        ("seed", "the seed of sampling", int, "N"),
    )
}

OPTIONS: Mapping[str, Option] = {**_FIELD_OPTIONS, **_BODY_OPTIONS}
"""The options by name: the fields of `Ask`, and the keys of the body that have their own flags."""


def prompt_of(template: Prompt, options: Mapping[str, Any]) -> Prompt | None:
    """Return what the text of a cell or of the builder asks: a template, messages, or nothing but ``messages=``."""
    if not isinstance(template, str):
        return template
    return None if options.get("messages") is not None and not template.strip() else messages_of(template)


def messages_of(text: str) -> str | list[dict[str, str]]:
    r"""Return the messages of a text that begins with a line such as ``--- user``, and any other text as it is.

    Parameters
    ----------
    text
        A cell of the magics, or the builder's prompt.

    Examples
    --------
    >>> messages_of("--- system\nBe brief.\n--- user\nSay {{ word }}")
    [{'role': 'system', 'content': 'Be brief.'}, {'role': 'user', 'content': 'Say {{ word }}'}]
    >>> messages_of("Say {{ word }}")
    'Say {{ word }}'
    """
    turns = list(TURN.finditer(text))
    if not turns or text[: turns[0].start()].strip():
        return text
    ends = [*(turn.start() for turn in turns[1:]), len(text)]
    return [
        {"role": turn["role"], "content": text[turn.end() : end].strip("\n")}
        for turn, end in zip(turns, ends, strict=True)
    ]


def offered(face: Face) -> dict[str, Option]:
    """Return the options that a face offers, by name.

    Examples
    --------
    >>> "sample" in offered("flag"), "sample" in offered("builder")
    (True, False)
    """
    return {name: option for name, option in OPTIONS.items() if face not in option.absent}
