"""The fields of a validated answer, by the names under which the model wrote them.

A column holds what the class has made of the model's value: after its validators, and before its serialisers, which
write for other readers. At every depth:

===============================  ==================================================================================
a field                          its column holds
===============================  ==================================================================================
with ``exclude=True``            the value
with aliases                     the value, under the name in the class's JSON schema: ``validation_alias`` or
                                 ``alias``, the first name of `AliasChoices`, else the field's own
with a serialiser                the value before it
``SecretStr``, ``SecretBytes``   the secret itself: the model wrote it, and the output file has it
``Json[…]``                      what the JSON in the text holds (``object``)
``Decimal``, dates, enums …      as pydantic writes them in JSON: a Decimal as text
sets                             as a list, in one order
computed                         has no column: the model did not write it
===============================  ==================================================================================

This module is imported only if a schema is a pydantic model class.
"""

from __future__ import annotations

import functools
from collections import deque
from collections.abc import Mapping
from typing import TYPE_CHECKING, Any

import msgspec
from pydantic import AliasChoices, AliasPath, RootModel
from pydantic_core import to_jsonable_python

if TYPE_CHECKING:
    from pydantic.fields import FieldInfo

_AS_THEY_ARE = frozenset({str, int, float, bool, type(None)})


def values_of(value: Any) -> Any:
    """Return a validated value as JSON has it; a model is a dict of its fields.

    Examples
    --------
    >>> from pydantic import BaseModel, Field
    >>> class Rating(BaseModel):
    ...     stars: int = Field(validation_alias="star_count", exclude=True)
    >>> values_of(Rating(star_count=4))
    {'star_count': 4}
    """
    if value.__class__ in _AS_THEY_ARE:
        return value
    if isinstance(value, RootModel):
        return values_of(value.root)
    if hasattr(value, "__pydantic_fields__"):  # a model, or a dataclass of pydantic's
        kind: Any = type(value)
        fields = {written: values_of(getattr(value, name)) for name, written in names_of(kind)}
        return fields | values_of(getattr(value, "model_extra", None) or {})
    if isinstance(value, Mapping):
        return {_key(key): values_of(below) for key, below in value.items()}
    if isinstance(value, (list, tuple, deque, set, frozenset)):
        values = [values_of(below) for below in value]
        # The order of a set differs from process to process.
        return sorted(values, key=_place) if isinstance(value, (set, frozenset)) else values
    if hasattr(value, "get_secret_value"):
        value = value.get_secret_value()
    return to_jsonable_python(value, serialize_unknown=True)


@functools.cache
def names_of(kind: Any) -> tuple[tuple[str, str], ...]:
    """Return the names of a model's fields, each with the name under which the model writes it.

    Raises
    ------
    ValueError
        A field is read from inside another one, which is not in the class's JSON schema.
    """
    config = getattr(kind, "model_config", None) or getattr(kind, "__pydantic_config__", {})
    is_by_alias = config.get("validate_by_alias", True)
    fields: Mapping[str, FieldInfo] = kind.__pydantic_fields__
    return tuple((name, _written(name, field) if is_by_alias else name) for name, field in fields.items())


def check_names(model: Any) -> None:
    """Raise an error for a class with a field, at any depth, that no answer could fill.

    Parameters
    ----------
    model
        The class; it is complete.

    Raises
    ------
    ValueError
        As for `names_of`.
    """
    pending, seen = [model.__pydantic_core_schema__], set[int]()
    while pending:
        node = pending.pop()
        if id(node) in seen:
            continue
        seen.add(id(node))
        if isinstance(node, Mapping):
            if hasattr(kind := node.get("cls"), "__pydantic_fields__"):
                names_of(kind)
            pending.extend(node.values())
        elif isinstance(node, (list, tuple)):
            pending.extend(node)


def _written(name: str, field: FieldInfo) -> str:
    """Return the name of a field in the class's JSON schema, as pydantic chooses it."""
    alias = field.validation_alias
    if alias is None:
        return name
    for choice in alias.choices if isinstance(alias, AliasChoices) else [alias]:
        path = choice.path if isinstance(choice, AliasPath) else [choice]
        if len(path) == 1 and isinstance(path[0], str):
            return path[0]
    raise ValueError(f"the field {name!r} is read from a path, {alias}, which no model is asked for")


def _key(key: Any) -> str:
    return key if isinstance(key, str) else next(iter(to_jsonable_python({key: None})))


def _place(value: Any) -> tuple[bool, Any]:
    return (False, value) if isinstance(value, (int, float)) else (True, msgspec.json.encode(value))
