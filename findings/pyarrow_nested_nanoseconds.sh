#!/usr/bin/env bash
# pyarrow 26.0.1: a time in nanoseconds inside of a struct becomes a whole number in pandas, in microseconds it does not.
#
# One would guess: to_pandas() (and so read_parquet) gives a date and time for a timestamp, wherever it is.
# What happens: a column and a list of timestamps are dates in both units. In a struct, timestamp[us] is a datetime, and
# timestamp[ns] is an int, the nanoseconds since 1970; durations likewise. So a table reads otherwise after a cast that
# changes no value, and a text made of the cell has 1704067200000000000 where the date was.
# Seen: us: {'at': datetime.datetime(2024, 1, 1, 0, 0)}; ns: {'at': 1704067200000000000}
set -euo pipefail
folder=$(mktemp -d); trap 'rm -rf "$folder"' EXIT
"${PYTHON:-python3.11}" -m venv "$folder/venv"
"$folder/venv/bin/pip" install --quiet --disable-pip-version-check pyarrow==26.0.1 pandas==3.1.1
"$folder/venv/bin/python" - <<'PY'
import datetime as dt
import sys

import pyarrow as pa


def cell(unit: str) -> object:
    column = pa.array([{"at": dt.datetime(2024, 1, 1)}], pa.struct([("at", pa.timestamp(unit))]))
    return pa.table({"a": column}).to_pandas()["a"][0]


text = f"us: {cell('us')}; ns: {cell('ns')}"
print(text)
sys.exit(text != "us: {'at': datetime.datetime(2024, 1, 1, 0, 0)}; ns: {'at': 1704067200000000000}")
PY
