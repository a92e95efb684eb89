"""What other processes see of this process: its row among the store's engines, and its socket."""

from __future__ import annotations

import contextlib
import os
import re
import sys
import threading
from collections.abc import Callable, Sequence
from pathlib import Path

from vbatch_jupyter.engine.listener import Listener, Verbs
from vbatch_jupyter.engine.thread import EngineThread
from vbatch_jupyter.errors import StoreError
from vbatch_jupyter.loop import Loop, in_thread
from vbatch_jupyter.records import NAME_VARIABLE, EngineState
from vbatch_jupyter.store import Store

_WATCH_SECONDS = 0.1


class Presence:
    """The registration of one process, kept true until it is closed.

    Parameters
    ----------
    store
        Where it is registered.
    thread
        Where the socket is served and the engine's state is watched.
    socket_path
        Of `listener.make_socket_path`.
    verbs
        What may be asked over the socket.
    describe
        Returns the engine's state and served names; cheap, and safe from any thread.
    say
        Called with a sentence when the state cannot be written.

    Attributes
    ----------
    loop
        Watches the engine's state.
    """

    def __init__(
        self,
        store: Store,
        thread: EngineThread,
        socket_path: Path,
        verbs: Verbs,
        *,
        describe: Callable[[], tuple[EngineState, Sequence[str]]],
        say: Callable[[str], object] | None = None,
    ) -> None:
        self._store = store
        self._thread = thread
        self._describe = describe
        self._name = os.environ.get(NAME_VARIABLE) or None
        self._publishing = threading.Lock()
        self._published: tuple[EngineState, tuple[str, ...]] = ("unloaded", ())
        self.record = store.engines.register(kernel_id=_kernel_id(), name=self._name, socket=str(socket_path))
        self._listener = thread.call(self._listen(socket_path, verbs))
        self.loop = Loop("presence", say=say)
        thread.submit(self.loop.run(self._watch, every=_WATCH_SECONDS))

    async def _listen(self, path: Path, verbs: Verbs) -> Listener:
        return Listener(path, secret=self.record.secret, verbs=verbs)

    async def _watch(self) -> None:
        # An engine does not tell anyone when it dies or is rebuilt.
        if self._seen() != self._published:
            await in_thread(self._publish)

    def _seen(self) -> tuple[EngineState, tuple[str, ...]]:
        state, models = self._describe()
        return state, tuple(models)

    def publish(self) -> None:
        """Write the engine's state into the store, if it has changed."""
        # A store that is busy or full now is written to at the next look.
        with contextlib.suppress(StoreError, OSError):
            self._publish()

    def _publish(self) -> None:
        with self._publishing:
            seen = self._seen()
            if seen == self._published:
                return
            state, models = seen
            name = None if self._name or not models else models[0]
            self._store.engines.update(self.record.id, state=state, models=models, name=name)
            self._published = seen

    def close(self, timeout: float) -> None:
        """Remove the process from the store, and stop listening.

        Parameters
        ----------
        timeout
            Seconds.
        """
        self._thread.call(self.loop.stop(), timeout=timeout)
        self._thread.call(self._listener.close(), timeout=timeout)
        # If that cannot be written, the next sweep does it: this process will be gone.
        with contextlib.suppress(StoreError):
            self._store.engines.remove(self.record.id)


def _kernel_id() -> str | None:
    """Return Jupyter's id of this kernel, which is in the name of its connection file."""
    application = getattr(sys.modules.get("ipykernel.kernelapp"), "IPKernelApp", None)
    if application is None or not application.initialized():
        return None
    match = re.fullmatch(r"kernel-(.+)\.json", Path(application.instance().connection_file).name)
    return None if match is None else match[1]
