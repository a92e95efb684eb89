"""How ``schema=`` is sent, and the columns of its answers.

==============================================  ========================================================
a field of the schema that is                   becomes a column of
==============================================  ========================================================
a string, date, UUID; enums of strings          ``string``
an integer; enums of integers                   ``Int64``
a number                                        ``Float64``
a boolean                                       ``boolean``
an object, an array, several types at once      ``object``: what ``json.loads`` gives
==============================================  ========================================================

A field that is null or absent in the answer is missing in its row. Dates stay text: `pandas.to_datetime` is one call
away, and a model may write a date that no calendar has.
"""

from __future__ import annotations

import copy
import dataclasses
import functools
import re
from collections.abc import Callable, Mapping
from typing import TYPE_CHECKING, Any, Literal, TypeAlias, TypeGuard

from vbatch_jupyter.errors import FrameError
from vbatch_jupyter.protocol.answer_schema import checker, json_object
from vbatch_jupyter.protocol.shapes import Parse

if TYPE_CHECKING:
    from pydantic import BaseModel

JsonSchema: TypeAlias = Mapping[str, Any]
Dtype: TypeAlias = Literal["str", "Int64", "Float64", "boolean", "object"]
"""``str`` stands for the dtype of text that `results` chooses."""

_DTYPES: Mapping[str, Dtype] = {"string": "str", "integer": "Int64", "number": "Float64", "boolean": "boolean"}


# The class as a string: a user who defines a model has imported pydantic; a JSON schema does not need it.
Schema: TypeAlias = "type[BaseModel] | JsonSchema"


@dataclasses.dataclass(frozen=True, slots=True)
class Field:
    """One field of a schema, which becomes one column.

    Parameters
    ----------
    name
        Its key in the answer.
    dtype
        The column's dtype.
    """

    name: str
    dtype: Dtype


def is_model(schema: object) -> TypeGuard[type[BaseModel]]:
    """Return whether a schema is a pydantic model class.

    Examples
    --------
    >>> is_model({"type": "object"})
    False
    """
    return isinstance(schema, type) and hasattr(schema, "model_json_schema")


def schemas_among(names: Mapping[str, object]) -> list[str]:
    """List the variables with a schema, latest first, without those that begin with an underscore.

    Examples
    --------
    >>> schemas_among({"pi": 3.14, "MOOD": {"type": "object", "properties": {}}})
    ['MOOD']
    """
    return [
        name
        for name, value in reversed(list(names.items()))
        if not name.startswith("_") and (is_model(value) or (isinstance(value, dict) and "properties" in value))
    ]


def json_schema(schema: Schema) -> dict[str, Any]:
    """Return the JSON schema of a pydantic model class, or a copy of the one that is passed.

    Parameters
    ----------
    schema
        A pydantic model class, or a JSON schema whose top is an object with properties.

    Raises
    ------
    FrameError
        It is neither.

    Examples
    --------
    >>> json_schema({"type": "array"})
    Traceback (most recent call last):
        ...
    vbatch_jupyter.errors.FrameError: schema= must describe an object with properties, one for each column.
    """
    if is_model(schema):
        plain = schema.model_json_schema()
    elif isinstance(schema, Mapping):
        plain = copy.deepcopy(dict(schema))
    else:
        message = f"schema= must be a pydantic model class or a JSON schema, not {schema!r}."
        raise FrameError(message, param="schema")
    if "$ref" in plain:
        # The top of a recursive model is a reference into its own definitions.
        plain = {**_resolve(plain["$ref"], plain), **{key: value for key, value in plain.items() if key != "$ref"}}
    if plain.get("type", "object") != "object" or not isinstance(plain.get("properties"), Mapping):
        message = "schema= must describe an object with properties, one for each column."
        if plain.get("type") == "json_schema":
            message += " Pass the schema inside the response_format."
        raise FrameError(message, param="schema")
    plain["type"] = "object"
    return plain


