"""The notebooks, each run from top to bottom as ``make demo`` runs one, with a kernel and an engine of its own."""

from __future__ import annotations

import html
import json
import os
import re
import shutil
import subprocess
import sys
import tempfile
from collections.abc import Iterator
from io import StringIO
from pathlib import Path
from typing import Any

import nbformat
import pandas as pd
import pytest

ROOT = Path(__file__).parents[2]
CAPITALS = ["Peru", "Kenya", "Norway", "Japan", "Chile"]

pytestmark = pytest.mark.timeout(400)


class Executed:
    """A notebook that has been run.

    Parameters
    ----------
    path
        The notebook with its outputs.
    """

    def __init__(self, path: Path) -> None:
        self._cells = {cell.id: cell for cell in nbformat.read(path, as_version=4).cells}

    def text(self, cell_id: str) -> str:
        """Give what a cell shows where nothing but text is shown; of a line drawn over itself, the last."""
        shown = "".join(_text(output) for output in self._cells[cell_id].outputs)
        lines = [line.rstrip("\r").rpartition("\r")[2].rstrip() for line in shown.split("\n")]
        return "\n".join(lines).strip()

    def frame(self, cell_id: str) -> pd.DataFrame:
        """Read the frame that a cell shows out of its HTML."""
        (table,) = [output.data["text/html"] for output in self._cells[cell_id].outputs if "text/html" in _data(output)]
        return _read_table(table)


def _data(output: Any) -> dict[str, Any]:
    return dict(output.get("data", {}))


def _text(output: Any) -> str:
    if output.output_type == "stream":
        return str(output.text)
    if output.output_type == "error":
        return f"{output.ename}: {output.evalue}\n"
    return str(_data(output).get("text/plain", "")) + "\n"


def _read_table(text: str) -> pd.DataFrame:
    rows = [
        [
            html.unescape(re.sub(r"<[^>]*>", "", cell)).strip()
            for cell in re.findall(r"<t[hd][^>]*>(.*?)</t[hd]>", row, re.DOTALL)
        ]
        for row in re.findall(r"<tr[^>]*>(.*?)</tr>", text, re.DOTALL)
    ]
    # The row of the index's name, where it has one, says nothing else.
    header, *body = [row for row in rows if any(row[1:])]
    return pd.DataFrame(body, columns=header).set_index(header[0])


@pytest.fixture
def execute(tmp_path: Path) -> Iterator[Any]:
    """Run one notebook in a folder and with a store of its own, where no Jupyter server runs."""
    with tempfile.TemporaryDirectory(prefix="vb") as runtime:
        environment = {
            **os.environ,
            "VBATCH_STORE": str(tmp_path / "store"),
            # A socket's path must be short.
            "JUPYTER_RUNTIME_DIR": runtime,
            "JUPYTER_CONFIG_DIR": str(tmp_path / "config"),
            "IPYTHONDIR": str(tmp_path / "ipython"),
        }

        def run(name: str) -> Executed:
            shutil.copy(ROOT / "notebooks" / name, tmp_path)
            saved = tmp_path / "saved.ipynb"
            words = [str(ROOT / "tools" / "run_notebook.py"), str(tmp_path / name), "--save", str(saved)]
            done = subprocess.run(
                [sys.executable, *words, "--timeout", "300"],
                env=environment,
                cwd=tmp_path,
                stdin=subprocess.DEVNULL,
                capture_output=True,
                text=True,
                timeout=380,
                check=False,
            )
            assert done.returncode == 0, done.stdout + done.stderr
            assert done.stderr == ""
            return Executed(saved)

        yield run


def test_the_quick_start(execute):
    shown = execute("01_quickstart.ipynb")
    assert "12/12 completed" in shown.text("cell-07")
    labelled = shown.frame("cell-08")
    assert list(labelled.columns) == ["product", "text", "response", "error"]
    assert len(labelled) == 12
    assert labelled["response"].str.len().min() > 0
    # On another processor the answers are others, of the same kind.
    assert labelled["response"].str.contains("customer").sum() >= 6
    assert set(labelled["error"]) == {"<NA>"}
    batch = json.loads(shown.text("cell-10"))
    assert (batch["status"], batch["request_counts"]) == ("completed", {"completed": 12, "failed": 0, "total": 12})
    assert re.search(r"^generation tokens +[1-9]", shown.text("cell-11"), re.MULTILINE)


def test_prompt_experiments(execute):
    shown = execute("02_prompt_experiments.ipynb")
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
    assert "did you mean 'text'?" in slip

    again = shown.frame("again")
    assert list(again["reused"]) == [str(row not in {2, 6}) for row in range(8)]
    unchanged = [row for row in range(8) if row not in {2, 6}]
    assert list(again["response"].iloc[unchanged]) == list(compared["plain"].iloc[unchanged])

    stopped = shown.frame("cancel")
    missing = stopped["error"] != "<NA>"
    assert 1 <= missing.sum() <= 6
    assert stopped["error"][missing].str.startswith("This request was not executed: the batch was c").all()
    assert shown.text("answered").startswith("0 rows without an answer")
    answered = shown.frame("answered")
    # What was finished is kept as it was.
    assert list(answered["response"][~missing]) == list(stopped["response"][~missing])
    assert answered["response"].str.len().min() > 0
    statuses = re.findall(r"^batch_\w+ +(\w+)", shown.text("list"), re.MULTILINE)
    assert statuses == ["completed", "cancelled", "completed", "completed", "completed"]


def test_structured_outputs_and_embeddings(execute):
    shown = execute("03_structured_outputs_and_embeddings.ipynb")
    filed = shown.frame("filed")
    assert list(filed.columns) == ["customer", "topic", "urgent", "mood", "error"]
    assert len(filed) == 8
    assert set(filed["error"]) == {"<NA>"}
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


def test_the_openai_sdk(execute):
    shown = execute("04_openai_sdk.ipynb")
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
    assert set(same["error"]) == {"<NA>"}


def test_from_here_to_parasail(execute):
    shown = execute("05_from_here_to_parasail.ipynb")
    cost = shown.text("cost")
    assert "parasail" in cost.lower()
    assert "$" in cost
    assert "A customer wrote about the kettle" in cost
    mistakes = shown.text("mistakes")
    assert re.search(r"^line 2 .*top_k", mistakes, re.MULTILINE)
    assert re.search(r"^line 4 .*refused: .*custom_id", mistakes, re.MULTILINE)
    assert "refused" not in shown.text("check").partition("\n")[0]
    here = shown.text("here").splitlines()
    assert here[1] == "completed BatchRequestCounts(completed=4, failed=0, total=4)"
    assert sorted(line.split(" ", 1)[0] for line in here[2:] if line.startswith("row-")) == [
        f"row-{number}" for number in range(4)
    ]
    target = shown.text("target")
    assert target.startswith("UsageError: The key for parasail is not there: ")
    assert "PARASAIL_API_KEY" in target


def last(text: str) -> str:
    return text.splitlines()[-1]
