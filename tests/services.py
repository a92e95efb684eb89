"""A batch service to test with: a real Jupyter server, an echo engine in a process of its own, and faults between."""

from __future__ import annotations

import dataclasses
import os
import re
import signal
import socket
import struct
import subprocess
import sys
import threading
from collections.abc import Callable
from http.server import BaseHTTPRequestHandler, ThreadingHTTPServer
from pathlib import Path
from typing import Self

import httpx

_ECHO_KERNEL = """
import sys, threading
from vbatch_jupyter.engine.echo import EchoEngine
from vbatch_jupyter.session.session import Session
from vbatch_jupyter.store import Store

store = Store(sys.argv[1], floor_bytes=0, reserve_bytes=0)
models = sys.argv[3].split(",")
make_engine = lambda *_, **__: EchoEngine(models, latency_seconds=float(sys.argv[2]), refusing="refuse me")
Session(store, make_engine=make_engine).load("echo")
print("ready", flush=True)
threading.Event().wait()
"""
# Services that know no idempotency keys must not get two batches either.
_DROPPED = {
    "idempotency-key",
    "connection",
    "content-length",
    "host",
    "transfer-encoding",
    "content-encoding",
    "date",
    "server",
}


class EchoKernel:
    """A kernel's process on a store, without Jupyter around it; its engine says back what it is told.

    Parameters
    ----------
    store
        The store's directory.
    latency_seconds
        How long each request takes.
    models
        The names that it serves.
    """

    def __init__(self, store: Path, *, latency_seconds: float = 0.0, models: tuple[str, ...] = ("echo",)) -> None:
        words = [sys.executable, "-c", _ECHO_KERNEL, str(store), str(latency_seconds), ",".join(models)]
        self._process = subprocess.Popen(words, stdout=subprocess.PIPE, text=True)

    def __enter__(self) -> Self:
        assert self._process.stdout is not None
        line = ""
        while line != "ready\n":
            line = self._process.stdout.readline()
            assert line, "the echo kernel did not start"
        return self

    def __exit__(self, *_: object) -> None:
        self._process.send_signal(signal.SIGTERM)
        self._process.communicate(timeout=30)


@dataclasses.dataclass
class Fault:
    """What happens to requests that match, so many times.

    Parameters
    ----------
    match
        Searched in ``"POST /vbatch/v1/batches"``.
    status
        Answered instead of the service; None to break the connection off.
    after
        Whether the service has done what it was asked all the same.
    times
        How often.
    headers
        Of the answer.
    hook
        Called before it happens.
    """

    match: str
    status: int | None = None
    after: bool = False
    times: int = 1
    headers: dict[str, str] = dataclasses.field(default_factory=dict)
    hook: Callable[[], None] = lambda: None


class FaultyProxy:
    """Passes requests on to a server, except for faults.

    Parameters
    ----------
    upstream
        Where to, without a path.

    Attributes
    ----------
    seen
        ``"POST /vbatch/v1/batches"`` and so on, of each request that came.
    faults
        To happen.
    """

    def __init__(self, upstream: str) -> None:
        self.seen: list[str] = []
        self.faults: list[Fault] = []
        self._lock = threading.Lock()
        proxy = self

        class Handler(BaseHTTPRequestHandler):
            protocol_version = "HTTP/1.1"

            def log_message(self, *_: object) -> None:
                pass

            def _pass_on(self) -> None:
                body = self.rfile.read(int(self.headers.get("content-length") or 0))
                fault = proxy._fault(f"{self.command} {self.path}")
                answer = None
                if fault is None or fault.after:
                    headers = {name: value for name, value in self.headers.items() if name.lower() not in _DROPPED}
                    try:
                        answer = httpx.request(
                            self.command, upstream + self.path, content=body, headers=headers, timeout=60
                        )
                    except httpx.TransportError:
                        self._break_off()
                        return
                if fault is not None:
                    fault.hook()
                    if fault.status is None:
                        self._break_off()
                        return
                    message = b'{"error":{"message":"a fault","type":"server_error","param":null,"code":null}}'
                    self._answer(fault.status, fault.headers | {"content-type": "application/json"}, message)
                    return
                assert answer is not None
                self._answer(answer.status_code, dict(answer.headers), answer.content)

            def _answer(self, status: int, headers: dict[str, str], content: bytes) -> None:
                self.send_response(status)
                for name, value in headers.items():
                    if name.lower() not in _DROPPED:
                        self.send_header(name, value)
                self.send_header("content-length", str(len(content)))
                self.end_headers()
                self.wfile.write(content)

            def _break_off(self) -> None:
                # A reset, and not an orderly end.
                self.connection.setsockopt(socket.SOL_SOCKET, socket.SO_LINGER, struct.pack("ii", 1, 0))
                self.connection.close()
                self.close_connection = True

            do_GET = do_POST = do_DELETE = _pass_on  # noqa: N815 - http.server's names

        class Server(ThreadingHTTPServer):
            daemon_threads = True

            def handle_error(self, *_: object) -> None:
                # A client that was killed has left.
                pass

        self._server = Server(("127.0.0.1", 0), Handler)
        self._thread = threading.Thread(target=self._server.serve_forever, args=(0.05,), daemon=True)
        self.url = f"http://127.0.0.1:{self._server.server_address[1]}"

    def _fault(self, request: str) -> Fault | None:
        with self._lock:
            self.seen.append(request)
            for fault in self.faults:
                if fault.times and re.search(fault.match, request):
                    fault.times -= 1
                    return fault
        return None

    def happened(self) -> bool:
        """Whether all faults have happened."""
        return all(fault.times == 0 for fault in self.faults)

    def __enter__(self) -> Self:
        self._thread.start()
        return self

    def __exit__(self, *_: object) -> None:
        self._server.shutdown()
        self._server.server_close()


def end(process: subprocess.Popen[str]) -> None:
    """Kill a process as a crash does."""
    os.kill(process.pid, signal.SIGKILL)
    process.wait()
