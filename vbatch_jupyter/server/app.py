"""The extension itself: its configuration, its routes, and what it does while the server runs."""

from __future__ import annotations

import functools
import os
from typing import Any

from jupyter_server.extension.application import ExtensionApp
from traitlets import Bool, Dict, Enum, Float, Int, TraitError, Unicode, validate

from vbatch_jupyter.loop import Attempts, Backoff
from vbatch_jupyter.manager import lifecycle
from vbatch_jupyter.protocol.profiles import PROFILES
from vbatch_jupyter.records import REBUILD_HELP, SILENCE_HELP, Patience
from vbatch_jupyter.server import (
    batches,
    checking,
    engines,
    events,
    file_lines,
    files,
    health,
    models,
    online,
    openapi,
    retries,
    uploads,
    views,
)
from vbatch_jupyter.server.backend import BACKEND_KEY, STORE_WAIT_SECONDS, Backend
from vbatch_jupyter.server.events import Events
from vbatch_jupyter.server.file_lines import LinePages
from vbatch_jupyter.server.handler import UnknownHandler
from vbatch_jupyter.server.kernel_specs import EngineKernelSpecs
from vbatch_jupyter.server.kernels import EngineKernels, arguments_of
from vbatch_jupyter.server.metrics import VBatchCollector
from vbatch_jupyter.server.views import BatchWatch
from vbatch_jupyter.server.watch import EngineWatch
from vbatch_jupyter.store import Store

