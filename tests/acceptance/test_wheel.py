"""The wheel, by itself, in an empty environment: no engine, no tools, none of this checkout on the path."""

from __future__ import annotations

import re
import zipfile
from pathlib import Path

import pytest

from tests.acceptance.wheel import ROOT, VERSIONS, call

# What importing the package must leave alone: each costs a good part of a second, vllm and torch ten.
HEAVY = ("IPython", "jinja2", "openai", "pandas", "pydantic", "torch", "vllm")


@pytest.fixture(scope="module", autouse=True)
def no_environment_is_left(wheel):
    yield
    wheel.close()


def in_environment(version, wheel):
    if version not in wheel.pythons:
        pytest.skip(f"Python {version} is not on this machine")
    return wheel.pythons[version].result()


def test_the_wheel_carries_its_licence_its_type_marker_and_its_entry_point_and_nothing_beside_the_package(wheel):
    file = wheel.file.result()
    assert file.name == "vbatch_jupyter-0.1.0-py3-none-any.whl"
    with zipfile.ZipFile(file) as archive:
        names = archive.namelist()
        licence = archive.read("vbatch_jupyter-0.1.0.dist-info/licenses/LICENSE").decode()
        metadata = archive.read("vbatch_jupyter-0.1.0.dist-info/METADATA").decode()

    assert licence == (ROOT / "LICENSE").read_text()
    assert "Apache License" in licence
    assert "\nLicense-Expression: Apache-2.0\n" in metadata
    assert "vbatch_jupyter/py.typed" in names
    assert "vbatch_jupyter/store/schema.sql" in names
    top = {"vbatch_jupyter", "vbatch_jupyter-0.1.0.dist-info", "vbatch_jupyter-0.1.0.data"}
    assert {name.partition("/")[0] for name in names} == top
    # Installing it enables the server extension and the JupyterLab panel, and adds nothing else to the environment.
    data = "vbatch_jupyter-0.1.0.data/data/"
    etc = f"{data}etc/jupyter/jupyter_server_config.d/vbatch_jupyter.json"
    panel = f"{data}share/jupyter/labextensions/vbatch-jupyter/"
    assert [name for name in names if ".data/" in name and not name.startswith(panel)] == [etc]
    assert {f"{panel}package.json", f"{panel}install.json", f"{panel}schemas/vbatch-jupyter/plugin.json"} <= set(names)
    assert any(name.startswith(f"{panel}static/remoteEntry.") for name in names)
    assert not [name for name in names if name.endswith((".map", ".ts", ".tsx"))]


@pytest.mark.timeout(900)
def test_jupyterlab_finds_the_panel_enabled_by_nothing_but_the_installation(wheel):
    python = in_environment("3.11", wheel)
    # No Node on the path. The list goes where a log goes.
    command = f"exec '{python}' -m jupyter labextension list 2>&1"
    listed = call("/bin/sh", "-c", command, environment={"PATH": str(python.parent)})

    (line,) = [line for line in listed.splitlines() if "vbatch-jupyter" in line]
    assert re.sub("\x1b\\[[0-9;]*m", "", line).split() == [
        *("vbatch-jupyter", "v0.1.0", "enabled", "OK", "(python,", "vbatch-jupyter)")
    ]


@pytest.mark.timeout(600)
@pytest.mark.parametrize("version", VERSIONS)
def test_it_imports_in_under_a_second_without_anything_heavy(version, wheel, tmp_path):
    python = in_environment(version, wheel)
    program = (
        f"import sys, time, vbatch_jupyter\nprint(sorted(set(sys.modules) & {set(HEAVY)}))\n"
        "print(vbatch_jupyter.__file__)\nprint(time.process_time())"
    )
    # The processor's time, and not the clock's: other tests run meanwhile.
    *_, (loaded, file, _) = runs = [call(python, "-c", program, cwd=tmp_path).splitlines() for _ in range(3)]
    seconds = [float(run[2]) for run in runs]
    assert loaded == "[]"
    assert Path(file).is_relative_to(python.parent.parent)
    assert min(seconds) < 1.0, seconds


@pytest.mark.timeout(900)
@pytest.mark.parametrize("version", VERSIONS)
def test_its_unit_tests_pass_without_an_engine(version, wheel):
    python = in_environment(version, wheel)
    missing = call(python, "-c", "import importlib.util as u; print(u.find_spec('vllm'), u.find_spec('torch'))")
    printed = wheel.unit_tests[version].result()

    assert missing == "None None\n"
    lines = printed.splitlines()
    assert re.match(r"\d+ passed(, \d+ skipped)? in ", lines[-1])
    # pyarrow is there where the repository is tested, and not here: each of the two is tested once.
    assert [line for line in lines if line.startswith("SKIPPED") and "pyarrow" not in line] == []
