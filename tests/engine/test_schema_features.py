"""What vLLM's two libraries for grammars make of what is sent of a schema; `test_traps` asks an engine."""

from __future__ import annotations

import pytest

from tests.engine.schema_features import FEATURES, NARROW, problems
from tests.engine.scripts import json_of

pytestmark = pytest.mark.timeout(300)


@pytest.fixture(scope="module")
def written() -> dict[str, list[list[bool]]]:
    """Return which values of each feature each library lets a model write."""
    answers: dict[str, list[list[bool]]] = json_of("schema_features.py")
    return answers


def test_each_feature_is_told_and_read_as_the_table_says() -> None:
    assert [problem for name, feature in FEATURES.items() for problem in problems(name, feature)] == []


def test_both_libraries_let_a_model_write_every_answer_that_fits(written: dict[str, list[list[bool]]]) -> None:
    """In vLLM 0.32.0 these are xgrammar 0.2.8 and llguidance 1.7.6; `grammar_schema.toml` says what each refuses."""
    assert len(written) == 2 * (len(FEATURES) + len(NARROW))
    # Next to a length, and for a dot, xgrammar writes nothing that JSON escapes: no quote, and no line break.
    narrow = [f"{name}, xgrammar" for name in NARROW]
    assert [name for name, (fits, _) in written.items() if not all(fits)] == narrow
    assert [any(written[name][0]) for name in narrow] == [False] * len(narrow)


def test_both_libraries_hold_a_model_to_what_the_table_says(written: dict[str, list[list[bool]]]) -> None:
    """In vLLM 0.32.0 these are xgrammar 0.2.8 and llguidance 1.7.6; what one does not hold is checked afterwards."""
    broken = {name.rpartition(", ")[0] for name, (_, breaks) in written.items() if any(breaks)}
    assert broken == {name for name, feature in FEATURES.items() if not feature.is_held}