def response_format(schema: Schema) -> dict[str, Any]:
    """Make OpenAI's ``response_format`` from a schema.

    Strict, as OpenAI demands it: every object closed, every property required, no defaults, no ``oneOf``. A schema
    with an open map in it (``dict[str, int]``) cannot be strict for OpenAI; it is sent as it is, with ``strict`` false.

    Parameters
    ----------
    schema
        A pydantic model class or a JSON schema; it is not changed.

    Raises
    ------
    FrameError
        It is neither of them, or its top level is not an object.

    Examples
    --------
    >>> sent = response_format({"type": "object", "properties": {"good": {"type": "boolean"}}})["json_schema"]
    >>> sent["name"], sent["strict"], sent["schema"]["additionalProperties"], sent["schema"]["required"]
    ('response', True, False, ['good'])
    """
    plain = json_schema(schema)
    strict = not _has_open_map(plain)
    name = re.sub(r"[^a-zA-Z0-9_-]+", "_", str(plain.get("title") or "response")).strip("_")[:64] or "response"
    sent = _strict(plain, plain, ()) if strict else plain
    return {"type": "json_schema", "json_schema": {"name": name, "schema": sent, "strict": strict}}


def parser(schema: Schema) -> Parse:
    """Return a function that reads an answer's text with a schema.

    Parameters
    ----------
    schema
        A pydantic model class, whose own validators run, or a JSON schema.

    Raises
    ------
    FrameError
        The schema cannot be used to check anything.

    Examples
    --------
    >>> parser({"type": "object", "properties": {"stars": {"type": "integer"}}})('{"stars": 4}')
    {'stars': 4}
    """
    plain = json_schema(schema)
    if is_model(schema):
        from vbatch_jupyter.frames.model_values import names_of, values_of

        try:
            names_of(schema)
        except ValueError as error:
            raise FrameError(
                f"schema= cannot be used: {error}. Give it a name as its alias.", param="schema"
            ) from error
        return functools.partial(_by_model, schema, values_of)
    try:
        return checker(plain)
    except (TypeError, ValueError) as error:
        raise FrameError(f"schema= is not a valid JSON schema: {error}.", param="schema") from error


def _by_model(model: type[BaseModel], values_of: Callable[[BaseModel], Any], text: str) -> dict[str, Any]:
    json_object(text)
    try:
        instance = model.model_validate_json(text)
    except ValueError as error:
        problems = error.errors() if hasattr(error, "errors") else []
        reasons = [f"{'.'.join(map(str, problem['loc'])) or 'answer'}: {problem['msg']}" for problem in problems]
        raise ValueError(f"does not fit the schema ({'; '.join(reasons) or error})") from error
    values: dict[str, Any] = values_of(instance)
    return values


def fields(schema: Schema) -> tuple[Field, ...]:
    """List a schema's fields in its own order, each with the dtype of its column.

    Raises
    ------
    FrameError
        The schema is not valid; see `json_schema`.

    Examples
    --------
    >>> fields({"type": "object", "properties": {"mood": {"enum": ["good", "bad"]}, "stars": {"type": "integer"}}})
    (Field(name='mood', dtype='str'), Field(name='stars', dtype='Int64'))
    """
    plain = json_schema(schema)
    return tuple(Field(name, _dtype(node, plain)) for name, node in plain["properties"].items())


def _dtype(node: Any, root: JsonSchema) -> Dtype:
    types = _types(node, root, ()) - {"null"}
    if types == {"integer", "number"}:
        return "Float64"
    return _DTYPES.get(types.pop(), "object") if len(types) == 1 else "object"


