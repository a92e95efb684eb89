"""The wheel, by itself, in an empty environment: no engine, no tools, none of this checkout on the path."""

from __future__ import annotations

import os
import re
import shutil
import subprocess
import sys
import time
import zipfile
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path

import pytest

ROOT = Path(__file__).parents[2]

# What importing the package must leave alone: each costs a good part of a second, vllm and torch ten.
HEAVY = ("IPython", "jinja2", "openai", "pandas", "pydantic", "torch", "vllm")


def call(*command, cwd=None, environment=None):
    # No PYTHONPATH, and nothing of the environment that runs this test: only the wheel may answer.
    if environment is None:
        environment = {name: value for name, value in os.environ.items() if not name.startswith("PYTHON")}
    done = subprocess.run(
        [str(part) for part in command],
        cwd=cwd,
        env=environment,
        stdin=subprocess.DEVNULL,
        capture_output=True,
        text=True,
        check=False,
    )
    assert done.returncode == 0, f"{command}\n{done.stdout[-4000:]}\n{done.stderr[-4000:]}"
    return done.stdout


def install(python, *packages):
    """Install from the package index with uv, which takes seconds where pip takes minutes of both cores."""
    pins = [f"--constraint={ROOT / 'requirements' / file}" for file in ("base.txt", "dev.txt")]
    call(sys.executable, "-m", "uv", "pip", "install", "--quiet", f"--python={python}", *pins, *packages)


def interpreter(version):
    """Find a CPython of that version that starts; None where this machine has none."""
    candidates = [Path(sys.executable)] if version == f"3.{sys.version_info[1]}" else []
    named = shutil.which(f"python{version}")
    candidates += [Path(named)] if named else []
    candidates += sorted((Path.home() / ".pyenv" / "versions").glob(f"{version}.*/bin/python"))
    for candidate in candidates:
        # A pyenv shim may be there and name nothing.
        started = subprocess.run([candidate, "-c", "import venv"], capture_output=True, check=False)
        if started.returncode == 0:
            return candidate
    return None


@pytest.fixture(scope="module")
def wheel(tmp_path_factory):
    folder = tmp_path_factory.mktemp("dist")
    options = ("--quiet", "--no-deps", "--no-build-isolation", "--wheel-dir", folder)
    call(sys.executable, "-m", "pip", "wheel", *options, ROOT)
    (built,) = folder.glob("*.whl")
    return built


VERSIONS = ("3.11", "3.12", "3.13")


@pytest.fixture(scope="module")
def pythons(wheel, tmp_path_factory):
    """Return the interpreters of environments that hold the wheel and what it asks for, and what its tests need."""

    def make(version):
        folder = tmp_path_factory.mktemp(f"python{version}")
        inside = folder / "bin" / "python"
        call(sys.executable, "-m", "uv", "venv", "--quiet", f"--python={interpreter(version)}", folder)
        install(inside, wheel, "pytest", "pytest-timeout", "hypothesis")
        return inside

    found = [version for version in VERSIONS if interpreter(version)]
    with ThreadPoolExecutor() as threads:
        made = dict(zip(found, threads.map(make, found), strict=True))
    yield made
    for inside in made.values():
        shutil.rmtree(inside.parent.parent)


@pytest.fixture(scope="module")
def unit_test_runs(pythons, tmp_path_factory):
    """Run the unit tests in all environments at once; give what each has printed."""

    def run(version):
        folder = tmp_path_factory.mktemp("unit")
        shutil.copytree(ROOT / "tests", folder / "tests", ignore=shutil.ignore_patterns("__pycache__"))
        shutil.copy(ROOT / "pyproject.toml", folder)
        return call(pythons[version], "-m", "pytest", "-q", "-p", "no:cacheprovider", "tests/unit", cwd=folder)

    with ThreadPoolExecutor() as threads:
        return {version: threads.submit(run, version) for version in pythons}


def in_environment(version, environments):
    if version not in environments:
        pytest.skip(f"Python {version} is not on this machine")
    return environments[version]


def test_the_wheel_carries_its_licence_its_type_marker_and_its_entry_point_and_nothing_beside_the_package(wheel):
    assert wheel.name == "vbatch_jupyter-0.1.0-py3-none-any.whl"
    with zipfile.ZipFile(wheel) as archive:
        names = archive.namelist()
        licence = archive.read("vbatch_jupyter-0.1.0.dist-info/licenses/LICENSE").decode()
        metadata = archive.read("vbatch_jupyter-0.1.0.dist-info/METADATA").decode()
        entry_points = archive.read("vbatch_jupyter-0.1.0.dist-info/entry_points.txt").decode()

    assert licence == (ROOT / "LICENSE").read_text()
    assert "Apache License" in licence
    assert "\nLicense-Expression: Apache-2.0\n" in metadata
    assert "vbatch_jupyter/py.typed" in names
    assert "vbatch_jupyter/store/schema.sql" in names
    assert "[vllm.general_plugins]\nvbatch = vbatch_jupyter.engine.vllm.child:register\n" in entry_points
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
def test_jupyterlab_finds_the_panel_enabled_by_nothing_but_the_installation(pythons):
    python = in_environment("3.11", pythons)
    install(python, "jupyterlab")
    # No Node on the path. The list goes where a log goes.
    command = f"exec '{python}' -m jupyter labextension list 2>&1"
    listed = call("/bin/sh", "-c", command, environment={"PATH": str(python.parent)})

    (line,) = [line for line in listed.splitlines() if "vbatch-jupyter" in line]
    assert re.sub("\x1b\\[[0-9;]*m", "", line).split() == [
        *("vbatch-jupyter", "v0.1.0", "enabled", "OK", "(python,", "vbatch-jupyter)")
    ]


@pytest.mark.timeout(600)
@pytest.mark.parametrize("version", VERSIONS)
def test_it_imports_in_under_a_second_without_anything_heavy(version, pythons, tmp_path):
    python = in_environment(version, pythons)
    program = (
        f"import sys, vbatch_jupyter\nprint(sorted(set(sys.modules) & {set(HEAVY)}))\nprint(vbatch_jupyter.__file__)"
    )
    seconds, printed = [], ""
    for _ in range(3):
        started = time.perf_counter()
        printed = call(python, "-c", program, cwd=tmp_path)
        seconds.append(time.perf_counter() - started)

    loaded, file = printed.splitlines()
    assert loaded == "[]"
    assert Path(file).is_relative_to(python.parent.parent)
    assert min(seconds) < 1.0, seconds


# Last: the unit tests take the whole machine, and the import above is timed.
@pytest.mark.timeout(900)
@pytest.mark.parametrize("version", VERSIONS)
def test_its_unit_tests_pass_without_an_engine(version, pythons, unit_test_runs):
    python = in_environment(version, pythons)
    missing = call(python, "-c", "import importlib.util as u; print(u.find_spec('vllm'), u.find_spec('torch'))")
    printed = unit_test_runs[version].result()

    assert missing == "None None\n"
    assert " passed in " in printed
    assert "failed" not in printed
