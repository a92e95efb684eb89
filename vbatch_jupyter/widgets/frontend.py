"""What the front end of this process can show, as far as the kernel knows."""

from __future__ import annotations

import os
import sys
import time
from typing import Literal, get_args

ProgressStyle = Literal["auto", "widget", "text", "none"]
"""How a batch is shown while a cell waits for it; ``"auto"`` is a widget if possible, else a line of text."""

_GRACE_SECONDS = 0.5
"""How long an interrupt waits for a second one, or for the kernel's shutdown, before it cancels."""

PROGRESS_STYLES: tuple[str, ...] = get_args(ProgressStyle)


def draws_widgets(style: ProgressStyle) -> bool:
    """Return whether to show a batch as a widget.

    Parameters
    ----------
    style
        The style that was asked for; outside a kernel no widget can be shown.
    """
    if style not in ("auto", "widget") or _kernel_shell() is None:
        return False
    return style == "widget" or _renders_widgets()


def cell_number() -> int | None:
    """Return the number of the cell that runs; None outside IPython."""
    if "IPython" not in sys.modules:
        return None
    from IPython import get_ipython

    shell = get_ipython()
    return None if shell is None else int(shell.execution_count)


def await_shutdown() -> None:
    """Wait for a moment, and raise KeyboardInterrupt if the kernel is about to end meanwhile."""
    until = time.monotonic() + _GRACE_SECONDS
    while time.monotonic() < until:
        time.sleep(0.02)
        if _is_shutting_down():
            raise KeyboardInterrupt


def _is_shutting_down() -> bool:
    # ipykernel has no public word for it; it sets this before it leaves its loops.
    kernel = getattr(_kernel_shell(), "kernel", None)
    return getattr(kernel, "_shutdown_message", None) is not None


def _kernel_shell() -> object:
    if "ipykernel" not in sys.modules:
        return None
    from IPython import get_ipython

    shell = get_ipython()
    return shell if hasattr(shell, "kernel") else None


def _renders_widgets() -> bool:
    # Colab takes no updates of a widget from another thread.
    if "google.colab" in sys.modules:
        return False
    # A Jupyter server names its sessions so: kernels of nbclient, nbconvert and papermill, and a console's, have none.
    # VS Code starts its kernels itself, and leaves this in the notebook's variables.
    return "JPY_SESSION_NAME" in os.environ or "__vsc_ipynb_file__" in getattr(_kernel_shell(), "user_ns", {})
