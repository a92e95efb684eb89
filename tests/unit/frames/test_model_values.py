"""What a column holds if a schema is a pydantic class: the model's value, under one name."""

from __future__ import annotations

import json
from decimal import Decimal
from typing import Annotated, Any

import pandas as pd
import pytest
from pydantic import (
    AfterValidator,
    AliasChoices,
    AliasPath,
    BaseModel,
    ConfigDict,
    Field,
    Json,
    SecretStr,
    computed_field,
    field_serializer,
    model_serializer,
)
from pydantic.dataclasses import dataclass

from vbatch_jupyter.errors import FrameError
from vbatch_jupyter.frames.frame import FrameDescription
from vbatch_jupyter.frames.results import results
from vbatch_jupyter.frames.schema import Schema, fields, parser


def row(schema: Schema, **wrote: Any) -> pd.Series:
    """Return what the columns of one row hold, for what the model wrote."""
    body = {"choices": [{"message": {"content": json.dumps(wrote)}}]}
    line = json.dumps({"custom_id": "row-0", "response": {"status_code": 200, "body": body}}).encode()
    description = FrameDescription(fingerprint="", rows=1, endpoint="/v1/chat/completions")
    out = results([line], description, df=pd.DataFrame(index=range(1)), schema=schema)
    assert out["error"].isna().all(), out["error"].tolist()
    return out.drop(columns="error").iloc[0]


class Inner(BaseModel):
    kept: int = Field(exclude=True, validation_alias="given")


class Aliased(BaseModel):
    a: int = Field(exclude=True)
    b: int = Field(validation_alias="star_count")
    c: int = Field(validation_alias=AliasChoices(AliasPath("x", 0), "first", "second"))
    d: int = Field(serialization_alias="other")
    e: int = Field(alias="both")
    inner: Inner
    inners: list[Inner]
    by_name: dict[int, Inner]


def test_excluded_and_aliased_fields_hold_what_the_model_wrote_under_the_name_in_the_schema() -> None:
    """In pydantic 2.14.4 a dump leaves out excluded fields and has the serialisation's names, at every depth."""
    wrote = {
        "a": 1,
        "star_count": 2,
        "first": 3,
        "d": 4,
        "both": 5,
        "inner": {"given": 6},
        "inners": [{"given": 7}],
        "by_name": {"8": {"given": 9}},
    }
    assert row(Aliased, **wrote).to_dict() == wrote
    assert [field.name for field in fields(Aliased)] == list(wrote)


def test_a_second_choice_of_a_name_is_read_into_the_column_of_the_first() -> None:
    read = parser(Aliased)
    wrote = {
        "a": 1,
        "star_count": 2,
        "second": 3,
        "d": 4,
        "both": 5,
        "inner": {"given": 6},
        "inners": [],
        "by_name": {},
    }
    assert read(json.dumps(wrote))["first"] == 3


def test_a_class_that_validates_by_name_has_columns_by_name() -> None:
    class ByName(BaseModel):
        model_config = ConfigDict(validate_by_alias=False, validate_by_name=True)
        stars: int = Field(alias="star_count")

    assert row(ByName, stars=3).to_dict() == {"stars": 3}


def test_a_field_that_is_read_from_inside_another_is_refused_before_the_run() -> None:
    """In pydantic 2.14.4 the schema has the field's own name, which validation then does not look at."""

    class Deep(BaseModel):
        city: str = Field(default="", validation_alias=AliasPath("address", "city"))

    class Person(BaseModel):
        name: str
        friends: dict[str, list["Deep | Person"]] | None = None

    @dataclass
    class Home:
        rooms: int
        where: Deep | None = None

    class Owner(BaseModel):
        home: Home

    Person.model_rebuild(_types_namespace={"Deep": Deep, "Person": Person})
    for model in (Deep, Person, Owner):
        with pytest.raises(FrameError, match=r"'city' is read from a path.*which no model is asked for"):
            parser(model)


class Serialised(BaseModel):
    stars: int
    price: Decimal
    key: SecretStr
    tags: Json[list[int]]
    seen: set[str]
    anything: Any

    @field_serializer("stars")
    def as_text(self, stars: int) -> str:
        return f"{stars} stars"

    @computed_field  # type: ignore[prop-decorator]  # pydantic's own documentation has it so
    @property
    def twice(self) -> int:
        return 2 * self.stars


def test_serialisers_secrets_json_sets_and_computed_fields_have_one_stated_result() -> None:
    """In pydantic 2.14.4 a dump has '4 stars', '**********' and the computed field."""
    held = row(Serialised, stars=4, price=1.5, key="abc", tags="[1, 2]", seen=["b", "a"], anything={"x": [1]})
    assert held.to_dict() == {
        "stars": 4,
        "price": "1.5",
        "key": "abc",
        "tags": [1, 2],
        "seen": ["a", "b"],
        "anything": {"x": [1]},
    }
    assert {field.name: field.dtype for field in fields(Serialised)} == {
        "stars": "Int64",
        "price": "object",
        "key": "str",
        "tags": "object",
        "seen": "object",
        "anything": "object",
    }


def test_the_serialiser_of_a_whole_model_does_not_run_and_validators_do() -> None:
    @dataclass
    class Part:
        size: int = Field(alias="sized")

    class Whole(BaseModel):
        word: Annotated[str, AfterValidator(str.upper)]
        part: Part

        @model_serializer
        def as_text(self) -> str:
            return "whole"

    assert row(Whole, word="a", part={"sized": 1}).to_dict() == {"word": "A", "part": {"sized": 1}}
