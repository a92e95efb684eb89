"""What people put into a schema, and what becomes of it: the table that test_schema_features and test_traps walk.

``python tests/engine/schema_features.py`` asks the two libraries that vLLM has for grammars (xgrammar, llguidance) what
they make of what is sent, and prints it as JSON; vLLM's import warns, so it is a process of its own.
"""

from __future__ import annotations

import dataclasses
import datetime as dt
import enum
import ipaddress
import json
import re
import sys
import uuid
from collections.abc import Callable, Mapping, Sequence
from decimal import Decimal
from pathlib import Path
from typing import Annotated, Any, Literal, NamedTuple

import pydantic
from pydantic import BaseModel, Field, confloat, conint, conlist, conset, constr

from vbatch_jupyter.frames.schema import Schema, left_out, parser, response_format


class Mood(enum.Enum):
    GOOD = "good"
    BAD = "bad"


class Cat(BaseModel):
    kind: Literal["cat"]
    lives: int


class Dog(BaseModel):
    kind: Literal["dog"]
    bark: str


class Node(BaseModel):
    name: str
    children: list[Node] = []


class Pair(NamedTuple):
    number: int
    text: str


@dataclasses.dataclass(frozen=True)
class Feature:
    """One type of pydantic's, or a JSON schema, of a field ``x``.

    Parameters
    ----------
    what
        The type or the schema.
    fits, breaks
        Values that a reader takes and refuses.
    is_held
        Whether both libraries hold the model to it; otherwise answers that break it are found when they are read.
    is_told
        Whether `left_out` says so before the run.
    """

    what: Any
    fits: Sequence[Any] = ()
    breaks: Sequence[Any] = ()
    is_held: bool = True
    is_told: bool = False

    @property
    def schema(self) -> Schema:
        """The schema of an object with such a field."""
        if isinstance(self.what, dict):
            return {"type": "object", "properties": {"x": self.what}, "required": ["x"]}
        return pydantic.create_model("Made", x=(self.what, ...))


def held(what: Any, fits: Sequence[Any], breaks: Sequence[Any] = ()) -> Feature:
    return Feature(what, fits, breaks)


def told(what: Any, fits: Sequence[Any], breaks: Sequence[Any] = ()) -> Feature:
    return Feature(what, fits, breaks, is_held=False, is_told=True)


def checked(what: Any, fits: Sequence[Any], breaks: Sequence[Any] = ()) -> Feature:
    return Feature(what, fits, breaks, is_held=False)


def text(pattern: str, **more: Any) -> dict[str, Any]:
    return {"type": "string", "pattern": pattern, **more}


def of(kind: str, **more: Any) -> dict[str, Any]:
    return {"type": kind, **more}


INTEGER, STRING = of("integer"), of("string")

