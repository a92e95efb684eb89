"""What the documents say is what the code has."""

from __future__ import annotations

import ast
import re
from pathlib import Path

from vbatch_jupyter.protocol import policy

ROOT = Path(__file__).parents[2]


def test_the_document_on_requests_has_the_rules_that_they_are_held_to():
    text = (ROOT / "docs" / "policy.md").read_text()
    rules = [f"| {fields_of(rule)} | {rule.sentence} | {servers_of(rule)} |" for rule in policy.RULES]
    table = "\n".join(["| Field | Rule | By |", "|---|---|---|", *rules]) + "\n"
    assert text.partition("\n| ")[1] + text.partition("\n| ")[2] == "\n" + table


def test_each_row_of_the_document_on_behaviour_has_a_version_and_a_test_that_exists():
    rows = [
        [cell.strip() for cell in re.split(r"(?<!\\)\|", line)[1:-1]]
        for line in (ROOT / "docs" / "behaviour.md").read_text().splitlines()
        if line.startswith("| ") and not line.startswith("| what |")
    ]
    assert [row for row in rows if len(row) != 6 or not all(row)] == []
    assert [row[0] for row in rows if not re.search(r"\d+\.\d+", row[1])] == []
    named = [test.partition("::") for row in rows for test in re.findall(r"`(tests/[^`]+)`", row[5])]
    assert len(named) >= len(rows)
    functions = {path: functions_of(path) for path, _, _ in named}
    assert [f"{path}::{name}" for path, _, name in named if name not in functions[path]] == []


def fields_of(rule: policy.Rule) -> str:
    where = "" if rule.path is None else f" ({rule.path})"
    return ", ".join(f"`{field}`" for field in rule.fields) + where


def servers_of(rule: policy.Rule) -> str:
    names = {"here": "this package", "vllm": "vLLM", "openai": "OpenAI"}
    by = ", ".join(name for server, name in names.items() if server in rule.by)
    return f"ignored by {by}" if rule.ignored else by


def functions_of(path: str) -> set[str]:
    tree = ast.parse((ROOT / path).read_text())
    return {node.name for node in ast.walk(tree) if isinstance(node, ast.FunctionDef | ast.AsyncFunctionDef)}
