#!/usr/bin/env bash
# pydantic 2.14.4: the JSON schema of a field with an AliasPath asks for a name that validation never reads.
#
# One would guess: an object that is written by model_json_schema() is one that the model reads.
# What happens: validation looks for the value under the path only ({"place": {"city": …}}), and the schema names the
# field itself. So an answer that keeps to the schema is refused, or, where the field has a default, read as the
# default without a word.
# Seen: schema asks for ['city']; {'city': 'Rome'} is read as 'unknown'; {'place': {'city': 'Rome'}} as 'Rome'
set -euo pipefail
folder=$(mktemp -d); trap 'rm -rf "$folder"' EXIT
"${PYTHON:-python3.11}" -m venv "$folder/venv"
"$folder/venv/bin/pip" install --quiet --disable-pip-version-check pydantic==2.14.4
"$folder/venv/bin/python" - <<'PY'
import sys

from pydantic import AliasPath, BaseModel, Field


class Visit(BaseModel):
    city: str = Field("unknown", validation_alias=AliasPath("place", "city"))


by_schema, by_path = {"city": "Rome"}, {"place": {"city": "Rome"}}
text = (
    f"schema asks for {list(Visit.model_json_schema()['properties'])}; "
    f"{by_schema} is read as {Visit.model_validate(by_schema).city!r}; "
    f"{by_path} as {Visit.model_validate(by_path).city!r}"
)
print(text)
expected = "schema asks for ['city']; {'city': 'Rome'} is read as 'unknown'; {'place': {'city': 'Rome'}} as 'Rome'"
sys.exit(text != expected)
PY
