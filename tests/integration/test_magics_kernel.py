"""The magics in a real kernel, by what a front end is told and answered; the engine is the echo engine."""

from __future__ import annotations

from collections.abc import Iterator
from pathlib import Path
from queue import Empty
from typing import Any

import pytest

from tests.kernels import NotebookKernel

PREPARE = """
%load_ext vbatch_jupyter
import pandas as pd
import vbatch_jupyter as vb
from vbatch_jupyter.session import session
from vbatch_jupyter.engine.echo import EchoEngine
session.current()._loader._make_engine = lambda *_, **__: EchoEngine(latency_seconds=0.1)
df = pd.DataFrame({"text": ["one two", "three"], "title": ["a", "b"]})
%vbatch load echo
"""


@pytest.fixture(scope="module")
def kernel(tmp_path_factory: pytest.TempPathFactory) -> Iterator[NotebookKernel]:
    kernel = NotebookKernel(tmp_path_factory.mktemp("magics") / "store")
    kernel.run(PREPARE).checked()
    yield kernel
    kernel.close()


def displayed(kernel: NotebookKernel, code: str) -> list[dict[str, Any]]:
    """Return what a cell displays, by mimetype."""
    sent = kernel.start(code)
    shown: list[dict[str, Any]] = []
    while True:
        try:
            message = kernel.client.get_iopub_msg(timeout=60)
        except Empty as error:
            raise AssertionError(f"the cell has not ended: {code}") from error
        if message["parent_header"].get("msg_id") != sent:
            continue
        content = message["content"]
        assert message["msg_type"] != "error", content
        if message["msg_type"] in {"execute_result", "display_data"}:
            shown.append(content["data"])
        if message["msg_type"] == "status" and content["execution_state"] == "idle":
            return shown


def completed(kernel: NotebookKernel, code: str) -> list[str]:
    """Return what Tab makes of a cell at its end."""
    reply = kernel.client.complete(code, reply=True, timeout=60)["content"]
    return [code[: reply["cursor_start"]] + match for match in reply["matches"]]


def test_tab_completes_lines_assignments_cells_and_prompts(kernel: NotebookKernel) -> None:
    assert completed(kernel, "%vbatch exp") == ["%vbatch export"]
    assert completed(kernel, "x = %vbatch resul") == ["x = %vbatch results"]
    assert completed(kernel, "%%vbatch df --dry") == ["%%vbatch df --dry-run"]
    assert completed(kernel, "%%vbatch df\nSay {{ te") == ["%%vbatch df\nSay {{ text"]


def test_a_question_mark_shows_the_grammar(kernel: NotebookKernel) -> None:
    reply = kernel.client.inspect("%vbatch", reply=True, timeout=60)["content"]
    assert "%vbatch export" in reply["data"]["text/plain"]
    assert "--dry-run" in reply["data"]["text/plain"]


def test_a_dry_run_the_list_a_comparison_and_a_plot_are_displayed(kernel: NotebookKernel) -> None:
    (dry,) = displayed(kernel, "%%vbatch df --dry-run --max-tokens 3\n<b>Say</b> {{ text }}")
    assert "5, counted by the engine's tokenizer" in dry["text/plain"]
    assert "&lt;b&gt;Say&lt;/b&gt; one two" in dry["text/html"]
    assert displayed(kernel, "a = vb.submit(df, '{{ text }}').wait()\nb = vb.submit(df, '{{ text }}!').wait()") == []
    (listed,) = displayed(kernel, "%vbatch list")
    assert listed["text/plain"].count("2/2 completed") == 2
    assert "<table>" in listed["text/html"]
    assert displayed(kernel, "%vbatch list;") == []
    (compared,) = displayed(kernel, "vb.compare(a, b)[['a', 'b', 'changed']]")
    assert [line.split() for line in compared["text/plain"].splitlines()] == [
        ["a", "b", "changed"],
        ["0", "one", "two", "one", "two!", "True"],
        ["1", "three", "three!", "True"],
    ]
    (full,) = displayed(kernel, "a.results(full=True)[['finish_reason', 'completion_tokens', 'reused']]")
    assert full["text/plain"].splitlines()[1].split() == ["0", "stop", "2", "False"]
    (plotted,) = displayed(kernel, "a.plot()")
    assert plotted["image/png"]


def test_config_sets_a_default_and_lists_all_of_them(kernel: NotebookKernel) -> None:
    kernel.run("%config VBatchMagics.max_tokens = 7").checked()
    (dry,) = displayed(kernel, "%%vbatch df --dry-run\n{{ text }}")
    assert "at most 14 (7 per request)" in dry["text/plain"]
    assert "VBatchMagics.temperature" in kernel.run("%config VBatchMagics").checked().stdout


def test_a_mistake_is_a_sentence_and_a_bug_has_its_traceback(kernel: NotebookKernel) -> None:
    cell = kernel.run("%vbatch lisst")
    assert cell.error == ""
    assert cell.stderr == "UsageError: Unknown verb 'lisst'. Did you mean list?\n"
    kernel.run("was = session.Session.batches\nsession.Session.batches = lambda self: 1 / 0").checked()
    bug = kernel.run("%vbatch list")
    kernel.run("session.Session.batches = was").checked()
    assert bug.error == "ZeroDivisionError: division by zero"
    assert "lambda self: 1 / 0" in bug.traceback


def test_an_export_is_the_file_that_run_takes(kernel: NotebookKernel, tmp_path: Path) -> None:
    path = tmp_path / "in put.jsonl"
    said = kernel.run(f"%vbatch export df '{path}' -p 'Say {{{{ text }}}}'").checked().stdout
    assert said.startswith(f"Wrote 2 requests to {path}.")
    (out,) = displayed(kernel, f"(out := get_ipython().run_line_magic('vbatch', \"run '{path}'\"))[['response']]")[-1:]
    assert "Say one two" in out["text/plain"]
