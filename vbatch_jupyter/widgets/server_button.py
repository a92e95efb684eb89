"""A button that asks the Jupyter server for something, and the kernel only if there is no such server.

A stock button's message waits in the kernel until the running cell ends: on ipykernel 7.4 also where JupyterLab sends
it over a subshell. The server answers while the kernel is busy: it sets the batch to ``cancelling`` in the store, where
the runner finds it. The request carries the page's cookie and its XSRF token, or the token that the page was opened
with. If the page is not Jupyter's own (VS Code), or the server does not have this extension or has another store, the
button sends a message to the kernel, which gets it when no cell runs, or only one that awaits.
"""

from __future__ import annotations

from collections.abc import Callable

import anywidget
import traitlets

from vbatch_jupyter.display.javascript import ASK_SERVER


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

    _esm = (
        ASK_SERVER
        + """
  export default {
    render({ model, el }) {
      const button = document.createElement("button");
      button.className = "lm-Widget jupyter-widgets jupyter-button widget-button vbatch-" +
        model.get("label").toLowerCase();
      const draw = () => {
        button.textContent = model.get("label");
        button.disabled = !model.get("is_enabled");
      };
      button.onclick = async () => {
        button.disabled = true;
        const response = await askServer(model.get("path"));
        // A conflict says that the batch has ended already.
        if (!response || !(response.ok || response.status === 409)) model.send({ refused: true });
      };
      model.on("change:label", draw);
      model.on("change:is_enabled", draw);
      draw();
      el.append(button);
    },
  };
"""
    )
    label = traitlets.Unicode().tag(sync=True)
    path = traitlets.Unicode().tag(sync=True)
    is_enabled = traitlets.Bool(True).tag(sync=True)

    def __init__(self, label: str, path: str, *, on_refused: Callable[[], None]) -> None:
        super().__init__(label=label, path=path)
        self.on_msg(lambda *_: on_refused())
