"""The index of known answers: complete after any loss, never wrong, and as fast in an old store as in a new one."""

from __future__ import annotations

import contextlib
import io
import random
import shutil
import sqlite3
import sys
import threading
from collections.abc import Callable, Iterator, Sequence
from pathlib import Path

import pytest

from tests.batches import ENDPOINT, begin, group, hold, open_store
from vbatch_jupyter.manager import Manager, lifecycle
from vbatch_jupyter.protocol.batch import BatchRecord
from vbatch_jupyter.protocol.ids import request_id
from vbatch_jupyter.protocol.index import LineIndex
from vbatch_jupyter.protocol.lines import encode_request_line, output_line, parse_output_line
from vbatch_jupyter.protocol.profiles import PROFILES
from vbatch_jupyter.protocol.validation import validate
from vbatch_jupyter.store import SpoolRecord, Store

KEY = "an engine"


class Watch:
    """What this process lists and opens in a folder while it watches: names of audit events, and paths."""

    def __init__(self, folder: Path) -> None:
        self.folder = str(folder)
        self.seen: list[tuple[str, str]] = []
        self.watches = False
        sys.addaudithook(self._see)  # for ever

    def _see(self, event: str, arguments: tuple[object, ...]) -> None:
        if self.watches and event in {"open", "os.listdir", "os.scandir"} and str(arguments[0]).startswith(self.folder):
            self.seen.append((event, str(arguments[0])))


def end_one(store: Store) -> None:
    with begin(store, 3) as lease:
        lease.update(answers_key=KEY)
        lease.append(group(lease.id, range(3)))
        lifecycle.finish(store, lease)


@contextlib.contextmanager
def a_batch_of_four(store: Store) -> Iterator[Callable[[], list[tuple[int, bytes]]]]:
    """Make a batch of which three requests were asked before; gives the search for their answers."""
    with begin(store, 4):
        yield lambda: search(store, [b"question %d" % number for number in range(4)])


def line_of(position: int, question: bytes) -> bytes:
    body = {"model": "m", "messages": [{"role": "user", "content": question.decode()}]}
    return encode_request_line(f"row-{position}", ENDPOINT, body)


def index_of(questions: Sequence[bytes]) -> tuple[LineIndex, list[bytes]]:
    lines = [line_of(position, question) for position, question in enumerate(questions)]
    validation = validate(
        io.BytesIO(b"".join(line + b"\n" for line in lines)), endpoint=ENDPOINT, profile=PROFILES["local"]
    )
    assert not validation.errors
    return validation.index, lines


def search(store: Store, questions: Sequence[bytes], *, has_problem: bool = False) -> list[tuple[int, bytes]]:
    """Search the answers to some questions; return positions and lines."""
    index, lines = index_of(questions)
    told: list[str] = []
    found = sorted(store.answers.find(KEY, index, lines.__getitem__, bytearray(len(lines)), on_problem=told.append))
    assert bool(told) == has_problem
    return found


def ids_found(store: Store, questions: Sequence[bytes], *, has_problem: bool = False) -> list[str | None]:
    """Search the answers to some questions; return the ids of the answers, None where there is none."""
    found = dict(search(store, questions, has_problem=has_problem))
    return [
        parse_output_line(found[position]).response.request_id if position in found else None  # type: ignore[union-attr]
        for position in range(len(questions))
    ]


def end(store: Store, questions: Sequence[bytes], answers: Sequence[str], key: str = KEY) -> BatchRecord:
    """End a batch with some questions and the ids of their answers, in another order than that of the file."""
    manager = Manager(store, profile="local")
    lines = [line_of(position, question) + b"\n" for position, question in enumerate(questions)]
    file = manager.files.create(lines, filename="input.jsonl", purpose="batch")
    with hold(store, manager.batches.create(input_file_id=file.id, endpoint=ENDPOINT).id) as lease:
        lifecycle.validate(store, lease)
        lease.update(answers_key=key)
        spooled = [
            SpoolRecord(position, False, answer_line(lease.id, position, answer))
            for position, answer in enumerate(answers)
        ]
        lease.append(spooled[::-1])
        return lifecycle.finish(store, lease)


def answer_line(batch_id: str, position: int, answer: str) -> bytes:
    return output_line(
        id=request_id(batch_id, position),
        custom_id=f"row-{position}",
        status_code=200,
        request_id=answer,
        body=b'{"choices":[{"message":{"content":"%b"}}]}' % answer.encode(),
    )


