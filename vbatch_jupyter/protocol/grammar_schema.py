"""What is sent of a JSON schema: what the grammars of an engine hold of it.

A grammar that does not know a keyword refuses every row, or ignores it without a word. What is left out here is checked
when the answers are read, with the schema as it was written.
"""

from __future__ import annotations

import dataclasses
import tomllib
from collections.abc import Mapping
from pathlib import Path
from typing import Any

from vbatch_jupyter.protocol.grammar_pattern import held_pattern
from vbatch_jupyter.protocol.subschemas import changed

_TABLE = tomllib.loads(Path(__file__).with_suffix(".toml").read_text(encoding="utf-8"))
_INSTEAD: Mapping[str, str] = _TABLE.pop("instead")
_LOOK_AROUND = ("(?=", "(?!", "(?<=", "(?<!")


@dataclasses.dataclass(frozen=True, slots=True)
class Grammar:
    """What the grammars of an engine do not hold; the values are in ``grammar_schema.toml``.

    Parameters
    ----------
    unheld
        The keywords.
    formats
        The values of ``format`` that they know.
    rewrites_patterns
        Whether patterns are sent as `grammar_pattern` writes them; else all but those with a look-around as they are.
    unheld_with_pattern
        The keywords that they do not hold next to a pattern or a format.
    """

    unheld: frozenset[str]
    formats: frozenset[str]
    rewrites_patterns: bool
    unheld_with_pattern: frozenset[str] = frozenset()

    def held(self, schema: Mapping[str, Any]) -> tuple[dict[str, Any], dict[str, str]]:
        """Return what to send of a schema, and what is left out of it.

        Parameters
        ----------
        schema
            A JSON schema; it is not changed.

        Returns
        -------
        dict
            A schema that allows at least the same answers.
        dict
            The places, such as ``tags[]``, each with what is left out there.

        Examples
        --------
        >>> tags = {"type": "array", "items": {"type": "string", "format": "path"}, "uniqueItems": True}
        >>> sent, left_out = GRAMMARS["vllm"].held({"type": "object", "properties": {"tags": tags}})
        >>> sent["properties"]["tags"], left_out
        ({'type': 'array', 'items': {'type': 'string'}}, {'tags': 'uniqueItems', 'tags[]': 'format path'})
        """
        left_out: dict[str, str] = {}

        def held(node: Any, place: str) -> Any:
            if not isinstance(node, Mapping):
                return node
            plain, unheld = _in_both(node, schema)
            unheld += [key for key in plain if key in self.unheld and plain[key] is not False]
            plain = {key: value for key, value in plain.items() if key not in self.unheld}
            unheld += self._hold_text(plain)
            if unheld:
                left_out[place or "the object"] = ", ".join(dict.fromkeys(unheld))
            return changed(plain, lambda below, name: held(below, _place_of(place, name, plain)))

        return held(schema, ""), left_out

    def _hold_text(self, plain: dict[str, Any]) -> list[str]:
        """Change pattern and format of a schema to what is held; return what is not."""
        unheld = []
        if isinstance(pattern := plain.get("pattern"), str):
            sent, reasons = self._held_pattern(pattern)
            unheld += [f"pattern with {reason}" for reason in reasons]
            plain |= {"pattern": sent}
            if sent is None:
                del plain["pattern"]
        if isinstance(name := plain.get("format"), str) and name not in self.formats:
            unheld.append(f"format {name}")
            plain |= {"format": _INSTEAD.get(name)}
            if name not in _INSTEAD:
                del plain["format"]
        if "pattern" in plain or "format" in plain:
            unheld += [key for key in self.unheld_with_pattern if plain.pop(key, None) is not None]
        return unheld

    def _held_pattern(self, pattern: str) -> tuple[str | None, list[str]]:
        if self.rewrites_patterns:
            return held_pattern(pattern)
        has_look_around = any(token in pattern for token in _LOOK_AROUND)
        return (None, ["a look-ahead or look-behind"]) if has_look_around else (pattern, [])


def _place_of(place: str, name: str, node: Mapping[str, Any]) -> str:
    if name:
        return f"{place}.{name}" if place else name
    return f"{place}[]" if "items" in node or "prefixItems" in node else place


def _in_both(node: Mapping[str, Any], root: Mapping[str, Any]) -> tuple[dict[str, Any], list[str]]:
    """Write a schema with the keywords that both of vLLM's libraries know; return also what that loses."""
    same, lost = dict(node), list[str]()
    value = same.get("additionalProperties", True)
    if "propertyNames" in same and not same.get("properties") and value is not False:
        names = same["propertyNames"]
        if isinstance(names, Mapping) and str(names.get("$ref")).startswith("#/$defs/"):
            names = root.get("$defs", {}).get(names["$ref"].removeprefix("#/$defs/"))
        if isinstance(names, Mapping) and isinstance(names.get("enum"), list):
            del same["propertyNames"]
            same |= {"properties": {str(name): value for name in names["enum"]}, "additionalProperties": False}
    if isinstance(patterns := same.pop("patternProperties", None), Mapping):
        lost.append("patternProperties")
        if not same.get("properties") and not same.get("additionalProperties"):
            values = list(patterns.values())
            same["additionalProperties"] = values[0] if len(values) == 1 else {"anyOf": values}
    if isinstance(items := same.get("items"), list):
        # As JSON Schema had it until draft 7.
        same |= {"prefixItems": items, "items": same.pop("additionalItems", True)}
    if "oneOf" in same and "anyOf" not in same:
        same["anyOf"] = same.pop("oneOf")
    if ("minProperties" in same or "maxProperties" in same) and "properties" not in same:
        # xgrammar takes an object without both as one that has no keys.
        same.setdefault("additionalProperties", True)
    return same, lost


def _grammar(row: Mapping[str, Any]) -> Grammar:
    values: dict[str, Any] = {
        key: frozenset(value.split()) if isinstance(value, str) else value for key, value in row.items()
    }
    return Grammar(**values)


GRAMMARS: Mapping[str, Grammar] = {name: _grammar(row) for name, row in _TABLE.items()}
"""By the name of the engine or the service."""
