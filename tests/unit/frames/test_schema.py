from __future__ import annotations

import copy
import datetime as dt
import decimal
import enum
import ipaddress
import pathlib
import re
from typing import Annotated, Literal

import pydantic
import pytest

from vbatch_jupyter.errors import FrameError
from vbatch_jupyter.frames.schema import Field, fields, json_schema, left_out, parser, response_format


class Mood(enum.Enum):
    GOOD = "good"
    BAD = "bad"


class Author(pydantic.BaseModel):
    name: str
    age: int | None = None


class Review(pydantic.BaseModel):
    """What a review says."""

    mood: Mood
    topic: Literal["price", "taste"]
    stars: int
    score: float | None
    again: bool = True
    day: dt.date | None = None
    author: Author = pydantic.Field(description="who wrote it")
    co_author: Author | None = None
    tags: list[str] = []
    mixed: int | str = 0
    level: Literal[1, 2, 3] = 1


class Node(pydantic.BaseModel):
    name: str
    children: list[Node] = []
    best: Node = pydantic.Field(default=None, description="the best child")  # type: ignore[assignment]


class Cat(pydantic.BaseModel):
    kind: Literal["cat"]


class Dog(pydantic.BaseModel):
    kind: Literal["dog"]


class Pet(pydantic.BaseModel):
    pet: Annotated[Cat | Dog, pydantic.Field(discriminator="kind")]


class Counts(pydantic.BaseModel):
    counts: dict[str, int]


def every_object(node):
    if isinstance(node, dict):
        if isinstance(node.get("properties"), dict):
            yield node
        for below in node.values():
            yield from every_object(below)
    elif isinstance(node, list):
        for below in node:
            yield from every_object(below)


def every_key(node):
    if isinstance(node, dict):
        yield from node
        for below in node.values():
            yield from every_key(below)
    elif isinstance(node, list):
        for below in node:
            yield from every_key(below)


def test_each_field_has_the_dtype_of_its_type():
    assert fields(Review) == (
        Field("mood", "str"),
        Field("topic", "str"),
        Field("stars", "Int64"),
        Field("score", "Float64"),
        Field("again", "boolean"),
        Field("day", "str"),
        Field("author", "object"),
        Field("co_author", "object"),
        Field("tags", "object"),
        Field("mixed", "object"),
        Field("level", "Int64"),
    )


def test_types_of_a_plain_json_schema():
    schema = {
        "type": "object",
        "properties": {
            "a": {"type": ["string", "null"]},
            "b": {"enum": [1, None]},
            "c": {"const": True},
            "d": {"type": ["integer", "number"]},
            "e": {"$ref": "#/$defs/E"},
            "f": {"allOf": [{"type": "number"}]},
            "g": {},
            "h": {"anyOf": [{"type": "null"}, {"$ref": "#/$defs/E"}]},
            "i": {"enum": ["x", 1]},
            "default": {"type": "boolean"},
        },
        "$defs": {"E": {"type": "string", "format": "date"}},
    }
    assert [field.dtype for field in fields(schema)] == [
        "str", "Int64", "boolean", "Float64", "str", "Float64", "object", "str", "object", "boolean",
    ]  # fmt: skip


def test_the_response_format_is_strict_as_openai_demands_it():
    sent = response_format(Review)
    assert sent["type"] == "json_schema"
    assert sent["json_schema"]["name"] == "Review"
    assert sent["json_schema"]["strict"] is True
    objects = list(every_object(sent["json_schema"]["schema"]))
    assert len(objects) == 3  # the top, the definition of Author, and its copy next to the description
    assert all(node["additionalProperties"] is False for node in objects)
    assert all(node["required"] == list(node["properties"]) for node in objects)
    assert "default" not in set(every_key(sent))


def test_it_is_what_the_openai_package_makes_of_the_same_model():
    from openai import pydantic_function_tool

    for model in (Author, Review):
        expected = pydantic_function_tool(model)["function"]["parameters"]
        sent = response_format(model)["json_schema"]["schema"]
        assert [node["required"] for node in every_object(sent)] == [
            node["required"] for node in every_object(expected)
        ]


def test_a_description_beside_a_reference_is_kept():
    author = response_format(Review)["json_schema"]["schema"]["properties"]["author"]
    assert author["description"] == "who wrote it"
    assert list(author["properties"]) == ["name", "age"]
    assert "$ref" not in author


def test_a_recursive_model_stays_finite():
    schema = response_format(Node)["json_schema"]["schema"]
    assert schema["required"] == ["name", "children", "best"]
    assert schema["properties"]["children"]["items"] == {"$ref": "#/$defs/Node"}
    assert [field.name for field in fields(Node)] == ["name", "children", "best"]