def test_known_answers_are_found_while_others_end_their_batches_and_sweep(store):
    for _ in range(30):
        end_one(store)
    ended, stop = threading.Semaphore(0), threading.Event()

    def end_many() -> None:
        while not stop.is_set():
            end_one(store)
            store.sweep()
            ended.release()

    thread = threading.Thread(target=end_many)
    with a_batch_of_four(store) as search:
        thread.start()
        try:
            for _ in range(20):
                # While the next one ends.
                assert ended.acquire(timeout=60)
                found = search()
                assert [position for position, _ in found] == [0, 1, 2]
                assert [b"answer %d" % position in line for position, line in found] == [True, True, True]
        finally:
            stop.set()
            thread.join()


def test_the_search_lists_no_directory_and_opens_nothing_that_another_process_is_writing(store):
    end_one(store)
    end_one(store)
    # A listing had these, and they were renamed before they were opened: FileNotFoundError paused the batch.
    for name in ("file-a.tmp", "file-a.answers.tmp", "file-b.answers"):
        (store.files.directory / name).write_bytes(b"half a li")
    with a_batch_of_four(store) as search:
        watch = Watch(store.path)
        watch.watches = True
        assert [position for position, _ in search()] == [0, 1, 2]
        watch.watches = False
    assert {event for event, _ in watch.seen} == {"open"}
    opened = {path for _, path in watch.seen}
    newest, other = (batch for batch in store.batches.list().data if batch.output_file_id)
    for batch in (newest, other):
        assert str(store.files.sidecar(batch.output_file_id or "", "answers")) in opened
    known = {file.id for file in store.files.list().data} | {"answers"}
    assert {path.rpartition("/")[2].partition(".")[0] for path in opened} <= known


