from __future__ import annotations

import errno
import os
import signal
import subprocess
import sys

import pytest

from tests.batches import open_store
from vbatch_jupyter.errors import StoreError
from vbatch_jupyter.store.disk import FileLock

OWNER = """
import socket, sys, time
from pathlib import Path
from vbatch_jupyter.store import Store

store = Store(Path(sys.argv[1]), floor_bytes=0, reserve_bytes=0)
listening = socket.socket(socket.AF_UNIX)
Path(sys.argv[2]).parent.mkdir()
listening.bind(sys.argv[2])
record = store.engines.register(kernel_id="a-kernel", name=None, socket=sys.argv[2])
store.engines.update(record.id, state="ready", models=["a"])
print(record.id, flush=True)
time.sleep(60)
"""


@pytest.fixture
def owner(store):
    """Start another process that registers an engine; return the process and the engine's id."""
    command = [sys.executable, "-c", OWNER, str(store.path), str(store.path / "vbatch-1" / "engine")]
    process = subprocess.Popen(command, stdout=subprocess.PIPE, text=True)
    assert process.stdout is not None
    with process:
        yield process, process.stdout.readline().strip()
        process.kill()


def test_a_process_is_known_before_it_has_a_model(store):
    record = store.engines.register(kernel_id="a-kernel", name="small", socket="/run/vb/1")
    assert store.engines.live() == [record]
    assert (record.state, record.models, record.name, record.socket) == ("unloaded", (), "small", "/run/vb/1")
    assert (record.pid, record.kernel_id, record.created_at) == (os.getpid(), "a-kernel", int(store.clock()))


def test_each_registration_has_an_id_and_a_secret_of_its_own_and_the_secret_is_not_shown(store):
    first, second = (store.engines.register(kernel_id=None, name=None) for _ in range(2))
    assert first.id != second.id
    assert first.secret != second.secret
    assert first.secret not in repr(first)
    assert [record.id for record in store.engines.live()] == [first.id, second.id]


def test_what_becomes_of_an_engine_is_seen(store):
    record = store.engines.register(kernel_id=None, name=None)
    store.engines.update(record.id, state="loading", models=[])
    assert store.engines.live()[0].state == "loading"
    store.engines.update(record.id, state="ready", models=["org/model", "short"], name="org/model")
    (seen,) = store.engines.live()
    assert (seen.state, seen.models, seen.name) == ("ready", ("org/model", "short"), "org/model")
    store.engines.update(record.id, state="unloaded", models=[])
    (seen,) = store.engines.live()
    assert (seen.state, seen.models, seen.name) == ("unloaded", (), "org/model")


def test_a_state_that_is_none_is_refused(store):
    record = store.engines.register(kernel_id=None, name=None)
    with pytest.raises(StoreError, match="CHECK constraint failed: state IN"):
        store.engines.update(record.id, state="resting", models=[])


def test_an_engine_that_is_removed_leaves_nothing(store):
    record = store.engines.register(kernel_id=None, name=None)
    store.engines.remove(record.id)
    store.engines.remove(record.id)
    assert store.engines.live() == []
    assert list((store.path / "engines").iterdir()) == []


def test_another_process_is_seen_for_as_long_as_it_lives(store, owner):
    process, engine_id = owner
    (record,) = store.engines.live()
    assert (record.id, record.pid, record.models) == (engine_id, process.pid, ("a",))
    # Who looks does not take the lock away from its owner, however often.
    assert store.sweep() == []
    assert store.engines.live() == [record]

    process.send_signal(signal.SIGKILL)
    process.wait()
    assert store.engines.live() == []
    assert store.sweep() == [engine_id]
    assert list((store.path / "engines").iterdir()) == []
    assert not (store.path / "vbatch-1").exists()
    assert store.database.read("SELECT * FROM engine") == []


def test_a_lock_without_a_row_is_swept_and_one_that_is_held_is_not(store):
    (store.path / "engines" / "engine_0").touch()
    record = store.engines.register(kernel_id=None, name=None)
    store.database.write(lambda connection: connection.execute("DELETE FROM engine").close())
    store.sweep()
    assert [path.name for path in (store.path / "engines").iterdir()] == [record.id]


def test_an_engine_is_registered_in_a_store_that_takes_the_place_of_its_own(tmp_path):
    with open_store(tmp_path / "store") as store:
        record = store.engines.register(kernel_id="k", name=None)
        store.engines.update(record.id, state="ready", models=["m"])
        expected = store.engines.live()
        store.path.rename(tmp_path / "before")
        with open_store(store.path) as other:
            assert other.engines.live() == []
            assert store.engines.live() == expected
            assert other.engines.live() == expected
            store.engines.remove(record.id)
            assert other.engines.live() == []


def test_an_engine_that_could_not_be_registered_in_another_store_is_registered_by_the_next_call(tmp_path, monkeypatch):
    def fail(*_):
        raise OSError(errno.ENOSPC, "No space left on device")

    with open_store(tmp_path / "store") as store:
        record = store.engines.register(kernel_id="k", name=None)
        store.path.rename(tmp_path / "before")
        with open_store(store.path) as other:
            with monkeypatch.context() as patch:
                patch.setattr(FileLock, "make", fail)
                with pytest.raises(OSError, match="No space left"):
                    store.batches.unfinished()
            assert store.batches.unfinished() == []
            assert other.engines.live() == [record]
