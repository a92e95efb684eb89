"""llama.cpp, the engine inside Ollama, as a side of `bench.py`: built once, for the processor that it runs on.

Its sources come in the source distribution of llama-cpp-python, whose own server answers one request at a time; so
llama.cpp's server is built. The weights are those of the demo model, in the very file that its folder is made of.
"""

from __future__ import annotations

import os
import subprocess
import sys
import tarfile
import tempfile
from pathlib import Path

ROOT = Path(__file__).parents[1]
SERVER = ROOT / "build/llama.cpp/llama-server"
ONE_OF = 4
"""It is given each fourth request only: its slots are full with these too, and the rest would take minutes."""

SLOTS = 4
_OPTIONS = {
    "CMAKE_BUILD_TYPE": "Release",
    "BUILD_SHARED_LIBS": "OFF",
    "GGML_NATIVE": "ON",
    "LLAMA_BUILD_EXAMPLES": "OFF",
    "LLAMA_BUILD_TESTS": "OFF",
    "LLAMA_BUILD_UI": "OFF",
    "LLAMA_CURL": "OFF",
    "LLAMA_USE_PREBUILT_UI": "OFF",
}


def weights() -> Path:
    """Find the demo model's weights as GGUF."""
    from vbatch_jupyter.engine.demo_model import CHAT_PACKAGE, package_folder

    return next(package_folder(CHAT_PACKAGE).glob("*.gguf"))


def command(port: int) -> list[str]:
    """Return the command of its server: as many requests at once as in Ollama, the context of each as the engine's."""
    return [
        str(SERVER),
        *("--model", str(weights())),
        *("--parallel", str(SLOTS)),
        *("--ctx-size", str(SLOTS * 2048)),
        *("--host", "127.0.0.1"),
        *("--port", str(port)),
    ]


def system_info() -> str:
    """Return what the server says that it was built for, which it does before it looks for a model."""
    words = [str(SERVER), "--log-verbosity", "4", "--model", "/nonexistent"]
    done = subprocess.run(words, capture_output=True, text=True, check=False)
    return next(line for line in (done.stdout + done.stderr).splitlines() if "system_info" in line)


def prepare() -> None:
    """Build the server, unless it is there; this takes ten minutes on two cores."""
    if SERVER.exists():
        return
    print("Building llama.cpp for this machine, once; this takes ten minutes on two cores ...", file=sys.stderr)
    with tempfile.TemporaryDirectory() as folder:
        _build(Path(folder))


def _build(folder: Path) -> None:
    python = folder / "venv/bin/python"
    pip = [str(python), "-m", "pip", "--quiet"]
    pins = ("--constraint", str(ROOT / "requirements/llama.txt"))
    _run(sys.executable, "-m", "venv", str(folder / "venv"))
    _run(*pip, "install", *pins, "cmake", "ninja")
    package = "llama-cpp-python"
    _run(*pip, "download", *pins, "--no-deps", "--no-binary", package, "--dest", str(folder), package)
    with tarfile.open(next(folder.glob("*.tar.gz"))) as archive:
        archive.extractall(folder / "sources", filter="data")
    sources = next((folder / "sources").glob("*/vendor/llama.cpp"))
    options = [f"-D{name}={value}" for name, value in _OPTIONS.items()]
    cmake = str(folder / "venv/bin/cmake")
    ninja = f"-DCMAKE_MAKE_PROGRAM={folder / 'venv/bin/ninja'}"
    _run(cmake, "-G", "Ninja", ninja, "-S", str(sources), "-B", str(folder / "built"), *options)
    _run(cmake, "--build", str(folder / "built"), "--target", "llama-server")
    SERVER.parent.mkdir(parents=True, exist_ok=True)
    built = folder / "built/bin/llama-server"
    # Whole or not there at all.
    unfinished = SERVER.with_suffix(".new")
    unfinished.write_bytes(built.read_bytes())
    unfinished.chmod(0o755)
    unfinished.rename(SERVER)


def _run(*words: str) -> None:
    done = subprocess.run(words, capture_output=True, text=True, check=False, env={**os.environ, "PYTHONPATH": ""})
    if done.returncode:
        raise SystemExit(f"{' '.join(words)} failed:\n{(done.stdout + done.stderr)[-4000:]}")