ROUTES = (
    *health.ROUTES,
    *models.ROUTES,
    *online.ROUTES,
    *files.ROUTES,
    *uploads.ROUTES,
    *batches.ROUTES,
    *retries.ROUTES,
    *views.ROUTES,
    *file_lines.ROUTES,
    *checking.ROUTES,
    *engines.ROUTES,
    *events.ROUTES,
    *openapi.ROUTES,
    (r"/vbatch/.*", UnknownHandler),
)
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
        help="The service whose limits apply to batches made over HTTP; by default OpenAI's.",
    ).tag(config=True)
    strict_models = Bool(
        False,
        help="Whether a batch made over HTTP fails with model_not_found if no engine has its model; by default it "
        "waits for one.",
    ).tag(config=True)
    max_file_bytes = Int(
        512 * 1024**2, help="The largest file that can be uploaded in one piece, in bytes; by default OpenAI's limit."
    ).tag(config=True)
    body_idle_seconds = Float(
        60.0, help="Seconds without a byte of a request's body until the request is refused as too slow."
    ).tag(config=True)
    store_wait_seconds = Float(
        STORE_WAIT_SECONDS,
        help="""Seconds that a request waits until another process lets the store go, before the client is asked to try
        again with status 503; by default 8.""",
    ).tag(config=True)
    tend_seconds = Float(
        1.0,
        help="Seconds between two checks for batches to validate, expire, cancel or end without an engine.",
    ).tag(config=True)

    retry_longest_seconds = Float(
        300.0,
        help="""The longest pause, in seconds, before a batch is tried again that has met an error of the store or of
        the operating system; the first pause is 0.1 s, and each is twice as long as the one before. It also holds in
        the kernels that the server starts, as $VBATCH_RETRY_LONGEST_SECONDS.""",
    ).tag(config=True)
    pause_after_seconds = Float(
        3600.0,
        help="""Seconds for which such an error must have come back until the batch is paused. A full disk, and a store
        that another process holds, pause no batch. It also holds in the kernels that the server starts, as
        $VBATCH_PAUSE_AFTER_SECONDS.""",
    ).tag(config=True)

    max_request_bytes = Int(
        64 * 1024**2, help="The largest body of an online request, in bytes; it includes media."
    ).tag(config=True)

    sweep_seconds = Float(
        lifecycle.SWEEP_SECONDS,
        help="""Seconds between two sweeps of the store. A sweep removes expired files and uploads, and batches whose
        output_expires_after has passed since their end. It never removes a batch that has not ended, or a file
        that such a batch uses.""",
    ).tag(config=True)
    models = Dict(
        key_trait=Unicode(),
        value_trait=Unicode(),
        help="""Models that the server starts when a request or a batch needs them: served names with the
        arguments of `vllm serve`, such as {"small": "ann/small --max-model-len 2048"}.""",
    ).tag(config=True)
    idle_seconds = Float(
        1800.0,
        help="""Seconds without a batch or a request after which the server stops a kernel that it started for a model
        of `models`; 0 means never.""",
    ).tag(config=True)
    load_wait_seconds = Float(
        120.0,
        help="""Seconds that an online request waits until the engine of a model of `models` is started, before the
        client is asked to try again.""",
    ).tag(config=True)

    engine_silence_seconds = Float(Patience().silence_seconds, min=0, help=SILENCE_HELP).tag(config=True)
    engine_rebuild_seconds = Float(Patience().rebuild_seconds, min=0, help=REBUILD_HELP).tag(config=True)

    @validate("models")
    def _valid_models(self, proposal: Any) -> Any:
        for name, text in proposal["value"].items():
            try:
                arguments_of(name, text)
            except ValueError as error:
                raise TraitError(str(error)) from error
        return proposal["value"]

    def initialize_settings(self) -> None:
        """Make what the handlers share; the store is opened when it is first needed, and may be damaged."""
        # Every kernel that the server starts has it, notebooks' too.
        os.environ.update(Patience(self.engine_silence_seconds, self.engine_rebuild_seconds).variables())
        self._backend = Backend(
            functools.partial(Store, self.store_path or None, wait_seconds=self.store_wait_seconds),
            profile=self.profile,
            strict_models=self.strict_models,
            max_file_bytes=self.max_file_bytes,
            idle_seconds=self.body_idle_seconds,
            max_request_bytes=self.max_request_bytes,
            store_wait_seconds=self.store_wait_seconds,
            say=self.log.warning,
            attempts=Attempts(
                Backoff(first=0.1, longest=self.retry_longest_seconds), stays_after_seconds=self.pause_after_seconds
            ),
        )
        for name in ("retry_longest_seconds", "pause_after_seconds"):
            # Kernels inherit the environment, where the variables may also be set by hand.
            if getattr(self, name) != self.traits()[name].default_value:
                os.environ[f"VBATCH_{name.upper()}"] = str(getattr(self, name))
        self.settings[BACKEND_KEY] = backend = self._backend
        backend.watch = EngineWatch(backend)
        backend.batch_watch = BatchWatch(backend, backend.watch)
        backend.events = Events(backend, backend.watch, backend.batch_watch)
        backend.pages = LinePages(backend)
        backend.kernels = self._engine_kernels()
        self._collector = VBatchCollector(backend, backend.watch)

    def _engine_kernels(self) -> EngineKernels:
        assert self.serverapp is not None
        kernel_manager = self.serverapp.kernel_manager
        if self.models and kernel_manager.kernel_spec_manager is not None:
            kernel_manager.kernel_spec_manager = EngineKernelSpecs(kernel_manager.kernel_spec_manager)
        return EngineKernels(
            self._backend,
            self._backend.watch,
            kernel_manager=kernel_manager,
            models=self.models,
            idle_seconds=self.idle_seconds,
            load_wait_seconds=self.load_wait_seconds,
            activity=self.serverapp.web_app.settings["last_activity_times"],
        )

    def initialize_handlers(self) -> None:
        """Add the routes."""
        self.handlers.extend(ROUTES)

    async def _start_jupyter_server_extension(self, serverapp: Any) -> None:  # noqa: ARG002 - Jupyter's
        self._backend.tend(every_seconds=self.tend_seconds, sweep_seconds=self.sweep_seconds)
        self._backend.kernels.start()
        self._collector.start()

    async def stop_extension(self) -> None:
        """Stop the loops of the extension, and close the store."""
        await self._backend.kernels.stop()
        await self._collector.stop()
        await self._backend.events.stop()
        await self._backend.watch.close()
        await self._backend.close()
