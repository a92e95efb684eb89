"""Errors that quote their request are counted together; those that say different things are not."""

from __future__ import annotations

import pytest

from vbatch_jupyter.manager.error_groups import ErrorGroups


@pytest.mark.parametrize(
    ("message", "shown"),
    [
        (lambda n: f'The answer is not JSON: "row {n} isn\'t".', 'The answer is not JSON: "…".'),
        (lambda n: f"This model's maximum context length is 128 tokens, not {n:,}.", None),
        (lambda n: f"refuse {chr(97 + n % 26)} the {'long ' * (n % 7)}text of row {n} because of its words", None),
        (lambda n: f"{'w' * (n % 900 + 1)} has no answer in this engine", "… has no answer in this engine"),
    ],
)
def test_a_thousand_messages_that_quote_their_row_are_one_kind(message, shown):
    counted = ErrorGroups(message(n) for n in range(1, 1_001)).counted()
    assert sum(counted.values()) == 1_000
    assert len(counted) == 1
    assert shown is None or list(counted) == [shown]


def test_a_kind_of_one_message_is_shown_as_it_is_and_the_most_frequent_comes_first():
    messages = ["Too long: 12 tokens.", *["No such model 'm'."] * 3, "stars must be integer", "name must be string"]
    assert list(ErrorGroups(messages).counted().items()) == [
        ("No such model 'm'.", 3),
        ("Too long: 12 tokens.", 1),
        ("stars must be integer", 1),
        ("name must be string", 1),
    ]


def test_messages_that_have_nothing_in_common_are_of_bounded_number():
    words = [f"{chr(97 + n % 26)}{chr(97 + n // 26 % 26)}{chr(97 + n // 676)}" for n in range(2_000)]
    counted = ErrorGroups(f"{word} is {word}" for word in words).counted()
    assert sum(counted.values()) == 2_000
    assert len(counted) <= 201
