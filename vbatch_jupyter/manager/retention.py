"""What of a store is old enough to go, and how much room it takes.

The rule: a batch goes when it ended long enough ago, and so did each retry of it, as their results are one. Its output
and error file go with it, and its input file if no batch that stays was made of it. So does a file for batches of which
none was made for as long. A batch that has not ended stays with its files, and so does every other file.

An answer that was reused since stays: a batch has what it has reused in files of its own.
"""

from __future__ import annotations

import contextlib
import dataclasses
import datetime as dt
import re
from collections.abc import Iterator

from vbatch_jupyter.errors import BadRequestError, ConflictError, NotFoundError
from vbatch_jupyter.protocol.batch import TERMINAL_STATUSES, BatchRecord
from vbatch_jupyter.protocol.file import FileRecord
from vbatch_jupyter.store import Store
from vbatch_jupyter.store.files import SIDECARS

DEFAULT_AGE = "30d"
"""What is old where nobody says it."""

_UNITS = {"m": 60, "h": 3600, "d": 86400, "w": 7 * 86400}
_AGE = re.compile(r"(\d+)([mhdw])")
_PAGE = 1000
_MIB = 1024 * 1024


@dataclasses.dataclass(frozen=True, slots=True)
class Cleaning:
    """What goes.

    Parameters
    ----------
    batches, files
        These.
    bytes
        The room that they take.
    is_done
        Whether they have gone.
    """

    batches: tuple[BatchRecord, ...]
    files: tuple[FileRecord, ...]
    bytes: int
    is_done: bool

    def __str__(self) -> str:
        batches, files = len(self.batches), len(self.files)
        counted = f"{batches:,} batch{'' if batches == 1 else 'es'} and {files:,} file{'' if files == 1 else 's'}"
        what = f"{counted} ({self.bytes / _MIB:,.1f} MiB)"
        return f"{what} were removed." if self.is_done else f"{what} would be removed."


def clean(store: Store, *, older_than_seconds: float, dry_run: bool = False) -> Cleaning:
    """Remove what is old from a store, or only find it.

    Parameters
    ----------
    store
        The store, which may be in use.
    older_than_seconds
        How long ago a batch must have ended.
    dry_run
        Whether nothing is removed.
    """
    now = store.clock()
    batches, files = list(_batches(store)), {file.id: file for file in _files(store)}
    going = _old(batches, now - older_than_seconds)
    staying = [record for record in batches if record.id not in going]
    needed = {id_ for record in staying for id_ in _file_ids(record)}
    of_batches = {id_ for record in batches for id_ in _file_ids(record)}
    unused = {
        file.id
        for file in files.values()
        if file.purpose == "batch" and file.id not in of_batches and file.created_at <= now - older_than_seconds
    }
    ids = ({id_ for id_ in of_batches if id_ in files} - needed) | unused
    found = Cleaning(
        tuple(record for record in batches if record.id in going),
        tuple(files[id_] for id_ in sorted(ids)),
        sum(_bytes(store, id_) for id_ in ids),
        is_done=not dry_run,
    )
    if not dry_run:
        for file in found.files:
            # Deleted by another process, or a batch was made of it meanwhile.
            with contextlib.suppress(NotFoundError, ConflictError):
                store.files.delete(file.id)
        # After their files: a kill in between leaves them to the next time.
        store.batches.remove(record.id for record in found.batches)
        store.answers.prune()
    return found


def lines_of_clean(store: Store, *, older_than: str | None, dry_run: bool) -> Iterator[str]:
    """Clean a store, and return what to print: one line for each batch that goes, and the sum.

    Parameters
    ----------
    store
        The store.
    older_than
        An age, as `seconds_of` reads it; without one nothing is removed.
    dry_run
        Whether nothing is removed.
    """
    seconds = seconds_of(older_than or DEFAULT_AGE)
    found = clean(store, older_than_seconds=seconds, dry_run=dry_run or older_than is None)
    for record in found.batches:
        day = dt.datetime.fromtimestamp(ended_at(record) or 0, tz=dt.UTC).date()
        size = sum(file.bytes for file in found.files if file.id in _file_ids(record))
        yield f"{record.id}  {record.status:<9}  ended {day}  {size / _MIB:,.1f} MiB"
    yield str(found)
    if older_than is None and found.batches:
        yield f"To remove them, add --older-than {DEFAULT_AGE}."


def seconds_of(age: str) -> float:
    """Return the seconds of an age such as ``30d``, ``12h`` or ``2w``.

    Raises
    ------
    BadRequestError
        It is not one.

    Examples
    --------
    >>> seconds_of("2h")
    7200.0
    """
    found = _AGE.fullmatch(age)
    if found is None:
        raise BadRequestError(f"{age!r} is not an age. Write a number and m, h, d or w, such as 30d.")
    return float(int(found[1]) * _UNITS[found[2]])


def ended_at(record: BatchRecord) -> int | None:
    """Return when a batch ended, in Unix seconds; None if it has not."""
    return record.completed_at or record.failed_at or record.expired_at or record.cancelled_at


def _old(batches: list[BatchRecord], before: float) -> set[str]:
    """Return the ids of the batches that are old, and of which no retry is younger."""
    by_id = {record.id: record for record in batches}
    young = set[str]()
    for record in batches:
        at: BatchRecord | None = record
        if record.status in TERMINAL_STATUSES and (ended_at(record) or 0) <= before:
            continue
        while at is not None and at.id not in young:
            young.add(at.id)
            at = by_id.get(at.retry_of or "")
    return by_id.keys() - young


def _file_ids(record: BatchRecord) -> list[str]:
    return [id_ for id_ in (record.input_file_id, record.output_file_id, record.error_file_id) if id_ is not None]


def _bytes(store: Store, file_id: str) -> int:
    """Return how much room a file and its sidecars take."""
    size = 0
    for path in (store.files.path(file_id), *(store.files.sidecar(file_id, kind) for kind in SIDECARS)):
        with contextlib.suppress(FileNotFoundError):
            size += path.stat().st_size
    return size


def _batches(store: Store) -> Iterator[BatchRecord]:
    after = None
    while (page := store.batches.list(after=after, limit=_PAGE)).data:
        yield from page.data
        after = page.last_id


def _files(store: Store) -> Iterator[FileRecord]:
    after = None
    while (page := store.files.list(after=after, limit=_PAGE)).data:
        yield from page.data
        after = page.last_id
