"""A button that puts a text on the clipboard, which no stock widget can."""

from __future__ import annotations

from pathlib import Path

import anywidget
import traitlets


class CopyButton(anywidget.AnyWidget):
    """A button that copies a text.

    Attributes
    ----------
    text
        What is copied.
    """

    _esm = Path(__file__).with_name("copy_button.js")
    text = traitlets.Unicode().tag(sync=True)
