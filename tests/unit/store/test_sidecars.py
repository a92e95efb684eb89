"""The search for known answers, while other batches end and sweeps run."""

from __future__ import annotations

import threading

from tests.batches import begin, group
from vbatch_jupyter.manager import lifecycle
from vbatch_jupyter.store.sidecars import find_answers

KEY = "an engine"


def end_one(store):
    with begin(store, 3) as lease:
        lease.update(answers_key=KEY)
        lease.append(group(lease.id, range(3)))
        lifecycle.finish(store, lease)


def test_known_answers_are_found_while_others_end_their_batches_and_sweep(store):
    for _ in range(30):
        end_one(store)
    ended = threading.Event()

    def end_many():
        for _ in range(80):
            end_one(store)
            store.sweep()
        ended.set()

    thread = threading.Thread(target=end_many)
    with begin(store, 4) as lease:
        index = lifecycle.load_index(store, lease)
        asked = store.files.path(lease.refresh().input_file_id).read_bytes()

        def read(position):
            return asked[index.offsets[position] :][: index.lengths[position]]

        thread.start()
        searches = 0
        while not ended.is_set():
            # The fourth request was never asked before, so that all files are looked at.
            found = sorted(find_answers(store, KEY, index, read, bytearray(4)))
            assert [position for position, _ in found] == [0, 1, 2]
            assert [b"answer %d" % position in line for position, line in found] == [True, True, True]
            searches += 1
        thread.join()
    assert searches > 10
