"""How large a schema, a choice or a pattern may be: just below each limit it passes, and just above it is refused.

What is refused here never reaches an engine. docs/policy.md has what was measured.
"""

from __future__ import annotations

import io
import json
from typing import Any

import pytest

from vbatch_jupyter.errors import BadRequestError
from vbatch_jupyter.protocol import policy
from vbatch_jupyter.protocol.check import check
from vbatch_jupyter.protocol.profiles import PROFILES
from vbatch_jupyter.protocol.validation import validate

CHAT, COMPLETIONS, RESPONSES = "/v1/chat/completions", "/v1/completions", "/v1/responses"


def of(count: int, *, required: bool = True, value: Any = None, **more: Any) -> dict[str, Any]:
    """Return a schema of an object with so many properties."""
    names = [f"f{number}" for number in range(count)]
    schema = {"type": "object", "properties": dict.fromkeys(names, value or {"type": "string"}), **more}
    return {**schema, "required": names} if required else schema


RANGE = {"type": "integer", "minimum": 1, "maximum": 5}


def nested(levels: int) -> dict[str, Any]:
    schema: dict[str, Any] = {"type": "string"}
    for _ in range(levels):
        schema = of(1, value=schema)
    return schema


def members(count: int, length: int = 1) -> dict[str, Any]:
    return of(1, value={"enum": [f"{number:0{length}}" for number in range(count)]})


def lengths(count: int) -> dict[str, Any]:
    schema = of(count)
    schema["properties"] = {name: {"maxLength": 50 + n} for n, name in enumerate(schema["properties"])}
    return schema


def patterns(count: int) -> dict[str, Any]:
    schema = of(count)
    schema["properties"] = {name: {"pattern": f"^[a-z]{{1,{50 + n}}}$"} for n, name in enumerate(schema["properties"])}
    return schema


def chat(schema: Any, *, strict: bool | None = None) -> dict[str, Any]:
    return {
        "response_format": {"type": "json_schema", "json_schema": {"name": "s", "schema": schema, "strict": strict}}
    }


def broken(body: dict[str, Any], server: policy.Server = "local", path: str = CHAT) -> list[tuple[str, str]]:
    return [(breach.field, breach.sentence) for breach in policy.broken(path, {"model": "m", **body}, server)]


@pytest.mark.parametrize(
    ("fits", "breaks", "size"),
    [
        (of(5000), of(5001), "5,001 properties, and the maximum is 5,000"),
        (
            of(300, required=False),
            of(301, required=False),
            "301 optional properties in one object, and the maximum",
        ),
        (of(64, maxProperties=9), of(65, maxProperties=9), "65 properties in one object with minProperties or maxProp"),
        (members(5000), members(5001), "5,001 values of enum and choice, and the maximum is 5,000"),
        (members(1199, 100), members(1200, 100), "120,002 characters of names and values, and the maximum is 120,000"),
        (
            of(250, value=RANGE),
            of(251, value=RANGE),
            "502 bounds of numbers (minimum, maximum), and the maximum is 500",
        ),
        ({"pattern": "a" * 32_768}, {"pattern": "a" * 32_769}, "32,769 characters in one pattern"),
        (nested(31), nested(32), "65 levels of arrays and objects inside each other, and the maximum is 64"),
        (lengths(20), lengths(21), "21 different limits of a text's length"),
        (patterns(20), patterns(21), "21 different limits of a text's length"),
        (
            of(1, description="a" * 262_000),
            of(1, description="a" * 262_144),
            "262,234 bytes, and the maximum is",
        ),
        ({"anyOf": [{}] * 9998}, {"anyOf": [{}] * 9999}, "10,001 arrays and objects"),
        ({"pattern": "^(?:a{1,32}){16}$"}, {"pattern": "^(?:a{1,32}){17}$"}, "544 repetitions, counting those inside"),
    ],
)
def test_a_schema_is_refused_above_each_limit_and_the_message_has_the_limit_and_its_size(fits, breaks, size):
    assert broken(chat(fits)) == []
    [(field, sentence)] = broken(chat(breaks))
    assert field == "response_format"
    assert sentence.startswith(f"it has {size}")
    assert sentence.endswith("To make a grammar of more would hold up all other requests.")


LARGE = of(5001)


