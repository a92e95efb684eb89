"""What Tab offers, as a front end asks for it."""

from __future__ import annotations

import pandas as pd
import pytest
from IPython.core.completer import provisionalcompleter
from IPython.core.interactiveshell import InteractiveShell

from tests.unit.session_surface import open_session
from tests.waiting import wait_for
from vbatch_jupyter.frames.ask import Ask


@pytest.fixture
def session(tmp_path, monkeypatch, as_current):
    monkeypatch.chdir(tmp_path)
    session = as_current(open_session(tmp_path))
    yield session
    session.close()


@pytest.fixture
def complete(session):
    shell = InteractiveShell()
    shell.run_cell("%load_ext vbatch_jupyter")
    shell.user_ns |= {
        "reviews": pd.DataFrame({"text": ["a"], "title": ["b"], "Review text": ["c"], 0: [1]}),
        "revenue": 3,
        "Mood": {"type": "object", "properties": {}},
    }

    def offered(code: str) -> list[str]:
        with provisionalcompleter():
            found = list(shell.Completer.completions(code, len(code)))
        # The text once one is chosen.
        return [code[: item.start] + item.text for item in found]

    return offered


def after(code: str, words: list[str]) -> list[str]:
    return [code + word for word in words]


@pytest.mark.parametrize("start", ["%vbatch ", "x = %vbatch ", "    %vbatch "])
def test_verbs_are_offered_in_a_line_and_in_an_assignment(complete, start):
    assert set(complete(start)) >= set(after(start, ["load", "list", "show", "export"]))
    assert complete(start + "re") == after(start, ["results", "resume", "retry"])


def test_flags_are_those_of_the_verb_or_of_the_cell(complete):
    assert complete("%vbatch results --") == after("%vbatch results ", ["--df", "--full", "--help", "--out"])
    assert complete("%%vbatch reviews --t") == after("%%vbatch reviews ", ["--target", "--temperature"])
    assert complete("%%vbatch reviews --max") == ["%%vbatch reviews --max-tokens"]
    assert complete("y = %vbatch retry --f") == ["y = %vbatch retry --full"]


def test_frames_are_offered_where_a_frame_is_meant(complete):
    assert complete("%%vbatch re") == ["%%vbatch reviews"]
    assert complete("%%vbatch --max-tokens 3 re") == ["%%vbatch --max-tokens 3 reviews"]
    assert complete("%vbatch export ") == ["%vbatch export reviews"]
    assert complete("%vbatch results -d ") == ["%vbatch results -d reviews"]


def test_batches_models_targets_endpoints_schemas_and_columns_are_offered(complete, session):
    batch = session.submit(pd.DataFrame({"text": ["a"]}), Ask.of("{{ text }}", model="other/model"))
    wait_for(lambda: batch.status != "validating")
    assert complete("%vbatch show ") == [f"%vbatch show {batch.id}"]
    assert complete("z = %vbatch attach batch") == [f"z = %vbatch attach {batch.id}"]
    assert complete("%%vbatch reviews --model ") == after("%%vbatch reviews --model ", ["echo", "other/model"])
    assert complete("%vbatch load d") == after("%vbatch load ", ["demo", "demo-embeddings"])
    assert complete("%%vbatch reviews -t ") == after("%%vbatch reviews -t ", ["openai", "parasail"])
    assert complete("%vbatch check --target p") == ["%vbatch check --target parasail"]
    assert complete("%%vbatch reviews --endpoint e") == ["%%vbatch reviews --endpoint embeddings"]
    assert complete("%%vbatch reviews --schema M") == ["%%vbatch reviews --schema Mood"]
    columns = ["'Review text'", "text", "title"]
    assert complete("%%vbatch reviews --custom-id ") == after("%%vbatch reviews --custom-id ", columns)


@pytest.mark.parametrize("start", ["Say {{ ", "{{ text }} and {{", "{% if ", '{"answer": "{{ '])
def test_columns_are_offered_inside_the_braces_of_the_prompt(complete, start):
    code = "%%vbatch reviews -o out\nfirst line\n" + start
    assert complete(code) == after(code, ["text", "title"])
    assert complete(code + "ti") == [code + "title"]


def test_elsewhere_in_the_prompt_and_in_other_cells_nothing_is_added(complete):
    for code in ("%%vbatch reviews\nSay te", "%%vbatch reviews\n{{ text }} te", "te", "%vbatchery re"):
        assert not any(offer.endswith(("title", "results")) for offer in complete(code))


def test_the_completer_goes_with_the_extension_and_is_attached_once(complete, session):
    shell = InteractiveShell()
    before = list(shell.Completer.custom_matchers)
    shell.run_cell("%load_ext vbatch_jupyter")
    shell.run_cell("%reload_ext vbatch_jupyter")
    assert len(shell.Completer.custom_matchers) == len(before) + 1
    shell.run_cell("%unload_ext vbatch_jupyter")
    assert shell.Completer.custom_matchers == before
