"""What the documents say is what the code has."""

from __future__ import annotations

from pathlib import Path

from vbatch_jupyter.protocol import policy

ROOT = Path(__file__).parents[2]


def test_the_document_on_requests_has_the_rules_that_they_are_held_to():
    text = (ROOT / "docs" / "policy.md").read_text()
    rules = [f"| {', '.join(f'`{field}`' for field in rule.fields)} | {rule.sentence} |" for rule in policy.RULES]
    table = "\n".join(["| Field | Rule |", "|---|---|", *rules]) + "\n"
    assert text.partition("\n| ")[1] + text.partition("\n| ")[2] == "\n" + table
