"""The builder, without a front end: what it shows, what it runs, and the cell that it writes."""

from __future__ import annotations

import pandas as pd
import pytest
from IPython.core.interactiveshell import InteractiveShell

import vbatch_jupyter as vb
from tests.waiting import wait_for
from vbatch_jupyter.errors import FrameError
from vbatch_jupyter.frames.cells import placeholder
from vbatch_jupyter.frames.template import Template
from vbatch_jupyter.protocol.endpoints import ENDPOINTS
from vbatch_jupyter.protocol.lines import parse_request_line
from vbatch_jupyter.widgets.build import Builder
from vbatch_jupyter.widgets.cell_text import cell_text

HOSTILE = "<img src=x onerror=alert(1)>"


@pytest.fixture
def names():
    df = pd.DataFrame({"text": [f"number {n}" for n in range(8)], "Review text": [HOSTILE] * 8})
    return {"older": pd.DataFrame({"a": [1]}), "df": df, "_hidden": df, "pi": 3.14}


def result_of(builder: Builder, *, holds: str) -> str:
    def shown() -> str:
        return " ".join(getattr(child, "value", "") for child in builder._result.children)

    return str(wait_for(lambda: holds in (now := shown()) and now))


def test_it_offers_the_frames_columns_model_and_targets_and_is_not_ready_without_a_prompt(session, names):
    builder = Builder(session, names)
    assert builder._frame.options == ("df", "older")
    assert [button.description for button in builder._columns.children[1:]] == ["text", "Review text"]
    assert (builder._fields["model"].value, builder._fields["model"].options) == ("echo", ("echo",))
    assert list(builder._fields["target"].options) == ["the engine here", "parasail", "openai"]
    assert builder._all.disabled
    assert "Write a prompt." in builder._preview.value
    assert "error" not in builder._preview.value
    builder._frame.value = "older"
    assert [button.description for button in builder._columns.children[1:]] == ["a"]


def test_a_column_is_inserted_and_the_first_three_requests_are_seen_with_their_tokens(session, names):
    builder = Builder(session, names, df="df")
    builder._fields["template"].value = "Say"
    for button in builder._columns.children[1:]:
        button.click()
    assert builder._fields["template"].value == "Say {{ text }} {{ row['Review text'] }}"
    builder._fields["system"].value = "Be <brief>."
    seen = builder._preview.value
    assert [f"row-{n} · 6 prompt tokens" in seen for n in range(4)] == [True, True, True, False]
    assert "Say number 2 &lt;img src=x onerror=alert(1)&gt;" in seen
    assert "Be &lt;brief&gt;." in seen
    assert "<img" not in seen
    assert session.engine.requests == 0
    assert not builder._all.disabled


def test_the_turns_of_a_conversation_are_seen_and_the_cell_asks_the_same(session, names):
    builder = Builder(session, names, df="df")
    names["df"]["past"] = [[{"role": "user", "content": "Hi"}, {"role": "assistant", "content": "Hello"}]] * 8
    builder._fields["template"].value = "--- user\nSay {{ text }}"
    builder._fields["messages"].value = "past"
    seen = builder._preview.value
    assert [seen.index(text) for text in ("Hi", "Hello", "Say number 0")] == sorted(
        seen.index(text) for text in ("Hi", "Hello", "Say number 0")
    )
    assert builder._cell.value == "%%vbatch df -o out --messages past --model echo\n--- user\nSay {{ text }}"
    builder._fields["template"].value = ""
    assert builder._cell.value == "%%vbatch df -o out --messages past --model echo\n "
    assert not builder._all.disabled


@pytest.mark.parametrize("endpoint", ENDPOINTS.values(), ids=lambda endpoint: endpoint.name)
def test_it_counts_the_same_tokens_as_the_dry_run_for_every_endpoint(session, names, endpoint, monkeypatch):
    monkeypatch.setattr("vbatch_jupyter.session.session.current", lambda: session)
    options = {"system": "Be very brief."} if endpoint.takes_system else {}
    dry = vb.dry_run(names["df"][:1], "Say {{ text }} twice", endpoint=endpoint.name, **options)
    builder = Builder(session, names, df="df")
    builder._fields["endpoint"].value = endpoint.name
    builder._fields["system"].value = options.get("system", "")
    builder._fields["template"].value = "Say {{ text }} twice"
    assert f"row-0 · {dry.prompt_tokens} prompt tokens" in builder._preview.value
    assert dry.prompt_tokens == 4


