"""The check of words: what it finds, where, and what it leaves alone."""

from __future__ import annotations

import importlib.util
import json
from pathlib import Path

import pytest

TOOL = Path(__file__).parents[2] / "tools" / "check_words.py"


@pytest.fixture(scope="module")
def check_words():
    spec = importlib.util.spec_from_file_location("check_words", TOOL)
    assert spec is not None
    assert spec.loader is not None
    module = importlib.util.module_from_spec(spec)
    spec.loader.exec_module(module)
    return module


def write(path: Path, text: str) -> Path:
    path.write_text(text, encoding="utf-8")
    return path


def test_a_phrase_is_found_across_the_end_of_a_line_with_its_number(check_words, tmp_path):
    path = write(tmp_path / "a.md", "# Title\n\nThe file stands\nhere, and the key is not\nthere.\n")
    assert list(check_words.problems_of(path)) == [
        f"{path}:3: 'stands': write 'is, are'",
        f"{path}:4: 'is not there': write 'is missing, does not exist'",
    ]


def test_of_python_comments_strings_and_the_openings_of_docstrings_are_read_and_names_are_not(check_words, tmp_path):
    source = '''"""Give the rate."""

anew = "x"  # beside
# this is
# none of them
"""Give"""
text = "the key is no key"
'''
    problems = list(check_words.problems_of(write(tmp_path / "a.py", source)))
    assert [problem.partition(f"{tmp_path}/a.py:")[2].rpartition(": write")[0] for problem in problems] == [
        "1: 'Give'",
        "3: 'beside'",
        "4: 'is none'",
        "6: 'Give'",
        "7: 'is no'",
    ]


def test_of_a_notebook_the_text_cells_are_read(check_words, tmp_path):
    cells = [{"cell_type": kind, "source": ["run it\n", "anew"]} for kind in ("code", "markdown")]
    path = write(tmp_path / "a.ipynb", json.dumps({"cells": cells}))
    assert list(check_words.problems_of(path)) == [f"{path}:2: 'anew': write 'again'"]


def test_common_sentences_pass(check_words, tmp_path):
    text = "There is no file. It is no longer here. I understand the standard. It stands for nothing."
    assert list(check_words.problems_of(write(tmp_path / "a.md", text))) == []


def test_its_exit_status_is_1_where_there_is_a_phrase(check_words, tmp_path, capsys):
    good, bad = write(tmp_path / "good.md", "Run it again."), write(tmp_path / "bad.md", "Run it anew.")
    assert check_words.main([str(good)]) == 0
    assert capsys.readouterr().out == "1 files have no banned phrase.\n"
    assert check_words.main([str(good), str(bad)]) == 1
    assert capsys.readouterr().out == f"{bad}:1: 'anew': write 'again'\n"
