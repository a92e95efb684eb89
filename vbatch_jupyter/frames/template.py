"""Prompt templates: Jinja2, sandboxed and strict, over the columns of a DataFrame.

- ``{{ text }}`` is the column ``"text"``; ``{{ row["Review text"] }}``, ``{{ row[0] }}``, ``{{ row["a", "b"] }}`` reach
  columns whose labels are not identifiers or not strings. ``row`` by itself is the whole row, for
  ``{% for name, value in row.items() %}`` or ``{{ row | tojson }}``. A label that cannot be written in a template, such
  as a timestamp, is reached by its text.
- A column named ``row`` shadows ``row``, as any column shadows a variable or a function of Jinja.
- ``{{ product }}`` is also a level of the index with that name, if no column has it. ``row`` by itself has no levels.
- A name that is neither a column nor assigned in the template is an error before anything is rendered.
- Cells are data: braces in them mean nothing. See `cells` for how each kind of cell is written.
- As everywhere in Jinja, one newline at the template's end is dropped; prompts are not HTML, so nothing is escaped.
"""

from __future__ import annotations

import collections
import re
import traceback
from collections.abc import Callable, Hashable, Iterable, Mapping, Sequence
from typing import Any

import jinja2
from jinja2 import meta, nodes

from vbatch_jupyter.errors import FrameError, TemplateError, did_you_mean
from vbatch_jupyter.frames.ask import TURN
from vbatch_jupyter.frames.cells import cell_of, describe_columns, placeholder, positions_by_label
from vbatch_jupyter.frames.sandbox import Environment, Row

_NO_COLUMNS = re.compile(r"\{#-?\s*no columns\s*-?#\}")
_OTHER_PLACEHOLDERS = re.compile(
    r"%\((?P<percent>[^()\n]+)\)[sdf]|\$?\{(?P<brace>[^{}\n]+)\}|\$(?P<dollar>[A-Za-z_]\w*)"
)
"""Of Python's formats and ``string.Template``."""


