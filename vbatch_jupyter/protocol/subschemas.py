"""Where a JSON schema has other schemas in it, and which types a schema allows."""

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


def types_of(node: Any, root: Mapping[str, Any], *, _inside: tuple[str, ...] = ()) -> set[str]:
    """Return the JSON types that a schema allows; ``any`` if they are not known.

    Parameters
    ----------
    node
        The schema.
    root
        The schema with its definitions.

    Raises
    ------
    ValueError
        It refers to what is not in the root.

    Examples
    --------
    >>> sorted(types_of({"anyOf": [{"type": "integer"}, {"const": None}]}, {})), types_of({}, {})
    (['integer', 'null'], {'any'})
    """
    if not isinstance(node, Mapping):
        return {"any"}
    if "$ref" in node:
        reference = str(node["$ref"])
        below = () if reference in _inside else resolve(reference, root)
        return types_of(below, root, _inside=(*_inside, reference))
    if "type" in node and node.get("contentMediaType") != "application/json":  # which is pydantic's Json
        return {node["type"]} if isinstance(node["type"], str) else set(node["type"])
    values = [node["const"]] if "const" in node else node.get("enum")
    if isinstance(values, list):
        return {_type_of(value) for value in values}
    options = node.get("anyOf") or node.get("oneOf") or node.get("allOf", [])
    if "allOf" in node and len(options) != 1:
        return {"any"}
    return set().union(*(types_of(option, root, _inside=_inside) for option in options)) or {"any"}


def _type_of(value: object) -> str:
    names = {bool: "boolean", int: "integer", float: "number", str: "string", type(None): "null"}
    return names.get(type(value), "any")


def resolve(reference: str, root: Mapping[str, Any]) -> dict[str, Any]:
    """Return the schema that a ``$ref`` means.

    Parameters
    ----------
    reference
        Such as ``"#/$defs/Author"``.
    root
        The schema with its definitions.

    Raises
    ------
    ValueError
        The root does not have it.
    """
    found: Any = root
    for key in reference.removeprefix("#").strip("/").split("/"):
        name = key.replace("~1", "/").replace("~0", "~")
        if not reference.startswith("#/") or not isinstance(found, Mapping) or name not in found:
            raise ValueError(f"refers to {reference!r}, which it does not define")
        found = found[name]
    return dict(found)
