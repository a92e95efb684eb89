from __future__ import annotations

import copy
import itertools
import json

import numpy as np
import pandas as pd
import pytest
from hypothesis import given
from hypothesis import strategies as st

from vbatch_jupyter.errors import BadRequestError, FrameError, TemplateError
from vbatch_jupyter.frames.ask import Ask
from vbatch_jupyter.frames.render import custom_ids, requests_of
from vbatch_jupyter.frames.schema import response_format
from vbatch_jupyter.protocol.lines import parse_request_line

MOOD = {"type": "object", "properties": {"good": {"type": "boolean"}}}


def render(df, template="{{ text }}", **fields):
    return requests_of(df, Ask(template=template, **{"model": "m", **fields})).lines


def lines(df, template="{{ text }}", **fields):
    rendered = list(render(df, template, **fields))
    assert all(line.endswith(b"\n") and line.count(b"\n") == 1 for line in rendered)
    return [json.loads(line) for line in rendered]


def prompts(df, template="{{ text }}"):
    return [line["body"]["messages"][-1]["content"] for line in lines(df, template)]


@given(st.lists(st.text(), max_size=5))
def test_any_text_survives_the_way_into_a_line(texts):
    df = pd.DataFrame({"text": pd.Series(texts, dtype=object)})
    read = [parse_request_line(line) for line in render(df, "<{{ text }}>")]
    assert [json.loads(bytes(line.body))["messages"][0]["content"] for line in read] == [f"<{text}>" for text in texts]


def test_each_endpoint_gets_its_own_body():
    df = pd.DataFrame({"text": ["hi"]})
    body = {"temperature": 0.5}
    assert lines(df, system="be {kind}", body=body) == [
        {
            "custom_id": "row-0",
            "method": "POST",
            "url": "/v1/chat/completions",
            "body": {
                "model": "m",
                "messages": [{"role": "system", "content": "be {kind}"}, {"role": "user", "content": "hi"}],
                "temperature": 0.5,
            },
        }
    ]
    assert lines(df, endpoint="completions", body=body)[0]["body"] == {"model": "m", "prompt": "hi", **body}
    assert lines(df, endpoint="/v1/embeddings")[0]["body"] == {"model": "m", "input": "hi"}
    assert lines(df, endpoint="responses", system="s")[0]["body"] == {"model": "m", "input": "hi", "instructions": "s"}


def test_a_schema_goes_where_the_endpoint_wants_it():
    df = pd.DataFrame({"text": ["hi"]})
    sent = response_format(MOOD)
    assert lines(df, schema=MOOD)[0]["body"]["response_format"] == sent
    in_responses = lines(df, endpoint="responses", schema=MOOD, body={"text": {"verbosity": "low"}})[0]["body"]
    assert in_responses["text"] == {"verbosity": "low", "format": {"type": "json_schema", **sent["json_schema"]}}


UNIQUE = {"type": "object", "properties": {"tags": {"type": "array", "uniqueItems": True}}}
IN_BODY = {"type": "json_schema", "json_schema": {"name": "made", "schema": UNIQUE}}


@pytest.mark.parametrize(
    ("fields", "notes"),
    [
        ({"schema": MOOD}, []),
        ({"body": {"response_format": {"type": "json_object"}}}, []),
        ({"schema": UNIQUE}, ["The engine does not hold answers to all of schema=: tags (uniqueItems)"]),
        (
            {"schema": {"type": "object", "properties": {"l": {"contains": {"const": 1}, "minContains": 2}}}},
            ["The engine does not hold answers to all of schema=: l (contains, minContains)."],
        ),
        (
            {"body": {"response_format": IN_BODY}},
            ["The response format is sent as it is, and the engine refuses or ignores parts of it: tags (uniqueItems)"],
        ),
        ({"schema": MOOD, "body": {"min_tokens": 5}}, ["min_tokens= does nothing with schema="]),
    ],
)
def test_what_an_engine_does_not_hold_of_a_schema_is_a_note(fields, notes):
    requests = requests_of(pd.DataFrame({"text": ["hi"]}), Ask(template="{{ text }}", model="m", **fields))
    assert len(requests.notes) == len(notes)
    assert all(note.startswith(expected) for note, expected in zip(requests.notes, notes, strict=True))
    assert ("but minContains is checked by nobody" in "".join(requests.notes)) == ("minContains" in "".join(notes))
    (line,) = requests.lines
    if "response_format" in fields.get("body", {}):
        assert json.loads(line)["body"]["response_format"] == fields["body"]["response_format"]


