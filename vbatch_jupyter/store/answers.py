"""The index of known answers: by engine and request, where an earlier batch has an answer, newest first.

It is an SQLite file of its own, ``answers.sqlite3``, which is made of the sidecars of the output files and can be made
again at any time. Nothing is written into it when a batch ends: each search first takes in the batches that have ended
since the last one. So an index that is missing, behind, or lost in part has the same cure.

It promises that no answer is wrong, whatever the index says: an answer is taken only if the request in the earlier
input file has the same url and body, byte for byte, if the output line has that request's custom_id, and if neither
file was deleted. An index that cannot be read costs requests to the engine, and nothing else.
"""

from __future__ import annotations

import contextlib
import itertools
import os
import sqlite3
from collections.abc import Callable, Iterable, Iterator
from pathlib import Path
from typing import NamedTuple

import msgspec

from vbatch_jupyter.errors import NotFoundError, StoreFullError, VBatchError
from vbatch_jupyter.protocol.index import AnswerColumns, LineIndex, hash_of, repeated, signed
from vbatch_jupyter.protocol.lines import answer_id, parse_output_line, parse_request_line
from vbatch_jupyter.store.database import Database
from vbatch_jupyter.store.disk import FileLock, Space, primary_code
from vbatch_jupyter.store.files import Files
from vbatch_jupyter.store.upgrades import statements_of

_VERSION = 1

# The id of an answer is its batch and its position in the batch; the newest batch has the lowest ids.
# `answer` tells answers to one request apart, also in batches that have reused them; it is 0 where one is as good as
# another.
_SCHEMA = f"""
CREATE TABLE source (
    number INTEGER PRIMARY KEY, key TEXT NOT NULL, input_file_id TEXT NOT NULL, output_file_id TEXT NOT NULL
);
CREATE TABLE looked_at (number INTEGER NOT NULL, file_id TEXT NOT NULL);
CREATE TABLE answer (
    id INTEGER PRIMARY KEY, request INTEGER NOT NULL, answer INTEGER NOT NULL, asked_at INTEGER NOT NULL,
    asked_bytes INTEGER NOT NULL, answered_at INTEGER NOT NULL, answered_bytes INTEGER NOT NULL
);
CREATE INDEX answer_by_request ON answer (request, answer);
PRAGMA user_version = {_VERSION};
"""
_BITS = 32

# An answer that a thousand batches have is found in one step: the next different one is looked for.
_ANSWERS = """
WITH RECURSIVE known (answer) AS (
    SELECT min(answer) FROM answer WHERE request = :request
    UNION ALL
    SELECT (SELECT min(answer) FROM answer WHERE request = :request AND answer > known.answer)
    FROM known WHERE known.answer IS NOT NULL
)
SELECT answer.* FROM known JOIN answer
ON answer.id = (SELECT min(id) FROM answer WHERE request = :request AND answer = known.answer)
ORDER BY answer.id
"""

_ENDED = """
SELECT file.number, answers_key, input_file_id, output_file_id FROM file JOIN batch ON batch.output_file_id = file.id
WHERE file.number > ? AND file.number <= ? AND file.deleted_at IS NULL AND answers_key <> ''
ORDER BY file.number LIMIT ?
"""

_FILES_BEHIND = 1000
"""After how many files without answers it is written down that they were looked at."""

_ATTEMPTS = 3
_BATCHES_AT_ONCE = 256
_ANSWERS_AT_ONCE = 50_000
_LOOKED_UP_AT_ONCE = 10_000
_OPEN_BATCHES = 16
_BUSY_SECONDS = 10.0
_CACHE_KIB = 16 * 1024


