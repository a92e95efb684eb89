"""The sandbox in which a template is rendered, and how its values become text; `cells` has the rule."""

from __future__ import annotations

import datetime as dt
import functools
import json
import math
import re
from collections.abc import Callable, Hashable, Iterable, Mapping, Sequence
from typing import Any

import jinja2
import numpy as np
import pandas as pd
from jinja2.filters import FILTERS, make_attrgetter
from jinja2.sandbox import ImmutableSandboxedEnvironment

from vbatch_jupyter.errors import FrameError
from vbatch_jupyter.frames.cells import Missing, inner, is_missing, plain

_WHOLE = frozenset({str, int, bool, dt.date, dt.datetime, pd.Timestamp, pd.Timedelta})
"""Types that have nothing inside and are never missing."""
_JSONS = frozenset({str, int, bool, float, type(None), list, dict})
_NUMBERS_AND_TEXTS = frozenset({str, int, bool, float, type(None)})
_ADDRESS = re.compile(r" at 0x[0-9a-fA-F]+")
_TEXT_FILTERS = "capitalize center indent lower replace title trim truncate upper wordcount wordwrap"


def text_of(value: Any) -> str:
    """Return the text of a value in a prompt; the module's docstring has the rule.

    Raises
    ------
    FrameError
        It has no text: bytes, a picture, the messages of a chat.

    Examples
    --------
    >>> text_of([1.5, None, np.float32(0.1), pd.Timestamp("2024-05-01")])
    "[1.5, None, 0.1, '2024-05-01 00:00:00']"
    """
    kind = type(value)
    if kind in _WHOLE or (kind is float and not math.isnan(value)) or isinstance(value, jinja2.Undefined):
        return str(value)
    if isinstance(value, (list, tuple, Mapping, set, frozenset)):
        if isinstance(value, list) and value and isinstance(value[0], dict) and _is_chat(value):
            raise _without_text("A list of messages", "To write it as text, use | tojson or a loop.")
        return _written(value)
    if is_missing(value):
        return ""
    cell = plain(value)
    if isinstance(cell, (list, dict)):
        return _written(cell)
    text = str(cell)
    if isinstance(cell, (bytes, bytearray, memoryview)):
        raise _without_text("Bytes", "If they are text, write {{ column.decode() }}.")
    if not isinstance(cell, str) and _ADDRESS.search(text):
        # It would be another prompt each time, and says nothing.
        name = f"{kind.__module__}.{kind.__qualname__}".removeprefix("builtins.")
        raise _without_text(f"A {name}", "If it is a function, call it; if it is a generator, add | list.")
    return text


def _without_text(what: str, instead: str) -> FrameError:
    how = f"{instead} Pictures and messages are sent as parts of a request: write the requests into an input file"
    return FrameError(f"{what} cannot be written into a prompt. {how}, and run it with %vbatch run.", param="template")


def _is_chat(value: Sequence[Any]) -> bool:
    return all(isinstance(item, dict) and "role" in item and "content" in item for item in value)


def _written(value: Any) -> str:
    """Return a value inside of a list or a dict as Python writes it; what JSON does not have is text in quotes."""
    if isinstance(value, (list, tuple)):
        if _NUMBERS_AND_TEXTS.issuperset(map(type, value)) and "nan" not in (text := repr(value)):
            return text
        text = ", ".join(map(_written, value))
        return f"[{text}]" if isinstance(value, list) else f"({text},)" if len(value) == 1 else f"({text})"
    if isinstance(value, Mapping):
        text = ", ".join(f"{_written(key)}: {_written(item)}" for key, item in value.items())
    elif isinstance(value, (set, frozenset)):
        # The order of a set differs from process to process.
        text = ", ".join(sorted(map(_written, value)))
    else:
        cell = None if isinstance(value, Missing) else inner(value)
        if isinstance(cell, (list, dict)):
            return _written(cell)
        return repr(cell if type(cell) in _NUMBERS_AND_TEXTS else text_of(cell))
    return f"{{{text}}}"