FRAMES = {
    "duplicate index": pd.DataFrame({"text": ["a", "b"]}, index=["x", "x"]),
    "MultiIndex": pd.DataFrame({"text": ["a", "b"]}, index=pd.MultiIndex.from_tuples([(1, "p"), (1, "q")])),
    "dates as index": pd.DataFrame({"text": ["a", "b"]}, index=pd.date_range("2024", periods=2)),
    "other columns twice": pd.DataFrame([["a", 1, 2], ["b", 3, 4]], columns=["text", "n", "n"]),
    "categories": pd.DataFrame({"text": pd.Categorical(["a", "b"], categories=["b", "a"])}),
    "string dtype": pd.DataFrame({"text": pd.array(["a", "b"], dtype="string")}),
}


@pytest.mark.parametrize("name", FRAMES)
def test_every_row_is_rendered_in_order(name):
    df = FRAMES[name]
    before = copy.deepcopy(df)
    assert prompts(df) == ["a", "b"]
    pd.testing.assert_frame_equal(df, before)


def test_columns_of_a_multiindex_and_columns_that_are_numbers():
    nested = pd.DataFrame([["a", "b"]], columns=pd.MultiIndex.from_tuples([("review", "text"), ("review", "title")]))
    assert prompts(nested, "{{ row['review', 'title'] }}: {{ row['review', 'text'] }}") == ["b: a"]
    assert prompts(pd.DataFrame([["a", "b"]]), "{{ row[1] }}{{ row[0] }}") == ["ba"]


def test_an_empty_frame_gives_no_line_and_is_checked_all_the_same():
    empty = pd.DataFrame({"text": []})
    assert lines(empty) == []
    with pytest.raises(TemplateError, match=r"Unknown column 'txt' in the template\. Did you mean 'text'"):
        render(empty, "{{ txt }}")


def test_a_template_without_columns_gives_one_line_a_row():
    assert prompts(pd.DataFrame(index=range(3)), "Joke!") == ["Joke!"] * 3


def test_cells_of_every_dtype_are_written_as_pandas_shows_them():
    df = pd.DataFrame(
        {
            "i": [1, 2],
            "gaps": [1, None],
            "whole": pd.array([1, None], dtype="Int64"),
            "f4": np.array([0.1, np.nan], dtype="float32"),
            "b": [True, False],
            "when": pd.to_datetime(["2024-05-01 13:30", "NaT"]),
            "zone": pd.to_datetime(["2024-05-01 13:30", "NaT"]).tz_localize("UTC"),
            "c": pd.Categorical(["x", None]),
            "o": ["{{ i }}", None],
        }
    )
    template = "|".join(f"{{{{ {name} }}}}" for name in df.columns)
    assert prompts(df, template) == [
        "1|1.0|1|0.1|True|2024-05-01 13:30:00|2024-05-01 13:30:00+00:00|x|{{ i }}",
        "2||||False||||",
    ]


def test_lists_in_cells_stay_the_users_own():
    df = pd.DataFrame({"tags": [["a"], ["b", "c"]]})
    before = copy.deepcopy(df)
    assert prompts(df, "{{ tags | join('+') }}{% set x = tags | sort(reverse=true) %}{{ x[0] }}") == ["aa", "b+cc"]
    assert df["tags"].tolist() == before["tags"].tolist()