@pytest.mark.parametrize(
    ("path", "body"),
    [
        (CHAT, chat(LARGE)),
        (COMPLETIONS, chat(LARGE)),
        (RESPONSES, {"text": {"format": {"type": "json_schema", "name": "s", "schema": LARGE}}}),
        (CHAT, {"structured_outputs": {"json": LARGE}}),
        (CHAT, {"structured_outputs": {"json": json.dumps(LARGE)}}),
        (CHAT, {"structured_outputs": {"choice": [str(number) for number in range(5001)]}}),
        (CHAT, {"structured_outputs": {"regex": "(?:[ab]{1,65}){64}"}}),
        (CHAT, {"structured_outputs": {"regex": "a|" * 20_000}}),
        (CHAT, {"structured_outputs": {"grammar": "root ::= " + " | ".join(['"a"'] * 50_000)}}),
        (CHAT, {"structured_outputs": {"structural_tag": json.dumps({"structures": [{"schema": LARGE}]})}}),
        (CHAT, {"response_format": {"type": "structural_tag", "format": {"json_schema": LARGE}}}),
        (CHAT, {"tools": [{"function": {"name": "f", "parameters": LARGE}}], "tool_choice": "required"}),
        (CHAT, {"tools": [{"function": {"name": "f", "parameters": LARGE, "strict": True}}]}),
        (RESPONSES, {"tools": [{"name": "f", "parameters": LARGE, "strict": True}]}),
    ],
)
def test_the_limits_hold_for_every_key_that_becomes_a_grammar(path, body):
    field = next(iter(body))
    assert [found for found, _ in broken(body, path=path)] == [field]
    with pytest.raises(BadRequestError, match=f"Invalid '{field}': it has .*, and the maximum is "):
        policy.check(path, body)


def test_what_becomes_no_grammar_is_not_measured():
    assert broken({"tools": [{"type": "function", "function": {"name": "f", "parameters": LARGE}}]}) == []
    assert broken({**chat(LARGE), "response_format": {"type": "json_object"}}) == []


@pytest.mark.parametrize(
    ("fits", "breaks", "size"),
    [
        (nested(10), nested(11), "11 levels of objects inside each other, and the maximum is 10"),
        (of(5000), of(5001), "5,001 properties, and the maximum is 5,000"),
        (members(1000), members(1001), "1,001 values of enum and choice, and the maximum is 1,000"),
        (members(250, 100), members(251, 100), "25,100 characters in an enum of more than 250 values"),
        (of(1, value={"const": "a" * 119_998}), of(1, value={"const": "a" * 119_999}), "120,001 characters of names"),
    ],
)
def test_openais_limits_hold_for_strict_schemas_at_openai_only(fits, breaks, size):
    """developers.openai.com/api/docs/guides/structured-outputs, November 2026; tidyverse/ellmer#671 has the words."""
    assert broken(chat(fits, strict=True), "openai") == []
    [(field, sentence)] = broken(chat(breaks, strict=True), "openai")
    assert (field, sentence.startswith(f"it has {size}")) == ("response_format", True)
    assert broken(chat(breaks), "openai") == broken(chat(breaks, strict=True), "compatible") == []


@pytest.mark.parametrize(("profile", "strict"), [("local", None), ("openai", True)])
def test_check_says_it_of_the_line(profile, strict):
    body = {"model": "gpt-5", "messages": [{"role": "user", "content": "a"}], **chat(LARGE, strict=strict)}
    line = json.dumps({"custom_id": "a", "method": "POST", "url": CHAT, "body": body}).encode()
    [finding] = check(io.BytesIO(line), PROFILES[profile])
    assert (finding.severity, finding.param) == ("error", "body.response_format")
    assert finding.message.startswith("Invalid 'response_format': it has 5,001 properties, and the maximum is 5,000.")
    # A batch of the file, as `%vbatch run` and HTTP make it, says it when it is validated.
    [note] = validate(io.BytesIO(line), endpoint=CHAT, profile=PROFILES[profile]).notes
    assert note == f"The request would be answered with an error: {finding.message}"


def test_what_is_no_schema_has_no_size():
    odd: Any
    for odd in (None, 1, "a", [], {"type": "json_schema"}, {"type": "json_schema", "json_schema": {"schema": "a"}}):
        for field in ("response_format", "structured_outputs", "tools"):
            assert all("maximum" not in sentence for _, sentence in broken({field: odd}))
    odd_parts = {"required": [[]], "properties": {"a": {"enum": 5, "maxLength": "a", "pattern": 1}}, "$defs": []}
    assert broken(chat(odd_parts)) == []