class Template:
    """A prompt template, checked against the columns it will be rendered with.

    Parameters
    ----------
    source
        The template.
    columns
        The labels of all columns, in the frame's order.
    levels
        The names of the index's levels; their positions come after those of the columns.
    param
        The argument that the template is.
    name
        How errors name the template; by default, as the argument.

    Attributes
    ----------
    sends_rows
        Whether the template uses ``row`` as a whole, and not only single columns of it.

    Raises
    ------
    TemplateError
        The template does not parse, or names an unknown column.

    Examples
    --------
    >>> Template("Classify: {{ text }}", ["text", "stars"]).render({"text": "{{ good }}", "stars": 5})
    'Classify: {{ good }}'
    >>> Template("Classify: {{ txt }}", ["text", "stars"])
    Traceback (most recent call last):
        ...
    vbatch_jupyter.errors.TemplateError: Unknown column 'txt' in the template. Did you mean 'text'?
    """

    def __init__(
        self,
        source: str,
        columns: Iterable[Hashable],
        *,
        levels: Iterable[Hashable] = (),
        param: str = "template",
        name: str | None = None,
    ) -> None:
        self.source = source
        self._param = param
        self._name = name or ("the template" if param == "template" else f"{param}=")
        self._columns = list(columns)
        self._positions = positions_by_label(self._columns)
        for position, level in enumerate(levels, len(self._columns)):
            if level is not None and self._positions.get(level, [position])[0] >= len(self._columns):
                self._positions.setdefault(level, []).append(position)
        self._environment = Environment(self._positions)
        try:
            tree = self._environment.parse(source)
            undeclared = meta.find_undeclared_variables(tree)
            for node in tree.find_all(nodes.Concat):
                # Jinja would join what Python writes for each operand.
                node.nodes = [
                    one
                    if isinstance(one, nodes.Const)
                    else nodes.Filter(one, "string", [], [], None, None, lineno=one.lineno)
                    for one in node.nodes
                ]
            self._template = self._environment.from_string(tree)
        except jinja2.TemplateSyntaxError as error:
            raise self._error(
                f"{self._name} has an error in line {error.lineno}: {str(error.message).rstrip('.')}."
            ) from error
        except (SyntaxError, RecursionError, MemoryError, OverflowError) as error:
            raise self._error(f"{self._name} is nested too deeply: {error}.") from error
        # Jinja copies the globals for every prompt, and copying its ChainMap is half of the time a prompt takes.
        self._template.globals = dict(self._template.globals)
        names = _Names(tree)
        self._row_is_used = "row" in undeclared and "row" not in self._positions
        self._refuse_imports_and_self(tree, names)
        self._aliases = _aliases(self._columns)
        self._reject_unknown_columns(undeclared - names.assigned - {"row"}, names)
        used: list[Hashable] = [name for name in self._positions if isinstance(name, str) and name in undeclared]
        self._names = [str(label) for label in used]
        self._row_labels, self.sends_rows = self._labels_of_row(names)
        used += self._row_labels
        self._reject_ambiguous_columns(used)
        self._used = used

    @property
    def positions(self) -> tuple[int, ...]:
        """Positions of the columns that the template uses, in the order in which `render_cells` takes their cells.

        Examples
        --------
        >>> Template("{{ b }}", ["a", "b"]).positions
        (1,)
        """
        return tuple(self._positions[label][0] for label in self._used)

    def render(self, values: Mapping[Hashable, object]) -> str:
        """Render one row.

        Parameters
        ----------
        values
            The row's cells by label; the columns that the template does not use may be left out.

        Raises
        ------
        TemplateError
            A column in use is not among the values, or an expression of the template fails.

        Examples
        --------
        >>> Template("{{ a }}-{{ row[0] }}", ["a", 0]).render({"a": None, 0: 1.0})
        '-1.0'
        """
        try:
            cells = [cell_of(values[label], label) for label in self._used]
        except KeyError as error:
            raise self._error(f"{self._name} cannot be rendered: no value for the column {error.args[0]!r}.") from error
        return self.render_cells(cells)

    @property
    def row_names(self) -> list[str]:
        """Names of the fields of ``row``; their cells are the last of those that `render_cells` takes.

        Examples
        --------
        >>> Template("{{ row | tojson }} {{ b }}", ["a", "b"]).row_names
        ['a', 'b']
        """
        return [str(label) for label in self._row_labels]

    def render_cells(
        self, cells: Sequence[Any], *, where: Callable[[], str] = lambda: "this row", order: Sequence[int] | None = None
    ) -> str:
        """Render one row from its cells as `cells.cells_of` gives them.

        Parameters
        ----------
        cells
            One cell for each of `positions`.
        where
            Returns the row's name; called only for an error.
        order
            The order of the fields of ``row``, as positions in `row_names`.

        Raises
        ------
        TemplateError
            An expression of the template fails; the message names the row and the template's line.
        """
        count = len(self._names)
        context: dict[str, Any] = {}
        if self._row_is_used:
            fields = zip(self._row_labels, cells[count:], strict=True)
            if order is not None:
                in_order = list(fields)
                fields = (in_order[place] for place in order)  # type: ignore[assignment]
            context["row"] = Row(fields, self._aliases)
        context.update(zip(self._names, cells, strict=False))
        try:
            return self._template.render(context)
        # A template's expressions can raise anything that Python's operators and methods can.
        except Exception as error:
            line = _template_line(error)
            where_in_template = "" if line is None else f", line {line} of {self._name}"
            if isinstance(error, FrameError):
                message = f"{error.message} This is in {where()}{where_in_template}."
                raise FrameError(message, param=self._param) from error
            reason = str(error).rstrip(".") or type(error).__name__
            raise self._error(f"{self._name} cannot be rendered for {where()}{where_in_template}: {reason}.") from error

    @property
    def is_computed(self) -> bool:
        """Whether the template has anything for Jinja to do."""
        return any(kind != "data" for _, kind, _ in self._environment.lex(self.source))

    def refuse_no_column(self) -> None:
        """Raise an error if each row would get the same prompt, and the template does not say that this is meant.

        Raises
        ------
        TemplateError
            The message says how a column is written.

        Examples
        --------
        >>> Template("Tell a joke. {# no columns #}", ["text"]).refuse_no_column()
        >>> Template("Classify: {text}", ["text"]).refuse_no_column()
        Traceback (most recent call last):
            ...
        vbatch_jupyter.errors.TemplateError: The template uses no column, so every row would get the same prompt. ...
        """
        if self._used or not self._positions or _NO_COLUMNS.search(self.source):
            return
        others = self._others()
        how = [f"Write {written} for {other}." for other, written in others.items()]
        if any("{" in other for other in others):
            how.append("In an f-string, double the braces.")
        if not how:
            how = [
                describe_columns(self._columns),
                f"Write {placeholder(next(iter(self._positions)))} for a row's value.",
            ]
        raise self._error(
            f"{self._name} uses no column, so every row would get the same prompt. {' '.join(how)} "
            "If you mean that, add {# no columns #} to it."
        )

    @property
    def notes(self) -> list[str]:
        """What the user should know, in sentences: columns that are written in another language's way.

        Examples
        --------
        >>> Template("{{ a }} or {b}?", ["a", "b"]).notes
        ["{b} in the template is sent as it is. For the column's value, write {{ b }}."]
        """
        return [
            f"{other} in {self._name} is sent as it is. For the column's value, write {written}."
            for other, written in self._others().items()
        ] + [
            f"The line {turn[0]!r} in {self._name} is sent as it is. Begin with such a line to send messages."
            for turn in TURN.finditer(self.source)
        ]

    def _others(self) -> dict[str, str]:
        """Return the placeholders of other languages that name a column, each with the one that is meant."""
        labels = {str(label): label for label in self._positions}
        found = {}
        for _, kind, text in self._environment.lex(self.source):
            for match in _OTHER_PLACEHOLDERS.finditer(text) if kind == "data" else ():
                name = re.split("[!:]", match[match.lastgroup or 0])[0].strip()
                if name in labels:
                    found[match[0]] = placeholder(labels[name])
        return found

    def _refuse_imports_and_self(self, tree: nodes.Template, names: _Names) -> None:
        for node in tree.find_all((nodes.Extends, nodes.Include, nodes.Import, nodes.FromImport)):
            word = {"FromImport": "from … import"}.get(type(node).__name__, type(node).__name__.lower())
            raise self._error(f"Line {node.lineno} of {self._name} has {word!r}: a prompt cannot load other templates.")
        if "self" in names.loaded - names.assigned:
            raise self._error("'self' is a reserved word in Jinja templates; write row[\"self\"] for the column.")

    def _reject_unknown_columns(self, names: set[str], found: _Names) -> None:
        unknown: list[object] = [name for name in sorted(names) if name not in self._positions]
        if self._row_is_used and "row" not in found.assigned:
            unknown += [
                key
                for key, attribute in found.row_keys
                if key not in self._positions
                and key not in self._aliases
                and not (attribute and hasattr(dict, str(key)))
            ]
        if not unknown:
            return
        sentences = []
        for name in dict.fromkeys(unknown):
            hint = did_you_mean(name, self._positions, written=_as_written)
            sentences.append(f"Unknown column {name!r} in {self._name}.{hint}")
        if not any(sentence.endswith("?") for sentence in sentences):
            sentences.append(describe_columns(self._columns))
        raise self._error(" ".join(sentences))

    def _labels_of_row(self, found: _Names) -> tuple[list[Hashable], bool]:
        if not self._row_is_used:
            return [], False
        keys = [key for key, attribute in found.row_keys if key in self._positions or key in self._aliases]
        if len(keys) < found.row_loads:
            fields = [label for label, places in self._positions.items() if places[0] < len(self._columns)]
            return list(dict.fromkeys([*fields, *(key for key in keys if key in self._positions)])), True
        return list(dict.fromkeys(key if key in self._positions else self._aliases[str(key)] for key in keys)), False

    def _reject_ambiguous_columns(self, used: Iterable[Hashable]) -> None:
        for label in used:
            if (times := len(self._positions[label])) > 1:
                message = f"{self._name} uses the column {label!r}, which the DataFrame has {times} times; rename them."
                raise self._error(message)

    def _error(self, message: str) -> TemplateError:
        odd = next((label for label in self._columns if isinstance(label, str) and not label.isidentifier()), None)
        if " has an error in line " in message and odd is not None:
            message += f" Write a column whose label is not an identifier as {_as_written(odd)}."
        return TemplateError(
            message[0].upper() + message[1:] if message.startswith(self._name) else message, param=self._param
        )


