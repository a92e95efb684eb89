"""Checks the store's invariants, and says where they do not hold.

It checks (reference names in parentheses): no request is in both files of a batch or twice in one (I1); every
request of the input file is in one of them (I2); the counts agree with the files (I3); a batch that has ended
has its files, and every file has the size and digest that its row says (I4); there is nothing without a row (I5);
statuses, timestamps and counts agree (I6, which the schema holds as well); and the spools of batches that have not
ended hold what was counted.
"""

from __future__ import annotations

import hashlib
import itertools
import time
from array import array
from collections.abc import Iterator

from vbatch_jupyter.errors import BadRequestError, NotFoundError, StoreBusyError, StoreCorruptError, VBatchError
from vbatch_jupyter.protocol.batch import TERMINAL_STATUSES, BatchRecord, RequestCounts
from vbatch_jupyter.protocol.file import FileRecord
from vbatch_jupyter.protocol.index import LineIndex, hash_of
from vbatch_jupyter.protocol.lines import parse_output_line, parse_request_line, without_mark
from vbatch_jupyter.store.database import file_from_row
from vbatch_jupyter.store.disk import MIB, FileLock
from vbatch_jupyter.store.spool import read_segment, segments
from vbatch_jupyter.store.store import Store
from vbatch_jupyter.store.sweep import Unfinished, orphans

_LOOKS, _LOOK_SECONDS = 10, 0.05
_BLANK = b" \t\r\n"


def check(store: Store) -> list[str]:
    """Check everything in a store; return one sentence for each problem.

    The store may be in use meanwhile; it is only read.

    Parameters
    ----------
    store
        The store.
    """
    return [*_database(store), *_files(store), *_uploads(store), *_leftovers(store), *_batches(store)]


def _database(store: Store) -> Iterator[str]:
    for row in store.database.read("PRAGMA integrity_check"):
        if row[0] != "ok":
            yield f"database: {row[0]}"
    for row in store.database.read("PRAGMA foreign_key_check"):
        yield f"database: row {row['rowid']} of {row['table']} names a {row['parent']} that does not exist"


def _files(store: Store) -> Iterator[str]:
    for row in store.database.read("SELECT * FROM file WHERE deleted_at IS NULL ORDER BY number"):
        record = file_from_row(row)
        if problem := _damage(store, record):
            yield f"file {record.id} ({record.filename!r}): {problem}"


def _damage(store: Store, record: FileRecord) -> str | None:
    digest, size = hashlib.sha256(), 0
    try:
        with store.files.open(record.id) as content:
            while block := content.read(MIB):
                digest.update(block)
                size += len(block)
    except NotFoundError:
        # Deleted since its row was read.
        return None
    except StoreCorruptError:
        return f"its content is missing at {store.files.path(record.id)}"
    except OSError as error:
        return f"its content at {store.files.path(record.id)} cannot be read: {error.strerror}"
    if size != record.bytes:
        return f"it has {size:,} bytes, but its row says {record.bytes:,}"
    if digest.hexdigest() != record.sha256:
        return "its content has changed since it was written: the SHA-256 differs"
    return None


def _uploads(store: Store) -> Iterator[str]:
    for row in store.database.read(
        "SELECT upload_part.* FROM upload_part JOIN upload ON upload.id = upload_id WHERE status = 'pending'"
    ):
        try:
            size = store.uploads.path(row["id"]).stat().st_size
        except FileNotFoundError:
            size = None
        if size != row["bytes"] and store.uploads.get(row["upload_id"]).status == "pending":
            state = "is missing" if size is None else f"has {size:,} bytes"
            yield f"upload {row['upload_id']}: its part {row['id']} {state}, but its row says {row['bytes']:,}"


def _leftovers(store: Store) -> list[str]:
    """Return what stays without a row; what is just being made or deleted is so only for a moment."""
    found = list(_orphans(store))
    for _ in range(_LOOKS):
        if not found:
            break
        time.sleep(_LOOK_SECONDS)
        now = set(_orphans(store))
        found = [path for path in found if path in now]
    return found


def _orphans(store: Store) -> Iterator[str]:
    for owner, place in (
        ("file", store.files),
        ("pending upload", store.uploads),
        ("unfinished batch", store.batches),
        ("engine", store.engines),
        ("process that writes it", Unfinished(store.files.incoming)),
    ):
        for path in orphans(place.directory, place.known):
            yield f"{path}: belongs to no {owner} of the store; the next sweep removes it"


def _batches(store: Store) -> Iterator[str]:
    for row in store.database.read("SELECT id FROM batch ORDER BY number"):
        record = None
        problems: list[str] = []
        # A row that has changed since it was looked at may be about another state of the files.
        while (now := _find(store, row["id"])) != record:
            record = now
            problems = [] if record is None else list(_problems(store, record))
            if not problems:
                break
        yield from problems


