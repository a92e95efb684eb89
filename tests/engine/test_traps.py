"""What goes wrong with an engine inside a kernel, each on a real engine: a tiny model, that loads fast."""

from __future__ import annotations

import json
import os
import subprocess
import sys
import time
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import TYPE_CHECKING, Any

import pytest

from tests.engine.schema_features import FEATURES
from tests.kernels import PROGRAMS, NotebookKernel, is_alive, lines_of
from vbatch_jupyter.store import Store
from vbatch_jupyter.store.fsck import check

if TYPE_CHECKING:
    from tests.behind import Behind

StartKernel = Callable[[Path], NotebookKernel]

# A load takes half a minute on two idle cores, and here ten run during the other tests.
pytestmark = pytest.mark.timeout(1500)

FLAGS = "--max-model-len 512 --kv-cache-memory-bytes 200M --max-num-seqs 64"


def shown(text: str) -> Any:
    return json.loads(text.rpartition("JSON")[2])


@pytest.fixture(scope="module")
def kernel(tmp_path_factory: pytest.TempPathFactory, new_kernel: StartKernel, tiny_model: Path) -> NotebookKernel:
    kernel = new_kernel(tmp_path_factory.mktemp("traps") / "store")
    kernel.run(PROGRAMS).checked()
    return kernel


@pytest.fixture(scope="module")
def programs(
    tmp_path_factory: pytest.TempPathFactory, tiny_model: Path
) -> Iterator[dict[str, tuple[subprocess.Popen[bytes], Path, Path]]]:
    """Start a program from its file and from standard input, with where they print, during other tests."""
    folder = tmp_path_factory.mktemp("programs")
    script = folder / "program.py"
    script.write_text(f"""
import pandas as pd
import vbatch_jupyter as vb
vb.load({str(tiny_model)!r}, max_model_len=512, kv_cache_memory_bytes="200M", served_model_name="tiny")
out = pd.DataFrame({{"n": [1, 2]}}).vbatch.run("Say {{{{ n }}}}", max_tokens=3)
print("ANSWERED", out["error"].isna().tolist(), __name__, __file__)
""")
    started: dict[str, tuple[subprocess.Popen[bytes], Path, Path]] = {}
    for file, argument in ((str(script), str(script)), ("<stdin>", "-")):
        place = folder / f"of-{len(started)}"
        place.mkdir()
        environment = {**os.environ, "VBATCH_STORE": str(place / "store")}
        output, errors = place / "output", place / "errors"
        with script.open() as stdin, output.open("w") as stdout, errors.open("w") as stderr:
            command = [sys.executable, argument]
            process = subprocess.Popen(command, stdin=stdin, stdout=stdout, stderr=stderr, env=environment)
        started[file] = (process, output, errors)
    yield started
    for process, _, _ in started.values():
        process.kill()
        process.wait()


def test_a_load_that_fails_is_one_sentence_and_leaves_the_kernel_usable(
    kernel: NotebookKernel, tiny_model: Path, tmp_path: Path
) -> None:
    kernel.run("import os; before = dict(os.environ)").checked()
    for line, sentence in (
        (f"{tiny_model} --max-modle-len 5", "Did you mean --max-model-len"),
        (f"{tiny_model} --max-num-seqs many", "argument --max-num-seqs: invalid"),
        (f"{tiny_model} --max-model-len 999999", "max_model_len"),
        ("nobody/nothing", "The model 'nobody/nothing' was not found"),
        (str(tmp_path), str(tmp_path)),
    ):
        cell = kernel.run(f"%vbatch load {line}")
        assert sentence in cell.stderr
        assert cell.stderr.startswith("UsageError: ")
        assert "Traceback" not in cell.stderr + cell.traceback
        # Its own progress, and nothing of vLLM's, which says what it refuses with a traceback of its own.
        (told,) = lines_of(cell.stdout)
        assert told.endswith(": not loaded")
    assert shown(kernel.run("show(dict(os.environ) == before)").checked().stdout) is True
    assert kernel.stray == ""
    assert kernel.run("%vbatch engine").stderr.strip() == (
        "UsageError: No engine is loaded in this kernel: run %vbatch load MODEL first."
    )


