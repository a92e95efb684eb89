"""The wheel, built of this checkout, and environments that hold it and nothing of this checkout."""

from __future__ import annotations

import os
import shutil
import subprocess
import sys
from collections.abc import Callable, Mapping
from concurrent.futures import Future, ThreadPoolExecutor, wait
from pathlib import Path
from typing import Any

ROOT = Path(__file__).parents[2]
VERSIONS = ("3.11", "3.12", "3.13")


# No PYTHONPATH, and nothing of the environment that runs this test: only the wheel may answer. As it was in the
# beginning, for what a test changes is not for the programs that run meanwhile.
ENVIRONMENT = {name: value for name, value in os.environ.items() if not name.startswith("PYTHON")}


def call(*command: object, cwd: Path | None = None, environment: Mapping[str, str] = ENVIRONMENT) -> str:
    """Run a program, and return what it has printed."""
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


def interpreter(version: str) -> Path | None:
    """Find a CPython of that version that starts; None if this machine has none."""
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


class Wheel:
    """The wheel, its environments and the unit tests in them, made during other tests that mostly wait.

    Parameters
    ----------
    new_folder
        Makes an empty folder of a name.
    pool
        Runs the parts in the order in which they come; the later ones wait for the earlier ones.

    Attributes
    ----------
    file
        The wheel.
    pythons
        By version, the interpreter of an environment with the wheel, what it asks for, and what its tests need; the
        first also has JupyterLab. A version that this machine does not have is missing.
    unit_tests
        By version, what the unit tests have printed.
    """

    def __init__(self, new_folder: Callable[[str], Path], pool: ThreadPoolExecutor) -> None:
        self._new_folder = new_folder
        self.file = pool.submit(self._build)
        found = [version for version in VERSIONS if interpreter(version)]
        self.pythons = {version: pool.submit(self._install, version) for version in found}
        self.unit_tests: dict[str, Future[str]] = {
            version: pool.submit(self._run_unit_tests, version) for version in found
        }

    def _build(self) -> Path:
        folder = self._new_folder("dist")
        options = ("--quiet", "--no-deps", "--no-build-isolation", "--wheel-dir", folder)
        call(sys.executable, "-m", "pip", "wheel", *options, ROOT)
        (built,) = folder.glob("*.whl")
        return built

    def _install(self, version: str) -> Path:
        folder = self._new_folder(f"python{version}")
        inside = folder / "bin" / "python"
        # uv takes seconds where pip takes minutes of both cores.
        uv = (sys.executable, "-m", "uv")
        call(*uv, "venv", "--quiet", f"--python={interpreter(version)}", folder)
        pins = [f"--constraint={ROOT / 'requirements' / file}" for file in ("base.txt", "dev.txt")]
        packages = ["pytest", "pytest-timeout", "hypothesis", *(["jupyterlab"] if version == VERSIONS[0] else [])]
        call(*uv, "pip", "install", "--quiet", f"--python={inside}", *pins, self.file.result(), *packages)
        return inside

    def _run_unit_tests(self, version: str) -> str:
        python = self.pythons[version].result()
        folder = self._new_folder("unit")
        shutil.copytree(ROOT / "tests", folder / "tests", ignore=shutil.ignore_patterns("__pycache__"))
        shutil.copy(ROOT / "pyproject.toml", folder)
        return call(python, "-m", "pytest", "-q", "-p", "no:cacheprovider", "tests/unit", cwd=folder)

    def close(self) -> None:
        """Begin with nothing more, wait for what has begun, and remove the environments; a second call does nothing."""
        parts: list[Future[Any]] = [self.file, *self.pythons.values(), *self.unit_tests.values()]
        for part in parts:
            part.cancel()
        wait(parts)
        for inside in self.pythons.values():
            if not inside.cancelled() and inside.exception() is None:
                shutil.rmtree(inside.result().parent.parent, ignore_errors=True)