class Answers:
    """The known answers of one store.

    Parameters
    ----------
    directory
        The store's.
    database, files, space
        The store's.
    """

    def __init__(self, directory: Path, *, database: Database, files: Files, space: Space) -> None:
        self._path = directory / "answers.sqlite3"
        self._lock_path = directory / "answers.lock"
        self._database = database
        self._files = files
        self._space = space

    def find(
        self,
        key: str,
        index: LineIndex,
        read: Callable[[int], bytes],
        finished: bytearray,
        *,
        kept: Iterable[tuple[int, bytes]] = (),
        on_problem: Callable[[str], None] = lambda _: None,
    ) -> Iterator[tuple[int, bytes]]:
        """Return position and output line of each unfinished request that was answered before.

        Equal requests that are deterministic all get one answer. Of those that are not, each gets an answer of its own:
        the first one the first, the second one the second, and those for which none is left get none. The newest batch
        comes first, and an answer that several batches have, because they have reused it, counts once.

        Parameters
        ----------
        key
            The engine's `answers_key`.
        index
            The requests.
        read
            Returns the line of the input file at a position.
        finished
            One byte for each request; those that are not 0 are skipped, and those found are set to 1.
        kept
            Position and output line of each answer that the batch has already. No other request gets such an answer,
            unless it is deterministic.
        on_problem
            Called with the reason if not all of the index could be used, so that requests may be asked again.
        """
        samples = _Samples(index, kept)
        for attempt in range(_ATTEMPTS):
            try:
                with self._opened() as connection:
                    _create(connection)
                    self._catch_up(connection, on_problem)
                    search = _Search(self._files, connection, key, index, samples)
                    with contextlib.closing(search):
                        yield from search.find(read, finished)
                return
            except _IndexDamagedError as error:
                # What could not be read for a moment is called damaged, too.
                if attempt == _ATTEMPTS - 1 or (attempt and not self._discard()):
                    on_problem(str(error))
                    return
            except (sqlite3.Error, OSError) as error:
                if attempt:
                    on_problem(str(error))
                    return

    @contextlib.contextmanager
    def _opened(self) -> Iterator[sqlite3.Connection]:
        """Open the index for one search. Nobody may remove it meanwhile: its journal would be taken for another's."""
        with FileLock(self._lock_path) as lock:
            if not lock.take(shared=True):
                raise OSError("Another process is making the index of known answers again.")
            try:
                with contextlib.closing(sqlite3.connect(self._path, timeout=_BUSY_SECONDS, isolation_level=None)) as db:
                    self._path.chmod(0o600)
                    db.row_factory = sqlite3.Row
                    for pragma in ("journal_mode = TRUNCATE", "synchronous = NORMAL", f"cache_size = -{_CACHE_KIB}"):
                        db.execute(f"PRAGMA {pragma}").fetchall()
                    yield db
            except sqlite3.DatabaseError as error:
                if primary_code(error) in {sqlite3.SQLITE_CORRUPT, sqlite3.SQLITE_NOTADB}:
                    raise _IndexDamagedError(str(error)) from error
                raise

    def _discard(self) -> bool:
        """Remove a damaged index; False if another process reads it, which will find out by itself."""
        with FileLock(self._lock_path) as lock:
            if not lock.take():
                return False
            for path in (self._path, self._path.with_name(f"{self._path.name}-journal")):
                path.unlink(missing_ok=True)
        return True

    # ------------------------------------------------------------------------------------------------ the batches in it

    def _catch_up(self, connection: sqlite3.Connection, on_problem: Callable[[str], None]) -> None:
        """Take in the batches that have ended since the last search."""
        try:
            while self._is_behind(connection):
                self._space.require(0)
                with _transaction(connection):
                    self._take_in(connection)
        except (StoreFullError, sqlite3.OperationalError, OSError) as error:
            # No room, or another process is at it: what the index has can be searched all the same.
            on_problem(str(error))

    def _is_behind(self, connection: sqlite3.Connection) -> bool:
        looked_at, (newest, _) = self._looked_at(connection), self._newest()
        return newest - looked_at > _FILES_BEHIND or bool(self._database.read(_ENDED, (looked_at, newest, 1)))

    def _newest(self) -> tuple[int, str]:
        """Return number and id of the newest file of the store."""
        # Numbers are given within transactions that come one after the other: what follows has a higher one.
        rows = self._database.read("SELECT number, id FROM file ORDER BY number DESC LIMIT 1")
        return (rows[0]["number"], rows[0]["id"]) if rows else (0, "")

    def _looked_at(self, connection: sqlite3.Connection) -> int:
        """Return the number of the newest file that the index knows, and check that the store has the same one."""
        rows = connection.execute("SELECT number, file_id FROM looked_at").fetchall()
        if not rows:
            return 0
        if not self._database.read("SELECT 1 FROM file WHERE number = ? AND id = ?", tuple(rows[0])):
            raise _IndexDamagedError("The index of known answers is newer than the store, which was restored.")
        return int(rows[0]["number"])

    def _take_in(self, connection: sqlite3.Connection) -> None:
        # Within the transaction: another process may have taken in the same batches in the meantime.
        looked_at, newest = self._looked_at(connection), self._newest()
        rows = self._database.read(_ENDED, (looked_at, newest[0], _BATCHES_AT_ONCE))
        reached = newest if len(rows) < _BATCHES_AT_ONCE else (rows[-1]["number"], rows[-1]["output_file_id"])
        count = 0
        for row in rows:
            columns = self._columns(row["output_file_id"])
            connection.execute("INSERT INTO source VALUES (?, ?, ?, ?)", tuple(row))
            key, first = _hash_of_key(row["answers_key"]), _first_id(row["number"])
            ids, requests = (first + one for one in columns.positions), (one ^ key for one in columns.requests)
            places = (columns.asked_at, columns.asked_bytes, columns.answered_at, columns.answered_bytes)
            answers = zip(ids, requests, columns.answers, *places, strict=True)
            connection.executemany("INSERT INTO answer VALUES (?, ?, ?, ?, ?, ?, ?)", answers)
            count += len(columns.requests)
            if count >= _ANSWERS_AT_ONCE:
                reached = row["number"], row["output_file_id"]
                break
        connection.execute("DELETE FROM looked_at")
        connection.execute("INSERT INTO looked_at VALUES (?, ?)", reached)

    def _columns(self, output_file_id: str) -> AnswerColumns:
        for _ in range(_ATTEMPTS):
            # A batch that ended on a full disk has none, and what stays unreadable must not hold up all later batches.
            with contextlib.suppress(OSError, ValueError):
                return AnswerColumns.from_bytes(self._files.sidecar(output_file_id, "answers").read_bytes())
        return AnswerColumns()

    def prune(self) -> None:
        """Remove the answers of files that were deleted; a search would do so when it meets one."""
        with contextlib.suppress(_IndexDamagedError, sqlite3.Error, OSError):
            if not self._path.exists():
                return
            with self._opened() as connection:
                sources = connection.execute("SELECT number, input_file_id, output_file_id FROM source").fetchall()
                alive = self._files.alive({file_id for source in sources for file_id in tuple(source)[1:]})
                for number, *file_ids in map(tuple, sources):
                    if not alive.issuperset(file_ids):
                        with _transaction(connection):
                            _drop(connection, number)


