"""What vLLM's own processes do for us: end with the kernel, and write to the engine's log only.

vLLM calls `register` in every process it starts, through the entry point group ``vllm.general_plugins``. It does
nothing in processes that `vllm_engine` did not start.
"""

from __future__ import annotations

import contextlib
import multiprocessing
import os
import signal
import sys
import threading
from multiprocessing import connection
from multiprocessing.process import BaseProcess

LOG_VARIABLE = "VBATCH_ENGINE_LOG"
"""Set for the time in which `vllm_engine` starts vLLM's processes: the path of the engine's log."""

_GRACE_SECONDS = 5
"""The core has it after the kernel's end, and the worker after the core's: 15 s is what both may take together."""


def register() -> None:
    """Tie this process to its parent and its output to the engine's log."""
    log_path = os.environ.get(LOG_VARIABLE)
    parent = multiprocessing.parent_process()
    if log_path is None or parent is None:
        return
    _redirect_output(log_path)
    threading.Thread(target=_end_with, args=(parent,), name="vbatch-parent-watch", daemon=True).start()


def _redirect_output(log_path: str) -> None:
    # The inherited descriptors are the kernel's pipe: what is written there appears under whichever cell ran last,
    # and blocks this process while the kernel does not read.
    sys.stdout.flush()
    sys.stderr.flush()
    log = os.open(log_path, os.O_WRONLY | os.O_APPEND | os.O_CREAT, 0o600)
    os.dup2(log, 1)
    os.dup2(log, 2)
    os.close(log)


def _end_with(parent: BaseProcess) -> None:
    # vLLM's engine core does not notice that its parent was killed and would keep the device's memory. A death signal
    # (PR_SET_PDEATHSIG) does not help: it is tied to the thread that started us, not to the process.
    _await_end(parent)
    os.kill(os.getpid(), signal.SIGTERM)
    threading.Event().wait(_GRACE_SECONDS)
    os.kill(os.getpid(), signal.SIGKILL)


def _await_end(parent: BaseProcess) -> None:
    # The sentinel is a pipe, whose other end is open as long as a child lives that the kernel has forked, such as a
    # worker of a multiprocessing.Pool. The process itself is waited for, where Linux can (5.3, and not forbidden).
    with contextlib.suppress(OSError):
        process = os.pidfd_open(parent.pid or 0)
        # If the parent has ended already, its number may be another process's by now.
        if os.getppid() == parent.pid:
            connection.wait([process])
            return
    connection.wait([parent.sentinel])
