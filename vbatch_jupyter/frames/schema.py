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
from collections.abc import Callable, Mapping, Sequence
from typing import TYPE_CHECKING, Any, Literal, TypeAlias, TypeGuard

from vbatch_jupyter.errors import FrameError
from vbatch_jupyter.protocol.answer_schema import checker, is_storable, json_object
from vbatch_jupyter.protocol.grammar_schema import GRAMMARS
from vbatch_jupyter.protocol.shapes import Parse
from vbatch_jupyter.protocol.subschemas import changed, resolve, types_of

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
        return _of_object(_with_sets_as_lists(schema.model_json_schema()))
    if isinstance(schema, Mapping):
        return _of_object(copy.deepcopy(dict(schema)))
    raise FrameError(f"schema= must be a pydantic model class or a JSON schema, not {schema!r}.", param="schema")


def _with_sets_as_lists(node: Any, _name: str = "") -> Any:
    """Leave out ``uniqueItems``: pydantic's sets take an item twice, and so must a reader without the class."""
    if not isinstance(node, Mapping):
        return node
    return changed({key: value for key, value in node.items() if key != "uniqueItems"}, _with_sets_as_lists)


def _of_object(plain: dict[str, Any]) -> dict[str, Any]:
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


def response_format(schema: Schema, grammar: str = "vllm") -> dict[str, Any]:
    """Make OpenAI's ``response_format`` from a schema.

    Strict, as OpenAI demands it: every object closed, every property required, no defaults, no ``oneOf``. A schema
    with an open map in it (``dict[str, int]``) cannot be strict for OpenAI; it is sent as it is, with ``strict`` false.
    What the grammars that will write the answers do not hold is left out; `left_out` says what that is.

    Parameters
    ----------
    schema
        A pydantic model class or a JSON schema; it is not changed.
    grammar
        Which grammars these are; one of `grammar_schema.GRAMMARS`.

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
    sent, is_strict, _ = _sent(schema, grammar)
    name = re.sub(r"[^a-zA-Z0-9_-]+", "_", str(sent.get("title") or "response")).strip("_")[:64] or "response"
    return {"type": "json_schema", "json_schema": {"name": name, "schema": sent, "strict": is_strict}}


def left_out(schema: Schema, grammar: str = "vllm") -> str | None:
    """Return a sentence about what no grammar holds of a schema, so that answers may break it; None if all is held.

    Parameters
    ----------
    schema, grammar
        As for `response_format`.

    Examples
    --------
    >>> left_out({"type": "object", "properties": {"tags": {"type": "array", "uniqueItems": True}}})
    'The engine does not hold answers to all of schema=: tags (uniqueItems). A row that breaks it gets an error.'
    """
    _, _, found = _sent(schema, grammar)
    # A set of pydantic's takes an item twice, and these types take any text.
    parts = {place: what for place, what in found.items() if not (is_model(schema) and what in _TAKEN_ANYWAY)}
    if not parts:
        return None
    listed = "; ".join(f"{place} ({what})" for place, what in parts.items())
    # A class checks all of it.
    unchecked = [] if is_model(schema) else [name for word, name in _UNCHECKED.items() if word in listed]
    but = f", but {' and '.join(unchecked)} is checked by nobody" if unchecked else ""
    return f"The engine does not hold answers to all of schema=: {listed}. A row that breaks it gets an error{but}."


def _check_patterns(node: Any, _name: str = "") -> None:
    """Raise an error for a pattern by which no answer can be checked."""
    if not isinstance(node, Mapping):
        return
    try:
        re.compile(node.get("pattern", ""))
    except (re.error, TypeError) as error:
        message = f"The pattern {node['pattern']!r} of schema= is not valid in Python: {error}."
        raise FrameError(message, param="schema") from error
    changed(node, _check_patterns)


def unheld_in_body(schema: JsonSchema, grammar: str = "vllm") -> str | None:
    """Return a sentence about what an engine refuses or ignores of a schema in a request's own body; None if nothing.

    Parameters
    ----------
    schema
        The JSON schema, which is sent as it is.
    grammar
        As for `response_format`.

    Examples
    --------
    >>> unheld_in_body({"type": "array", "uniqueItems": True})  # doctest: +ELLIPSIS
    'The response format is sent as it is, and the engine refuses or ignores parts of it: the object (uniqueItems)...'
    """
    _, found = GRAMMARS[grammar].held(schema)
    listed = "; ".join(f"{place} ({what})" for place, what in found.items())
    message = "The response format is sent as it is, and the engine refuses or ignores parts of it"
    return f"{message}: {listed}. Use schema=, which leaves them out and checks the answers." if found else None


_UNCHECKED = {"format ": "a format", "minContains": "minContains", "maxContains": "maxContains"}
"""What `answer_schema.checker` does not check, by how it is named in what was left out."""

_TAKEN_ANYWAY = frozenset({"uniqueItems", "format binary", "format json-string", "format password", "format path"})


def _sent(schema: Schema, grammar: str) -> tuple[dict[str, Any], bool, dict[str, str]]:
    """Return the schema that is sent, whether it is strict, and what was left out of it."""
    if is_model(schema):
        from vbatch_jupyter.frames.model_schema import schema_to_send

        plain = _of_object(schema_to_send(schema))
    else:
        plain = json_schema(schema)
        _check_patterns(plain)
    is_strict = not _has_open_map(plain)
    if not is_strict and grammar == "openai":
        # Only strict mode refuses what it does not hold.
        return plain, is_strict, {}
    held, found = GRAMMARS[grammar].held(_strict(plain, plain, ()) if is_strict else plain)
    return held, is_strict, found


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
        from vbatch_jupyter.frames.model_values import check_names, values_of

        try:
            check_names(schema)
        except ValueError as error:
            raise FrameError(
                f"schema= cannot be used: {error}. Give it a name as its alias.", param="schema"
            ) from error
        return functools.partial(_by_model, schema, values_of, fields(schema))
    try:
        return checker(plain, has_columns=True)
    except (TypeError, ValueError) as error:
        raise FrameError(f"schema= is not a valid JSON schema: {error}.", param="schema") from error


def _by_model(
    model: type[BaseModel], values_of: Callable[[BaseModel], Any], columns: Sequence[Field], text: str
) -> dict[str, Any]:
    json_object(text)
    try:
        instance = model.model_validate_json(text)
    except ValueError as error:
        problems = error.errors() if hasattr(error, "errors") else []
        reasons = [f"{'.'.join(map(str, problem['loc'])) or 'answer'}: {problem['msg']}" for problem in problems]
        raise ValueError(f"does not fit the schema ({'; '.join(reasons) or error})") from error
    values: dict[str, Any] = values_of(instance)
    # A validator may make anything of what the model wrote.
    for field in columns:
        if not _fits(value := values.get(field.name), field.dtype):
            reason = f"{field.name}: {value!r:.50} does not fit a column of {field.dtype}"
            raise ValueError(f"does not fit the schema ({reason})")
    return values


def _fits(value: object, dtype: Dtype) -> bool:
    if value is None or dtype == "object":
        return True
    if dtype in ("Int64", "Float64"):
        return is_storable(value, is_integer=dtype == "Int64")
    return isinstance(value, bool if dtype == "boolean" else str)


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
    try:
        types = types_of(node, root) - {"null"}
    except ValueError as error:
        raise FrameError(f"schema= {error}.", param="schema") from error
    if types == {"integer", "number"}:
        return "Float64"
    return _DTYPES.get(types.pop(), "object") if len(types) == 1 else "object"


def _resolve(reference: str, root: JsonSchema) -> dict[str, Any]:
    try:
        return resolve(reference, root)
    except ValueError as error:
        raise FrameError(f"schema= {error}.", param="schema") from error


def _has_open_map(node: Any) -> bool:
    if not isinstance(node, Mapping):
        return False
    types = node.get("type")
    is_object = types == "object" or (isinstance(types, list) and "object" in types)
    if is_object and not node.get("properties") and node.get("additionalProperties", True):
        return True
    below: list[bool] = []
    changed(node, lambda schema, _: below.append(_has_open_map(schema)))
    return any(below)


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
    if "allOf" in node:
        node = _merged(node, root)
    plain = {key: value for key, value in node.items() if key not in ("default", "discriminator", "oneOf")}
    if "oneOf" in node:
        plain["anyOf"] = node["oneOf"]
    strict = changed(plain, lambda below, _: _strict(below, root, inside))
    if isinstance(strict.get("properties"), dict):
        strict["additionalProperties"] = False
        strict["required"] = list(strict["properties"])
    return strict


def _merged(node: Mapping[str, Any], root: JsonSchema) -> Mapping[str, Any]:
    """Write a schema with ``allOf`` as one without, if no two of its parts say different things of one keyword."""
    merged: dict[str, Any] = {}
    for part in (*node["allOf"], {key: value for key, value in node.items() if key != "allOf"}):
        plain = _resolve(part["$ref"], root) if isinstance(part, Mapping) and part.keys() == {"$ref"} else part
        if not isinstance(plain, Mapping):
            return node
        for key, value in plain.items():
            before = merged.get(key, value)
            if key in ("title", "description") or before == value:
                merged[key] = value
            elif key == "required":
                merged[key] = list(dict.fromkeys((*before, *value)))
            elif key == "properties" and all(before[name] == value[name] for name in before.keys() & value.keys()):
                merged[key] = {**before, **value}
            else:
                return node
    return merged
