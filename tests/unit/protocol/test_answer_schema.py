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
