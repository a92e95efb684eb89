"""The Jupyter servers of these tests, each of which is started once, and what is said to them and read behind them.

`server` is one with the default configuration for all modules that ask for no other; a module that needs another has a
fixture of that name. On a shared server a test finds what others have made: it looks at its own files and batches.
"""

from __future__ import annotations

from collections.abc import Callable, Iterator
from typing import TYPE_CHECKING

import pytest

from tests.batches import open_store
from tests.servers import JupyterServer
from vbatch_jupyter.store import Store

if TYPE_CHECKING:
    import httpx
    import openai

NewServer = Callable[..., JupyterServer]


@pytest.fixture(scope="session")
def default_server(tmp_path_factory: pytest.TempPathFactory) -> Iterator[JupyterServer]:
    with JupyterServer(tmp_path_factory.mktemp("default")) as server:
        yield server


@pytest.fixture(scope="session")
def untending_server(tmp_path_factory: pytest.TempPathFactory) -> Iterator[JupyterServer]:
    """Start a server that leaves the batches to the tests, which take their leases."""
    with JupyterServer(tmp_path_factory.mktemp("untending"), config={"tend_seconds": 3600.0}) as server:
        yield server


@pytest.fixture(scope="module")
def server(default_server: JupyterServer) -> JupyterServer:
    return default_server


@pytest.fixture(scope="module")
def client(server: JupyterServer) -> Iterator[openai.OpenAI]:
    with server.client() as client:
        yield client


@pytest.fixture(scope="module")
def http(server: JupyterServer) -> Iterator[httpx.Client]:
    """Open a plain client with the key, whose paths are below the server's own address."""
    with server.http() as http:
        yield http


@pytest.fixture(scope="module")
def openai_http(server: JupyterServer) -> Iterator[httpx.Client]:
    """Open a plain client with the key, whose paths are those of OpenAI's API."""
    with server.http(base_url=server.url) as http:
        yield http


@pytest.fixture(scope="module")
def store(server: JupyterServer) -> Iterator[Store]:
    with open_store(server.store) as store:
        yield store