def test_rows_beyond_the_first_chunk_keep_their_place():
    df = pd.DataFrame({"text": [str(number) for number in range(20_000)]})
    rendered = lines(df)
    assert [line["custom_id"] for line in rendered] == [f"row-{number}" for number in range(20_000)]
    assert [line["body"]["messages"][0]["content"] for line in rendered] == df["text"].tolist()


def test_a_row_that_cannot_be_rendered_is_named_by_position_label_and_line():
    df = pd.DataFrame({"n": [1, 0]}, index=["x", "y"])
    rendered = render(df, "One over n:\n{{ 1 / n }}", on_error="raise")
    with pytest.raises(TemplateError) as caught:
        list(rendered)
    assert caught.value.message == (
        "The template cannot be rendered for row 1 (index 'y'), line 2 of the template: division by zero."
    )


def test_a_row_beyond_the_first_chunk_is_named_by_its_position_in_the_frame():
    df = pd.DataFrame({"n": [1] * 9_000 + [0]})
    with pytest.raises(TemplateError, match=r"for row 9000, line 1 of the template: division by zero\.$"):
        list(render(df, "{{ 1 / n }}", on_error="raise"))


def test_an_escape_from_the_sandbox_names_the_row():
    rendered = render(pd.DataFrame({"a": ["x"]}), "{{ a.__class__ }}")
    with pytest.raises(
        TemplateError,
        match=r"row 0, nor for any other row, line 1 of the template: access to attribute '__class__'.*unsafe",
    ):
        list(rendered)


def test_a_lone_surrogate_is_an_error_that_names_the_row():
    with pytest.raises(TemplateError, match=r"^The prompt of row 1 cannot be sent: .*surrogates not allowed"):
        list(render(pd.DataFrame({"text": pd.Series(["a", "\ud800"], dtype=object)}), "{{ text }}", on_error="raise"))


def test_lines_are_rendered_while_they_are_taken():
    df = pd.DataFrame({"n": [1, 0]})
    assert len(list(itertools.islice(render(df, "{{ 1 / n }}"), 1))) == 1


def test_a_column_names_the_requests():
    df = pd.DataFrame({"text": ["a", "b"], "ticket": [17, 4]})
    assert [line["custom_id"] for line in lines(df, custom_id="ticket")] == ["17", "4"]


@pytest.mark.parametrize(
    ("values", "message"),
    [
        (["a", "b", "a"], "'a' is in row 0 and in row 2. Choose a column with unique values."),
        ([1, "b", "1"], "'1' is in row 0 and in row 2. Choose a column with unique values."),
        (["a", None, "b"], "it is missing or empty in row 1."),
        (["a", "b", ""], "it is missing or empty in row 2."),
        (["a", "b" * 513, "c"], "it has more than 512 bytes in row 1."),
        (["a", "é" * 257, "c"], "it has more than 512 bytes in row 1."),
    ],
)
def test_a_column_that_cannot_name_the_requests_is_refused_before_the_first_line(values, message):
    df = pd.DataFrame({"text": ["x"] * 3, "id": pd.Series(values, dtype=object)})
    with pytest.raises(FrameError) as caught:
        render(df, "{{ text }}", custom_id="id")
    assert caught.value.message == f"The column 'id' cannot be the custom_id: {message}"
    assert caught.value.param == "custom_id"


@pytest.mark.parametrize(
    ("options", "message"),
    [
        ({"sample": 2.5}, "sample= must be a whole number, not 2.5."),
        ({"sample": "5"}, "sample= must be a whole number, not '5'."),
        ({"sample": True}, "sample= must be a whole number, not True."),
        ({"fresh": "no"}, "fresh= must be True or False, not 'no'."),
        ({"output": 5}, "output= must be a text, not 5."),
        ({"system": ["s"]}, "system= must be a text, not ['s']."),
    ],
)
def test_an_option_of_another_kind_is_one_sentence(options, message):
    with pytest.raises(FrameError) as caught:
        Ask(**{"template": "{{ text }}", **options})
    assert (caught.value.message, caught.value.param) == (message, *options)
    assert Ask.of("{{ text }}", sample=np.int64(1), custom_id=3).sample == 1


