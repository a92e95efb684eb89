"""The state of the engines of all kernels: their rows in the store, and what each reports over its socket."""

from __future__ import annotations

import asyncio
import dataclasses
from collections.abc import Mapping, Sequence
from typing import Any

import httpx
import msgspec

from vbatch_jupyter.errors import ConflictError
from vbatch_jupyter.records import HOLDS_REQUESTS, EngineState
from vbatch_jupyter.server.backend import Backend
from vbatch_jupyter.server.handler import RefusedError
from vbatch_jupyter.store import EngineRecord

_FIGURES_SECONDS = 1.0
_OK = 200


@dataclasses.dataclass(frozen=True, slots=True)
class EngineView:
    """An engine as it is shown: never its socket or secret.

    Parameters
    ----------
    id, name, models, state, kernel_id, pid
        See `EngineRecord`.
    stats
        Its figures (`vbatch_jupyter.records.EngineStats`); None if it does not tell them in time.
    note
        What the server is doing, or has given up, for an engine that it starts itself.
    is_planned
        Whether the server starts it itself, so that it knows the model.
    """

    id: str
    name: str | None
    models: tuple[str, ...]
    state: EngineState
    kernel_id: str | None = None
    pid: int | None = None
    stats: Mapping[str, Any] | None = None
    note: str | None = None
    is_planned: bool = False

    def to_json(self) -> dict[str, Any]:
        """Return what an answer has."""
        fields = {field.name: getattr(self, field.name) for field in dataclasses.fields(self)}
        return {"object": "engine", **fields}


class EngineWatch:
    """The state of the engines of all kernels, asked over their sockets.

    Parameters
    ----------
    backend
        Give the store.

    Attributes
    ----------
    rows
        The engines at the last look, and those that a Jupyter server would start, as the store has them.
    own_kernels
        The ids of the kernels that this server has started for its engines.
    """

    def __init__(self, backend: Backend) -> None:
        self._backend = backend
        self._looking: asyncio.Task[list[EngineView]] | None = None
        self._kernel_loops: list[dict[str, Any]] = []
        self.rows: Sequence[EngineRecord] = ()
        self.own_kernels: frozenset[str] = frozenset()

    async def look(self) -> list[EngineView]:
        """Return all engines with their figures; callers at the same time share one answer."""
        if self._looking is None or self._looking.done():
            self._looking = asyncio.create_task(self._look())
        return await asyncio.shield(self._looking)

    async def _look(self) -> list[EngineView]:
        self.rows = await self._backend.engines(planned=True)
        records = [row for row in self.rows if row.note is None]
        planned = {row.name: row for row in self.rows if row.note is not None}
        await self._backend.sockets.forget_all_but(records)
        told = await asyncio.gather(*(self._figures(record) for record in records))
        self._kernel_loops = [
            {**loop, "kernel_id": record.kernel_id or record.id}
            for record, (_, loops) in zip(records, told, strict=True)
            for loop in loops
        ]
        views = [
            EngineView(
                id=record.id,
                name=record.name,
                models=record.models,
                state=record.state,
                kernel_id=record.kernel_id,
                pid=record.pid,
                stats=stats,
                note=planned[record.name].note if record.name in planned and self._is_own(record) else None,
                is_planned=self._is_own(record),
            )
            for record, (stats, _) in zip(records, told, strict=True)
        ]
        for name in planned.keys() - {view.name for view in views}:
            row = planned[name]
            id_ = f"planned-{name}"
            views.append(EngineView(id_, name, models=row.models, state=row.state, note=row.note, is_planned=True))
        return views

    def _is_own(self, record: EngineRecord) -> bool:
        # A notebook's engine may have the name of one that the server starts.
        return record.kernel_id in self.own_kernels

    async def _figures(self, record: EngineRecord) -> tuple[Mapping[str, Any] | None, list[dict[str, Any]]]:
        """Return an engine's figures, and the states of the loops of its process."""
        response = await self._get(record, "/stats")
        if response is None:
            return None, []
        stats = msgspec.json.decode(response.content, type=dict[str, Any])
        loops = stats.pop("loops", [])
        return (stats if record.state in HOLDS_REQUESTS else None), loops

    def loops(self) -> list[dict[str, Any]]:
        """Return the states of the server's loops, and of the kernels' loops when they were last read."""
        return [*({**loop.report(), "kernel_id": None} for loop in self._backend.loops), *self._kernel_loops]

    def problems(self) -> list[dict[str, Any]]:
        """Return the problems that loops have now, as they are shown."""
        return [{**loop["problem"], "kernel_id": loop["kernel_id"]} for loop in self.loops() if loop["problem"]]

    async def metrics(self) -> list[tuple[EngineRecord, str]]:
        """Return the engines that report their metrics in time, and those metrics as text."""
        records = [record for record in await self._backend.engines() if record.state == "ready"]
        responses = await asyncio.gather(*(self._get(record, "/metrics") for record in records))
        found = zip(records, responses, strict=True)
        return [(record, response.text) for record, response in found if response is not None]

    async def _get(self, record: EngineRecord, path: str) -> httpx.Response | None:
        if not record.socket:
            return None
        try:
            response = await self._backend.sockets.client(record).get(path, timeout=_FIGURES_SECONDS)
        except httpx.TransportError:
            # Its process has just ended, or is too busy to say.
            return None
        return response if response.status_code == _OK else None

    async def ask(self, record: EngineRecord, path: str, body: object = None) -> httpx.Response:
        """Send a command to an engine, and wait for as long as it takes.

        Parameters
        ----------
        record
            The engine.
        path
            Of the command, such as ``"/load"``.
        body
            Sent as JSON.

        Raises
        ------
        RefusedError
            The engine's process cannot be reached.
        """
        try:
            return await self._backend.sockets.client(record).post(path, content=msgspec.json.encode(body))
        except httpx.TransportError as error:
            message = f"The kernel of engine {record.id} (process {record.pid}) does not answer: {error}."
            raise RefusedError(503, message, type="server_error", code="engine_unreachable") from error

    async def named(self, name: str) -> EngineView:
        """Return one of the engines that the server starts itself, running or not."""
        return next(view for view in await self.look() if view.name == name)

    async def find(self, name: str) -> EngineRecord:
        """Find an engine by its name, one of its models, its id or its kernel's id.

        Parameters
        ----------
        name
            Any of these.

        Raises
        ------
        RefusedError
            No engine has that name.
        ConflictError
            Several are.
        """
        records = await self._backend.engines()
        matches = [record for record in records if name in {record.id, record.kernel_id}]
        matches = matches or [record for record in records if name == record.name]
        matches = matches or [record for record in records if name in record.models]
        if not matches:
            message = f"There is no engine called '{name}'. GET /vbatch/engines lists all engines."
            raise RefusedError(404, message, param="name", code="engine_not_found")
        if len(matches) > 1:
            ids = ", ".join(record.id for record in matches)
            message = f"{len(matches)} engines are called '{name}'. Use an id instead ({ids})."
            raise ConflictError(message, id=name, status=matches[0].state)
        return matches[0]

    async def close(self) -> None:
        """Wait for what is being asked."""
        if self._looking is not None:
            await asyncio.wait({self._looking})