FEATURES: Mapping[str, Feature] = {
    # What vLLM 0.32.0 refuses as pydantic writes it: "Unimplemented keys", "Unknown format". A set takes an item twice.
    "set": held(set[str], [["a"], ["a", "a"]], [[1]]),
    "frozenset": held(frozenset[int], [[1]], [["a"]]),
    "conset": held(conset(int, min_length=2), [[1, 2]], [[1]]),
    "Path": held(Path, ["/a/b"], [1]),
    "bytes": held(bytes, ["abc"], [1]),
    "SecretStr": held(pydantic.SecretStr, ["abc"], [1]),
    "Pattern": told(re.Pattern, ["a+"], ["("]),
    "IPv4Network": told(ipaddress.IPv4Network, ["10.0.0.0/8"], ["a"]),
    "IPv6Interface": told(ipaddress.IPv6Interface, ["::1/8"], ["a"]),
    "IPvAnyAddress": told(pydantic.IPvAnyAddress, ["10.0.0.1", "::1"], ["a"]),
    "UUID4": told(pydantic.UUID4, ["123e4567-e89b-42d3-a456-426614174000"], ["123e4567-e89b-12d3-a456-426614174000"]),
    "Base64Bytes": told(pydantic.Base64Bytes, ["YQ=="], ["a"]),
    "format phone": Feature(of("string", format="phone"), ["1"], is_told=True),
    "uniqueItems": told(of("array", items=INTEGER, uniqueItems=True), [[1, 2]], [[1, 1]]),
    "contains": told(of("array", items=INTEGER, contains={"const": 1}), [[1, 2]], [[2]]),
    "not": told(of("string", **{"not": {"const": "a"}}), ["b"], ["a"]),
    "if": told(of("object", properties={"a": INTEGER}, **{"if": {"required": ["a"]}, "then": False}), [], [{"a": 1}]),
    "dependentRequired": told(
        of("object", additionalProperties=INTEGER, dependentRequired={"a": ["b"]}), [{"a": 1, "b": 2}], [{"a": 1}]
    ),
    "propertyNames": told(dict[Annotated[str, Field(min_length=2)], int], [{"aa": 1}], [{"b": 1}]),
    "patternProperties": told(dict[Annotated[str, Field(pattern="^a+$")], int], [{"aa": 1}], [{"b": 1}]),
    # Patterns.
    "anchored": held(constr(pattern=r"^[A-Z]{2}\d+$"), ["AB1"], ["ab1", "AB1 "]),
    "unanchored": held(constr(pattern=r"[A-Z]\d"), ["A1", "an A1 b"], ["a1"]),
    "a beginning": held(constr(pattern="^https://"), ["https://a.b"], ["see https://a.b"]),
    "branches": held(text("^a$|b"), ["a", "xbx"], ["ax"]),
    "Python's anchors": held(text(r"\Afoo\Z"), ["foo"], ["AfooZ"]),
    "letters of all languages": held(constr(pattern=r"^[\w-]+$"), ["Müller-名前"], ["a b"]),
    "more than 128": held(text("^[a-z]{2,500}$"), ["ab", "a" * 200], ["a", "1"]),
    "a named group": held(text(r"^(?P<year>\d{4})$"), ["2024"], ["24"]),
    "lazy": held(text("^a+?b*?$"), ["aab"], ["c"]),
    "a pattern and a length": checked(constr(pattern="^[a-z]+$", max_length=3), ["abc"], ["abcd"]),
    "look-ahead": told(text(r"^(?=.*\d)[a-z\d]+$"), ["a1"], ["abc"]),
    "negative look-ahead": told(text("^(?!bad)[a-z]+$"), ["good"], ["badly"]),
    "look-behind": told(text("^[a-z]+(?<=z)$"), ["az"], ["ab"]),
    "an inline flag": told(text("(?i)^abc$"), ["ABC"], ["x"]),
    "a flag of a group": told(text("^(?i:abc)$"), ["ABC"], ["x"]),
    "a flag inside": told(constr(pattern="^(?i)abc$"), ["ABC"], ["x"]),
    "a backreference": told(text(r"^(a|b)\1$"), ["aa"], ["ab"]),
    "an atomic group": told(text("^(?>a+)b$"), ["aab"], ["c"]),
    "a word's border": told(text(r"^foo\b.*$"), ["foo bar"], ["food"]),
    "a class of Unicode": told(constr(pattern=r"^\p{L}+$"), ["äb"], ["1"]),
    "a class of Unicode in a set": told(constr(pattern=r"^[\p{L} ]+$"), ["ä b"], ["1"]),
    "a quote": told(text('^"a"$'), ['"a"'], ["a"]),
    "a backslash": told(text(r"^a\\b$"), ["a\\b"], ["ab"]),
    "a line break": told(text(r"^a\nb$"), ["a\nb"], ["ab"]),
    # Text, numbers and times.
    "email": held(of("string", format="email"), ["a@b.co"], [1]),
    "AnyUrl": held(pydantic.AnyUrl, ["http://a.b/c"], ["a b"]),
    "HttpUrl": checked(pydantic.HttpUrl, ["http://a.b/c"], ["ftp://a"]),
    "IPv4Address": held(ipaddress.IPv4Address, ["1.2.3.4"], ["a"]),
    "UUID": held(uuid.UUID, ["123e4567-e89b-12d3-a456-426614174000"], ["a"]),
    "constr": held(constr(min_length=2, max_length=3), ["ab", "äöü"], ["a", "abcd"]),
    "minContains": told(of("array", contains={"const": 1}, minContains=2), [[1, 2, 1]], [[1, 2]]),
    "maxContains": told(of("array", contains={"const": 1}, maxContains=1), [[1, 2]], [[1, 1], [2]]),
    "format date": checked(of("string", format="date"), ["2024-02-29"], ["2023-02-29"]),
    "format date-time": checked(of("string", format="date-time"), ["2024-02-29T10:00:00Z"], ["2023-02-29T10:00:00Z"]),
    "date": held(dt.date, ["2024-05-01"], ["2024-5-1", "2024-13-01"]),
    "datetime": held(dt.datetime, ["2024-05-01T10:00:00", "2024-05-01T10:00:00Z"], ["May"]),
    "NaiveDatetime": held(pydantic.NaiveDatetime, ["2024-05-01T10:00:00"], ["2024-05-01T10:00:00Z"]),
    "AwareDatetime": held(pydantic.AwareDatetime, ["2024-05-01T10:00:00Z"], ["2024-05-01T10:00:00"]),
    "PastDate": checked(pydantic.PastDate, ["2024-05-01"], ["2999-05-01"]),
    "time": held(dt.time, ["10:00:00", "10:00:00+02:00"], ["noon"]),
    "timedelta": held(dt.timedelta, ["P1D", "PT2H"], ["a day"]),
    "Decimal": held(Decimal, ["1.5", "-12"], ["abc"]),
    "Decimal with digits": held(
        Annotated[Decimal, Field(max_digits=5, decimal_places=2, ge=0)], ["123.45"], ["1234.5", "1.234", "-1"]
    ),
    "Decimal with bounds": held(Annotated[Decimal, Field(ge=1, le=10)], [5], [0, 11]),
    "int with bounds": held(conint(ge=1, le=5), [1, 5], [0, 6]),
    "float with bounds": held(confloat(gt=0, lt=1), [0.5], [0.0, 1.0]),
    "int, multiple_of": held(conint(multiple_of=7), [14], [15]),
    "float, multiple_of": checked(confloat(multiple_of=0.5), [1.5], [1.3]),
    # Choices.
    "Enum": held(Mood, ["good"], ["fine"]),
    "Literal": held(Literal["a", 1, True] | None, ["a", 1, True, None], ["b", 2]),
    "union": held(int | str | None, [1, "a", None], [1.5, [1]]),
    "discriminated union": held(
        Annotated[Cat | Dog, Field(discriminator="kind")], [{"kind": "cat", "lives": 1}], [{"kind": "cat", "bark": "a"}]
    ),
    "const": held({"const": "a"}, ["a"], ["b"]),
    "oneOf": held({"oneOf": [INTEGER, STRING]}, [1, "a"], [[1]]),
    "oneOf, overlapping": checked({"oneOf": [INTEGER, of("number", minimum=5)]}, [1, 5.5], [7]),
    "allOf": held({"allOf": [of("integer", minimum=1), {"maximum": 5}]}, [1], ["a", 6]),
    "allOf, objects": held(
        {"allOf": [of("object", properties={name: INTEGER}, required=[name]) for name in "ab"]},
        [{"a": 1, "b": 1}],
        [{"a": 1}],
    ),
    # Lists and objects.
    "list": held(conlist(int, min_length=2, max_length=3), [[1, 2]], [[1], [1, 2, 3, 4]]),
    "tuple": held(tuple[int, str], [[1, "a"]], [[1], ["a", 1]]),
    "NamedTuple": held(Pair, [[1, "a"]], [[1]]),
    "prefixItems": held(of("array", prefixItems=[INTEGER, STRING], items=False), [[1, "a"]], [["a"], [1, "a", 2]]),
    "items as a list": held(of("array", items=[INTEGER, STRING], additionalItems=False), [[1, "a"]], [["a"]]),
    "recursive": held(Node, [{"name": "a", "children": [{"name": "b", "children": []}]}], [{"name": 1}]),
    "dict": held(dict[str, int], [{"a": 1}], [{"a": "b"}]),
    "dict of an Enum": held(dict[Mood, float], [{"good": 1.5}], [{"fine": 1}]),
    "dict with int keys": checked(dict[int, int], [{"1": 1}], [{"b": 1}]),
    "dict of a size": held(Annotated[dict[str, int], Field(min_length=2)], [{"a": 1, "b": 2}], [{"a": 1}]),
    "minProperties": held(of("object", minProperties=2), [{"a": 1, "b": 2}], [{"a": 1}]),
    "additionalProperties": held(
        of("object", properties={"a": INTEGER}, additionalProperties=False), [{"a": 1}], [{"a": 1, "b": 2}]
    ),
    "a default": held(of("string", default="a"), ["a"], [1]),
}  # fmt: skip

