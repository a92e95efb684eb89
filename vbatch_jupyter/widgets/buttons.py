"""Widgets that ipywidgets does not have: two buttons, and what is left of a widget without its kernel.

One button asks the Jupyter server, one puts a text on the clipboard.

The first asks the kernel only if there is no such server. A stock button's message waits in the kernel until the
running cell ends: on ipykernel 7.4 also where JupyterLab sends it over a subshell. The server answers while the kernel
is busy: it sets the batch to ``cancelling`` in the store, where the runner finds it. The request carries the page's
cookie and its XSRF token, or the token that the page was opened with. If the page is not Jupyter's own (VS Code), or
the server does not have this extension or has another store, the button sends a message to the kernel, which gets it
when no cell runs, or only one that awaits.
"""

from __future__ import annotations

from collections.abc import Callable
from pathlib import Path

import anywidget
import traitlets

from vbatch_jupyter.display.drawing import ASK_SERVER


class ServerButton(anywidget.AnyWidget):
    """A button for one POST.

    Parameters
    ----------
    label
        Its text.
    path
        The path of the POST, below the server's base URL.
    on_refused
        Called in the kernel if the server did not do it.
    """

    _esm = ASK_SERVER + Path(__file__).with_name("server_button.js").read_text(encoding="utf-8")
    label = traitlets.Unicode().tag(sync=True)
    path = traitlets.Unicode().tag(sync=True)
    is_enabled = traitlets.Bool(True).tag(sync=True)

    def __init__(self, label: str, path: str, *, on_refused: Callable[[], None]) -> None:
        super().__init__(label=label, path=path)
        self.on_msg(lambda *_: on_refused())


class Left(anywidget.AnyWidget):
    """What is shown in place of a box when its kernel has gone; it is in the box, whose class is ``vbatch-box``.

    Attributes
    ----------
    html
        What is shown.
    """

    _esm = Path(__file__).with_name("left.js")
    html = traitlets.Unicode().tag(sync=True)


class CopyButton(anywidget.AnyWidget):
    """A button that copies a text.

    Attributes
    ----------
    text
        What is copied.
    """

    _esm = Path(__file__).with_name("copy_button.js")
    text = traitlets.Unicode().tag(sync=True)
