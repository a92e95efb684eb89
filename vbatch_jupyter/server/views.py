"""A batch as the panel shows it: OpenAI's object, and what OpenAI's object has no place for."""

from __future__ import annotations

import dataclasses
import math
import time
from collections.abc import Sequence
from typing import Any

from tornado import web

from vbatch_jupyter.manager.retry import has_unanswered
from vbatch_jupyter.manager.time_left import Pace
from vbatch_jupyter.manager.waiting import counts_text, progress_text, retry_label, why_waiting
from vbatch_jupyter.protocol.batch import BatchRecord
from vbatch_jupyter.server.backend import Backend
from vbatch_jupyter.server.handler import VBatchHandler
from vbatch_jupyter.server.watch import EngineView, EngineWatch

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
        Why it does not advance.
    has_unanswered
        Whether a retry would run a request again.
    notes
        What its requests ask in vain.
    requests_per_second, seconds_left
        How fast it is and how long it will still take, if known; the time in whole seconds.
    """

    record: BatchRecord
    waiting: str | None
    has_unanswered: bool
    notes: Sequence[str] = ()
    requests_per_second: float | None = None
    seconds_left: int | None = None

    def to_json(self) -> dict[str, Any]:
        """Return what an answer has."""
        counts, progress = self.record.request_counts, progress_text(self.record)
        if self.has_unanswered and counts.completed == counts.total:
            # OpenAI counts them as completed.
            progress += ", some answers cannot be used"
        return {
            "batch": self.record.to_openai().model_dump(mode="json"),
            "progress": progress,
            "counts": counts_text(self.record),
            "retry_label": retry_label(self.record),
            "waiting": self.waiting,
            "notes": self.notes,
            "requests_per_second": self.requests_per_second,
            "seconds_left": self.seconds_left,
            "paused": self.record.paused,
            "has_unanswered": self.has_unanswered,
            "retry_of": self.record.retry_of,
            "origin": self.record.origin,
        }


class BatchWatch:
    """What the server reports about batches besides OpenAI's object: why one waits, and how long it will take.

    Parameters
    ----------
    backend
        Has the verbs over the store, which block, as the methods here do.
    watch
        Knows the engines.
    """

    def __init__(self, backend: Backend, watch: EngineWatch) -> None:
        self._backend = backend
        self._watch = watch
        self._paces: dict[str, Pace] = {}

    def view(self, record: BatchRecord) -> BatchView:
        """Return a batch's view, with the pace when it was last read."""
        waiting = why_waiting(record, self._watch.rows)
        unanswered = has_unanswered(self._backend.manager, record)
        notes = self._backend.manager.batches.notes(record)
        pace = self._paces.get(record.id)
        if pace is None or record.status != "in_progress" or waiting is not None:
            return BatchView(record, waiting, unanswered, notes)
        rate, seconds = pace.requests_per_second, pace.seconds_left
        seconds_left = None if seconds is None else math.ceil(seconds)
        return BatchView(record, waiting, unanswered, notes, rate and round(rate, 1), seconds_left)

    def look(self, records: Sequence[BatchRecord], engines: Sequence[EngineView]) -> list[BatchView]:
        """Read all batches that are shown, and return their views."""
        now = time.monotonic()
        running = {record.id: record for record in records if record.status == "in_progress"}
        self._paces = {id_: self._paces.get(id_) or Pace() for id_ in running}
        for id_, record in running.items():
            waits = why_waiting(record, self._watch.rows) is not None
            self._paces[id_].see(record, time=now, running=_running(record, engines), waits=waits)
        return [self.view(record) for record in records]


def _running(record: BatchRecord, engines: Sequence[EngineView]) -> int | None:
    figures = [engine.stats for engine in engines if record.model in engine.models and record.target is None]
    known = [int(stats.get("running", 0)) for stats in figures if stats is not None]
    return sum(known) if known else None


class BatchViewsHandler(VBatchHandler):
    """``/vbatch/batches``."""

    auth_resource = "vbatch_batches"

    @web.authenticated
    async def get(self) -> None:
        """Return a page of all batches, newest first."""
        after, limit = self.get_query_argument("after", None), self.within("limit", 100, MAX_LIMIT)
        await self.backend.watch.look()
        await self.send_from(lambda: self._page(after, limit))

    def _page(self, after: str | None, limit: int) -> dict[str, Any]:
        shown, batches = self.backend.batch_watch, self.backend.store.batches
        page, total = batches.list(after=after, limit=limit), batches.count()
        views = [shown.view(record).to_json() for record in page.data]
        return {"object": "list", "data": views, "total": total, "has_more": page.has_more}


ROUTES = ((r"/vbatch/batches", BatchViewsHandler),)
