"""How large a body and the constraint of its answer may be: a schema, a choice, a pattern or a grammar.

An engine makes a grammar of a constraint. The larger it is, the longer that takes, and on a machine with few cores all
other requests wait for it. The limits are in ``policy.toml``; docs/policy.md has what was measured.
"""

from __future__ import annotations

import functools
from collections.abc import Iterable, Iterator, Mapping
from typing import Any

import msgspec

from vbatch_jupyter.errors import BadRequestError
from vbatch_jupyter.protocol.grammar_pattern import most_repeats

MAX_VALUES = 1 << 20
"""The most values in a request's body: to read and check more would hold up the loop that all requests share."""

_MEASURED_BYTES = 1024 * 1024
"""Of a larger constraint only this much is known; all limits of bytes are below."""

_LARGE_ENUM = 250
_BOUNDS = ("minimum", "maximum", "exclusiveMinimum", "exclusiveMaximum")
_LONG_TEXT = 10
_TAG_LEVELS = 16
"""How much deeper than a schema vLLM lets a structural tag be, which has schemas inside (vllm/sampling_params.py)."""

WORDS: Mapping[str, str] = {
    "bytes": "bytes",
    "levels": "levels of arrays and objects inside each other",
    "nested_objects": "levels of objects inside each other",
    "properties": "properties",
    "optional": "optional properties in one object",
    "counted": "properties in one object with minProperties or maxProperties",
    "members": "values of enum and choice",
    "characters": "characters of names and values",
    "large_enum": "characters in an enum of more than 250 values",
    "elements": "arrays and objects",
    "bounds": "bounds of numbers (minimum, maximum)",
    "pattern": "characters in one pattern",
    "lengths": "different limits of a text's length (maxLength, and patterns with a repetition like {1,50})",
    "repeats": "repetitions, counting those inside of others as often as they are repeated",
}
"""What is counted, as a message says it; the keys are those of ``limits`` in the rules."""


def check_values(body: bytes) -> None:
    """Raise an error if a body has so many values that to read it would hold up all other requests.

    Parameters
    ----------
    body
        Its JSON. Its commas are counted, because nothing is decoded yet; a prompt with more of them fits no model.

    Raises
    ------
    BadRequestError
        Says how many there may be.

    Examples
    --------
    >>> check_values(b"[1, 2]")
    """
    if (values := body.count(b",") + 1) > MAX_VALUES:
        message = (
            f"The body of a request may have at most {MAX_VALUES:,} values; this one has {values:,}, by its commas."
        )
        raise BadRequestError(message, code="invalid_value")


def excess(field: str, body: Mapping[str, Any], limits: Mapping[str, int], *, is_strict: bool) -> str | None:
    """Return a sentence about the first limit that a constraint is above; None if it is above none.

    Parameters
    ----------
    field
        The key of the body that it is under: ``response_format``, ``text``, ``tools`` or ``structured_outputs``.
    body
        The request's.
    limits
        By the keys of `WORDS`.
    is_strict
        Whether only schemas with ``strict`` count, as at OpenAI.

    Examples
    --------
    >>> schema = {"type": "object", "properties": {"a": {}, "b": {}}}
    >>> body = {"response_format": {"type": "json_schema", "json_schema": {"schema": schema}}}
    >>> excess("response_format", body, {"properties": 1}, is_strict=False)
    'it has 2 properties, and the maximum is 1.'
    """
    for strict, constraint, level in constraints(field, body):
        if is_strict and not strict:
            continue
        try:
            encoded = msgspec.json.encode(constraint)
        except (TypeError, ValueError, RecursionError):
            continue  # no JSON: it will not become a request
        found = _sizes(encoded, level) if len(encoded) <= _MEASURED_BYTES else {"bytes": len(encoded)}
        for name, most in limits.items():
            if (size := found.get(name, 0)) > most:
                return f"it has {size:,} {WORDS[name]}, and the maximum is {most:,}."
    return None


