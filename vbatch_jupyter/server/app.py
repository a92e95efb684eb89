"""The extension itself: its configuration, its routes, and what it does while the server runs."""

from __future__ import annotations

import asyncio
import contextlib
from typing import Any

from jupyter_server.extension.application import ExtensionApp
from traitlets import Enum, Float, Unicode

from vbatch_jupyter.protocol.profiles import PROFILES
from vbatch_jupyter.server import batches, health, models
from vbatch_jupyter.server.base import UnknownHandler
from vbatch_jupyter.server.services import SERVICES_KEY, Services
from vbatch_jupyter.store import Store

ROUTES = (*health.ROUTES, *models.ROUTES, *batches.ROUTES, (r"/vbatch/v1/.*", UnknownHandler))
"""Every route, as a pattern below the server's base_url and its handler."""


class VBatch(ExtensionApp):
    """OpenAI's files, batches and online endpoints on the Jupyter server."""

    name = "vbatch"
    load_other_extensions = True

    store_path = Unicode(
        "", help="The store's directory; by default $VBATCH_STORE, or vbatch in Jupyter's data directory."
    ).tag(config=True)
    profile = Enum(
        [name for name in PROFILES if name != "local"],
        "openai",
        help="Whose limits a batch made over HTTP is held to; the default is OpenAI's.",
    ).tag(config=True)
    tend_seconds = Float(
        1.0,
        help="Seconds between two looks at the batches that need no engine, to validate, expire, cancel or end them.",
    ).tag(config=True)

    def initialize_settings(self) -> None:
        """Open the store."""
        self._services = Services(Store(self.store_path or None), profile=self.profile)
        self.settings[SERVICES_KEY] = self._services

    def initialize_handlers(self) -> None:
        """Add the routes."""
        self.handlers.extend(ROUTES)

    async def _start_jupyter_server_extension(self, serverapp: Any) -> None:  # noqa: ARG002 - Jupyter's
        self._tending = asyncio.ensure_future(self._services.tend(every_seconds=self.tend_seconds))

    async def stop_extension(self) -> None:
        """Stop what runs beside the server, and close the store."""
        self._tending.cancel()
        with contextlib.suppress(asyncio.CancelledError):
            await self._tending
        await self._services.close()
