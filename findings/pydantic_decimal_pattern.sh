#!/usr/bin/env bash
# pydantic 2.11.10, 2.12.5, 2.13.0 and 2.14.4: whether the JSON schema of a Decimal says which strings are numbers.
#
# One would guess: since a Decimal may be written as a string, the schema has a pattern in every version, or at
# least in every version from some one on; and max_digits and decimal_places appear in it.
# What happens: 2.11 has no pattern, 2.12 and 2.13 have one that needs look-aheads, 2.14 has none again. So an engine
# that writes by the schema may write any string in 2.11 and 2.14, and an engine whose grammar knows no look-ahead may
# ignore the pattern in 2.12 and 2.13. ge and le stand at the number only.
# Seen: 2.11.10 None, 2.12.5 look-ahead, 2.13.0 look-ahead, 2.14.4 None
set -euo pipefail
folder=$(mktemp -d); trap 'rm -rf "$folder"' EXIT
cd "$folder"
"${PYTHON:-python3.11}" -m venv venv
seen=()
for version in 2.11.10 2.12.5 2.13.0 2.14.4; do
    venv/bin/pip install --quiet --disable-pip-version-check --target "$version" "pydantic==$version"
    seen+=("$version $(PYTHONPATH=$version venv/bin/python - <<'PY'
from decimal import Decimal
from typing import Annotated

from pydantic import BaseModel, Field


class Item(BaseModel):
    price: Annotated[Decimal, Field(ge=0, max_digits=5, decimal_places=2)]


number, string = Item.model_json_schema()["properties"]["price"]["anyOf"]
assert number == {"minimum": 0, "type": "number"} or number == {"minimum": 0.0, "type": "number"}, number
assert string["type"] == "string" and "minimum" not in string, string
pattern = string.get("pattern")
print(pattern and ("look-ahead" if "(?" in pattern else pattern))
PY
)")
done
text=$(printf '%s, ' "${seen[@]}"); text=${text%, }
echo "$text"
[ "$text" = "2.11.10 None, 2.12.5 look-ahead, 2.13.0 look-ahead, 2.14.4 None" ]
