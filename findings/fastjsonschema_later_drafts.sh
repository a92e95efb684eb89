#!/usr/bin/env bash
# fastjsonschema 2.22.3: a schema that says it is of draft 2020-12 is checked by draft 7, without a word.
#
# One would guess: a schema whose "$schema" names a draft that the library does not know is refused.
# What happens: it is compiled as draft 7. What stands next to a "$ref" is ignored, as draft 7 says, and so are
# minContains and unevaluatedProperties, so that values pass which the schema forbids.
# Seen: 3 next to a minimum of 5: valid; [1] with minContains 2: valid; an unevaluated property: valid
set -euo pipefail
folder=$(mktemp -d); trap 'rm -rf "$folder"' EXIT
"${PYTHON:-python3.11}" -m venv "$folder/venv"
"$folder/venv/bin/pip" install --quiet --disable-pip-version-check fastjsonschema==2.22.3 jsonschema==4.26.0
"$folder/venv/bin/python" - <<'PY'
import sys

import fastjsonschema
import jsonschema

DRAFT = "https://json-schema.org/draft/2020-12/schema"
CASES = {
    "3 next to a minimum of 5": ({"$ref": "#/$defs/n", "minimum": 5, "$defs": {"n": {"type": "integer"}}}, 3),
    "[1] with minContains 2": ({"contains": {"const": 1}, "minContains": 2}, [1]),
    "an unevaluated property": ({"allOf": [{"properties": {"a": {}}}], "unevaluatedProperties": False}, {"b": 1}),
}


def judged(schema: dict, value: object) -> str:
    try:
        fastjsonschema.compile(schema)(value)
    except fastjsonschema.JsonSchemaException as error:
        return f"refused ({error})"
    return "valid"


said = []
for name, (part, value) in CASES.items():
    schema = {"$schema": DRAFT, **part}
    assert not jsonschema.Draft202012Validator(schema).is_valid(value), name
    said.append(f"{name}: {judged(schema, value)}")
text = "; ".join(said)
print(text)
expected = "3 next to a minimum of 5: valid; [1] with minContains 2: valid; an unevaluated property: valid"
sys.exit(text != expected)
PY
