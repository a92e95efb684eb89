#!/usr/bin/env bash
# IPython 9.18.1: one name that is not there keeps all others of a magic's line from being filled in.
#
# One would guess: `%magic $known {unknown}` fills in what it can, or is an error.
# What happens: the line is passed on as it was typed, without a word, so that the magic sees a literal `$known`.
# Seen: '$name' -> 'demo'; '$name {missing}' -> '$name {missing}'; '{name} {missing}' -> '{name} {missing}'
set -euo pipefail
folder=$(mktemp -d); trap 'rm -rf "$folder"' EXIT
"${PYTHON:-python3.11}" -m venv "$folder/venv"
"$folder/venv/bin/pip" install --quiet --disable-pip-version-check ipython==9.18.1
IPYTHONDIR="$folder/ipython" "$folder/venv/bin/python" - <<'PY'
import sys

from IPython.core.interactiveshell import InteractiveShell

shell = InteractiveShell.instance()
shell.user_ns["name"] = "demo"
seen = []
shell.register_magic_function(lambda line: seen.append(line), "line", "show")
lines = ["$name", "$name {missing}", "{name} {missing}"]
for line in lines:
    shell.run_cell(f"%show {line}")
text = "; ".join(f"{line!r} -> {filled!r}" for line, filled in zip(lines, seen, strict=True))
print(text)
sys.exit(text != "'$name' -> 'demo'; '$name {missing}' -> '$name {missing}'; '{name} {missing}' -> '{name} {missing}'")
PY
