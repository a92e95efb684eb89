"""Prompts of several messages: as a list with templates, from a column, and from a function of a row."""

from __future__ import annotations

import json
from typing import Any

import numpy as np
import pandas as pd
import pytest

import vbatch_jupyter as vb
from vbatch_jupyter.errors import BadRequestError, FrameError, TemplateError
from vbatch_jupyter.frames.ask import Ask, messages_of
from vbatch_jupyter.frames.render import requests_of
from vbatch_jupyter.protocol.policy import Answering

DF = pd.DataFrame({"word": ["one", "two"], "tone": ["kind", None]})
FEW_SHOT = [
    {"role": "system", "content": "Be {{ tone }}."},
    {"role": "user", "content": "Say red"},
    {"role": "assistant", "content": "red"},
    {"role": "user", "content": "Say {{ word }}"},
]


def requests(df, template=None, by="local", **options):
    return requests_of(df, Ask.of(template, model="m", **options), Answering(by))


def bodies(df, template=None, by="local", **options):
    return [json.loads(line)["body"] for line in requests(df, template, by, **options).lines]


def messages(df, template=None, **options):
    return [body["messages"] for body in bodies(df, template, **options)]


def said(role, content):
    return {"role": role, "content": content}


def test_every_text_of_a_list_of_messages_is_a_template():
    assert messages(DF, FEW_SHOT) == [
        [said("system", "Be kind."), said("user", "Say red"), said("assistant", "red"), said("user", "Say one")],
        [said("system", "Be ."), said("user", "Say red"), said("assistant", "red"), said("user", "Say two")],
    ]


def test_the_responses_endpoint_takes_the_same_messages_as_its_input():
    (first, _) = bodies(DF, FEW_SHOT[1:], endpoint="responses", system="Be brief.")

    assert first == {
        "model": "m",
        "input": [said("user", "Say red"), said("assistant", "red"), said("user", "Say one")],
        "instructions": "Be brief.",
    }


@pytest.mark.parametrize("endpoint", ["completions", "embeddings"])
def test_an_endpoint_of_texts_refuses_messages(endpoint):
    with pytest.raises((BadRequestError, TemplateError, FrameError), match="works with chat and responses"):
        bodies(DF, FEW_SHOT, endpoint=endpoint)


def test_templates_are_filled_inside_of_content_parts_and_calls():
    parts = [{"type": "text", "text": "Say {{ word }}"}, {"type": "text", "text": "{ as it is }"}]
    call = {"id": "c", "type": "function", "function": {"name": "say", "arguments": '{"word": "{{ word }}"}'}}
    template = [
        said("user", parts),
        {"role": "assistant", "content": None, "tool_calls": [call]},
        said("user", "Well?"),
    ]

    (first, _) = messages(DF, template)

    assert first[0]["content"] == [{"type": "text", "text": "Say one"}, {"type": "text", "text": "{ as it is }"}]
    assert first[1]["tool_calls"][0]["function"]["arguments"] == '{"word": "one"}'
    assert template[0]["content"][0]["text"] == "Say {{ word }}"


def test_a_column_of_messages_is_sent_as_it_is_with_the_template_as_one_more_turn():
    history: list[Any] = [[said("user", "{{ Hi }}"), said("assistant", "Hello")], None]
    df = DF.assign(history=pd.Series(history))

    assert messages(df, "And {{ word }}?", messages="history") == [
        [said("user", "{{ Hi }}"), said("assistant", "Hello"), said("user", "And one?")],
        [said("user", "And two?")],
    ]
    alone = pd.DataFrame({"history": [[said("user", "Hi")]]})
    assert messages(alone, messages="history") == messages(alone, messages=vb.col("history"))
    assert messages(alone, messages="history") == [[said("user", "Hi")]]


def test_messages_out_of_arrow_are_without_the_fields_that_only_others_have():
    pa = pytest.importorskip("pyarrow")
    rows = [[{"role": "user", "content": "a", "name": None}, {"role": "user", "content": "b", "name": "bo"}]]
    kind = pa.list_(pa.struct([("role", pa.string()), ("content", pa.string()), ("name", pa.string())]))
    wanted = [[said("user", "a"), {**said("user", "b"), "name": "bo"}]]

    for column in (pd.Series(rows, dtype=pd.ArrowDtype(kind)), pd.Series([np.array(rows[0], dtype=object)])):
        assert messages(pd.DataFrame({"history": column}), messages="history") == wanted


