"""Handles on batches: what a plain wait says, copies and pickles."""

from __future__ import annotations

import asyncio
import copy
import os
import pickle
import subprocess
import sys
import threading

import pandas as pd
import pydantic
import pytest

from tests.unit.session_surface import open_session
from tests.waiting import wait_for
from vbatch_jupyter.errors import StoreError
from vbatch_jupyter.frames.ask import Ask
from vbatch_jupyter.session.batch import Batch

DF = pd.DataFrame({"text": ["a", "b"]}, index=["x", "y"])


@pytest.mark.parametrize("call", [Batch.wait, Batch.results, lambda batch: asyncio.run(awaited(batch))])
def test_a_plain_wait_says_once_why_the_batch_stands_still(tmp_path, call):
    said: list[str] = []
    session = open_session(tmp_path, load=False, said=said)
    batch = session.submit(DF, Ask.of("{{ text }}", model="echo", functions=[{"name": "f"}]))
    waits = [f"{batch.id} waits: No engine has the model 'echo' loaded. Load it in a notebook with %vbatch load."]
    loading = threading.Thread(target=lambda: (wait_for(lambda: waits[0] in said), session.load("echo")))
    loading.start()
    call(batch)
    loading.join()
    assert batch.status == "completed"
    assert [sentence for sentence in said if " waits: " in sentence] == waits
    note = f"{batch.id}: All 2 requests have a key that is ignored: 'functions': use tools and tool_choice."
    assert said.count(note) == 1
    batch.wait()
    assert [sentence for sentence in said if " waits: " in sentence] == waits
    session.close()


async def awaited(batch):
    return await batch


SCHEMA = {"type": "object", "properties": {"stars": {"type": "integer"}, "share": {"type": "number"}}}


@pytest.mark.parametrize("schema", [SCHEMA, pydantic.create_model("Stars", stars=(int, 0), share=(float, 0.0))])
def test_a_number_that_no_column_holds_is_an_error_that_is_listed_and_retried(tmp_path, schema):
    session = open_session(tmp_path)
    df = pd.DataFrame({"n": ["1", str(2**63), str(2**63 - 1)]})
    batch = session.submit(df, Ask.of('{"stars": {{ n }}}', schema=schema)).wait(60)
    out = batch.results()
    assert out["error"].isna().tolist() == [True, False, True]
    assert "(stars: 9223372036854775808 does not fit a column of Int64)" in out["error"][1]
    assert out["stars"].dropna().tolist() == [1, 2**63 - 1]
    assert batch.errors()["custom_id"].tolist() == session.attach(batch.id).errors()["custom_id"].tolist() == ["row-1"]
    assert batch.retry().request_counts.total <= 1
    session.close()


def test_a_copy_is_the_handle_itself_and_a_pickle_is_its_id_and_its_store(tmp_path, monkeypatch):
    session = open_session(tmp_path)
    monkeypatch.setattr("vbatch_jupyter.session.session.current", lambda: session)
    batch = session.submit(DF, Ask.of("{{ text }}")).wait(60)
    assert copy.copy(batch) is copy.deepcopy([batch])[0] is batch
    pickled = pickle.dumps(batch)
    again = pickle.loads(pickled)
    assert (again.id, again.results(DF)["response"].to_dict()) == (batch.id, {"x": "a", "y": "b"})
    # In another process, of the same store and of another one.
    code = "import pickle, sys; print(pickle.loads(sys.stdin.buffer.read()).results()['response'].tolist())"
    environment = {**os.environ, "VBATCH_STORE": str(session.store.path)}
    done = subprocess.run([sys.executable, "-c", code], input=pickled, env=environment, capture_output=True, check=True)
    assert done.stdout.decode().strip() == "['a', 'b']"
    other = open_session(tmp_path / "other")
    monkeypatch.setattr("vbatch_jupyter.session.session.current", lambda: other)
    with pytest.raises(StoreError, match=rf"Batch {batch.id} is in the store .*store, and this process uses .*other"):
        pickle.loads(pickled)
    for each in (session, other):
        each.close()


def test_a_handle_that_no_process_could_open_says_what_to_pickle(tmp_path):
    session = open_session(tmp_path)
    batch = Batch(session.manager, session.submit(DF, Ask.of("{{ text }}")).wait(60).id)
    with pytest.raises(TypeError, match=f"A handle on batch {batch.id} cannot be pickled. Pickle its id."):
        pickle.dumps(batch)
    session.close()
