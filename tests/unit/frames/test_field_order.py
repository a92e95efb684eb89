from __future__ import annotations

import itertools
import json
import os

import pandas as pd
import pytest
from hypothesis import given
from hypothesis import strategies as st

from vbatch_jupyter.errors import FrameError
from vbatch_jupyter.frames.ask import Ask
from vbatch_jupyter.frames.field_order import field_orders
from vbatch_jupyter.frames.render import requests_of

ROWS = st.integers(1, 4).flatmap(lambda fields: st.lists(st.lists(st.integers(0, 3), min_size=fields, max_size=fields)))


def prompts(df, template="{{ row | tojson }}", **options):
    lines = requests_of(df, Ask.of(template, endpoint="completions", model="m", **options)).lines
    return [json.loads(line)["body"]["prompt"] for line in lines]


def shared(texts):
    pairs = itertools.pairwise(sorted(texts))
    return sum(len(os.path.commonprefix(pair)) for pair in pairs)  # noqa: RUF071 - characters are meant


def test_what_all_rows_share_comes_first_and_what_none_share_last_as_it_stood():
    ids, notes = ["a", "b", "c"], ["x", "y", "z"]

    orders = field_orders([ids, ["en"] * 3, notes, ["long text"] * 3], ["id", "lang", "note", "text"])

    assert orders.tolist() == [[1, 3, 0, 2]] * 3


def test_the_column_whose_repetitions_save_most_divides_the_rows():
    short, long = ["s", "s", "t", "t", "s", "t"], ["l" * 50, "m" * 50, "l" * 50, "m" * 50, "l" * 50, "m" * 50]

    assert field_orders([short, long], ["a", "b"]).tolist() == [[1, 0]] * 6


def test_rows_whose_value_is_alone_begin_with_what_they_share_with_each_other():
    products = ["kettle " * 9] * 3 + [f"other {n}" for n in range(3)]
    cities = ["Rome", "Oslo", "Bern", "Paris", "Paris", "Paris"]

    orders = field_orders([cities, products], ["city", "product"])

    assert orders[:3].tolist() == [[1, 0]] * 3
    assert orders[3:].tolist() == [[0, 1]] * 3


@given(ROWS)
def test_every_field_of_every_row_stands_exactly_once(rows):
    columns = list(zip(*rows, strict=True))
    if not columns:
        return
    for order in field_orders(columns, [f"c{n}" for n in range(len(columns))]).tolist():
        assert sorted(order) == list(range(len(columns)))


def test_reordered_prompts_say_the_same_and_share_more():
    df = pd.DataFrame(
        {
            "id": range(40),
            "stars": [n % 5 for n in range(40)],
            "title": [f"A product called {n % 4}" for n in range(40)],
            "lang": "en",
            "note": [None if n % 2 else f"note {n}" for n in range(40)],
        }
    )

    plain, reordered = prompts(df), prompts(df, reorder_fields=True)

    assert [json.loads(prompt) for prompt in reordered] == [json.loads(prompt) for prompt in plain]
    assert reordered[0].startswith('{"lang": "en", "title": "A product called 0"')
    assert shared(reordered) > 8 * shared(plain)


def test_columns_that_a_template_names_itself_stay_where_they_are():
    df = pd.DataFrame({"id": [1, 2, 3], "text": ["same"] * 3})

    assert prompts(df, "{{ id }}: {% for name in row %}{{ name }} {% endfor %}", reorder_fields=True) == [
        "1: text id ",
        "2: text id ",
        "3: text id ",
    ]


@pytest.mark.parametrize("rows", [0, 1])
def test_a_frame_of_no_row_or_one_keeps_its_order(rows):
    df = pd.DataFrame({"b": [1] * rows, "a": [2] * rows})

    assert prompts(df, reorder_fields=True) == ['{"b": 1, "a": 2}'] * rows


def test_a_frame_without_columns_has_nothing_to_reorder():
    assert prompts(pd.DataFrame(index=[0, 1]), reorder_fields=True) == ["{}", "{}"]


@pytest.mark.parametrize("template", ["{{ text }}", "{{ row['text'] }}", "Say something.{# no columns #}"])
def test_a_template_that_names_its_columns_is_refused(template):
    with pytest.raises(FrameError, match="is for templates that send whole rows"):
        prompts(pd.DataFrame({"text": ["a"]}), template, reorder_fields=True)
