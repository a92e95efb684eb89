"""Whether the server is up, and whether it can take batches."""

from __future__ import annotations

from jupyter_server.auth.decorator import allow_unauthenticated
from jupyter_server.base.handlers import JupyterHandler


class HealthHandler(JupyterHandler):
    """The one route that is open; it says that the process answers, and nothing else."""

    @allow_unauthenticated
    def get(self) -> None:
        """Say ok."""
        self.set_header("Content-Type", "text/plain; charset=utf-8")
        self.finish("ok")


ROUTES = ((r"/vbatch/healthz", HealthHandler),)
