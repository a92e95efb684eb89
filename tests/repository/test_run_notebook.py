"""The notebook runner, on real kernels and small notebooks."""

from __future__ import annotations

import subprocess
import sys
from pathlib import Path

import nbformat
import pytest

RUNNER = Path(__file__).parents[2] / "tools" / "run_notebook.py"

FRAME = ("frame", "import pandas as pd\npd.DataFrame({'text': ['fine']})")
BATCH = ("batch", "print('batch_0 completed')")
THROUGHPUT = ("throughput", "print('321 tokens/s')")


def run(folder, *cells, options=()):
    notebook = nbformat.v4.new_notebook(cells=[nbformat.v4.new_markdown_cell("# A title")])
    for tag, source in cells:
        notebook.cells.append(nbformat.v4.new_code_cell(source, metadata={"tags": [tag]} if tag else {}))
    path = folder / "a.ipynb"
    nbformat.write(notebook, path)
    before = path.read_bytes()
    command = [sys.executable, str(RUNNER), str(path), "--timeout", "20", *options]
    done = subprocess.run(command, capture_output=True, text=True, timeout=120, check=False, stdin=subprocess.DEVNULL)
    assert path.read_bytes() == before
    return done


def test_what_the_tagged_cells_show_is_printed_in_order(tmp_path):
    done = run(tmp_path, FRAME, BATCH, (None, "print('not part of the answer')"), THROUGHPUT)

    assert done.returncode == 0, done.stderr
    assert "[2/4] print('batch_0 completed')" in done.stdout
    answer = done.stdout[done.stdout.index("\nThe result frame\n") :]
    assert answer.startswith(
        "\nThe result frame\n----------------\n   text\n0  fine\n"
        "\nThe finished batch\n------------------\nbatch_0 completed\n"
        "\nTokens per second\n-----------------\n321 tokens/s\n"
    )


def test_a_notebook_that_has_no_frame_to_show_prints_the_rest(tmp_path):
    done = run(tmp_path, BATCH, THROUGHPUT)

    assert done.returncode == 0, done.stderr
    assert "The result frame" not in done.stdout
    assert "\nThe finished batch\n------------------\nbatch_0 completed\n\nTokens" in done.stdout


@pytest.mark.parametrize(("last", "status"), [("print('the end')", 0), ("1 / 0", 1)])
def test_the_notebook_is_saved_with_its_outputs_also_where_it_stopped(tmp_path, last, status):
    saved = tmp_path / "saved.ipynb"
    done = run(tmp_path, BATCH, (None, last), options=("--save", str(saved)))

    assert done.returncode == status
    notebook = nbformat.read(saved, as_version=4)
    assert notebook.cells[1].outputs[0].text == "batch_0 completed\n"
    (output,) = notebook.cells[2].outputs
    assert output.get("text", output.get("ename")) == ("ZeroDivisionError" if status else "the end\n")


def test_a_line_that_is_drawn_over_itself_is_shown_as_it_was_last(tmp_path):
    progress = "for n in (1, 10, 2):\n    print(f'\\r{n} of 10'.ljust(12), end='', flush=True)"
    done = run(tmp_path, FRAME, ("batch", f"print('first')\n{progress}\nprint('\\rdone       ')\nprint(1)"), THROUGHPUT)

    assert "\nThe finished batch\n------------------\nfirst\ndone\n1\n\nTokens" in done.stdout
    assert "\r" not in done.stdout


def test_the_kernel_warns_of_nothing_and_is_shut_down_before_the_runner_ends(tmp_path):
    # A kernel that is shut down in order runs its atexit; one whose parent is gone does not.
    farewell = f"import atexit, os, pathlib\natexit.register(pathlib.Path({str(tmp_path / 'left')!r}).touch)"
    done = run(tmp_path, FRAME, BATCH, (None, farewell), THROUGHPUT)

    assert done.returncode == 0
    # Nothing of a warning about TCP, and nothing of a parent that has exited.
    assert done.stderr == ""
    assert (tmp_path / "left").exists()


def test_the_kernel_is_of_the_interpreter_that_runs_the_notebook_and_works_in_its_folder(tmp_path):
    done = run(tmp_path, FRAME, BATCH, ("throughput", "import os, sys\nprint(sys.prefix, os.getcwd())"))

    assert f"{sys.prefix} {tmp_path}\n" in done.stdout


def test_a_cell_that_raises_fails_the_notebook_and_nothing_is_printed_as_its_answer(tmp_path):
    done = run(tmp_path, FRAME, BATCH, (None, "1 / 0"), THROUGHPUT)

    assert done.returncode == 1
    assert "ZeroDivisionError: division by zero" in done.stderr
    assert "The result frame" not in done.stdout


def test_a_kernel_that_dies_fails_the_notebook(tmp_path):
    done = run(tmp_path, FRAME, BATCH, (None, "import os\nos._exit(3)"), THROUGHPUT)

    assert done.returncode == 1
    assert "Kernel died" in done.stderr


def test_a_cell_that_takes_too_long_fails_the_notebook(tmp_path):
    done = run(tmp_path, BATCH, (None, "import time\ntime.sleep(60)"), THROUGHPUT, options=("--timeout", "3"))

    assert done.returncode == 1
    assert "time.sleep(60)" in done.stderr


@pytest.mark.parametrize(
    ("cells", "sentence"),
    [
        (((None, "print('nobody asked')"),), "has no cell tagged frame, batch, throughput: it has no answer to print."),
        ((FRAME, ("batch", "batch = None"), THROUGHPUT), "shows nothing: batch = None"),
    ],
)
def test_a_notebook_that_does_not_show_what_it_must_has_failed(tmp_path, cells, sentence):
    done = run(tmp_path, *cells)

    assert done.returncode == 1
    assert sentence in done.stderr