@pytest.mark.parametrize(
    ("field", "value", "sentence"),
    [
        ("template", "{{ txt }}", "Unknown column &#x27;txt&#x27; in the template. Did you mean &#x27;text&#x27;?"),
        ("template", "{{", "unexpected"),
        ("max_tokens", "many", "max_tokens must be a number, not &#x27;many&#x27;."),
        ("body", "[1]", "body must be a JSON object, not &#x27;[1]&#x27;."),
        ("schema", "Mood", "There is no variable &#x27;Mood&#x27; to use as the schema."),
    ],
)
def test_a_mistake_is_said_while_it_is_made_and_nothing_can_be_run(session, names, field, value, sentence):
    builder = Builder(session, names, df="df")
    builder._fields["template"].value = "{{ text }}"
    assert builder._cell.value.endswith("{{ text }}")
    builder._fields[field].value = value
    assert sentence in builder._preview.value
    assert builder._cell.value == ""
    assert builder._sample.disabled
    assert builder._all.disabled


def test_a_sample_of_five_is_run_in_place_and_then_all_into_the_variable(session, names):
    builder = Builder(session, names, df="df")
    builder._fields["template"].value = "{{ text }}!"
    builder._fields["max_tokens"].value = "7"
    builder._sample.click()
    shown = result_of(builder, holds="<table")
    assert "5 completed, 0 failed" in shown
    assert "number 4!" in shown
    assert "number 5!" not in shown
    assert "&lt;img src=x onerror=alert(1)&gt;" in shown
    assert "<img" not in shown
    assert "out" not in names
    builder._all.click()
    result_of(builder, holds="8 rows, in the variable out")
    assert list(names["out"]["response"]) == [f"number {n}!" for n in range(8)]
    with session.manager.files.content(next(session.batches()).input_file_id) as lines:
        assert b'"max_tokens":7' in bytes(parse_request_line(lines.readline().rstrip(b"\n")).body)
    assert builder._cell.value == "%%vbatch df -o out --model echo --max-tokens 7\n{{ text }}!"
    assert builder._copy.text == builder._cell.value


def test_what_cannot_be_submitted_is_said(session, names):
    builder = Builder(session, names, df="df")
    builder._fields["template"].value = "{{ text }}"
    builder._fields["target"].value = "parasail"
    builder._all.click()
    assert "PARASAIL_API_KEY" in result_of(builder, holds="PARASAIL")
    assert list(session.batches()) == []


def test_without_a_frame_it_says_so(session):
    with pytest.raises(FrameError, match="The notebook has no DataFrame to build a batch from"):
        Builder(session, {"pi": 3.14})
    with pytest.raises(FrameError, match="The notebook has no DataFrame 'dff'"):
        Builder(session, {"df": pd.DataFrame({"a": [1]})}, df="dff")


@pytest.mark.parametrize(
    "label", ["text", "Review text", "if", "", "it's", 0, True, ("a", 1), pd.Timestamp("2026-01-02")]
)
def test_what_is_inserted_for_a_column_gives_its_value(label):
    template = Template(placeholder(label), [label, "other"])
    assert template.render({label: "value", "other": "no"}) == "value"


def test_the_written_cell_does_what_was_chosen(session, names):
    shell = InteractiveShell()
    shell.run_cell("%load_ext vbatch_jupyter")
    shell.user_ns["df"] = names["df"]
    # A magic would fill what is in braces.
    systems = ('It\'s "brief"', 'It\'s "brief" {text} $HOME')
    for place, system in enumerate(systems):
        options = {"system": system, "max_tokens": 5, "temperature": 0.5, "seed": None}
        cell = cell_text("df", "Say {{ text }}\nnow", options, out=f"out{place}")
        assert shell.run_cell(cell).success
        assert shell.user_ns[f"out{place}"]["response"].iloc[0] == "Say number 0\nnow"
        with session.manager.files.content(next(session.batches()).input_file_id) as lines:
            body = bytes(parse_request_line(lines.readline().rstrip(b"\n")).body)
        assert b'"max_tokens":5,"temperature":0.5' in body
        assert cell.startswith("%%vbatch" if place == 0 else "out1 = df.vbatch.run(")
