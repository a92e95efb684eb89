"""The batches of a store as a table, in text and in HTML."""

from __future__ import annotations

import datetime as dt
import html
from collections.abc import Iterator, Sequence

from vbatch_jupyter.display import drawing
from vbatch_jupyter.manager.waiting import progress_text
from vbatch_jupyter.protocol.batch import BatchRecord

_HEADER = ("id", "status", "requests", "model", "endpoint", "created", "ended", "note")
_SHOWN_CHARACTERS = 120


class BatchList:
    """Batches, newest first; it draws itself, and is a sequence of their records.

    Parameters
    ----------
    records
        The batches to show.
    waiting
        Why each of them does not advance; None if it advances.
    left_out
        How many older ones there are.
    """

    def __init__(self, records: Sequence[BatchRecord], waiting: Sequence[str | None], *, left_out: int = 0) -> None:
        self.records = tuple(records)
        self.waiting = tuple(waiting)
        self.left_out = left_out

    def __len__(self) -> int:
        return len(self.records)

    def __getitem__(self, position: int) -> BatchRecord:
        return self.records[position]

    def __iter__(self) -> Iterator[BatchRecord]:
        return iter(self.records)

    def __repr__(self) -> str:
        if not self.records:
            return "There are no batches in the store yet."
        rows = [_HEADER, *map(_cells, self.records, self.waiting)]
        widths = [max(len(row[column]) for row in rows) for column in range(len(_HEADER))]
        lines = ["  ".join(cell.ljust(width) for cell, width in zip(row, widths, strict=True)).rstrip() for row in rows]
        return "\n".join([*lines, *self._rest()])

    def _repr_html_(self) -> str:
        if not self.records:
            return drawing.page(f"<p>{html.escape(repr(self))}</p>")
        head = "".join(f"<th style='text-align:left'>{name}</th>" for name in _HEADER)
        body = "".join(
            "<tr>" + "".join(f"<td style='text-align:left'>{html.escape(cell)}</td>" for cell in cells) + "</tr>"
            for cells in map(_cells, self.records, self.waiting)
        )
        rest = "".join(f"<p>{html.escape(line)}</p>" for line in self._rest())
        return drawing.page(f"<table><thead><tr>{head}</tr></thead><tbody>{body}</tbody></table>{rest}")

    def _rest(self) -> Sequence[str]:
        return [f"… and {self.left_out:,} older: %vbatch list --all"] if self.left_out else []


def _cells(record: BatchRecord, waiting: str | None) -> tuple[str, ...]:
    ended = record.completed_at or record.failed_at or record.expired_at or record.cancelled_at
    notes = []
    if record.retry_of is not None:
        notes.append(f"retry of {record.retry_of}")
    if record.target is not None:
        notes.append("at a batch service")
    if waiting is not None:
        notes.append(waiting)
    return (
        record.id,
        record.status,
        progress_text(record),
        record.model or "",
        record.endpoint,
        _moment(record.created_at),
        "" if ended is None else _moment(ended),
        drawing.one_line(" · ".join(notes), most=_SHOWN_CHARACTERS),
    )


def _moment(seconds: float) -> str:
    return f"{dt.datetime.fromtimestamp(seconds, tz=dt.UTC).astimezone():%Y-%m-%d %H:%M}"