def _find(store: Store, batch_id: str) -> BatchRecord | None:
    try:
        return store.batches.get(batch_id)
    except NotFoundError:
        # Its time has passed since the ids were read.
        return None


def _problems(store: Store, record: BatchRecord) -> Iterator[str]:
    try:
        problems = _ended(store, record) if record.status in TERMINAL_STATUSES else _unfinished(store, record)
        for problem in problems:
            yield f"batch {record.id} ({record.status}): {problem}"
    except StoreBusyError:
        # That says nothing about the batch.
        raise
    except (VBatchError, OSError) as error:
        yield f"batch {record.id} ({record.status}): {error}"


def _ended(store: Store, record: BatchRecord) -> Iterator[str]:
    files = {}
    for kind in ("output", "error"):
        file_id = getattr(record, f"{kind}_file_id")
        lines = None if file_id is None else _Lines.read(store, kind, file_id)
        if lines is None and file_id is not None:
            # Deleted by its user: what it held cannot be checked any more.
            return
        files[kind] = lines or _Lines()
    output, error = files["output"], files["error"]
    if record.in_progress_at is None:
        if record.request_counts != RequestCounts():
            yield f"it was never in progress, but it counts {record.request_counts.total:,} requests"
        return
    counts = record.request_counts
    counted = RequestCounts(len(output.custom_ids) + len(error.custom_ids), len(output.custom_ids), error.executed)
    for name in ("total", "completed", "failed"):
        if getattr(counted, name) != getattr(counts, name):
            yield f"its {name} is {getattr(counts, name):,}, but its files have {getattr(counted, name):,}"
    yield from _compare(store, record, output, error)


class _Lines:
    """What one output or error file holds: a hash for each custom_id, 8 bytes each however many there are."""

    def __init__(self) -> None:
        self.custom_ids = array("Q")
        self.executed = 0

    @classmethod
    def read(cls, store: Store, kind: str, file_id: str) -> _Lines | None:
        lines = cls()
        try:
            content = store.files.open(file_id)
        except NotFoundError:
            return None
        with content:
            for number, line in enumerate(content, start=1):
                try:
                    parsed = parse_output_line(line)
                except BadRequestError as error:
                    message = f"line {number} of its {kind} file {file_id}: {error}"
                    raise StoreCorruptError(message) from error
                lines.custom_ids.append(hash_of(parsed.custom_id.encode()))
                lines.executed += parsed.response is not None
        return lines


def _compare(store: Store, record: BatchRecord, output: _Lines, error: _Lines) -> Iterator[str]:
    answered = sorted([*output.custom_ids, *error.custom_ids])
    if both := len(set(output.custom_ids) & set(error.custom_ids)):
        yield f"{both:,} requests are both in its output file and in its error file"
    if doubled := sum(left == right for left, right in itertools.pairwise(answered)) - both:
        yield f"{doubled:,} requests are twice in one of its files"
    try:
        content = store.files.open(record.input_file_id)
    except NotFoundError:
        return
    with content:
        line_numbers = {
            hash_of(parse_request_line(line).custom_id.encode()): number
            for number, line in enumerate(content, start=1)
            if without_mark(line).strip(_BLANK)
        }
    if missing := line_numbers.keys() - set(answered):
        line_number = min(line_numbers[hashed] for hashed in missing)
        yield f"{len(missing):,} requests are in neither file; the first is line {line_number} of the input file"
    if strange := len(set(answered) - line_numbers.keys()):
        yield f"{strange:,} lines of its files answer no request of the input file"


def _unfinished(store: Store, record: BatchRecord) -> Iterator[str]:
    directory = store.batches.directory / record.id
    if record.in_progress_at is None:
        return
    try:
        lock = FileLock(directory / "lock")
    except FileNotFoundError:
        yield f"its directory {directory} is missing"
        return
    with lock:
        # An owner is writing: what is missing now is not damage.
        if not lock.take(shared=True):
            return
        try:
            requests = len(LineIndex.from_bytes((directory / "index").read_bytes()))
        except (FileNotFoundError, StoreCorruptError) as error:
            yield f"its index {directory / 'index'} is damaged ({error}); it is made again when it is needed"
            requests = record.request_counts.total
        if requests != record.request_counts.total:
            yield f"its total is {record.request_counts.total:,}, but its index has {requests:,} requests"
        finished = set()
        for path in segments(directory):
            for spooled in read_segment(path):
                finished.add(spooled.position)
                if spooled.position >= requests:
                    yield f"{path} has a line for unknown request {spooled.position}"
        counted = record.request_counts.completed + record.request_counts.failed
        # A batch service counts what its output file will only hold at the end.
        if len(finished) < counted and record.target is None:
            yield f"{counted:,} requests were counted as finished, but its spool has {len(finished):,}"