def json_of(value: Any, indent: int | None = None) -> str:
    """Return the JSON of a value in a prompt.

    Examples
    --------
    >>> json_of({"a": [float("nan"), float("inf"), pd.NA], "t": pd.Timestamp("2024-05-01")})
    '{"a": [null, "inf", null], "t": "2024-05-01 00:00:00"}'
    """
    # Jinja's own filter writes quotes and angle brackets as escapes, for HTML; a model should read the characters.
    if isinstance(value, Mapping):
        value = {key if isinstance(key, str) else str(key): cell for key, cell in value.items()}
    write = _encoder(indent).encode
    try:
        return write(value)
    except (TypeError, ValueError):
        # Infinity and keys that are not text are not JSON; they are too rare to look for them in each row.
        return write(_strict(value))


@functools.cache
def _encoder(indent: int | None) -> json.JSONEncoder:
    return json.JSONEncoder(ensure_ascii=False, indent=indent, default=_as_json, allow_nan=False)


def _as_json(value: Any) -> Any:
    if isinstance(value, jinja2.Undefined):
        return None if isinstance(value, Missing) else str(value)
    if isinstance(value, (set, frozenset)):
        return sorted(map(inner, value), key=_written)
    cell = inner(value)
    return cell if type(cell) in _JSONS else text_of(cell)


def _strict(value: Any) -> Any:
    if isinstance(value, Mapping):
        return {key if isinstance(key, str) else text_of(key): _strict(item) for key, item in value.items()}
    if isinstance(value, (list, tuple)):
        return [_strict(item) for item in value]
    if isinstance(value, float) and not math.isfinite(value):
        return None if math.isnan(value) else str(value)
    return value if type(value) in _JSONS else _strict(_as_json(value))


class Row(dict[Hashable, Any]):
    """The row in a template: a dict of its cells that also finds labels that are not strings by their texts."""

    def __init__(self, cells: Iterable[tuple[Hashable, Any]], aliases: Mapping[str, Hashable]) -> None:
        super().__init__(cells)
        self._aliases = aliases

    def __missing__(self, key: Hashable) -> Any:
        return self[self._aliases[key]]  # type: ignore[index]  # a key of any other type is a KeyError, too


class Environment(ImmutableSandboxedEnvironment):
    """Jinja for prompts: immutable because a list in a cell is the user's own list."""

    def __init__(self, columns: Iterable[Hashable]) -> None:
        super().__init__(undefined=jinja2.StrictUndefined, autoescape=False, finalize=_finalize)
        for name in ("lipsum", *columns):
            # Jinja would find its own function before a column of that name.
            self.globals.pop(name, None)  # type: ignore[call-overload]  # labels of any type
        self.filters |= {name: _of_text(FILTERS[name]) for name in _TEXT_FILTERS.split()}
        self.filters |= {"join": _join, "string": text_of, "tojson": json_of}
        self.tests["none"] = _is_none

    def getattr(self, obj: Any, attribute: str) -> Any:
        """Return a field of a dict or an attribute."""
        # A field and not a method of the dict, which has no text.
        if isinstance(obj, dict) and attribute in obj:
            return obj[attribute]
        return super().getattr(obj, attribute)

    def is_safe_attribute(self, obj: Any, attr: str, value: Any) -> bool:
        """Return whether a template may use an attribute."""
        # Their methods write files and change the user's data in place.
        if isinstance(obj, (pd.DataFrame, pd.Series, pd.Index, np.ndarray)):
            return False
        return super().is_safe_attribute(obj, attr, value)


def _finalize(value: Any) -> Any:
    kind = type(value)
    # Jinja makes the text of these itself, which is faster.
    return value if kind in _WHOLE or (kind is float and not math.isnan(value)) else text_of(value)


def _is_none(value: object) -> bool:
    return value is None or isinstance(value, Missing)


def _of_text(change: Callable[..., Any]) -> Callable[..., Any]:
    """Make a filter of texts take any value: as the text that it has in a prompt."""
    place = int(hasattr(change, "jinja_pass_arg"))

    @functools.wraps(change)
    def changed(*arguments: Any, **options: Any) -> Any:
        if type(arguments[place]) is not str:
            arguments = (*arguments[:place], text_of(arguments[place]), *arguments[place + 1 :])
        return change(*arguments, **options)

    return changed


@jinja2.pass_environment
def _join(
    environment: jinja2.Environment, value: Iterable[Any], d: str = "", attribute: str | int | None = None
) -> str:
    if attribute is not None:
        value = map(make_attrgetter(environment, attribute), value)
    texts = list(value)
    return text_of(d).join(texts if {*map(type, texts)} <= {str} else map(text_of, texts))
