"""How often the body of a request and the body of its response are decoded on their way through a batch."""

from __future__ import annotations

import collections
import sys
import threading
from types import ModuleType

import pandas as pd
import pytest

from tests.unit.session_surface import open_session
from vbatch_jupyter.frames.ask import Ask

JSON = ("msgspec", "json", "_json")
ROWS = 300
# The columns of the database that hold JSON; they are read as often as somebody looks.
OF_THE_STORE = {"vbatch_jupyter.store.database", "vbatch_jupyter.store.engines"}


class Decodes:
    """Counts calls of any JSON decoder in the package's code, on every thread that starts meanwhile."""

    def __init__(self) -> None:
        self.by_function: collections.Counter[str] = collections.Counter()

    def __enter__(self):
        threading.setprofile(self._see)
        sys.setprofile(self._see)
        return self

    def __exit__(self, *_):
        sys.setprofile(None)
        threading.setprofile(None)

    def _see(self, frame, event, called):
        if event != "c_call" or called.__name__ not in {"decode", "json_decode", "scan_once"}:
            return
        # A function of a module, or a method of a decoder.
        owner = called.__self__
        if not (owner.__name__ if isinstance(owner, ModuleType) else type(owner).__module__).startswith(JSON):
            return
        while frame is not None and frame.f_globals["__name__"].startswith(JSON):
            frame = frame.f_back
        module = "" if frame is None else frame.f_globals["__name__"]
        if module.startswith("vbatch_jupyter.") and module not in OF_THE_STORE:
            self.by_function[frame.f_code.co_name] += 1


@pytest.mark.parametrize("full", [False, True])
@pytest.mark.parametrize(
    ("endpoint", "options"),
    [("chat", {"system": "Be brief."}), ("completions", {}), ("embeddings", {}), ("responses", {})],
)
def test_a_body_is_decoded_twice_on_its_way_in_and_twice_on_its_way_out(tmp_path, endpoint, options, full):
    df = pd.DataFrame({"text": [f"review {n}" if n % 10 else f"refuse {n}" for n in range(ROWS)]})
    with Decodes() as decodes:
        session = open_session(tmp_path, refusing="refuse")
        out = session.submit(df, Ask.of("Say {{ text }}", endpoint=endpoint, **options)).wait(60).results(full=full)
        session.close()
    assert out["error"].notna().sum() == ROWS // 10
    counted = decodes.by_function
    way_in, way_out = counted["decode_strictly"], counted["decode_response"]
    assert (way_in, counted["_request_of"]) == (ROWS, ROWS)
    assert (way_out, counted["read_line"]) == (ROWS, ROWS)
    # What else is decoded is not of a request: the description of the frame, once for each look at it.
    others = sum(counted.values()) - 4 * ROWS
    assert others < 10, counted
