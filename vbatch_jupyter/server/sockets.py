"""Requests to kernels, over the Unix sockets that their rows in the store name."""

from __future__ import annotations

import asyncio
import contextlib
from collections.abc import AsyncIterator, Iterable, Mapping

import httpx

from vbatch_jupyter.records import SECRET_HEADER
from vbatch_jupyter.store import EngineRecord

_CONNECT_SECONDS = 5.0
_WAKE_SECONDS = 2.0


class Sockets:
    """Connections to the kernels of one store, kept open between requests."""

    def __init__(self) -> None:
        self._clients: dict[str, httpx.AsyncClient] = {}
        self._closing: set[asyncio.Task[None]] = set()

    def client(self, record: EngineRecord) -> httpx.AsyncClient:
        """Return the client of a kernel, which carries its secret.

        Parameters
        ----------
        record
            The kernel's row.
        """
        if (client := self._clients.get(record.id)) is None:
            client = self._clients[record.id] = httpx.AsyncClient(
                # Without limits: streams must not keep others waiting for a connection.
                transport=httpx.AsyncHTTPTransport(uds=record.socket, limits=httpx.Limits(max_connections=None)),
                base_url="http://kernel",
                headers={SECRET_HEADER: record.secret},
                # The engine may take any time; proxies of the environment do not apply to a socket.
                timeout=httpx.Timeout(None, connect=_CONNECT_SECONDS),
                trust_env=False,
            )
        return client

    @contextlib.asynccontextmanager
    async def stream(
        self, record: EngineRecord, path: str, body: bytes, headers: Mapping[str, str]
    ) -> AsyncIterator[httpx.Response]:
        """Send a request with a streamed answer; leaving the context early aborts it in the engine.

        Parameters
        ----------
        record
            The kernel's row.
        path, body, headers
            The request; nothing but the secret is added to it.

        Raises
        ------
        httpx.TransportError
            The process does not answer, or ended during the request.
        """
        client = self.client(record)
        request = client.build_request("POST", path, content=body, headers=dict(headers))
        response = await client.send(request, stream=True)
        try:
            yield response
        finally:
            # A client that leaves is seen twice, by a write that fails and by its connection's end. The second one must
            # not break the closing off: the connection to the kernel would stay, and the engine would work on.
            closing = asyncio.ensure_future(response.aclose())
            self._closing.add(closing)
            closing.add_done_callback(self._closing.discard)
            await asyncio.shield(closing)

    async def wake(self, records: Iterable[EngineRecord]) -> None:
        """Make kernels look at the store at once. A kernel that cannot be reached polls anyway.

        Parameters
        ----------
        records
            The kernels' rows.
        """
        await asyncio.gather(*map(self._wake, records))

    async def _wake(self, record: EngineRecord) -> None:
        with contextlib.suppress(httpx.HTTPError):
            await self.client(record).post("/wake", timeout=_WAKE_SECONDS)

    async def forget_all_but(self, records: Iterable[EngineRecord]) -> None:
        """Close the connections to kernels that are gone.

        Parameters
        ----------
        records
            Those that live.
        """
        for id in self._clients.keys() - {record.id for record in records}:  # noqa: A001 - OpenAI's word
            await self._clients.pop(id).aclose()

    async def close(self) -> None:
        """Close all connections."""
        await self.forget_all_but([])