def constraints(field: str, body: Mapping[str, Any]) -> Iterator[tuple[bool, Any, int]]:
    """Yield each constraint under a key: whether it is strict, the constraint as a schema, and its first level.

    Parameters
    ----------
    field
        The key; under one that has no constraints there are none.
    body
        The request's.
    """
    value = body.get(field)
    if field == "tools":
        tools = [tool for tool in value if isinstance(tool, dict)] if isinstance(value, list) else []
        functions = [tool["function"] if isinstance(tool.get("function"), dict) else tool for tool in tools]
        is_forced = body.get("tool_choice") not in (None, "auto", "none")
        for function in functions:
            # Otherwise the model writes its calls as text.
            if (strict := function.get("strict") is True) or is_forced:
                yield strict, function.get("parameters"), 1
    elif isinstance(value, dict) and field == "structured_outputs":
        yield False, _decoded(value.get("json")), 1
        yield False, _decoded(value.get("structural_tag")), 1 - _TAG_LEVELS
        yield False, {"enum": value.get("choice"), "pattern": value.get("regex"), "grammar": value.get("grammar")}, 0
    elif field == "response_format" and isinstance(value, dict) and value.get("type") == "structural_tag":
        yield False, value, 1 - _TAG_LEVELS
    elif isinstance(value, dict) and field in ("response_format", "text"):
        inside = value.get("format" if field == "text" else "json_schema")
        if isinstance(inside, dict):
            yield inside.get("strict") is True, inside.get("schema"), 1


def has_constraint(body: Mapping[str, Any]) -> bool:
    """Return whether a request's answer is held to a grammar, apart from its calls of tools."""
    format_of = body.get("response_format"), body["text"].get("format") if isinstance(body.get("text"), dict) else None
    types = [value.get("type") for value in format_of if isinstance(value, dict)]
    structured = body.get("structured_outputs")
    return any(kind not in (None, "text") for kind in types) or (
        isinstance(structured, dict) and any(structured.values())
    )


def labels(body: Mapping[str, Any]) -> Iterator[str]:
    """Yield the texts that a choice, or an enum of a schema, lets an answer be."""
    fields = ("response_format", "text", "structured_outputs")
    left = [constraint for field in fields for _, constraint, _ in constraints(field, body)]
    while left:
        node = left.pop()
        if isinstance(node, dict):
            values = node.get("enum")
            yield from (value for value in values if isinstance(value, str)) if isinstance(values, list) else ()
            left.extend(node.values())
        elif isinstance(node, list):
            left.extend(node)


def _decoded(value: Any) -> Any:
    """Return what vLLM takes as JSON or as its text."""
    try:
        return msgspec.json.decode(value) if isinstance(value, str) else value
    except (ValueError, RecursionError):
        return value


@functools.lru_cache(maxsize=64)
def _sizes(constraint: bytes, level: int) -> Mapping[str, int]:
    """Measure a constraint; a batch has the same one a million times."""
    sizes = dict.fromkeys(WORDS, 0)
    lengths: set[Any] = set()
    left: list[tuple[Any, int, int]] = [(msgspec.json.decode(constraint), level, 0)]
    while left:
        node, depth, objects = left.pop()
        if isinstance(node, dict):
            objects += _measure(node, sizes, lengths)
            inside: Iterable[Any] = node.values()
        elif isinstance(node, list):
            inside = node
        else:
            continue
        sizes["elements"] += 1
        sizes["levels"] = max(sizes["levels"], depth)
        sizes["nested_objects"] = max(sizes["nested_objects"], objects)
        left.extend((one, depth + 1, objects) for one in inside)
    return sizes | {"bytes": len(constraint), "lengths": len(lengths)}


def _measure(node: dict[str, Any], sizes: dict[str, int], lengths: set[Any]) -> bool:
    """Add what one schema has to the sizes; return whether it is of an object with properties."""
    if isinstance(values := node.get("enum", [node["const"]] if "const" in node else None), list):
        characters = sum(len(value) for value in values if isinstance(value, str))
        sizes["members"] += len(values)
        sizes["characters"] += characters
        if len(values) > _LARGE_ENUM:
            sizes["large_enum"] = max(sizes["large_enum"], characters)
    sizes["bounds"] += sum(isinstance(node.get(key), int | float) for key in _BOUNDS)
    if isinstance(most := node.get("maxLength"), int) and most > _LONG_TEXT:
        lengths.add(most)
    if isinstance(pattern := node.get("pattern"), str):
        largest, repeats = most_repeats(pattern)
        sizes["pattern"] = max(sizes["pattern"], len(pattern))
        sizes["repeats"] = max(sizes["repeats"], repeats)
        if largest > _LONG_TEXT:
            lengths.add(pattern)
    if isinstance(definitions := node.get("$defs"), dict):
        sizes["characters"] += sum(map(len, definitions))
    if not isinstance(properties := node.get("properties"), dict):
        return False
    required = node.get("required")
    names = {name for name in required if isinstance(name, str)} if isinstance(required, list) else set()
    sizes["properties"] += len(properties)
    sizes["characters"] += sum(map(len, properties))
    sizes["optional"] = max(sizes["optional"], len(properties.keys() - names))
    if "minProperties" in node or "maxProperties" in node:
        sizes["counted"] = max(sizes["counted"], len(properties))
    return True
