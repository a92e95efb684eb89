from __future__ import annotations

import os
import subprocess
import sys

import numpy as np
import pandas as pd
import pytest

from vbatch_jupyter.frames.frame import fingerprint

MAKE = """
import numpy as np, pandas as pd
df = pd.DataFrame({
    "text": ["a", None], "n": [1, 2], "f": [0.5, np.nan], "list": [["x"], []], "set": [{"a", "b", "c"}, set()],
    "dict": [{"k": [1, None]}, {}], "array": [np.arange(3), np.arange(2000)], "mixed": [1, "1"],
    "c": pd.Categorical(["u", "v"]), "t": pd.to_datetime(["2024", None]), "i": pd.array([1, None], dtype="Int64"),
    "lone": pd.Series(["\\ud800 at 0x1", "x"], dtype=object),
}, index=[("a", 1), ("a", 1)])
"""


def make():
    names: dict[str, pd.DataFrame] = {}
    exec(MAKE, names)
    return names["df"]


def test_it_is_the_same_in_every_process():
    script = f"{MAKE}\nfrom vbatch_jupyter.frames.frame import fingerprint\nprint(fingerprint(df))"
    seen = {fingerprint(make())}
    for seed in ("1", "2"):
        environment = {**os.environ, "PYTHONHASHSEED": seed}
        done = subprocess.run(
            [sys.executable, "-c", script], capture_output=True, text=True, check=True, env=environment, timeout=60
        )
        seen.add(done.stdout.strip())
    assert len(seen) == 1
    assert seen.pop().startswith("sha256:")


CHANGES = {
    "a text": lambda df: df.assign(text=["b", None]),
    "a missing cell": lambda df: df.assign(text=["a", "None"]),
    "inside of a list": lambda df: df.assign(list=[["y"], []]),
    "inside of a dict": lambda df: df.assign(dict=[{"k": [1, 2]}, {}]),
    "the middle of an array": lambda df: df.assign(
        array=[np.arange(3), np.where(np.arange(2000) == 1000, 0, np.arange(2000))]
    ),
    "an address in a text": lambda df: df.assign(lone=pd.Series(["\ud800 at 0x2", "x"], dtype=object, index=df.index)),
    "a type": lambda df: df.assign(mixed=["1", "1"]),
    "a date": lambda df: df.assign(t=pd.to_datetime(["2025", "NaT"])),
    "a category": lambda df: df.assign(c=pd.Categorical(["u", "u"], categories=["u", "v"])),
    "the order of rows": lambda df: df.iloc[::-1],
    "the order of columns": lambda df: df[df.columns[::-1]],
    "a label": lambda df: df.rename(columns={"n": "m"}),
    "the index": lambda df: df.set_axis([("a", 1), ("a", 2)]),
    "a row less": lambda df: df.head(1),
    "a column less": lambda df: df.drop(columns="n"),
}


@pytest.mark.parametrize("change", CHANGES)
def test_it_notices(change):
    assert fingerprint(CHANGES[change](make())) != fingerprint(make())


def test_it_does_not_change_the_frame_and_does_not_mind_a_copy():
    df = make()
    before = df.copy()
    assert fingerprint(df) == fingerprint(df.copy())
    pd.testing.assert_frame_equal(df, before)


@pytest.mark.parametrize(
    "df",
    [
        pd.DataFrame(),
        pd.DataFrame({"a": []}),
        pd.DataFrame([[1, 2]], columns=["a", "a"]),
        pd.DataFrame([[1]], columns=pd.MultiIndex.from_tuples([("a", "b")])),
        pd.DataFrame({"a": [1, 2]}, index=pd.MultiIndex.from_tuples([("x", 1), ("x", 1)])),
        pd.DataFrame({"a": pd.cut([1, 2], 2)}),
        pd.DataFrame({"a": pd.arrays.SparseArray([0, 1])}),
    ],
)
def test_any_frame_has_one(df):
    assert fingerprint(df) == fingerprint(df.copy())
