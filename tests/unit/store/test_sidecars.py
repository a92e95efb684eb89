"""The search for known answers, while other batches end and sweeps run."""

from __future__ import annotations

import contextlib
import sys
import threading
from collections.abc import Callable, Iterator
from pathlib import Path

from tests.batches import begin, group
from vbatch_jupyter.manager import lifecycle
from vbatch_jupyter.store import Store
from vbatch_jupyter.store.sidecars import find_answers

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
    with begin(store, 4) as lease:
        index = lifecycle.load_index(store, lease)
        asked = store.files.path(lease.refresh().input_file_id).read_bytes()

        def read(position: int) -> bytes:
            return asked[index.offsets[position] :][: index.lengths[position]]

        # The fourth was never asked before, so that all files are looked at.
        yield lambda: sorted(find_answers(store, KEY, index, read, bytearray(4)))


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
    known = {file.id for file in store.files.list().data}
    assert {path.rpartition("/")[2].partition(".")[0] for path in opened} <= known