class _Samples:
    """The answers that samples have taken: no two of them get the same.

    A *sample* is a request that is not deterministic and equal to others of its batch.
    """

    def __init__(self, index: LineIndex, kept: Iterable[tuple[int, bytes]]) -> None:
        self._index = index
        hashes, deterministic = index.request_hashes, index.deterministic
        self._repeated = repeated(one for one, shares in zip(hashes, deterministic, strict=True) if not shares)
        self._taken: set[bytes] = set()
        if self._repeated:
            self._taken.update(answer_id(line) for position, line in kept if position in self)

    def __contains__(self, position: int) -> bool:
        return not self._index.deterministic[position] and self._index.request_hashes[position] in self._repeated

    def take(self, line: bytes) -> bool:
        """Take an answer for one sample; False if another has it."""
        before = len(self._taken)
        self._taken.add(answer_id(line))
        return len(self._taken) > before


class _Source(NamedTuple):
    """An earlier batch: the descriptors of its input and output file."""

    input_file: int
    output_file: int


class _Search:
    """One search, with the files that it has open."""

    def __init__(
        self, files: Files, connection: sqlite3.Connection, key: str, index: LineIndex, samples: _Samples
    ) -> None:
        self._files, self._connection, self._key = files, connection, key
        self._hash_of_key = _hash_of_key(key)
        self._index, self._samples = index, samples
        self._open: dict[int, tuple[_Source, contextlib.ExitStack]] = {}
        # Where the search for the next sample continues: a thousand equal requests must not begin a thousand times.
        self._next: dict[int, Iterator[tuple[_Source, sqlite3.Row]]] = {}

    def find(self, read: Callable[[int], bytes], finished: bytearray) -> Iterator[tuple[int, bytes]]:
        unfinished = (position for position, done in enumerate(finished) if not done)
        while positions := list(itertools.islice(unfinished, _LOOKED_UP_AT_ONCE)):
            requests = [signed(self._index.request_hashes[position]) ^ self._hash_of_key for position in positions]
            known = self._known(requests)
            for position, request in zip(positions, requests, strict=True):
                if request in known and (line := self._answer(position, request, read)) is not None:
                    finished[position] = 1
                    yield position, line

    def _known(self, requests: list[int]) -> set[int]:
        rows = self._connection.execute(
            "SELECT value FROM json_each(?) WHERE EXISTS (SELECT 1 FROM answer WHERE request = value)",
            (msgspec.json.encode(requests).decode(),),
        ).fetchall()
        return {row[0] for row in rows}

    def _answer(self, position: int, request: int, read: Callable[[int], bytes]) -> bytes | None:
        is_sample = position in self._samples
        candidates = self._candidates(request)
        if is_sample:
            candidates = self._next.setdefault(request, candidates)
        now = parse_request_line(read(position))
        for source, row in candidates:
            # One that is damaged is passed over.
            with contextlib.suppress(VBatchError, OSError):
                before = parse_request_line(os.pread(source.input_file, row["asked_bytes"], row["asked_at"]))
                if (before.url, bytes(before.body)) != (now.url, bytes(now.body)):
                    continue
                line = os.pread(source.output_file, row["answered_bytes"], row["answered_at"])
                if parse_output_line(line).custom_id != before.custom_id:
                    continue
                if not is_sample or self._samples.take(line):
                    return line
        return None

    def _candidates(self, request: int) -> Iterator[tuple[_Source, sqlite3.Row]]:
        while True:
            for row in self._connection.execute(_ANSWERS, {"request": request}).fetchall():
                number = -(row["id"] >> _BITS)
                try:
                    source = self._source(number)
                except NotFoundError:
                    with _transaction(self._connection):
                        _drop(self._connection, number)
                    # An older batch may have the same answer.
                    break
                except (VBatchError, OSError):
                    continue
                if source is not None:
                    yield source, row
            else:
                return

    def _source(self, number: int) -> _Source | None:
        """Open the files of a batch; None if another engine has answered it."""
        if number in self._open:
            return self._open[number][0]
        found = self._connection.execute("SELECT * FROM source WHERE number = ?", (number,)).fetchall()
        if not found:
            raise NotFoundError("file", str(number))
        if found[0]["key"] != self._key:
            return None
        if len(self._open) == _OPEN_BATCHES:
            _, stack = self._open.pop(next(iter(self._open)))
            stack.close()
        with contextlib.ExitStack() as stack:
            opened = (self._files.open(found[0][f"{kind}_file_id"]) for kind in ("input", "output"))
            source = _Source(*(stack.enter_context(file).fileno() for file in opened))
            self._open[number] = source, stack.pop_all()
        return source

    def close(self) -> None:
        for _, stack in self._open.values():
            stack.close()


class _IndexDamagedError(Exception):
    """The index must be made again."""


@contextlib.contextmanager
def _transaction(connection: sqlite3.Connection) -> Iterator[None]:
    connection.execute("BEGIN IMMEDIATE")
    try:
        yield
        connection.execute("COMMIT")
    except BaseException:
        if connection.in_transaction:
            connection.execute("ROLLBACK")
        raise


def _create(connection: sqlite3.Connection) -> None:
    def version() -> int:
        return int(connection.execute("PRAGMA user_version").fetchall()[0][0])

    if version() == 0:
        with _transaction(connection):
            # Another process may have made the tables in the meantime.
            for statement in () if version() else statements_of(_SCHEMA):
                connection.execute(statement)
    if version() != _VERSION:
        raise _IndexDamagedError("The index of known answers is of another version.")


def _drop(connection: sqlite3.Connection, number: int) -> None:
    first = _first_id(number)
    connection.execute("DELETE FROM answer WHERE id BETWEEN ? AND ?", (first, first + (1 << _BITS) - 1))
    connection.execute("DELETE FROM source WHERE number = ?", (number,))


def _first_id(number: int) -> int:
    return -number << _BITS


def _hash_of_key(key: str) -> int:
    return signed(hash_of(key.encode()))
