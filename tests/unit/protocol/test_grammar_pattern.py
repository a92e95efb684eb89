"""How a pattern is sent; `tests/engine/test_schema_features.py` asks the libraries that read it."""

from __future__ import annotations

import re

import pytest

from vbatch_jupyter.protocol.grammar_pattern import held_pattern

TEXTS = ["", "a", "b", "ab", "xbx", "abc1", "good", "bad", "bad1", "Müller", "2024-05-01", "foo bar", "food", "a" * 200]


@pytest.mark.parametrize(
    ("pattern", "sent"),
    [
        (r"^[A-Z]{2}\d+$", r"^[A-Z]{2}\d+$"),
        ("^https://", "^https://.*$"),
        ("[0-9]", "^.*[0-9].*$"),
        ("^a$|b", "^(?:a|.*b.*)$"),
        ("^(?:a|b)$", "^(?:a|b)$"),
        ("(?P<x>a)", "^.*(?:a).*$"),
        (r"\Aa\Z", "^a$"),
        (r"^\w$", "^[0-9A-Za-z_\u00aa-\U0010ffff]$"),
        (r"^[\w.]$", "^[0-9A-Za-z_\u00aa-\U0010ffff.]$"),
        (r"^[^\w]$", r"^[^\w]$"),
        ("^a{2,129}$", "^a{2,}$"),
        ("^a{200}$", "^a{128,}$"),
        ("^a{128}$", "^a{128}$"),
        ("", None),
        (".*", None),
    ],
)
def test_a_pattern_is_sent_as_both_libraries_read_it(pattern, sent):
    assert held_pattern(pattern) == (sent, [])


@pytest.mark.parametrize(
    ("pattern", "sent", "unheld"),
    [
        (r"^(?=.*\d)[a-z\d]+$", r"^[a-z\d]+$", "a look-ahead or look-behind"),
        (r"^(?!(bad|worse))*[a-z]+$", "^[a-z]+$", "a look-ahead or look-behind"),
        (r"^a(?<=a)b$", "^ab$", "a look-ahead or look-behind"),
        (r"^\bfoo$", "^foo$", r"\b or \B"),
        (r"(?i)abc", None, "(?i)"),
        (r"^(a)\1$", None, r"\1"),
        (r"^[\p{L} ]+$", None, r"\p"),
        ('^"$', None, '"'),
        (r"^\n$", None, r"\n"),
        ("[[:alpha:]]", None, "[[:alpha:]"),
        ("^(?:[a-z]{1,65}){65}$", None, "repetitions inside of each other"),
    ],
)
def test_what_they_do_not_read_alike_is_left_out_and_named(pattern, sent, unheld):
    found, reasons = held_pattern(pattern)
    assert (found, set(reasons)) == (sent, {unheld})


@pytest.mark.parametrize(
    "pattern",
    [
        "a", "^a", "b$", "^a$|b", r"\w+", r"^\w+$", r"^(?!bad)[a-z]+$", r"\bfoo\b", r"^[\w ]+$", r"\d{4}-\d{2}-\d{2}",
        "^a{100,250}$", "^a{129,}$", r"^(?=.*\d)[a-z\d]+$", r"\Aab\Z", "(a|b)$", "a|", r"^(?P<x>\w)+$", "x?b+?",
    ],
)  # fmt: skip
def test_what_is_sent_allows_all_that_the_pattern_does(pattern):
    sent, _ = held_pattern(pattern)
    assert sent is not None
    texts = [text for text in TEXTS if re.search(pattern, text)]
    assert texts
    assert [text for text in texts if not re.search(sent, text)] == []