def _types(node: Any, root: JsonSchema, inside: tuple[str, ...]) -> set[str]:
    """Collect the JSON types that a node allows; ``any`` if they are not known."""
    if not isinstance(node, Mapping):
        return {"any"}
    if "$ref" in node:
        reference = str(node["$ref"])
        return {"any"} if reference in inside else _types(_resolve(reference, root), root, (*inside, reference))
    if "type" in node and node.get("contentMediaType") != "application/json":  # which is pydantic's Json
        return {node["type"]} if isinstance(node["type"], str) else set(node["type"])
    values = [node["const"]] if "const" in node else node.get("enum")
    if isinstance(values, list):
        return {_type_of(value) for value in values}
    options = node.get("anyOf") or node.get("oneOf") or node.get("allOf", [])
    if "allOf" in node and len(options) != 1:
        return {"any"}
    return set().union(*(_types(option, root, inside) for option in options)) or {"any"}


def _type_of(value: object) -> str:
    names = {bool: "boolean", int: "integer", float: "number", str: "string", type(None): "null"}
    return names.get(type(value), "any")


def _resolve(reference: str, root: JsonSchema) -> dict[str, Any]:
    found: Any = root
    for key in reference.removeprefix("#").strip("/").split("/"):
        name = key.replace("~1", "/").replace("~0", "~")
        if not reference.startswith("#/") or not isinstance(found, Mapping) or name not in found:
            raise FrameError(f"schema= refers to {reference!r}, which it does not define.", param="schema")
        found = found[name]
    return dict(found)


def _has_open_map(node: Any) -> bool:
    if isinstance(node, list):
        return any(map(_has_open_map, node))
    if not isinstance(node, Mapping):
        return False
    types = node.get("type")
    is_object = types == "object" or (isinstance(types, list) and "object" in types)
    if is_object and not node.get("properties") and node.get("additionalProperties", True):
        return True
    return any(_has_open_map(below) for key, value in node.items() for below in _subschemas(key, value))


def _strict(node: Any, root: JsonSchema, inside: tuple[str, ...]) -> Any:
    if not isinstance(node, Mapping):
        return node
    if "$ref" in node and len(node) > 1:
        # OpenAI refuses other keys next to a $ref. Replace it by the definition, to keep those keys.
        reference = str(node["$ref"])
        if reference in inside:
            return {"$ref": reference}
        beside = {key: value for key, value in node.items() if key not in ("$ref", "default")}
        if beside:
            return _strict({**_resolve(reference, root), **beside}, root, (*inside, reference))
        return {"$ref": reference}
    if len(node.get("allOf", ())) == 1:
        node = {**node["allOf"][0], **{key: value for key, value in node.items() if key != "allOf"}}
        return _strict(node, root, inside)
    strict: dict[str, Any] = {}
    for key, value in node.items():
        if key in ("default", "discriminator"):
            continue
        strict["anyOf" if key == "oneOf" else key] = _strict_value(key, value, root, inside)
    if isinstance(strict.get("properties"), dict):
        strict["additionalProperties"] = False
        strict["required"] = list(strict["properties"])
    return strict


_OF_SCHEMAS = frozenset({"anyOf", "oneOf", "allOf", "prefixItems"})
_BY_NAME = frozenset({"properties", "$defs", "definitions", "patternProperties"})
_ONE = frozenset({"items", "not", "additionalProperties"})


def _strict_value(key: str, value: Any, root: JsonSchema, inside: tuple[str, ...]) -> Any:
    # Only these keys hold schemas: a property that is called "default", or the values of an enum, are left alone.
    if key in _BY_NAME and isinstance(value, Mapping):
        return {name: _strict(below, root, inside) for name, below in value.items()}
    if key in _OF_SCHEMAS and isinstance(value, list):
        return [_strict(below, root, inside) for below in value]
    return _strict(value, root, inside) if key in _ONE else value


def _subschemas(key: str, value: Any) -> list[Any]:
    if key in _BY_NAME and isinstance(value, Mapping):
        return list(value.values())
    if key in _OF_SCHEMAS and isinstance(value, list):
        return value
    return [value] if key in _ONE else []
