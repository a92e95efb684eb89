"""A fifth endpoint is one object: nothing else must learn of it."""

from __future__ import annotations

import json

import msgspec
import pandas as pd
import pytest

import vbatch_jupyter as vb
from tests.unit.session_surface import open_session
from vbatch_jupyter.errors import BadRequestError
from vbatch_jupyter.protocol.endpoints import ENDPOINTS, Endpoint, endpoint_of
from vbatch_jupyter.protocol.shapes import Answer, ResponseBody


class Shout(msgspec.Struct):
    loud: str


class ShoutBody(ResponseBody):
    shouts: list[Shout] | None = None

    def answer(self, parse):
        del parse
        return Answer(" ".join(shout.loud for shout in self.shouts)) if self.shouts else None

    @classmethod
    def echo(cls, text):
        return {"object": "shout", "shouts": [{"loud": word.upper()} for word in text.split()]}


SHOUTS = Endpoint(
    path="/v1/shouts",
    name="shouts",
    title="Shouts",
    prompt_key="said",
    openai_keys=frozenset({"model", "said", "volume", "most"}),
    limits=("most",),
    response=ShoutBody,
)


@pytest.fixture
def session(tmp_path, monkeypatch):
    monkeypatch.setitem(ENDPOINTS, SHOUTS.path, SHOUTS)
    session = open_session(tmp_path, refusing="quiet")
    monkeypatch.setattr("vbatch_jupyter.session.session.current", lambda: session)
    yield session
    session.close()


def test_a_batch_of_a_made_up_endpoint_is_checked_counted_run_and_read(session):
    df = pd.DataFrame({"text": ["hear me", "quiet please", "hear me"]})
    with pytest.raises(BadRequestError, match=r"'volum' for /v1/shouts\. Did you mean 'volume'\?"):
        vb.submit(df, "{{ text }}", endpoint="shouts", volum=11)
    dry = vb.dry_run(df, "{{ text }}", endpoint="shouts", most=5)
    assert (dry.prompt_tokens, dry.max_output_tokens) == (6, 5)
    assert "  said: hear me\n" in repr(dry)
    batch = vb.submit(df, "{{ text }}", endpoint="shouts", volume=11, most=5)
    out = batch.results(full=True)
    assert out["response"].fillna("-").tolist() == ["HEAR ME", "-", "HEAR ME"]
    assert out["error"].fillna("-").tolist() == ["-", "This request is refused, as it asked to be.", "-"]
    assert out["prompt_tokens"].tolist() == [2, pd.NA, 2]
    record = batch.to_openai()
    assert (record.endpoint, record.usage.input_tokens) == ("/v1/shouts", 4)
    with session.manager.files.content(record.input_file_id) as lines:
        first = json.loads(next(iter(lines)))
    assert (first["url"], first["body"]) == (
        "/v1/shouts",
        {"model": "echo", "said": "hear me", "volume": 11, "most": 5},
    )


def test_an_endpoint_that_is_taken_away_is_unknown_again(monkeypatch):
    monkeypatch.setitem(ENDPOINTS, SHOUTS.path, SHOUTS)
    assert endpoint_of("shouts") is SHOUTS
    monkeypatch.undo()
    with pytest.raises(BadRequestError, match="Invalid value: 'shouts'"):
        endpoint_of("shouts")
