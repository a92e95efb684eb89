"""Whether an answer fits the JSON schema in its request."""

from __future__ import annotations

import datetime as dt
import functools
import re
import sys
from collections.abc import Callable, Mapping
from typing import Any

import msgspec

from vbatch_jupyter.protocol.subschemas import changed, types_of

_LEAST, _MOST = -(2**63), 2**63 - 1


def checker(schema: Mapping[str, Any], *, has_columns: bool = False) -> Callable[[str], dict[str, Any]]:
    """Return a function that reads answers with a JSON schema.

    The function raises a `ValueError` that says why an answer does not fit.

    Parameters
    ----------
    schema
        Such as `endpoints.Endpoint.schema` finds it in a request.
    has_columns
        Whether each field becomes a column, which holds numbers of 64 bits.

    Raises
    ------
    ValueError
        The schema is not valid.

    Examples
    --------
    >>> read = checker({"type": "object", "properties": {"stars": {"type": "integer"}}})
    >>> read('{"stars": 4}')
    {'stars': 4}
    >>> read('{"stars": "four"}')
    Traceback (most recent call last):
        ...
    ValueError: does not fit the schema (stars must be integer)
    """
    return _checker(msgspec.json.encode(schema), has_columns)


def is_storable(value: object, *, is_integer: bool) -> bool:
    """Return whether a column of integers, or of floats, can hold a value.

    Examples
    --------
    >>> is_storable(2**63 - 1, is_integer=True), is_storable(2**63, is_integer=True), is_storable("1", is_integer=True)
    (True, False, False)
    """
    if not isinstance(value, (int, float)) or isinstance(value, bool):
        return False
    if is_integer:  # JSON Schema counts 4.0 as one
        return value == value // 1 and _LEAST <= value <= _MOST
    return abs(value) <= sys.float_info.max


class _NoDocuments(dict[str, Callable[[str], Any]]):
    """Fetches no document that a schema refers to, neither from the network nor from the disk."""

    def __contains__(self, scheme: object) -> bool:
        return True

    def __missing__(self, scheme: str) -> Callable[[str], Any]:
        return _refuse_document


def _refuse_document(uri: str) -> Any:
    raise ValueError(f"it refers to {uri}, which is not in it")


@functools.lru_cache(maxsize=64)
def _checker(schema: bytes, has_columns: bool) -> Callable[[str], dict[str, Any]]:  # noqa: FBT001 - for the cache
    import fastjsonschema

    plain = msgspec.json.decode(schema)
    try:
        numbers = _numbers_of(plain) if has_columns else {}
        # Defaults would be values that no model has written.
        compiled = fastjsonschema.compile(
            _as_of_draft_7(plain), handlers=_NoDocuments(), formats=_FORMATS, use_default=False
        )
    # A schema that is not one fails in the compiler in many ways.
    except Exception as error:
        raise ValueError(str(error)) from error
    is_counting = b'"minContains"' in schema or b'"maxContains"' in schema

    def read(answer: str) -> dict[str, Any]:
        value = json_object(answer)
        try:
            compiled(value)
            why = _miscounted(plain, value) if is_counting else None
        except fastjsonschema.JsonSchemaValueException as error:
            reason = str(error.message).replace("data.", "", 1)
            raise ValueError(f"does not fit the schema ({reason})") from error
        except Exception as error:
            # Such as a bound that is not a number: what was compiled compares it with the value.
            raise ValueError(f"cannot be checked, because the schema is not valid ({error})") from error
        for name, is_integer in numbers.items():
            if (number := value.get(name)) is not None and not is_storable(number, is_integer=is_integer):
                dtype = "Int64" if is_integer else "Float64"
                raise ValueError(f"does not fit the schema ({name}: {number!r:.50} does not fit a column of {dtype})")
        if why is not None:
            raise ValueError(f"does not fit the schema ({why})")
        return value

    return read


def _numbers_of(schema: Mapping[str, Any]) -> dict[str, bool]:
    """Return the fields whose columns hold numbers only, and whether these are integers."""
    allowed = {name: types_of(node, schema) - {"null"} for name, node in schema.get("properties", {}).items()}
    return {name: types == {"integer"} for name, types in allowed.items() if types and types <= {"integer", "number"}}


def _is_day(text: str) -> bool:
    """Return whether a date, or the date of a time, is in the calendar: a grammar lets a model write 2023-02-29."""
    try:
        dt.date.fromisoformat(text[:_DAY])
    except ValueError:
        return False
    return True


_DAY = len("2024-05-01")
# Other formats are notes to the model, and no promises.
_FORMATS = {"date": _is_day, "date-time": _is_day}


def _miscounted(schema: Any, value: Any) -> str | None:
    """Return why a value does not fit a schema with ``minContains`` or ``maxContains``, which draft 7 does not have."""
    from jsonschema import Draft202012Validator
    from jsonschema.exceptions import best_match
    from referencing import Registry

    # The registry is empty: nothing is fetched.
    error = best_match(Draft202012Validator(schema, registry=Registry()).iter_errors(value))
    return error and f"{'.'.join(map(str, error.absolute_path)) or 'the answer'}: {error.message}"


_NEXT_TO_REF = frozenset("$ref $defs definitions $id $schema title description default examples".split())  # noqa: SIM905


def _as_of_draft_7(node: Any, _name: str = "") -> Any:
    """Write what later drafts call otherwise as draft 7 does, which is what fastjsonschema knows."""
    if not isinstance(node, Mapping):
        return node
    old = dict(node)
    if isinstance(items := old.pop("prefixItems", None), list):
        rest = old.pop("items", old.pop("unevaluatedItems", True))
        old |= {"items": items, "additionalItems": rest}
    dependencies = {**old.pop("dependentRequired", {}), **old.pop("dependentSchemas", {})}
    if dependencies:
        old["dependencies"] = {**dependencies, **old.get("dependencies", {})}
    if not old.keys() & {"$ref", "additionalProperties", "allOf", "anyOf", "if", "oneOf"}:
        # Without these, what is not evaluated is what is additional.
        old["additionalProperties"] = old.pop("unevaluatedProperties", True)
    if old.get("minContains") == 0:
        old.pop("contains", None)
    if old.get("format") not in _FORMATS:
        old.pop("format", None)
    if "pattern" in old and not _is_readable(old["pattern"]):
        del old["pattern"]
    if "$ref" in old and (siblings := {key: old.pop(key) for key in [*old] if key not in _NEXT_TO_REF}):
        # Draft 7 ignores what is next to a $ref.
        old["allOf"] = [{"$ref": old.pop("$ref")}, siblings]
    return changed(old, _as_of_draft_7)


def _is_readable(pattern: Any) -> bool:
    """Return whether Python can check a pattern; pydantic's may be written for Rust."""
    try:
        re.compile(pattern)
    except (re.error, TypeError, RecursionError, OverflowError, Warning):
        return False
    return True


def json_object(answer: str) -> dict[str, Any]:
    """Read an answer that is a JSON object.

    Raises
    ------
    ValueError
        Says what it is instead.

    Examples
    --------
    >>> json_object("[1]")
    Traceback (most recent call last):
        ...
    ValueError: is not a JSON object
    """
    try:
        value = msgspec.json.decode(answer)
    except (ValueError, RecursionError) as error:
        raise ValueError(f"is not JSON ({error})") from error
    if not isinstance(value, dict):
        raise ValueError("is not a JSON object")  # noqa: TRY004 - to the caller it is an answer that does not fit
    return value