NARROW: Mapping[str, Feature] = {
    "maxLength": held(constr(max_length=9), ['a"b', "a\nb"]),
    "a dot": held(constr(pattern="^.+$"), ['a"b']),
}
"""What llguidance lets a model write, and xgrammar does not."""


def sent(feature: Feature) -> dict[str, Any]:
    schema: dict[str, Any] = response_format(feature.schema)["json_schema"]["schema"]
    return schema


def problems(name: str, feature: Feature) -> list[str]:
    """Compare a row of the table with what is told and what is read."""
    found = []
    if (left_out(feature.schema) is not None) != feature.is_told:
        found.append(f"{name}: it is {'not ' if feature.is_told else ''}told")
    read = parser(feature.schema)
    for value in (*feature.fits, *feature.breaks):
        try:
            read(json.dumps({"x": value}))
        except ValueError:
            if value in feature.fits:
                found.append(f"{name}: the reader refuses {value!r}")
        else:
            if value not in feature.fits:
                found.append(f"{name}: the reader takes {value!r}")
    return found


def libraries() -> dict[str, Callable[[dict[str, Any], str], bool]]:
    """Return for each library whether it lets a model write an answer."""
    import llguidance
    import llguidance.hf
    import xgrammar
    from transformers import AutoTokenizer
    from vllm.v1.structured_output.backend_guidance import serialize_guidance_grammar
    from vllm.v1.structured_output.backend_types import StructuredOutputOptions

    from vbatch_jupyter.engine.demo_model import demo_model_path

    tokenizer = AutoTokenizer.from_pretrained(str(demo_model_path()))
    compiler = xgrammar.GrammarCompiler(xgrammar.TokenizerInfo.from_huggingface(tokenizer), max_threads=1)
    tokens = llguidance.hf.from_tokenizer(tokenizer)

    def of_xgrammar(schema: dict[str, Any], answer: str) -> bool:
        matcher = xgrammar.GrammarMatcher(compiler.compile_json_schema(json.dumps(schema)))
        return bool(matcher.accept_string(answer) and matcher.is_completed())

    def of_llguidance(schema: dict[str, Any], answer: str) -> bool:
        grammar = serialize_guidance_grammar(StructuredOutputOptions.JSON, schema)
        matcher = llguidance.LLMatcher(tokens, grammar, log_level=0)
        if matcher.get_error():
            raise ValueError(matcher.get_error())
        ids = tokenizer.encode(answer, add_special_tokens=False)
        return bool(matcher.consume_tokens(ids) and matcher.is_accepting())

    return {"xgrammar": of_xgrammar, "llguidance": of_llguidance}


def main() -> None:
    """Print for each feature and library which of the values it lets a model write."""
    answers = {}
    for library, takes in libraries().items():
        for name, feature in {**FEATURES, **NARROW}.items():
            schema = sent(feature)
            answers[f"{name}, {library}"] = [
                [takes(schema, json.dumps({"x": value}, ensure_ascii=False)) for value in values]
                for values in (feature.fits, feature.breaks)
            ]
    sys.stdout.write("JSON" + json.dumps(answers))


if __name__ == "__main__":
    main()
