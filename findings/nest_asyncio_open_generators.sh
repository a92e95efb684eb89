#!/usr/bin/env bash
# nest-asyncio 1.6.0 and nest-asyncio2 1.7.4: asyncio.run and an asynchronous generator that was left early.
#
# One would guess: asyncio.run, as they replace it, closes what is still open, as asyncio's own does.
# What happens: with either of them the generator is not closed when asyncio.run returns, so that what it holds (a
# connection of an HTTP client that streams) stays open. asyncio itself closes it.
# Seen: asyncio: closed; nest_asyncio: open; nest_asyncio2: open
set -euo pipefail
folder=$(mktemp -d); trap 'rm -rf "$folder"' EXIT
"${PYTHON:-python3.11}" -m venv "$folder/venv"
"$folder/venv/bin/pip" install --quiet --disable-pip-version-check nest-asyncio==1.6.0 nest-asyncio2==1.7.4
cat > "$folder/program.py" <<'PY'
import asyncio
import importlib
import sys

if sys.argv[1] != "asyncio":
    importlib.import_module(sys.argv[1]).apply()
kept = []
state = "open"


async def stream():
    global state
    try:
        while True:
            yield 1
    finally:
        state = "closed"


async def main():
    kept.append(stream())
    async for _ in kept[0]:
        break


asyncio.run(main())
print(f"{sys.argv[1]}: {state}")
PY
seen=()
for module in asyncio nest_asyncio nest_asyncio2; do
    seen+=("$("$folder/venv/bin/python" "$folder/program.py" "$module" 2>"$folder/errors")")
done
text=$(printf '%s; ' "${seen[@]}"); text=${text%; }
echo "$text"
[ "$text" = "asyncio: closed; nest_asyncio: open; nest_asyncio2: open" ]
