from __future__ import annotations

import copy
import datetime as dt
import enum
from typing import Annotated, Literal

import pydantic
import pytest

from vbatch_jupyter.errors import FrameError
from vbatch_jupyter.frames.schema import Field, fields, json_schema, response_format


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
