"""A real Jupyter server, with the extension enabled by nothing but its installation."""

from __future__ import annotations

import contextlib
import json
import os
import socket
import subprocess
import sys
import tempfile
import time
from collections.abc import Callable, Mapping
from pathlib import Path
from types import TracebackType
from typing import Any, Literal, Self

import httpx
import openai

TOKEN = "a-token-of-the-tests"


class JupyterServer:
    """One ``jupyter server`` or ``jupyter lab`` process in a folder of its own, with a store of its own.

    Parameters
    ----------
    folder
        Where its store, configuration, log and notebooks are.
    application
        ``"server"``, or the same with JupyterLab at ``lab`` or Notebook 7 at ``tree``.
    config
        Traits of the extension, such as ``{"tend_seconds": 0.1}``.
    server_config
        Traits of other classes by class, such as ``{"ServerApp": {"allow_origin": "*"}}``.
    base_url
        What all its paths begin with.
    environment
        Variables in addition to those of this process.

    Attributes
    ----------
    folder, store, root, token, port
        As above; ``store`` is the store's directory, ``root`` the server's own address with a slash at the end.
    """

    def __init__(
        self,
        folder: Path,
        *,
        application: Literal["server", "lab", "notebook"] = "server",
        config: Mapping[str, Any] | None = None,
        server_config: Mapping[str, Mapping[str, Any]] | None = None,
        base_url: str = "/user/ann/",
        environment: Mapping[str, str] | None = None,
    ) -> None:
        self.folder = folder
        self._application = application
        self.store = folder / "store"
        self.token = TOKEN
        self.port = free_port()
        self.root = f"http://127.0.0.1:{self.port}{base_url}"
        self._log = folder / "server.log"
        self._process: subprocess.Popen[bytes] | None = None
        # The runtime directory holds sockets, whose paths must be short.
        self._runtime = tempfile.TemporaryDirectory(prefix="vb")
        for name in ("config", "data", "notebooks"):
            (folder / name).mkdir(parents=True, exist_ok=True)
        app = {
            "ip": "127.0.0.1",
            "port": self.port,
            "port_retries": 0,
            "base_url": base_url,
            "open_browser": False,
            "allow_root": os.geteuid() == 0,
            "allow_unauthenticated_access": False,
            "root_dir": str(folder / "notebooks"),
        }
        others = dict(server_config or {})
        traits = {**others, "VBatch": dict(config or {}), "ServerApp": {**app, **others.get("ServerApp", {})}}
        (folder / "config" / "jupyter_server_config.json").write_text(json.dumps(traits), encoding="utf-8")
        self._environment = {
            **os.environ,
            "VBATCH_STORE": str(self.store),
            "JUPYTER_TOKEN": self.token,
            "JUPYTER_CONFIG_DIR": str(folder / "config"),
            "JUPYTER_DATA_DIR": str(folder / "data"),
            "JUPYTER_RUNTIME_DIR": self._runtime.name,
            "IPYTHONDIR": str(folder / "ipython"),
            # What a test puts on the path of its own interpreter, such as an authorizer, is on the server's too.
            "PYTHONPATH": os.pathsep.join([str(folder), os.environ.get("PYTHONPATH", "")]).rstrip(os.pathsep),
            **(environment or {}),
        }

    @property
    def url(self) -> str:
        """What a client of OpenAI takes as its base URL."""
        return f"{self.root}vbatch/v1"

    @property
    def pid(self) -> int:
        assert self._process is not None
        return self._process.pid

    def log(self) -> str:
        """Return everything that the process, and those before it, have printed."""
        return self._log.read_text(encoding="utf-8", errors="replace") if self._log.exists() else ""

    def start(self) -> Self:
        """Start the process, and wait until it answers."""
        with self._log.open("ab") as log:
            self._process = subprocess.Popen(
                [sys.executable, "-m", "jupyter", self._application],
                cwd=self.folder,
                env=self._environment,
                stdin=subprocess.DEVNULL,
                stdout=log,
                stderr=subprocess.STDOUT,
            )
        wait_until_up(self._process, f"{self.root}vbatch/healthz", lambda it: it.text == "ok", log=self.log)
        return self

    def stop(self) -> None:
        """End the process as a service manager does; a second call does nothing."""
        if self._process is not None:
            self._process.terminate()
            try:
                self._process.wait(timeout=30)
            except subprocess.TimeoutExpired:
                self.kill()
            self._process = None

    def kill(self) -> None:
        """End the process as a crash does."""
        assert self._process is not None
        self._process.kill()
        self._process.wait()
        self._process = None

    def client(self, **arguments: Any) -> openai.OpenAI:
        """Return the stock client, which does not hide errors by trying again."""
        return openai.OpenAI(**{"base_url": self.url, "api_key": self.token, "max_retries": 0, **arguments})

    def async_client(self, **arguments: Any) -> openai.AsyncOpenAI:
        """Return the stock asynchronous client."""
        return openai.AsyncOpenAI(**{"base_url": self.url, "api_key": self.token, "max_retries": 0, **arguments})

    def http(self, **arguments: Any) -> httpx.Client:
        """Return a plain client with the key, whose paths are below `root`."""
        headers = {"Authorization": f"Bearer {self.token}", **arguments.pop("headers", {})}
        return httpx.Client(**{"base_url": self.root, "headers": headers, "timeout": 60, **arguments})

    def __enter__(self) -> Self:
        return self.start()

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, traceback: TracebackType | None
    ) -> None:
        self.stop()
        self._runtime.cleanup()


def wait_until_up(
    process: subprocess.Popen[bytes],
    url: str,
    is_up: Callable[[httpx.Response], bool] = lambda response: response.status_code == httpx.codes.OK,
    *,
    log: Callable[[], str],
    seconds: float = 120,
) -> None:
    """Wait until a server's process answers as it should; fail with its log where it ends or does not in time."""
    until = time.monotonic() + seconds
    while time.monotonic() < until:
        assert process.poll() is None, f"the server has ended\n{log()}"
        with contextlib.suppress(httpx.TransportError):
            if is_up(httpx.get(url, timeout=5)):
                return
        time.sleep(0.1)
    raise AssertionError(f"the server does not answer\n{log()}")


def free_port() -> int:
    """Return a port of the loopback that nobody has."""
    with socket.socket() as probe:
        probe.bind(("127.0.0.1", 0))
        return int(probe.getsockname()[1])


def assert_strict(kind: type[openai.BaseModel], answer: Mapping[str, Any]) -> None:
    """Hold an answer to one of OpenAI's types: every key is there, none is foreign, and every value is of its type."""
    assert set(answer) == set(kind.model_fields), answer
    kind.model_validate(answer, strict=True)


def assert_envelope(response: httpx.Response, status: int, **expected: object) -> str:
    """Hold an error to OpenAI's envelope; return its message."""
    assert response.status_code == status, response.text
    assert response.headers["content-type"].startswith("application/json")
    assert response.headers["x-request-id"].startswith("req_")
    assert set(response.json()) == {"error"}
    error = response.json()["error"]
    assert set(error) == {"message", "type", "param", "code"}
    assert {name: error[name] for name in expected} == expected, error
    message = error["message"]
    assert isinstance(message, str)
    return message
