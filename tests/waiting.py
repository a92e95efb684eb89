"""Waiting in a test for what another process does."""

from __future__ import annotations

import time
from collections.abc import Callable
from typing import Any


def wait_for(
    condition: Callable[[], Any], seconds: float = 60, *, pause: Callable[[], object] = lambda: time.sleep(0.02)
) -> Any:
    """Wait until a condition holds, and give what it gave; fail where it does not in time."""
    until = time.monotonic() + seconds
    while time.monotonic() < until:
        if found := condition():
            return found
        pause()
    raise AssertionError(f"not so within {seconds} s: {condition}")
