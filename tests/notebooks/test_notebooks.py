"""The notebooks, each run from top to bottom as ``make demo`` runs one, with a kernel and an engine of its own.

The quick start is here too, though `tests/ui` runs it in a browser: outside one it shows text and no widget.
"""

from __future__ import annotations

import json
import re
from io import StringIO
from typing import TYPE_CHECKING

import pandas as pd
import pytest

from tests.notebooks.running import CELL_SECONDS, Executed

if TYPE_CHECKING:
    from tests.behind import Behind

CAPITALS = ["Peru", "Kenya", "Norway", "Japan", "Chile"]

# All of them run behind the other tests, and where there is none, the first one waits for most of them.
pytestmark = pytest.mark.timeout(5 * CELL_SECONDS)


@pytest.fixture
def shown(request: pytest.FixtureRequest, behind: Behind) -> Executed:
    """Return what the cells of a notebook show."""
    return behind.notebooks[request.param].result()


@pytest.mark.parametrize("shown", ["01_quickstart.ipynb"], indirect=True)
def test_the_quick_start(shown):
    assert "12/12 completed" in shown.text("cell-07")
    labelled = shown.frame("cell-08")
    assert list(labelled.columns) == ["product", "text", "response", "error"]
    assert len(labelled) == 12
    assert labelled["response"].str.len().min() > 0
    # On another processor the answers are others, of the same kind.
    assert labelled["response"].str.contains("customer").sum() >= 6
    assert set(labelled["error"]) == {"NaN"}
    batch = json.loads(shown.text("cell-10"))
    assert (batch["status"], batch["request_counts"]) == ("completed", {"completed": 12, "failed": 0, "total": 12})
    assert re.search(r"^generation tokens +[1-9]", shown.text("cell-11"), re.MULTILINE)


@pytest.mark.parametrize("shown", ["02_prompt_experiments.ipynb"], indirect=True)
def test_prompt_experiments(shown):
    compared = shown.frame("compare")
    assert list(compared.columns) == ["customer", "text", "plain", "context", "changed"]
    assert compared["plain"].str.len().min() > 0
    assert compared["context"].str.len().min() > 0
    assert list(compared["changed"]) == [
        str(a != b) for a, b in zip(compared["plain"], compared["context"], strict=True)
    ]
    assert "True" in set(compared["changed"])

    slip = shown.text("slip-cell")
    assert slip.startswith("UsageError: ")
    assert "txet" in slip
    assert "Did you mean 'text'?" in slip

    again = shown.frame("again")
    assert list(again["reused"]) == [str(row not in {2, 6}) for row in range(8)]
    unchanged = [row for row in range(8) if row not in {2, 6}]
    assert list(again["response"].iloc[unchanged]) == list(compared["plain"].iloc[unchanged])

    stopped = shown.frame("cancel")
    missing = stopped["error"] != "NaN"
    assert 1 <= missing.sum() <= 6
    assert stopped["error"][missing].str.startswith("This request was not executed: the batch was c").all()
    assert shown.text("answered").startswith("0 rows without an answer")
    answered = shown.frame("answered")
    # What was finished is kept as it was.
    assert list(answered["response"][~missing]) == list(stopped["response"][~missing])
    assert answered["response"].str.len().min() > 0
    statuses = re.findall(r"^batch_\w+ +(\w+)", shown.text("list"), re.MULTILINE)
    assert statuses == ["completed", "cancelled", "completed", "completed", "completed"]


@pytest.mark.parametrize("shown", ["03_structured_outputs_and_embeddings.ipynb"], indirect=True)
def test_structured_outputs_and_embeddings(shown):
    filed = shown.frame("filed")
    assert list(filed.columns) == ["customer", "topic", "urgent", "mood", "error"]
    assert len(filed) == 8
    assert set(filed["error"]) == {"NaN"}
    assert set(filed["topic"]) <= {"payment", "account", "delivery"}
    assert set(filed["urgent"]) <= {"True", "False"}
    assert set(filed["mood"]) <= {"1", "2", "3", "4", "5"}
    dtypes = pd.read_csv(StringIO(shown.text("dtypes").partition("\n\n")[0]), sep=r"\s+", header=None, nrows=3)
    assert dtypes[1].tolist()[1:] == ["boolean", "Int64"]
    assert shown.frame("dtypes")["messages"].astype(int).sum() == 8

    assert shown.text("vectors") == "(8, 384)"
    nearest = shown.frame("nearest")
    assert set(nearest["customer"].iloc[:2]) == {"Ben", "Emil"}
    assert nearest["similarity"].astype(float).is_monotonic_decreasing
    alike = shown.text("pair").splitlines()
    assert len(alike) == 3
    assert 0.3 < float(alike[0]) < 1


@pytest.mark.parametrize("shown", ["04_openai_sdk.ipynb"], indirect=True)
def test_the_openai_sdk(shown):
    assert shown.text("server") == "started one"
    assert re.fullmatch(r"\.env\.local has BATCH_BASE_URL=http://\S+/vbatch/v1 and \S+, .*", last(shown.text("env")))
    assert shown.text("client") == "['demo']"
    assert re.fullmatch(r"capitals\.jsonl \d+ bytes processed", shown.text("file"))
    assert re.fullmatch(
        r"batch_\w+ completed BatchRequestCounts\(completed=5, failed=0, total=5\)", shown.text("batch")
    )
    answers = dict(line.split(": ", 1) for line in shown.text("download").splitlines() if ": " in line)
    assert list(answers) == CAPITALS
    assert all(answers[country] for country in CAPITALS)
    assert re.search(r"\w", shown.text("chat"))
    same = shown.frame("same")
    assert len(same) == 5
    assert set(same["error"]) == {"NaN"}


@pytest.mark.parametrize("shown", ["05_from_here_to_parasail.ipynb"], indirect=True)
def test_from_here_to_parasail(shown):
    cost = shown.text("cost")
    assert "parasail" in cost.lower()
    assert "$" in cost
    assert "A customer wrote about the kettle" in cost
    mistakes = shown.text("mistakes")
    assert re.search(r"^line 2 .*top_k", mistakes, re.MULTILINE)
    assert re.search(r"^line 4 .*refused: .*custom_id", mistakes, re.MULTILINE)
    assert shown.text("check").splitlines() == [
        *(f"line {n} ('row-{n - 1}'): refused: model_not_found: parasail has no model 'demo'." for n in range(1, 5)),
        "parasail would refuse it: 4 refused.",
    ]
    here = shown.text("here").splitlines()
    assert here[1] == "completed BatchRequestCounts(completed=4, failed=0, total=4)"
    assert sorted(line.split(" ", 1)[0] for line in here[2:] if line.startswith("row-")) == [
        f"row-{number}" for number in range(4)
    ]
    target = shown.text("target")
    assert target.startswith("UsageError: The API key for parasail is missing. ")
    assert "PARASAIL_API_KEY" in target


def last(text: str) -> str:
    return text.splitlines()[-1]
