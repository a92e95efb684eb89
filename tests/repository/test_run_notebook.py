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
    command = [sys.executable, str(RUNNER), str(path), "--timeout", "100", *options]
    done = subprocess.run(command, capture_output=True, text=True, timeout=240, check=False, stdin=subprocess.DEVNULL)
    assert path.read_bytes() == before
    return done


@pytest.fixture(scope="module")
def finished(tmp_path_factory):
    """Run a notebook to its end, once for all that is said of it; return its folder and what was printed."""
    folder = tmp_path_factory.mktemp("finished")
    # A kernel that is shut down in order runs its atexit; one whose parent is gone does not.
    farewell = f"import atexit, os, pathlib\natexit.register(pathlib.Path({str(folder / 'left')!r}).touch)"
    progress = "for n in (1, 10, 2):\n    print(f'\\r{n} of 10'.ljust(12), end='', flush=True)"
    cells = (
        FRAME,
        ("batch", f"print('batch_0 completed')\n{progress}\nprint('\\rdone       ')\nprint(1)"),
        (None, f"print('not part of the answer')\n{farewell}"),
        ("throughput", "import os, sys\nprint('321 tokens/s')\nprint(sys.prefix, os.getcwd())"),
    )
    return folder, run(folder, *cells, options=("--save", str(folder / "saved.ipynb")))


@pytest.fixture(scope="module")
def stopped(tmp_path_factory):
    """Run a notebook with a cell that raises; return its folder and what was printed."""
    folder = tmp_path_factory.mktemp("stopped")
    return folder, run(
        folder, FRAME, BATCH, (None, "1 / 0"), THROUGHPUT, options=("--save", str(folder / "saved.ipynb"))
    )


def test_what_the_tagged_cells_show_is_printed_in_order(finished):
    _, done = finished
    assert done.returncode == 0, done.stderr
    assert "[2/4] print('batch_0 completed')" in done.stdout
    answer = done.stdout[done.stdout.index("\nThe result frame\n") :]
    assert answer.startswith(
        "\nThe result frame\n----------------\n   text\n0  fine\n"
        "\nThe finished batch\n------------------\nbatch_0 completed\n"
    )
    assert answer.index("\nTokens per second\n-----------------\n321 tokens/s\n") > answer.index("batch_0 completed")
    assert "not part of the answer" not in answer


def test_a_line_that_is_drawn_over_itself_is_shown_as_it_was_last(finished):
    _, done = finished
    assert "\nThe finished batch\n------------------\nbatch_0 completed\ndone\n1\n\nTokens" in done.stdout
    assert "\r" not in done.stdout


def test_the_kernel_warns_of_nothing_and_is_shut_down_before_the_runner_ends(finished):
    folder, done = finished
    # Nothing of a warning about TCP, and nothing of a parent that has exited.
    assert done.stderr == ""
    assert (folder / "left").exists()


def test_the_kernel_is_of_the_interpreter_that_runs_the_notebook_and_works_in_its_folder(finished):
    folder, done = finished
    assert f"{sys.prefix} {folder}\n" in done.stdout


def test_the_notebook_is_saved_with_its_outputs(finished):
    folder, _ = finished
    notebook = nbformat.read(folder / "saved.ipynb", as_version=4)
    assert notebook.cells[2].outputs[0].text.startswith("batch_0 completed\n")
    assert notebook.cells[3].outputs[0].text == "not part of the answer\n"


def test_a_cell_that_raises_fails_the_notebook_and_nothing_is_printed_as_its_answer(stopped):
    _, done = stopped
    assert done.returncode == 1
    assert "ZeroDivisionError: division by zero" in done.stderr
    assert "The result frame" not in done.stdout


def test_the_notebook_is_saved_with_its_outputs_also_where_it_stopped(stopped):
    folder, _ = stopped
    notebook = nbformat.read(folder / "saved.ipynb", as_version=4)
    assert notebook.cells[2].outputs[0].text == "batch_0 completed\n"
    (output,) = notebook.cells[3].outputs
    assert output.ename == "ZeroDivisionError"
    assert notebook.cells[4].outputs == []


def test_a_notebook_that_has_no_frame_to_show_prints_the_rest(tmp_path):
    done = run(tmp_path, BATCH, THROUGHPUT)

    assert done.returncode == 0, done.stderr
    assert "The result frame" not in done.stdout
    assert "\nThe finished batch\n------------------\nbatch_0 completed\n\nTokens" in done.stdout


def test_a_kernel_that_dies_fails_the_notebook(tmp_path):
    done = run(tmp_path, FRAME, BATCH, (None, "import os\nos._exit(3)"), THROUGHPUT)

    assert done.returncode == 1
    assert "Kernel died" in done.stderr


def test_a_cell_that_takes_too_long_fails_the_notebook(tmp_path):
    done = run(tmp_path, BATCH, (None, "import time\ntime.sleep(60)"), THROUGHPUT, options=("--timeout", "2"))

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