class _Names:
    """What a template loads, assigns, and uses of ``row``."""

    def __init__(self, tree: nodes.Template) -> None:
        every = list(tree.find_all(nodes.Name))
        self.loaded = {name.name for name in every if name.ctx == "load"}
        # A name that is set in one branch only counts as undeclared for Jinja, but it is not an unknown column.
        self.assigned = {name.name for name in every if name.ctx != "load"}
        self.assigned |= {macro.name for macro in tree.find_all(nodes.Macro)}
        self.row_loads = sum(name.name == "row" and name.ctx == "load" for name in every)
        self.row_keys: list[tuple[Hashable, bool]] = []
        for node in tree.find_all((nodes.Getitem, nodes.Getattr)):
            # mypy's view of find_all with several types is their common base.
            if isinstance(node, (nodes.Getitem, nodes.Getattr)) and _is_row(node.node):
                self._add_key(node)

    def _add_key(self, node: nodes.Getitem | nodes.Getattr) -> None:
        if isinstance(node, nodes.Getattr):
            self.row_keys.append((node.attr, True))
            return
        try:
            key = node.arg.as_const()
            hash(key)
        # A key that is computed while rendering is checked at that time.
        except (nodes.Impossible, TypeError):
            return
        self.row_keys.append((key, False))


def _is_row(node: nodes.Node) -> bool:
    return isinstance(node, nodes.Name) and node.name == "row"


def _aliases(columns: Sequence[Hashable]) -> dict[str, Hashable]:
    """Map the texts of labels that are not strings to the labels, if no other label has that text."""
    times = collections.Counter(map(str, columns))
    return {str(label): label for label in columns if not isinstance(label, str) and times[str(label)] == 1}


def _as_written(label: Hashable) -> str:
    """Write a label as in a template.

    Examples
    --------
    >>> _as_written("text"), _as_written("Review text"), _as_written(0)
    ("'text'", "row['Review text']", 'row[0]')
    """
    if isinstance(label, str) and label.isidentifier():
        return repr(label)
    return f"row[{label!r}]" if isinstance(label, (str, int, float, tuple)) else f"row[{str(label)!r}]"


def _template_line(error: BaseException) -> int | None:
    frames = traceback.extract_tb(error.__traceback__)
    lines = [frame.lineno for frame in frames if frame.filename == "<template>" and frame.lineno]
    return lines[-1] if lines else None