def spoil(path: Path, how: str) -> None:
    """Do to the index what a crash, a bad disk or a person may do."""
    content = path.read_bytes()
    if how == "missing":
        path.unlink()
    elif how == "empty":
        path.write_bytes(b"")
    elif how == "no database":
        path.write_bytes(random.Random(1).randbytes(len(content)))
    elif how == "cut short":
        path.write_bytes(content[: len(content) // 2])
    elif how == "zeros in the middle":
        path.write_bytes(content[:4096] + bytes(len(content) - 4096))
    else:
        with contextlib.closing(sqlite3.connect(path)) as connection:
            connection.execute("PRAGMA user_version = 99")


@pytest.mark.parametrize(
    "how", ["missing", "empty", "no database", "cut short", "zeros in the middle", "of another version"]
)
def test_an_index_that_is_lost_or_damaged_is_made_again_with_every_answer(store, how):
    questions = [b"%d" % number for number in range(200)]
    end(store, questions, [f"a{number}" for number in range(200)])
    end(store, [b"twice"] * 3, ["b0", "b1", "b2"])
    assert ids_found(store, [b"7", b"twice", b"twice"]) == ["a7", "b0", "b1"]
    spoil(store.path / "answers.sqlite3", how)
    assert ids_found(store, [b"7", b"twice", b"twice"]) == ["a7", "b0", "b1"]
    end(store, [b"after it"], ["c0"])
    assert ids_found(store, [*questions, b"after it"]) == [*(f"a{number}" for number in range(200)), "c0"]


def test_an_index_that_says_something_wrong_costs_requests_and_gives_no_wrong_answer(store):
    end(store, [b"one", b"two"], ["a1", "a2"])
    assert ids_found(store, [b"one", b"two"]) == ["a1", "a2"]
    places = "asked_at, asked_bytes", "answered_at, answered_bytes"
    for columns in places:
        with contextlib.closing(sqlite3.connect(store.path / "answers.sqlite3")) as index, index:
            # Both now name the place of the other.
            first, second = index.execute(f"SELECT id, {columns} FROM answer ORDER BY id").fetchall()
            for (id_, *_), (_, *place) in ((first, second), (second, first)):
                index.execute(f"UPDATE answer SET ({columns}) = (?, ?) WHERE id = ?", (*place, id_))
        assert ids_found(store, [b"one", b"two"]) == [None, None]
    with contextlib.closing(sqlite3.connect(store.path / "answers.sqlite3")) as index, index:
        index.execute("UPDATE answer SET answered_at = 1 << 40, asked_at = 1 << 40")
    assert ids_found(store, [b"one", b"two"]) == [None, None]


def test_a_store_that_was_restored_from_a_backup_gets_an_index_of_its_own(store, tmp_path):
    end(store, [b"before"], ["a0"])
    shutil.copytree(store.path, tmp_path / "backup")
    end(store, [b"lost"], ["b0"])
    assert ids_found(store, [b"before", b"lost"]) == ["a0", "b0"]
    shutil.copy(store.path / "answers.sqlite3", tmp_path / "backup")
    with open_store(tmp_path / "backup") as restored:
        # Its file has the number that the lost one had.
        end(restored, [b"after"], ["c0"])
        assert ids_found(restored, [b"before", b"lost", b"after"]) == ["a0", None, "c0"]


def test_the_newest_batch_comes_first_and_an_answer_that_several_batches_have_counts_once(store):
    end(store, [b"x"] * 3, ["a0", "a1", "a2"])
    end(store, [b"x"] * 2, ["a0", "a1"])
    end(store, [b"x"] * 3, ["b0", "a1", "b2"])
    assert ids_found(store, [b"x"] * 7) == ["b0", "a1", "b2", "a0", "a2", None, None]
    assert ids_found(store, [b"x", b"other", b"x"]) == ["b0", None, "a1"]


def test_answers_of_another_engine_are_not_taken(store):
    end(store, [b"x"], ["a0"])
    end(store, [b"x"], ["b0"], key="another engine")
    assert ids_found(store, [b"x"]) == ["a0"]


def test_a_deleted_file_takes_its_answers_out_of_the_index_and_leaves_those_of_older_batches(store):
    end(store, [b"x"] * 2, ["a0", "a1"])
    reused = end(store, [b"x"] * 3, ["a0", "a1", "b2"])
    assert ids_found(store, [b"x"] * 4) == ["a0", "a1", "b2", None]
    store.files.delete(reused.output_file_id)
    assert ids_found(store, [b"x"] * 4) == ["a0", "a1", None, None]
    with contextlib.closing(sqlite3.connect(store.path / "answers.sqlite3")) as index:
        assert index.execute("SELECT count(*) FROM answer").fetchone() == (2,)


def test_a_sweep_that_removes_files_removes_their_answers_from_the_index(store):
    kept = end(store, [b"x"], ["a0"])
    gone = end(store, [b"y"], ["b0"])
    assert ids_found(store, [b"x", b"y"]) == ["a0", "b0"]
    store.files.delete(gone.input_file_id)
    store.answers.prune()
    with contextlib.closing(sqlite3.connect(store.path / "answers.sqlite3")) as index:
        assert index.execute("SELECT output_file_id FROM source").fetchall() == [(kept.output_file_id,)]
        assert index.execute("SELECT count(*) FROM answer").fetchone() == (1,)


def test_an_index_that_cannot_be_opened_gives_no_answers_and_says_why(store):
    end(store, [b"x"], ["a0"])
    (store.path / "answers.sqlite3").mkdir()
    assert ids_found(store, [b"x"], has_problem=True) == [None]
    (store.path / "answers.sqlite3").rmdir()
    assert ids_found(store, [b"x"]) == ["a0"]


def test_where_there_is_no_room_the_index_does_not_grow_and_what_it_has_is_found(store):
    end(store, [b"x"], ["a0"])
    assert ids_found(store, [b"x"]) == ["a0"]
    end(store, [b"y"], ["b0"])
    with open_store(store.path, floor_bytes=1 << 60) as full:
        assert ids_found(full, [b"x", b"y"], has_problem=True) == ["a0", None]
    assert ids_found(store, [b"x", b"y"]) == ["a0", "b0"]


def test_a_search_reads_no_more_files_where_many_batches_have_the_same_answers(store):
    def reads(batches: int) -> int:
        for _ in range(batches):
            end(store, [b"x", b"x", b"y"], ["a0", "a1", "b0"])
        assert ids_found(store, [b"x"] * 3 + [b"y"]) == ["a0", "a1", None, "b0"]
        watch = Watch(store.files.directory)
        watch.watches = True
        assert ids_found(store, [b"x"] * 3 + [b"y"]) == ["a0", "a1", None, "b0"]
        watch.watches = False
        return len(watch.seen)

    assert reads(2) == reads(30) == 2


def test_the_answers_of_more_batches_than_may_be_open_at_once_are_found(store):
    for number in range(40):
        end(store, [b"%d" % number], [f"a{number}"])
    assert ids_found(store, [b"%d" % number for number in range(41)]) == [*(f"a{number}" for number in range(40)), None]
