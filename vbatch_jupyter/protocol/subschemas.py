"""Where a JSON schema has other schemas in it."""

from __future__ import annotations

from collections.abc import Callable, Mapping
from typing import Any

_LISTS = frozenset({"allOf", "anyOf", "oneOf", "prefixItems"})
_BY_NAME = frozenset({"$defs", "definitions", "dependentSchemas", "patternProperties", "properties"})
_ONE = frozenset({"additionalItems", "additionalProperties", "contains", "else", "if", "items", "not"})
_ONE |= {"propertyNames", "then", "unevaluatedItems", "unevaluatedProperties"}


def changed(node: Mapping[str, Any], change: Callable[[Any, str], Any]) -> dict[str, Any]:
    """Copy a schema with each schema directly in it changed; ``{"default": …}`` in ``properties`` is a property's.

    Parameters
    ----------
    node
        The schema.
    change
        Called with a schema in it, and with the property's or definition's name, or ``""``.

    Examples
    --------
    >>> changed({"properties": {"a": {"type": "string"}}, "default": {}}, lambda below, name: {**below, "title": name})
    {'properties': {'a': {'type': 'string', 'title': 'a'}}, 'default': {}}
    """
    copy: dict[str, Any] = {}
    for key, value in node.items():
        if key in _BY_NAME and isinstance(value, Mapping):
            copy[key] = {name: change(below, name) for name, below in value.items()}
        elif (key in _LISTS or key == "items") and isinstance(value, list):
            copy[key] = [change(below, "") for below in value]
        else:
            copy[key] = change(value, "") if key in _ONE else value
    return copy
