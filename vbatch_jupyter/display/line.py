"""One line of text that is updated in place while something runs."""

from __future__ import annotations

import shutil
import sys
import time
from collections.abc import Callable
from typing import TextIO

REDRAW_SECONDS = 0.25

_PLAIN_SECONDS = 10.0


class Line:
    """Draws one line again and again. If the output cannot go back, it prints a new line from time to time.

    Parameters
    ----------
    stream
        Where to; standard output by default.
    clock
        Monotonic seconds.

    Examples
    --------
    >>> line = Line()
    >>> line.end("batch_1a2b… completed 3/3 completed")
    batch_1a2b… completed 3/3 completed
    """

    def __init__(self, stream: TextIO | None = None, *, clock: Callable[[], float] = time.monotonic) -> None:
        self._stream = stream or sys.stdout
        self._clock = clock
        self._width = 0
        self._drawn_at: float | None = None
        # ipykernel's stream says that it is not a terminal, but carriage returns work there too.
        self._goes_back = self._stream.isatty() or type(self._stream).__module__.startswith("ipykernel")

    def draw(self, text: str) -> None:
        """Show a text, unless the last one was shown only a moment ago."""
        now = self._clock()
        pause = REDRAW_SECONDS if self._goes_back else _PLAIN_SECONDS
        if self._drawn_at is not None and now - self._drawn_at < pause:
            return
        self._drawn_at = now
        if self._goes_back:
            if self._stream.isatty():
                # A terminal goes back to the beginning of its last line only.
                text = text[: shutil.get_terminal_size().columns - 1]
            self._put("\r" + text.ljust(self._width))
            self._width = len(text)
        else:
            self._put(text + "\n")

    def end(self, text: str) -> None:
        """Show the last text and leave the line."""
        self._put(("\r" + text.ljust(self._width) if self._width else text) + "\n")
        self._width = 0

    def say(self, sentence: str) -> None:
        """Print a sentence above the line."""
        self._put(("\r" + sentence.ljust(self._width) if self._width else sentence) + "\n")
        self._width = 0
        self._drawn_at = None

    def _put(self, text: str) -> None:
        self._stream.write(text)
        self._stream.flush()
