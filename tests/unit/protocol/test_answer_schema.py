"""Whether an answer fits a JSON schema, which a client of the server may have written."""

from __future__ import annotations

import pytest

from vbatch_jupyter.protocol.answer_schema import checker


@pytest.mark.parametrize("scheme", ["file://", "http://127.0.0.1:9", ""])
def test_no_document_is_fetched_that_a_schema_refers_to(tmp_path, scheme):
    path = tmp_path / "schema.json"
    path.write_text('{"type": "object"}')
    with pytest.raises(ValueError, match=r"it refers to .*schema\.json, which is not in it"):
        checker({"$ref": f"{scheme}{path}"})


def test_what_a_schema_refers_to_in_itself_is_found():
    check = checker({"$defs": {"a": {"type": "object", "required": ["b"]}}, "$ref": "#/$defs/a"})
    assert check('{"b": 1}') == {"b": 1}
    with pytest.raises(ValueError, match="does not fit the schema"):
        check("{}")


@pytest.mark.parametrize(
    ("schema", "fits", "breaks"),
    [
        ({"prefixItems": [{"type": "integer"}, {"type": "string"}], "items": False}, '[1, "a"]', "[1, 2]"),
        ({"prefixItems": [{"type": "integer"}], "items": {"type": "string"}}, '[1, "a"]', "[1, 2]"),
        ({"dependentRequired": {"a": ["b"]}}, '{"b": 1}', '{"a": 1}'),
        ({"dependentSchemas": {"a": {"required": ["b"]}}}, '{"a": 1, "b": 2}', '{"a": 1}'),
        ({"properties": {"a": {}}, "unevaluatedProperties": False}, '{"a": 1}', '{"b": 1}'),
        ({"$ref": "#/$defs/count", "minimum": 5, "title": "five or more"}, "5", "4"),
        ({"$ref": "#/$defs/count", "minimum": 5}, "5", '"a"'),
    ],
)
def test_keywords_of_later_drafts_are_checked(schema, fits, breaks):
    """In fastjsonschema 2.22.3, which knows drafts up to 7, and ignores or misreads what came later."""
    check = checker({"type": "object", "properties": {"x": schema}, "$defs": {"count": {"type": "integer"}}})
    assert check(f'{{"x": {fits}}}')
    with pytest.raises(ValueError, match="does not fit the schema"):
        check(f'{{"x": {breaks}}}')


def test_a_schema_that_fails_while_it_is_compared_is_an_answer_that_cannot_be_checked():
    """With fastjsonschema 2.22.3 it compiles, and what it compiles raises a TypeError or a RecursionError."""
    for schema in ({"required": ["a", 1]}, {"$ref": ""}):
        with pytest.raises(ValueError, match="cannot be checked, because the schema is not valid"):
            checker(schema)('{"b": 3}')
