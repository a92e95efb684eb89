"""Waits for a batch in a cell: shows its progress, and handles interrupts."""

from __future__ import annotations

import contextlib
import functools
import sys
import time
from collections import deque

from vbatch_jupyter.display.line import Line
from vbatch_jupyter.display.progress import Progress
from vbatch_jupyter.errors import ConflictError
from vbatch_jupyter.protocol.batch import BatchRecord
from vbatch_jupyter.session.batch import Batch
from vbatch_jupyter.widgets.frontend import ProgressStyle

_GRACE_SECONDS = 0.5
"""How long an interrupt waits for a second one, or for the kernel's shutdown, before it cancels."""


def follow(batch: Batch, *, style: ProgressStyle, notices: deque[str], cancels: bool = True) -> None:
    """Wait for a batch and show its progress; an interrupt cancels it, a second one only ends the wait.

    Parameters
    ----------
    batch
        The batch.
    style
        How it is shown.
    notices
        The notices of other threads, which are printed above the line.
    cancels
        Whether the first interrupt cancels; False for a batch that another cell has made.

    Raises
    ------
    KeyboardInterrupt
        At the second interrupt, or when the kernel is being shut down; the batch stays as it is.
    """
    # Made when there is something to print: a widget needs no line.
    line = functools.cache(Line)
    live = None if style in ("text", "none") else batch.live()
    progress = Progress(batch.snapshot()) if live is None and style != "none" else None

    def show(now: BatchRecord) -> None:
        while notices:
            line().say(notices.popleft())
        if progress is not None:
            line().draw(progress.see(batch.snapshot(now)).line(with_engine=True))

    try:
        batch.wait(show=show)
    except KeyboardInterrupt:
        if not cancels:
            line().end(f"{batch.id}: no longer followed; it keeps running")
            return
        # Jupyter interrupts before it restarts or shuts a kernel down, and that is not a cancel.
        line().end(f"{batch.id}: interrupted, cancelling (interrupt again to leave it running)")
        _await_shutdown()
        with contextlib.suppress(ConflictError):  # it has ended meanwhile
            batch.cancel()
        batch.wait(show=show)
    except BaseException:
        # A widget continues by itself.
        if progress is not None:
            line().end(repr(batch))
        raise
    if live is not None:
        live.finish()
    elif progress is not None:
        line().end(progress.see(batch.snapshot()).line())


def _await_shutdown() -> None:
    until = time.monotonic() + _GRACE_SECONDS
    while time.monotonic() < until:
        time.sleep(0.02)
        if _is_shutting_down():
            raise KeyboardInterrupt


def _is_shutting_down() -> bool:
    if "ipykernel" not in sys.modules:
        return False
    from IPython import get_ipython

    # ipykernel has no public word for it; it sets this before it leaves its loops.
    kernel = getattr(get_ipython(), "kernel", None)
    return getattr(kernel, "_shutdown_message", None) is not None
