"""The kernel that holds an engine of the configuration: this interpreter's, whatever the default kernel is."""

from __future__ import annotations

import sys
from typing import Any

from jupyter_client.kernelspec import KernelSpec, KernelSpecManager

KERNEL_NAME = "vbatch-engine"
"""The name that the kernel has among the running ones."""

_NEVER_SECONDS = 10 * 365 * 24 * 3600
_COMMAND = "import vbatch_jupyter.session.session; vbatch_jupyter.session.session.current()"


class EngineKernelSpecs(KernelSpecManager):
    """The kernels that the server knows, and one more that is not offered to users.

    Parameters
    ----------
    known
        What Jupyter is configured with.
    """

    def __init__(self, known: KernelSpecManager) -> None:
        super().__init__(parent=known.parent)
        self._known = known

    def get_kernel_spec(self, kernel_name: str) -> KernelSpec:
        """Return a kernel's specification."""
        if kernel_name != KERNEL_NAME:
            return self._known.get_kernel_spec(kernel_name)
        return KernelSpec(
            argv=[
                sys.executable,
                "-m",
                "ipykernel_launcher",
                "-f",
                "{connection_file}",
                f"--IPKernelApp.exec_lines={_COMMAND}",
            ],
            display_name="vbatch engine",
            language="python",
            # Its owner ends it; Jupyter takes a kernel without a notebook for idle. (0 would cull it at once.)
            metadata={"cull_idle_timeout": _NEVER_SECONDS},
        )

    def find_kernel_specs(self) -> dict[str, str]:
        """Return the kernels that are offered."""
        return self._known.find_kernel_specs()

    def get_all_specs(self) -> dict[str, Any]:
        """Return the kernels that are offered, with what each is."""
        return self._known.get_all_specs()
