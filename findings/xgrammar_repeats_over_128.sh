#!/usr/bin/env bash
# xgrammar 0.2.8: the largest bounded repetition in the pattern of a JSON schema.
#
# One would guess: {0,129} works as {0,128} does; or there is a documented limit, and the same one for maxLength, which
# says the same of a string of any characters.
# What happens: {0,128} compiles, {0,129} and more end in a failed check inside the library ("per_rule_fsm_hashes"),
# raised as a RuntimeError that names neither the pattern nor a limit; maxLength and maxItems of 1000 compile.
# Seen: pattern 128 ok, pattern 129 RuntimeError, maxLength 1000 ok, maxItems 1000 ok
set -euo pipefail
folder=$(mktemp -d); trap 'rm -rf "$folder"' EXIT
cd "$folder"
"${PYTHON:-python3.11}" -m venv venv
venv/bin/pip install --quiet --disable-pip-version-check xgrammar==0.2.8 torch==2.13.0 transformers==5.19.0
venv/bin/python - <<'PY' | tee seen
import json

import xgrammar

tokenizer = xgrammar.TokenizerInfo(["a", "b", '"', "true", "false", "[", "]", ",", " ", "</s>"], stop_token_ids=[9])
compiler = xgrammar.GrammarCompiler(tokenizer)
SCHEMAS = {
    "pattern 128": {"type": "string", "pattern": "^[ab]{0,128}$"},
    "pattern 129": {"type": "string", "pattern": "^[ab]{0,129}$"},
    "maxLength 1000": {"type": "string", "maxLength": 1000},
    "maxItems 1000": {"type": "array", "items": {"type": "boolean"}, "maxItems": 1000},
}


def outcome(schema):
    try:
        compiler.compile_json_schema(json.dumps(schema))
    except RuntimeError as error:
        assert "Check failed" in str(error) and "128" not in str(error), error
        return "RuntimeError"
    return "ok"


print(", ".join(f"{name} {outcome(schema)}" for name, schema in SCHEMAS.items()))
PY
[ "$(cat seen)" = "pattern 128 ok, pattern 129 RuntimeError, maxLength 1000 ok, maxItems 1000 ok" ]