def test_an_unknown_custom_id_column_names_near_misses():
    df = pd.DataFrame({"ticket": [1], "x": [2], 3: [4]})
    with pytest.raises(FrameError, match=r"^Unknown column 'tickt' in custom_id=\. Did you mean 'ticket'\?$"):
        custom_ids(df, "tickt")
    with pytest.raises(FrameError, match=r"^Unknown column 9 in custom_id=\. The columns are 'ticket', 'x', 3\.$"):
        custom_ids(df, 9)
    assert custom_ids(df, 3) == ["4"]


@pytest.mark.parametrize(
    ("options", "message"),
    [
        (
            {"endpoint": "embeddings", "system": "s"},
            "system= works with chat and responses; put the text into the template.",
        ),
        ({"endpoint": "embeddings", "schema": MOOD}, "schema= needs an endpoint that generates text."),
        (
            {"body": {"messages": []}},
            "'messages' cannot be set in the body: it comes from the DataFrame and the arguments.",
        ),
        ({"body": {"stream": True}}, "'stream' cannot be set in the body: a batch does not stream."),
        (
            {"body": {"response_format": {}}, "schema": MOOD},
            "schema= and response_format= are the same thing; leave one out.",
        ),
        (
            {"body": {"ignore_eos": True, "max_tokens": 9}, "schema": MOOD},
            "ignore_eos= makes a model write on after its JSON, so that no answer fits schema=. Leave one out.",
        ),
        (
            {"endpoint": "responses", "system": "s", "body": {"instructions": "t"}},
            "system= and instructions= are the same thing; leave one out.",
        ),
        (
            {"body": {"seed": object()}},
            "A body parameter cannot be written as JSON: a object cannot be written as JSON.",
        ),
    ],
)
def test_what_does_not_fit_the_endpoint_is_refused_before_the_first_line(options, message):
    with pytest.raises(FrameError) as caught:
        render(pd.DataFrame({"text": ["a"]}), "{{ text }}", **options)
    assert caught.value.message == message


def test_a_body_key_that_nobody_knows_is_refused_before_the_first_line():
    with pytest.raises(BadRequestError, match="temperatur"):
        render(pd.DataFrame({"text": ["a"]}), "{{ text }}", body={"temperatur": 0})


def test_numbers_of_numpy_are_numbers_in_the_body_and_the_body_is_not_changed():
    body = {"seed": np.int64(3), "stop": np.array(["x"]), "logit_bias": {1: 2}}
    before = dict(body)
    made = lines(pd.DataFrame({"text": ["a"]}), body=body)[0]["body"]
    assert (made["seed"], made["logit_bias"]) == (3, {"1": 2})
    assert body.keys() == before.keys()


def test_a_whole_number_is_written_in_one_way_and_what_is_nested_as_it_came():
    body = {"temperature": 0.0, "top_p": 0.5, "frequency_penalty": -1.0, "seed": 7, "tools": [{"minimum": 1.0}]}
    (line,) = render(pd.DataFrame({"text": ["a"]}), "{{ text }}", body=body)
    assert b'"temperature":0,"top_p":0.5,"frequency_penalty":-1,"seed":7,"tools":[{"minimum":1.0}]' in line
    (line,) = render(pd.DataFrame({"text": ["a"]}), "{{ text }}", body={"top_k": 1e300})
    assert b'"top_k":1e300' in line.replace(b"e+", b"e")


def test_what_is_no_frame_is_told_how_to_become_one():
    with pytest.raises(FrameError, match=r'^A Series is not a DataFrame; pass series\.to_frame\("review"\)\.$'):
        render(pd.Series(["a"], name="review"), "{{ a }}")
    with pytest.raises(FrameError, match=r"^A list is not a pandas DataFrame; convert it first\.$"):
        render([], "{{ a }}")