def test_a_discriminated_union_is_sent_as_any_of():
    pet = response_format(Pet)["json_schema"]["schema"]["properties"]["pet"]
    assert [option["$ref"] for option in pet["anyOf"]] == ["#/$defs/Cat", "#/$defs/Dog"]
    assert not {"oneOf", "discriminator"} & set(every_key(pet))


def test_an_open_map_is_sent_as_it_is_and_not_strict():
    sent = response_format(Counts)["json_schema"]
    assert sent["strict"] is False
    assert sent["schema"] == Counts.model_json_schema()


def test_a_schema_that_is_passed_in_is_not_changed():
    schema = {
        "title": "My mood!",
        "type": "object",
        "properties": {"default": {"type": "object", "properties": {"enum": {"type": "string", "default": "x"}}}},
    }
    before = copy.deepcopy(schema)
    sent = response_format(schema)["json_schema"]
    assert schema == before
    assert sent["name"] == "My_mood"
    assert sent["schema"] == {
        "title": "My mood!",
        "type": "object",
        "properties": {
            "default": {
                "type": "object",
                "properties": {"enum": {"type": "string"}},
                "additionalProperties": False,
                "required": ["enum"],
            }
        },
        "additionalProperties": False,
        "required": ["default"],
    }


@pytest.mark.parametrize(
    ("schema", "message"),
    [
        (int, "schema= must be a pydantic model class or a JSON schema, not <class 'int'>."),
        (Author(name="a"), "schema= must be a pydantic model class or a JSON schema, not Author(name='a', age=None)."),
        ({"type": "array"}, "schema= must describe an object with properties, one for each column."),
        ({"type": "object"}, "schema= must describe an object with properties, one for each column."),
        (
            response_format(Author),
            (
                "schema= must describe an object with properties, one for each column."
                " Pass the schema inside the response_format."
            ),
        ),
        ({"$ref": "#/$defs/X"}, "schema= refers to '#/$defs/X', which it does not define."),
    ],
)
def test_what_is_no_schema_of_columns_is_refused(schema, message):
    with pytest.raises(FrameError) as caught:
        json_schema(schema)
    assert caught.value.message == message
    assert caught.value.param == "schema"


class Tagged(pydantic.BaseModel):
    tags: set[Literal["a", "b"]]
    network: ipaddress.IPv4Network
    path: pathlib.Path


def test_what_no_grammar_holds_is_not_sent_and_is_checked():
    sent = response_format(Tagged)["json_schema"]["schema"]
    assert not {"uniqueItems", "format"} & set(every_key(sent))
    assert left_out(Tagged) == (
        "The engine does not hold answers to all of schema=: network (format ipv4network)."
        " A row that breaks it gets an error."
    )
    read = parser(Tagged)
    assert read('{"tags": ["b", "a", "b"], "network": "10.0.0.0/8", "path": "/a"}')["network"] == "10.0.0.0/8"
    # Without the class, as after a restart, a set is read as a list.
    assert parser(json_schema(Tagged))('{"tags": ["b", "b"], "network": "x", "path": "/"}')["tags"] == ["b", "b"]
    with pytest.raises(ValueError, match="network: Input is not a valid IPv4 network"):
        read('{"tags": [], "network": "ten", "path": "/a"}')


def test_openai_is_sent_what_its_strict_mode_takes():
    """OpenAI's strict mode in 2026-11: `grammar_schema.toml` names the sources."""
    schema = {
        "type": "object",
        "properties": {
            "id": {"type": "string", "format": "uri", "minLength": 1},
            "word": {"type": "string", "pattern": r"^\w+$"},
            "code": {"type": "string", "pattern": r"^(?!0)\d+$"},
            "even": {"type": "integer", "multipleOf": 2},
        },
    }
    properties = response_format(schema, "openai")["json_schema"]["schema"]["properties"]
    assert properties == {
        "id": {"type": "string"},
        "word": {"type": "string", "pattern": r"^\w+$"},
        "code": {"type": "string"},
        "even": {"type": "integer", "multipleOf": 2},
    }
    assert response_format(schema)["json_schema"]["schema"]["properties"]["id"]["minLength"] == 1


def test_an_engine_that_has_xgrammar_alone_is_sent_what_xgrammar_takes():
    """In vLLM 0.32.0 with the backend "xgrammar", which JSON without blanks needs, nothing goes to llguidance."""
    schema = {
        "type": "object",
        "properties": {
            "even": {"type": "integer", "multipleOf": 2},
            "url": {"type": "string", "format": "uri", "maxLength": 99},
            "word": {"type": "string", "maxLength": 9},
        },
    }
    assert response_format(schema, "xgrammar")["json_schema"]["schema"]["properties"] == {
        "even": {"type": "integer"},
        "url": {"type": "string", "format": "uri"},
        "word": {"type": "string", "maxLength": 9},
    }
    assert "even (multipleOf); url (maxLength)" in str(left_out(schema, "xgrammar"))
    assert left_out(schema) is None


