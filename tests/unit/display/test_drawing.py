from __future__ import annotations

import re

from vbatch_jupyter.display.drawing import answers_list, counts_bar, errors_list, rate_line, text
from vbatch_jupyter.display.progress import Rates
from vbatch_jupyter.protocol.batch import BatchRecord, RequestCounts, Status


def batch_of(counts: RequestCounts, status: Status = "in_progress") -> BatchRecord:
    return BatchRecord(
        id="batch_0", endpoint="/v1/embeddings", input_file_id="", created_at=0, status=status, request_counts=counts
    )


def test_text_is_escaped_after_it_is_cut():
    assert text("a" * 300) == "a" * 199 + "…"
    assert text("<" * 300) == "&lt;" * 199 + "…"


def test_the_bar_has_a_part_for_each_kind_of_request_and_none_for_none():
    bar = counts_bar(batch_of(RequestCounts(total=8, completed=4, failed=2)))
    assert re.findall(r"width:([\d.]+%);height:8px;float", bar) == ["50.00%", "25.00%", "25.00%"]
    assert "4 completed, 2 failed, 2 left" in bar
    assert counts_bar(batch_of(RequestCounts(total=3, completed=3))).count("float") == 1
    assert counts_bar(batch_of(RequestCounts())) == ""


def test_the_line_runs_from_the_left_to_the_right_and_from_nothing_to_its_highest_rate():
    line = rate_line([0.0, 50.0, 100.0], "tokens/s")
    assert re.findall(r'points="([^"]*)"', line) == ["0.0,35.0 120.0,18.0 240.0,1.0"]
    assert "tokens/s over time, at most 100" in line
    assert rate_line([3.0], "x") == rate_line([0.0, 0.0], "x") == ""


def test_answers_and_errors_are_text():
    assert '<td style="text-align:left">&lt;b&gt;</td>' in answers_list([("<b>", "yes")])
    assert '<td style="text-align:left">&lt;i&gt;</td>' in answers_list([("a", "<i>")])
    assert "&lt;i&gt;" in errors_list({"<i>": 1})
    assert answers_list([]) == errors_list({}) == ""


def test_only_the_most_frequent_errors_are_listed():
    listed = errors_list({f"message {n}": n for n in range(8, 0, -1)})
    assert re.findall(r"message \d", listed) == [f"message {n}" for n in (8, 7, 6, 5, 4)]
    assert "… and 3 other kinds" in listed


def test_rates_of_any_length_stay_few_and_cover_the_whole_time():
    rates = Rates(most=8)
    for value in range(1_000):
        rates.add(value)
    assert 4 <= len(rates.values) < 8
    assert rates.values == sorted(rates.values)
    assert rates.values[0] < 150
    assert rates.values[-1] > 800
