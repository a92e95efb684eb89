"""A batch as the panel shows it: OpenAI's object, and what OpenAI's object has no place for."""

from __future__ import annotations

import dataclasses
from collections.abc import Collection, Iterable, Mapping
from typing import Any, Self

from tornado import web

from vbatch_jupyter.manager.lifecycle import why_waiting
from vbatch_jupyter.protocol.batch import BatchRecord
from vbatch_jupyter.server.handler import VBatchHandler
from vbatch_jupyter.server.watch import WATCH_KEY, EngineView, EngineWatch

MAX_LIMIT = 1000
"""The most batches of a page."""


@dataclasses.dataclass(frozen=True, slots=True)
class BatchView:
    """A batch as it is shown.

    Parameters
    ----------
    record
        The batch.
    waiting
        Why it is not advancing.
    """

    record: BatchRecord
    waiting: str | None

    @classmethod
    def of(cls, record: BatchRecord, *, served: Collection[str], notes: Mapping[str, str]) -> Self:
        """Return a batch's view; the parameters are those of `why_waiting`."""
        return cls(record, why_waiting(record, served=served, notes=notes))

    def to_json(self) -> dict[str, Any]:
        """Return what an answer has."""
        return {
            "batch": self.record.to_openai().model_dump(mode="json"),
            "waiting": self.waiting,
            "paused": self.record.paused,
            "origin": self.record.origin,
        }


def served_by(engines: Iterable[EngineView]) -> set[str]:
    """Return the models that engines hold.

    Examples
    --------
    >>> sorted(served_by([EngineView("1", None, ("a", "b"), "ready"), EngineView("2", None, ("c",), "loading")]))
    ['a', 'b']
    """
    return {model for engine in engines if engine.state == "ready" for model in engine.models}


class BatchViewsHandler(VBatchHandler):
    """``/vbatch/batches``."""

    auth_resource = "vbatch_batches"

    @web.authenticated
    async def get(self) -> None:
        """Return a page of all batches, newest first."""
        after, limit = self.get_query_argument("after", None), self.within("limit", 100, MAX_LIMIT)
        watch: EngineWatch = self.settings[WATCH_KEY]
        served = served_by(await watch.look())
        self.send(await self.services.call(lambda: self._page(after, limit, served)))

    def _page(self, after: str | None, limit: int, served: Collection[str]) -> dict[str, Any]:
        watch: EngineWatch = self.settings[WATCH_KEY]
        batches = self.services.store.batches
        page, total = batches.list(after=after, limit=limit), batches.count()
        views = [BatchView.of(record, served=served, notes=watch.notes).to_json() for record in page.data]
        return {"object": "list", "data": views, "total": total, "has_more": page.has_more}


ROUTES = ((r"/vbatch/batches", BatchViewsHandler),)
