#!/usr/bin/env bash
# openai 3.57.0 and pydantic 2.14.4: what becomes of a field's default in the schema that the client sends.
#
# One would guess: strict schemas require every field and know no defaults, so both defaults are taken out.
# What happens: `default: null` is taken out, every other default stays, and both fields are required. So the model is
# told of a default that it can never use; OpenAI's strict mode refuses some such schemas, and local engines ignore it.
# Seen: note {'anyOf': [{'type': 'string'}, {'type': 'null'}], 'title': 'Note'}; stars {'default': 3, 'title': 'Stars', 'type': 'integer'}; required ['stars', 'note']
set -euo pipefail
folder=$(mktemp -d); trap 'rm -rf "$folder"' EXIT
"${PYTHON:-python3.11}" -m venv "$folder/venv"
"$folder/venv/bin/pip" install --quiet --disable-pip-version-check openai==3.57.0 pydantic==2.14.4
"$folder/venv/bin/python" - <<'PY'
import sys

import openai
from pydantic import BaseModel


class Review(BaseModel):
    stars: int = 3
    note: str | None = None


schema = openai.pydantic_function_tool(Review)["function"]["parameters"]
fields = schema["properties"]
text = f"note {fields['note']}; stars {fields['stars']}; required {schema['required']}"
print(text)
expected = (
    "note {'anyOf': [{'type': 'string'}, {'type': 'null'}], 'title': 'Note'}; "
    "stars {'default': 3, 'title': 'Stars', 'type': 'integer'}; required ['stars', 'note']"
)
sys.exit(text != expected)
PY