@pytest.mark.parametrize(
    ("limits", "expected"),
    [
        ({}, {"type": "string", "pattern": r"^-?(?:0|[1-9]\d*)(?:\.\d+)?$"}),
        ({"ge": 0}, {"type": "string", "pattern": r"^(?:0|[1-9]\d*)(?:\.\d+)?$"}),
        (
            {"max_digits": 5, "decimal_places": 2},
            {"type": "string", "pattern": r"^-?(?:0|[1-9]\d{0,2})(?:\.\d{1,2})?$"},
        ),
        ({"max_digits": 2, "decimal_places": 2}, {"type": "string", "pattern": r"^-?0(?:\.\d{1,2})?$"}),
        ({"decimal_places": 0, "ge": 0, "le": 99}, {"type": "string", "pattern": r"^(?:0|[1-9]\d{0,1})$"}),
        ({"max_digits": 2}, {"type": "string", "pattern": r"^-?(?:\d(?:\.\d{1,1})?|[1-9]\d{1})$"}),
        ({"gt": 0, "le": 10}, {"type": "number", "exclusiveMinimum": 0.0, "maximum": 10.0}),
    ],
)
def test_a_decimal_is_sent_with_one_pattern_whatever_pydantic_writes(limits, expected):
    """Pydantic 2.12 and 2.13 write a pattern with look-aheads, 2.11 and 2.14.4 none: any text would be a Decimal."""
    model = pydantic.create_model("Made", price=(Annotated[decimal.Decimal, pydantic.Field(**limits)], ...))
    price = response_format(model)["json_schema"]["schema"]["properties"]["price"]
    assert {key: value for key, value in price.items() if key != "title"} == expected
    if "pattern" in expected:
        assert parser(model)('{"price": "0.5"}' if limits.get("decimal_places") != 0 else '{"price": "5"}')


def test_a_time_is_sent_without_an_offset_that_a_model_would_have_to_invent():
    """JSON Schema's date-time has an offset, and a grammar writes one; pydantic 2.14.4 has it for all three."""
    model = pydantic.create_model(
        "Made", any=(dt.datetime, ...), naive=(pydantic.NaiveDatetime, ...), aware=(pydantic.AwareDatetime, ...)
    )
    properties = response_format(model)["json_schema"]["schema"]["properties"]
    assert re.search(properties["any"]["pattern"], "2024-05-01T10:00:00")
    assert re.search(properties["any"]["pattern"], "2024-05-01T10:00:00+02:00")
    assert not re.search(properties["naive"]["pattern"], "2024-05-01T10:00:00Z")
    assert properties["aware"]["format"] == "date-time"


def test_a_dict_of_choices_is_sent_as_an_object_that_may_have_them():
    model = pydantic.create_model("Made", scores=(dict[Mood, float], ...))
    scores = response_format(model)["json_schema"]["schema"]["properties"]["scores"]
    assert scores["properties"] == {"good": {"type": "number"}, "bad": {"type": "number"}}
    assert scores["additionalProperties"] is False
    assert "required" not in scores
    assert left_out(model) is None


def test_parts_of_all_of_are_sent_as_one_object():
    parts = [{"type": "object", "properties": {name: {"type": "integer"}}, "required": [name]} for name in "ab"]
    sent = response_format({"type": "object", "properties": {"x": {"allOf": parts}}})["json_schema"]["schema"]
    assert sent["properties"]["x"] == {
        "type": "object",
        "properties": {"a": {"type": "integer"}, "b": {"type": "integer"}},
        "required": ["a", "b"],
        "additionalProperties": False,
    }


class Named(pydantic.BaseModel):
    name: str = pydantic.Field(pattern=r"^\p{L}+$")


def test_a_pattern_that_python_cannot_read_is_refused_or_left_to_pydantic():
    with pytest.raises(FrameError, match=r"The pattern '\^\\\\p\{L\}\+\$' of schema= is not valid in Python"):
        response_format(json_schema(Named))
    with pytest.raises(ValueError, match="name: String should match pattern"):
        parser(Named)('{"name": "1"}')
    # After a restart there is only the JSON schema, which is checked without that pattern.
    assert parser(json_schema(Named))('{"name": "ä"}') == {"name": "ä"}