def test_a_function_of_a_row_returns_a_text_or_messages():
    def ask(row):
        return f"Say {row['word']}" if row["tone"] else [said("system", "Be free."), said("user", row["word"])]

    assert messages(DF, ask) == [[said("user", "Say one")], [said("system", "Be free."), said("user", "two")]]
    assert bodies(DF, lambda row: row["word"], endpoint="completions")[0]["prompt"] == "one"


@pytest.mark.parametrize(
    ("cell", "reason"),
    [
        (None, "messages= must be a list of messages, not an empty list. This is in this row."),
        ("[]", "messages= must be a list of messages, not a str. This is in this row."),
        ([{"role": "usr", "content": "a"}], "has the role 'usr', which is not known. Did you mean user?"),
        ([{"role": "user"}], "Message 1 of messages= must have a content that is a text or a list, not a NoneType."),
        (["a"], "Message 1 of messages= must be an object with role and content, not a str."),
    ],
)
def test_a_row_whose_messages_cannot_be_sent_is_a_row_with_its_error(cell, reason):
    df = pd.DataFrame({"history": [[said("user", "Hi")], cell]})
    made = requests(df, messages="history")

    assert len(list(made.lines)) == 1
    ((position, _, error),) = made.unrendered
    assert position == 1
    assert reason in error


def test_a_function_that_raises_for_a_row_leaves_the_others():
    made = requests(DF, lambda row: "Be " + row["tone"])

    assert len(list(made.lines)) == 1
    assert made.unrendered[0].error.startswith("The function cannot be called for this row: TypeError: can only concat")


@pytest.mark.parametrize(
    ("template", "options", "message"),
    [
        (None, {}, "Say what to ask: give a template or messages=."),
        (5, {}, "The template must be a text, a list of messages or a function of a row, not a int."),
        ([], {}, "The template must be a text, a list of messages or a function of a row, not an empty list."),
        ([said("sytem", "a")], {}, "Message 1 of the template has the role 'sytem', which is not known. Did you mean"),
        ([said("user", "{{ wrd }}")], {}, "Unknown column 'wrd' in message 1 of the template. Did you mean 'word'?"),
        ([said("user", "Say it")], {}, "The template uses no column, so every row would get the same prompt."),
        (None, {"messages": "hist"}, "Unknown column 'hist' in messages=."),
        (FEW_SHOT, {"reorder_fields": True}, "reorder_fields= is for templates that send whole rows"),
    ],
)
def test_what_no_row_could_be_sent_with_is_an_error_before_anything_runs(template, options, message):
    with pytest.raises((FrameError, TemplateError)) as caught:
        requests(DF, template, **options)

    assert caught.value.message.startswith(message)


def test_a_system_message_and_system_are_one_too_many():
    with pytest.raises(TemplateError, match="begin with a system message, and system= is another"):
        bodies(DF, FEW_SHOT, system="Be brief.")


def test_a_last_message_of_the_assistant_is_continued_where_that_is_possible():
    template = [said("user", "Say {{ word }}"), said("assistant", "I say")]

    (first, _) = bodies(DF, template, temperature=0)
    assert (first["continue_final_message"], first["add_generation_prompt"], first["temperature"]) == (True, False, 0)
    assert first["messages"][-1] == said("assistant", "I say")
    chosen = bodies(DF, template, continue_final_message=False, add_generation_prompt=True)[0]
    assert (chosen["continue_final_message"], chosen["add_generation_prompt"]) == (False, True)
    for by, endpoint in (("openai", "chat"), ("local", "responses")):
        with pytest.raises(TemplateError, match="only vLLM's chats can continue one"):
            bodies(DF, template, by, endpoint=endpoint)


def test_messages_and_parameters_by_row_go_together():
    df = DF.assign(limit=[3, 4])

    seen = bodies(df, FEW_SHOT[:3], max_tokens=vb.col("limit"))

    assert [(body["max_tokens"], body["continue_final_message"]) for body in seen] == [(3, True), (4, True)]


def test_a_text_that_begins_with_a_role_is_messages_and_any_other_is_a_text():
    text = "--- system\nBe brief.\n\n--- user\nSay {{ word }}\ntwice\n---assistant\nI say"

    assert messages_of(text) == [
        said("system", "Be brief."),
        said("user", "Say {{ word }}\ntwice"),
        said("assistant", "I say"),
    ]
    for other in ("Say\n--- user\nyes", "---\nSay {{ word }}", "--- users\na", "a --- user"):
        assert messages_of(other) == other


def test_a_role_in_the_middle_of_a_text_is_named_before_the_run():
    (note,) = requests(DF, "Say {{ word }}\n--- user\nyes").notes

    assert note == "The line '--- user' in the template is sent as it is. Begin with such a line to send messages."
