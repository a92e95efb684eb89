#!/usr/bin/env bash
# xgrammar 0.2.8: what `[\p{L}]` matches in the pattern of a JSON schema.
#
# One would guess: either letters of every script, as in Python's regex, ICU and ECMAScript with the flag u, or an
# error; for outside of brackets `\p{L}` is refused with "Unicode character class escape sequence is not supported".
# What happens: inside brackets it is accepted, and stands for the four characters p, {, L and }. There is only a
# warning in the log of the process. So a name such as "Zoë" can never be written, and "pL" can.
# Seen: outside refused; inside Z False, ë False, p True, { True, L True, } True
set -euo pipefail
folder=$(mktemp -d); trap 'rm -rf "$folder"' EXIT
cd "$folder"
"${PYTHON:-python3.11}" -m venv venv
venv/bin/pip install --quiet --disable-pip-version-check xgrammar==0.2.8 torch==2.13.0 transformers==5.19.0
venv/bin/python - 2>/dev/null <<'PY' | tee seen
import json

import xgrammar

LETTERS = ["Z", "ë", "p", "{", "L", "}"]
tokenizer = xgrammar.TokenizerInfo([*LETTERS, '"', "</s>"], stop_token_ids=[len(LETTERS) + 1])
compiler = xgrammar.GrammarCompiler(tokenizer)


def compiled(pattern):
    return compiler.compile_json_schema(json.dumps({"type": "string", "pattern": pattern}))


try:
    compiled(r"^\p{L}$")
except RuntimeError as error:
    assert "Unicode character class escape sequence is not supported" in str(error), error
    outside = "refused"
else:
    outside = "accepted"
inside = compiled(r"^[\p{L}]$")
accepted = [f"{one} {xgrammar.GrammarMatcher(inside).accept_string(json.dumps(one, ensure_ascii=False))}" for one in LETTERS]
print(f"outside {outside}; inside {', '.join(accepted)}")
PY
[ "$(cat seen)" = "outside refused; inside Z False, ë False, p True, { True, L True, } True" ]
