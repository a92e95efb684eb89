#!/usr/bin/env bash
# msgspec 0.22.0 and numpy: np.float64 is a float, and is refused; a plain float that is not a number becomes null.
#
# One would guess: np.float64 is a subclass of float, so it is written like one (json.dumps writes it); NaN is
# refused, because JSON has none.
# What happens: the other way round. msgspec looks at the exact type, so np.float64(0.5) raises TypeError; float("nan")
# and float("inf") are written as null without a word. A body whose temperature is NaN so asks for the default.
# Seen: np.float64: TypeError; nan: null; inf: null; json.dumps(np.float64): 0.5
set -euo pipefail
folder=$(mktemp -d); trap 'rm -rf "$folder"' EXIT
"${PYTHON:-python3.11}" -m venv "$folder/venv"
"$folder/venv/bin/pip" install --quiet --disable-pip-version-check msgspec==0.22.0 numpy==2.3.5
"$folder/venv/bin/python" - <<'PY'
import json
import sys

import msgspec
import numpy as np


def written(value):
    try:
        return msgspec.json.encode(value).decode()
    except TypeError:
        return "TypeError"


assert isinstance(np.float64(0.5), float)
text = (
    f"np.float64: {written(np.float64(0.5))}; nan: {written(float('nan'))}; inf: {written(float('inf'))}; "
    f"json.dumps(np.float64): {json.dumps(np.float64(0.5))}"
)
print(text)
sys.exit(text != "np.float64: TypeError; nan: null; inf: null; json.dumps(np.float64): 0.5")
PY