def test_system_is_a_template_that_may_do_without_columns():
    df = pd.DataFrame({"text": ["a", "b"], "who": ["Ann", None]})
    assert [line["body"]["messages"][0]["content"] for line in lines(df, system="You write to {{ who }}.")] == [
        "You write to Ann.",
        "You write to .",
    ]
    # Without braces of Jinja it is sent as it is, with its last newline.
    assert lines(df, system="Be brief.\n")[1]["body"]["messages"][0]["content"] == "Be brief.\n"
    assert lines(df, endpoint="responses", system="To {{ who }}")[0]["body"]["instructions"] == "To Ann"
    with pytest.raises(TemplateError, match=r"^Unknown column 'whom' in system=\. Did you mean 'who'\?$"):
        render(df, system="To {{ whom }}")
    assert requests_of(df, Ask.of("{{ text }}", model="m", system="To {who}")).notes == [
        "{who} in system= is sent as it is. For the column's value, write {{ who }}."
    ]


@pytest.mark.parametrize(
    ("template", "advice"),
    [
        ("Rate {text}", "Write {{ text }} for {text}. In an f-string, double the braces."),
        ("Rate { text }", "Write {{ text }} for { text }. In an f-string, double the braces."),
        ("Rate ${text}", "Write {{ text }} for ${text}. In an f-string, double the braces."),
        ("Rate {text!r:>9}", "Write {{ text }} for {text!r:>9}. In an f-string, double the braces."),
        ("Rate $text", "Write {{ text }} for $text."),
        ("Rate %(text)s", "Write {{ text }} for %(text)s."),
        ("Rate {Star rating}", "Write {{ row['Star rating'] }} for {Star rating}. In an f-string, double the braces."),
        ("Rate this.", "The columns are 'text', 'Star rating'. Write {{ text }} for a row's value."),
        ("\n\n", "The columns are 'text', 'Star rating'. Write {{ text }} for a row's value."),
    ],
)
def test_a_template_that_uses_no_column_is_an_error_before_anything_is_rendered(template, advice):
    df = pd.DataFrame({"text": ["a"], "Star rating": [1]})
    with pytest.raises(TemplateError) as caught:
        render(df, template)
    assert caught.value.message == (
        f"The template uses no column, so every row would get the same prompt. {advice} "
        "If you mean that, add {# no columns #} to it."
    )
    assert prompts(df, f"{template}{{# no columns #}}") == [template]


def test_a_column_in_other_braces_beside_a_column_is_a_note():
    df = pd.DataFrame({"text": ["a"], "stars": [1]})
    asked = requests_of(df, Ask.of('{{ text }} has {stars}, {"stars": 1}, {mood}', model="m"))
    assert asked.notes == ["{stars} in the template is sent as it is. For the column's value, write {{ stars }}."]
    assert requests_of(df, Ask.of("{{ text }}: {mood} $5", model="m")).notes == []


def test_a_level_of_the_index_is_used_as_a_column_is():
    df = pd.DataFrame({"product": ["tea", "pot"], "text": ["a", "b"]}).set_index("product")
    assert prompts(df, "{{ product }}: {{ text }}") == ["tea: a", "pot: b"]
    assert prompts(df, "{{ row['product'] }} {{ row.text }}") == ["tea a", "pot b"]
    assert prompts(df, "{{ row | tojson }}") == ['{"text": "a"}', '{"text": "b"}']
    both = pd.DataFrame({"text": ["a"]}, index=pd.MultiIndex.from_tuples([("tea", 1.5)], names=["text", "price"]))
    assert prompts(both, "{{ text }} {{ price }}") == ["a 1.5"]
    with pytest.raises(TemplateError, match="Did you mean 'product'"):
        render(df, "{{ prodct }}")
    with pytest.raises(FrameError, match=r"'product' is a level of the index: .* df\.reset_index\('product'\)"):
        render(df, custom_id="product")


def test_on_error_has_two_values():
    with pytest.raises(FrameError, match=r"^on_error= must be 'row' or 'raise', not 'skip'\.$"):
        render(pd.DataFrame({"text": ["a"]}), on_error="skip")
