"""What vLLM's own processes do for us: end with the kernel, log to the engine's log only, and leave nothing behind.

A process that multiprocessing spawns runs the module of its parent's ``__main__`` before anything else, and while an
engine starts that is this one (`process`). So it holds from the first moment: vLLM's own hook for plug-ins comes after
its imports, which can take half a minute. A worker's parent is the core, whose ``__main__`` is this one, too.
"""

from __future__ import annotations

import argparse
import contextlib
import getpass
import os
import shutil
import signal
import sys
import tempfile
import threading
import time
from collections.abc import Mapping
from multiprocessing import connection
from pathlib import Path

# Set for the time in which `process` starts vLLM's processes. The last is vLLM's own.
_LOG, _KERNEL, _FOLDER = "VBATCH_ENGINE_LOG", "VBATCH_ENGINE_KERNEL", "VLLM_RPC_BASE_PATH"

_ONE_MACHINE = {
    "nnodes": 1,
    "distributed_executor_backend": None,
    "data_parallel_address": None,
    "data_parallel_backend": "mp",
}
"""The arguments of an engine whose processes are all on this machine."""

_GRACE_SECONDS = 5
_LOOK_SECONDS = 0.5
_REMOVALS = 10


def variables(log_path: Path, folder: Path) -> dict[str, str]:
    """Return the variables that a process of vLLM needs.

    Parameters
    ----------
    log_path
        The engine's log.
    folder
        For its sockets and temporary files. The folder that this one is in is the kernel's, and is removed if the
        kernel is killed.
    """
    return {_LOG: str(log_path), _KERNEL: str(os.getpid()), _FOLDER: str(folder)}


def loopback_of(arguments: argparse.Namespace, environment: Mapping[str, str]) -> dict[str, str]:
    """Have the workers of an engine listen on loopback only, unless they are on several machines.

    PyTorch has them listen at the address that the machine's name has, which may be one of the network
    (docs/security.md).

    Parameters
    ----------
    arguments
        The engine's.
    environment
        What has been chosen already.

    Examples
    --------
    >>> loopback_of(argparse.Namespace(nnodes=1), {}), loopback_of(argparse.Namespace(nnodes=2), {})
    ({'GLOO_SOCKET_IFNAME': 'lo'}, {})
    """
    chosen = {name: getattr(arguments, name, default) for name, default in _ONE_MACHINE.items()}
    if chosen in (_ONE_MACHINE, {**_ONE_MACHINE, "distributed_executor_backend": "mp"}):
        return {"GLOO_SOCKET_IFNAME": environment.get("GLOO_SOCKET_IFNAME", "lo")}
    return {}


def register() -> None:
    """Tie this process to the kernel and to its parent, its output to the engine's log, its files to the folder."""
    log_path, kernel = os.environ.get(_LOG), int(os.environ.get(_KERNEL, "0"))
    if log_path is None or kernel == os.getpid():
        return
    _redirect_output(log_path)
    folder = Path(os.environ[_FOLDER])
    # What PyTorch has compiled is for the next engine, too; this is where it would be.
    with contextlib.suppress(KeyError, OSError):  # a user without a name
        os.environ.setdefault("TORCHINDUCTOR_CACHE_DIR", f"{tempfile.gettempdir()}/torchinductor_{getpass.getuser()}")
    tempfile.tempdir = os.environ["TMPDIR"] = str(folder)
    arguments = kernel, os.getppid(), folder.parent
    threading.Thread(target=_end_with, args=arguments, name="vbatch-parent-watch", daemon=True).start()


def _redirect_output(log_path: str) -> None:
    # The inherited descriptors are the kernel's pipe: what is written there appears under whichever cell ran last,
    # and blocks this process while the kernel does not read.
    sys.stdout.flush()
    sys.stderr.flush()
    log = os.open(log_path, os.O_WRONLY | os.O_APPEND | os.O_CREAT, 0o600)
    os.dup2(log, 1)
    os.dup2(log, 2)
    os.close(log)


def _end_with(kernel: int, parent: int, folder: Path) -> None:
    # vLLM's engine core does not notice that its parent was killed and would keep the device's memory. A death signal
    # (PR_SET_PDEATHSIG) does not help: it is tied to the thread that started us, not to the process.
    if _await_end(kernel, parent):
        for _ in range(_REMOVALS):
            # What loads in another thread may make one more file meanwhile.
            shutil.rmtree(folder, ignore_errors=True)
            if not folder.exists():
                break
    os.kill(os.getpid(), signal.SIGTERM)
    threading.Event().wait(_GRACE_SECONDS)
    os.kill(os.getpid(), signal.SIGKILL)


def _await_end(kernel: int, parent: int) -> bool:
    """Wait for the end of the kernel or of the parent; return whether it was the kernel's.

    Not for that of multiprocessing's pipe: its other end is open as long as a child lives that the kernel has forked,
    such as a worker of a multiprocessing.Pool.
    """
    descriptors: list[int] = []
    try:
        descriptors.append(os.pidfd_open(kernel))
        descriptors.append(os.pidfd_open(parent))
    except ProcessLookupError:
        return not descriptors
    except OSError:  # before Linux 5.3, or forbidden
        while os.getppid() == parent:
            time.sleep(_LOOK_SECONDS)
        return parent == kernel
    return descriptors[0] in connection.wait(descriptors)


if __name__ == "__mp_main__":
    from vbatch_jupyter.engine.vllm import child  # noqa: PLW0406 - runpy throws the module away that it has run

    child.register()