def test_a_notebook_that_makes_warnings_errors_can_load_an_engine(kernel: NotebookKernel, tiny_model: Path) -> None:
    """Torch 2.13.0 warns of its own deprecations while vLLM 0.32.0 is imported (measured)."""
    kernel.run("import warnings\nkept = warnings.filters[:]\nwarnings.simplefilter('error')").checked()
    cell = kernel.run(f"%vbatch load {tiny_model} --served-model-name tiny {FLAGS}").checked()
    assert lines_of(cell.stdout)[-1].startswith("tiny: ready in ")
    code = "try: warnings.warn('mine')\nexcept UserWarning as error: show(str(error))\nwarnings.filters[:] = kept"
    assert shown(kernel.run(code).checked().stdout) == "mine"


def test_an_engine_refuses_nothing_of_what_is_sent_of_a_schema(kernel: NotebookKernel) -> None:
    """In vLLM 0.32.0, which answers two dozen of these features with 400 or 500 if they are sent unchanged."""
    asked = shown(kernel.run("show(features_asked())").checked().stdout)
    assert asked == {"refused": {}, "asked": len(FEATURES)}


# At SIGTERM vLLM's core aborts what runs, and answers with the words it has: such an answer must not count.
@pytest.mark.parametrize("how", ["SIGTERM", "SIGKILL"])
def test_an_engine_that_is_ended_is_rebuilt_and_the_batch_goes_on(kernel: NotebookKernel, how: str) -> None:
    kernel.run(f"batch = begin_batch('Count to {{{{ n }}}}')\nend_the_engine({how!r})").checked()
    # It says under a cell what has happened meanwhile, and attach is such a cell.
    code = "batch.wait(500)\nvb.attach(batch.id)\nshow([batch.status, batch.request_counts.completed])"
    cell = kernel.run(code, timeout=600).checked()
    assert shown(cell.stdout) == ["completed", 150]
    assert "The engine died. It is being loaded again, and the batch continues." in cell.stdout
    assert shown(kernel.run("show(choices_of(batch))").checked().stdout) == [True, True, True]


def test_an_engine_that_is_unloaded_while_it_is_rebuilt_does_not_come_back(
    kernel: NotebookKernel, tiny_model: Path
) -> None:
    code = "batch = begin_batch('Count from {{ n }}')\nend_the_engine('SIGKILL')\nwait_until_loading()"
    kernel.run(code).checked()
    assert shown(kernel.run("%vbatch unload\nshow(batch.status)").checked().stdout) == "in_progress"
    kernel.run(f"%vbatch load {tiny_model} --served-model-name tiny {FLAGS}").checked()
    code = "batch.wait(500)\nshow([batch.status, batch.request_counts.completed, count_of_engines(at_most=1)])"
    assert shown(kernel.run(code, timeout=600).checked().stdout) == ["completed", 150, 1]


def test_tools_need_a_tool_parser(kernel: NotebookKernel) -> None:
    """VLLM 0.32.0 refuses tools of a chat without a parser, and answers a response without them."""
    function = {"name": "f", "parameters": {"type": "object", "properties": {}}}
    chat = {"model": "tiny", "messages": [{"role": "user", "content": "Hi"}], "max_tokens": 1}
    asked = [
        ("/v1/chat/completions", {**chat, "tools": [{"type": "function", "function": function}]}),
        (
            "/v1/responses",
            {"model": "tiny", "input": "Hi", "max_output_tokens": 1, "tools": [{"type": "function", **function}]},
        ),
    ]
    answers = shown(kernel.run(f"show([*unchecked({asked!r}), limits()[2]])").checked().stdout)
    assert isinstance(answers, list)
    (refused, reason), (answered, _), takes_tools = answers
    assert (refused, answered, takes_tools) == (400, 200, False)
    assert "requires --enable-auto-tool-choice and --tool-call-parser" in reason


def test_a_failing_stats_logger_cannot_kill_the_engine(kernel: NotebookKernel) -> None:
    shows = kernel.run("show(run_with_a_broken_logger())").checked()
    assert shown(shows.stdout) == [True, "ready", True]


def test_an_interrupt_of_a_waiting_cell_cancels_and_keeps_what_is_finished(kernel: NotebookKernel) -> None:
    code = "out = vb.run(pd.DataFrame({'n': range(2000)}), 'Now {{ n }}', max_tokens=100, ignore_eos=True, fresh=True)"
    store_path = kernel.run("show(str(current().store.path))").checked().stdout
    sent = kernel.start(code)
    with Store(Path(str(shown(store_path))), floor_bytes=0, reserve_bytes=0) as store:
        while not any(record.request_counts.completed for record in store.batches.unfinished()):
            time.sleep(0.05)
    kernel.manager.interrupt_kernel()
    kernel.finish(sent).checked()
    assert shown(kernel.run("show(counts_of_newest(out))").checked().stdout) == [
        "cancelled",
        True,
        0,
        2000,
        True,
        ["This request was not executed: the batch was cancelled before it ran."],
        "ready",
    ]


