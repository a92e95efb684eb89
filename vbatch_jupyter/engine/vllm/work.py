"""Whether the processes of an engine compute; `engine.silence` says what that means."""

from __future__ import annotations

import contextlib
from collections.abc import Sequence

import psutil

_LEAST_SHARE = 0.05
"""The share of a core that counts as work. Threads that only wait for messages take less (1 % was measured while an
engine's core was stopped); a process that has to share its core with twenty others takes as much."""


class Processes:
    """The processes of an engine on this machine.

    Parameters
    ----------
    pids
        Those that it consists of; what they have started belongs to it. If there are none, as with Ray, whose
        processes may be on other machines, it counts as working.
    """

    def __init__(self, pids: Sequence[int]) -> None:
        self._cores: list[psutil.Process] = []
        for pid in pids:
            with contextlib.suppress(psutil.NoSuchProcess):
                self._cores.append(psutil.Process(pid))
        self._all = self._found()
        self._cpu_seconds = 0.0

    def worked(self, seconds: float) -> bool:
        """Return whether they have computed since this was last true, and none of them is stopped.

        Parameters
        ----------
        seconds
            How long ago that was.
        """
        if not self._cores:
            return True
        if not self._have_worked(seconds):
            # What compiles may be a process that was started meanwhile; to look for it costs more than all the rest.
            self._all = self._found()
            return self._have_worked(seconds)
        return True

    def _found(self) -> list[psutil.Process]:
        found: list[psutil.Process] = []
        for core in self._cores:
            with contextlib.suppress(psutil.NoSuchProcess):
                found += [core, *core.children(recursive=True)]
        return found

    def _have_worked(self, seconds: float) -> bool:
        total, is_stopped = 0.0, False
        for process in self._all:
            with contextlib.suppress(psutil.NoSuchProcess), process.oneshot():
                times = process.cpu_times()
                total += times.user + times.system
                is_stopped |= process.status() in {psutil.STATUS_STOPPED, psutil.STATUS_TRACING_STOP}
        if is_stopped or total - self._cpu_seconds < seconds * _LEAST_SHARE:
            return False
        self._cpu_seconds = total
        return True

    def kill(self) -> None:
        """End them; a process that is stopped takes no other signal."""
        for process in self._found():
            with contextlib.suppress(psutil.NoSuchProcess):
                process.kill()
