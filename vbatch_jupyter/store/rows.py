"""From rows of the database to records, and back; and pages of records."""

from __future__ import annotations

import dataclasses
import json
import sqlite3
from collections.abc import Mapping
from typing import Any, Generic, TypeVar

import msgspec

from vbatch_jupyter.protocol.batch import BatchError, BatchRecord, RequestCounts, Usage
from vbatch_jupyter.protocol.file import FileRecord

RecordT = TypeVar("RecordT", BatchRecord, FileRecord)

UNFINISHED = "status IN ('validating', 'in_progress', 'finalizing', 'cancelling')"
"""The condition for a batch that has not ended, as the index of these batches has it."""

_BATCH_FIELDS = tuple(field.name for field in dataclasses.fields(BatchRecord))
_FILE_FIELDS = tuple(field.name for field in dataclasses.fields(FileRecord))
_BOOLEANS = frozenset({"paused", "careful", "fresh"})


@dataclasses.dataclass(frozen=True, slots=True)
class Page(Generic[RecordT]):
    """One page of a list.

    Parameters
    ----------
    data
        The records, in the order that was asked for.
    has_more
        Whether more follow the last one.
    """

    data: tuple[RecordT, ...]
    has_more: bool

    @property
    def first_id(self) -> str | None:
        """Id of the first record; None on an empty page."""
        return self.data[0].id if self.data else None

    @property
    def last_id(self) -> str | None:
        """Id of the last record, the cursor of the next page; None on an empty page."""
        return self.data[-1].id if self.data else None


def file_from_row(row: sqlite3.Row) -> FileRecord:
    """Build the record of a row of the table ``file``."""
    return FileRecord(**{name: row[name] for name in _FILE_FIELDS})


def batch_from_row(row: sqlite3.Row) -> BatchRecord:
    """Build the record of a row of the table ``batch``."""
    fields: dict[str, Any] = {name: row[name] for name in _BATCH_FIELDS if name != "request_counts"}
    fields["request_counts"] = RequestCounts(row["total"], row["completed"], row["failed"])
    fields["errors"] = tuple(BatchError(**error) for error in json.loads(row["errors"] or "[]"))
    fields["usage"] = None if row["usage"] is None else Usage(**json.loads(row["usage"]))
    fields["metadata"] = None if row["metadata"] is None else json.loads(row["metadata"])
    # An earlier release kept it among the metadata.
    fields["retry_of"] = row["retry_of"] or (fields["metadata"] or {}).get("retry_of")
    fields["models"] = None if row["models"] is None else tuple(json.loads(row["models"]))
    for name in _BOOLEANS:
        fields[name] = bool(row[name])
    return BatchRecord(**fields)


def insert(connection: sqlite3.Connection, table: str, columns: Mapping[str, Any]) -> None:
    """Insert a row, within the caller's transaction."""
    names, marks = ", ".join(columns), ", ".join(f":{name}" for name in columns)
    connection.execute(f"INSERT INTO {table} ({names}) VALUES ({marks})", columns)  # noqa: S608 - our field names


def batch_columns(fields: Mapping[str, Any]) -> dict[str, Any]:
    """Return the columns that fields of a `BatchRecord` are kept in.

    Examples
    --------
    >>> batch_columns({"request_counts": RequestCounts(3, 1, 0), "paused": True})
    {'total': 3, 'completed': 1, 'failed': 0, 'paused': True}
    """
    columns: dict[str, Any] = {}
    for name, value in fields.items():
        if name == "request_counts":
            columns |= dataclasses.asdict(value)
        elif name == "errors":
            columns[name] = json.dumps([dataclasses.asdict(error) for error in value]) if value else None
        elif name == "usage":
            columns[name] = None if value is None else json.dumps(msgspec.structs.asdict(value))
        elif name == "metadata":
            columns[name] = None if value is None else json.dumps(dict(value))
        elif name == "models":
            columns[name] = None if value is None else json.dumps(value)
        elif name in _BATCH_FIELDS:
            columns[name] = value
        else:
            raise TypeError(f"A batch has no field {name!r}.")
    return columns
