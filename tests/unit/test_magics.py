"""``%vbatch`` and ``%%vbatch`` in a real IPython shell, on the echo engine."""

from __future__ import annotations

import json

import pandas as pd
import pytest
from IPython.core.interactiveshell import InteractiveShell

from tests.unit.kernel_surface import open_kernel
from vbatch_jupyter.batch import Batch


class Shell:
    """An IPython shell, and what its cells print."""

    def __init__(self, capsys) -> None:
        self.shell = InteractiveShell()
        self.capsys = capsys
        self.names = self.shell.user_ns
        self.run("%load_ext vbatch_jupyter")

    def run(self, cell: str) -> tuple[str, str, object]:
        self.capsys.readouterr()
        result = self.shell.run_cell(cell)
        printed = self.capsys.readouterr()
        return printed.out, printed.err, result.result


@pytest.fixture
def kernel(tmp_path, monkeypatch):
    kernel = open_kernel(tmp_path, load=False, refusing="refuse me")
    monkeypatch.setattr("vbatch_jupyter.kernel.current", lambda: kernel)
    yield kernel
    kernel.close()


@pytest.fixture
def shell(kernel, capsys):
    shell = Shell(capsys)
    shell.names["df"] = pd.DataFrame({"text": ["a", "refuse me"], "name": ["x", "y"]})
    shell.run("%vbatch load echo")
    return shell


def test_a_cell_sends_a_frame_and_keeps_the_result(shell):
    out, _, value = shell.run("%%vbatch df -o labelled\nSay {{ text }} {not a column}")
    assert value is None
    assert "completed 1/2 completed, 1 failed" in out
    assert shell.names["labelled"]["response"].iloc[0] == "Say a {not a column}"
    assert "refused" in shell.names["labelled"]["error"].iloc[1]
    _, _, value = shell.run("%%vbatch df --sample 1 --custom-id name --output said --max-tokens 3\n{{ text }}")
    assert list(value.columns) == ["text", "name", "said", "said_error"]


def test_a_background_cell_gives_the_batch(shell):
    shell.run("%%vbatch df -b -o batch --system 'Be brief, {text}'\n{{ text }}")
    batch = shell.names["batch"]
    assert isinstance(batch, Batch)
    assert batch.wait(10).request_counts.failed == 1
    with batch._manager.files.content(batch.to_openai().input_file_id) as lines:
        line = lines.readline()
    assert json.loads(line)["body"]["messages"][0] == {"role": "system", "content": "Be brief, {text}"}


def test_the_verbs_show_keep_and_complete_batches(shell, kernel):
    shell.run("%%vbatch df -o out\n{{ text }}")
    (record,) = kernel.batches()
    assert shell.run("%vbatch list")[0] == f"{record.id} completed 1/2 completed, 1 failed\n"
    shown = shell.run("%vbatch show")[0]
    assert f'"id": "{record.id}"' in shown
    assert '"cancelled_at": null' in shown
    assert "row-1" in shown
    assert shell.run("value = %vbatch results")[1] == ""
    assert list(shell.names["value"]["response"].fillna("-")) == ["a", "-"]
    kernel.engine._refusing = None
    shell.run("%vbatch retry -d df -o completed")
    assert list(shell.names["completed"]["response"]) == ["a", "refuse me"]
    assert shell.run(f"%vbatch attach {record.id}")[2].id == record.id
    assert "running                0" in shell.run("%vbatch engine")[0]
    shell.run("%vbatch unload")
    assert kernel.engine is None


@pytest.mark.parametrize(
    ("cell", "sentence"),
    [
        ("%vbatch lode echo", "invalid choice: 'lode'"),
        ("%vbatch results batch_0", "No batch found with id 'batch_0'"),
        ("%vbatch results -o 1x", "-o takes the name of a variable, not '1x'"),
        ("%%vbatch dff\n{{ text }}", "There is no variable 'dff' to take as the DataFrame. Did you mean df?"),
        ("%%vbatch df\n{{ tixt }}", "text"),
        ("%%vbatch df --max-tokenz 3\n{{ text }}", "--max-tokenz"),
        ("%%vbatch df --system 'open\n{{ text }}", "No closing quotation"),
        ("%%vbatch df --body '{\"temprature\": 1}'\n{{ text }}", "temperature"),
    ],
)
def test_a_users_mistake_is_a_sentence_and_no_traceback(shell, cell, sentence):
    shell.run("%%vbatch df -b\n{{ text }}")
    _, err, _ = shell.run(cell)
    assert err.startswith("UsageError: ")
    assert sentence in err
    assert "Traceback" not in err


def test_help_is_printed_for_every_verb(shell):
    assert "usage: %vbatch" in shell.run("%vbatch")[0]
    assert "usage: %vbatch" in shell.run("%vbatch -h")[0]
    assert "--temperature" in shell.run("%%vbatch -h\nx")[0]
    for verb in ("load", "unload", "engine", "list", "show", "attach", "cancel", "results", "retry"):
        assert f"usage: %vbatch {verb}" in shell.run(f"%vbatch {verb} -h")[0]


def test_without_batch_or_engine_a_sentence_says_so(shell):
    shell.run("%vbatch unload")
    assert "There is no batch in the store yet." in shell.run("%vbatch show")[1]
    assert "No engine is loaded in this kernel" in shell.run("%vbatch engine")[1]
    assert "No engine is loaded in this kernel" in shell.run("%%vbatch df\n{{ text }}")[1]