@pytest.mark.usefixtures("programs")
def test_a_killed_kernel_leaves_no_engine_and_its_batch_is_resumed_and_not_asked_again(
    new_kernel: StartKernel, tiny_model: Path, tmp_path: Path
) -> None:
    total, kills = 1000, 5
    load = f"%vbatch load {tiny_model} --served-model-name tiny {FLAGS}"
    frame = f"pd.DataFrame({{'n': range({total})}})"
    submit = f"batch = vb.submit({frame}, 'Say {{{{ n }}}}', max_tokens=40, ignore_eos=True)"
    store_path = tmp_path / "store"
    # The next kernel imports vLLM while the one before it works, and opens the store only when it loads.
    imports = f"import pathlib\nvllm_process.import_vllm(pathlib.Path({str(tmp_path / 'import.log')!r}))"
    prepare = f"{PROGRAMS}\nfrom vbatch_jupyter.engine.vllm import process as vllm_process\n{imports}"
    kernel, spare = new_kernel(store_path), new_kernel(store_path)
    kernel.run(prepare).checked()
    prepared = spare.start(prepare)
    kernel.run(load).checked()
    kernel.run(submit).checked()
    done = 0
    for kill in range(kills):
        spare.finish(prepared).checked()
        with Store(store_path, floor_bytes=0, reserve_bytes=0) as store:
            while (now := store.batches.unfinished()[0].request_counts.completed) < done + 50:
                time.sleep(0.05)
            done = now
        orphans = kernel.engine_processes()
        assert len(orphans) == 2
        os.kill(kernel.pid, 9)
        kernel = spare
        loading = kernel.start(load)
        end = time.monotonic() + 60
        while (alive := [orphan for orphan in orphans if is_alive(orphan)]) and time.monotonic() < end:
            time.sleep(0.05)
        assert alive == []
        if kill < kills - 1:
            spare = new_kernel(store_path)
            prepared = spare.start(prepare)
        loaded = lines_of(kernel.finish(loading).checked().stdout)
        assert loaded[-1].startswith("Resuming batch batch_")
        assert f" of {total:,} requests are answered." in loaded[-1]
    code = f"""
first = vb.attach(next(current().batches()).id).wait(500)
{submit}
reused = batch.results(full=True)["reused"]
show([first.id, first.status, first.request_counts.completed, len(set(first.engine_seeds)), int(reused.sum())])
"""
    told = shown(kernel.run(code, timeout=600).checked().stdout)
    # Each kernel's engine had a seed of its own, and this one is not asked what the others have answered.
    assert told == [told[0], "completed", total, kills + 1, total]
    with Store(tmp_path / "store", floor_bytes=0, reserve_bytes=0) as store:
        record = store.batches.get(told[0])
        assert record.error_file_id is None
        assert record.output_file_id is not None
        with store.files.open(record.output_file_id) as output:
            names = sorted(json.loads(line)["custom_id"] for line in output)
        assert names == sorted(f"row-{n}" for n in range(total))
        assert check(store) == []


def test_loading_works_from_a_program(programs: dict[str, tuple[subprocess.Popen[bytes], Path, Path]]) -> None:
    for file, (process, output, errors) in programs.items():
        assert process.wait(timeout=500) == 0, errors.read_text()
        # Python's own tracker says so where vLLM has ended a slow worker by force, which frees its memory a bit later.
        unexpected = [line for line in errors.read_text().splitlines() if "resource_tracker" not in line]
        assert unexpected == []
        # Once: vLLM's processes do not run the program again.
        answers = [line for line in output.read_text().splitlines() if "ANSWERED" in line]
        assert answers == [f"ANSWERED [True, True] __main__ {file}"]


def test_ten_loads_and_unloads_end_their_processes_and_do_not_pile_up(behind: Behind) -> None:
    figures = shown(behind.ten_loads.result())
    assert isinstance(figures, list)
    # The engine core and its worker.
    assert [started for started, _, _ in figures] == [2] * 10
    assert [alive for _, alive, _ in figures] == [0] * 10
    assert (figures[-1][2] - figures[0][2]) / 2**20 <= 100
