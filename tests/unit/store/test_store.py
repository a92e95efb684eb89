from __future__ import annotations

import contextlib
import errno
import os
import random
import re
import signal
import sqlite3
import stat
import subprocess
import sys
import threading
import time
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path

import pytest

from tests.batches import hold, make_batch, open_store
from vbatch_jupyter.errors import (
    StoreBusyError,
    StoreCorruptError,
    StoreError,
    StoreFilesystemError,
    StoreVersionError,
)
from vbatch_jupyter.manager import lifecycle
from vbatch_jupyter.protocol.batch import NEXT_STATUSES, TERMINAL_STATUSES
from vbatch_jupyter.store import Store, within
from vbatch_jupyter.store.filesystem import filesystem_type
from vbatch_jupyter.store.fsck import check
from vbatch_jupyter.store.upgrades import SCHEMA_VERSION


def test_everything_in_a_store_is_its_owners_alone(store):
    batch = make_batch(store, 1)
    with store.batches.acquire(batch.id):
        modes = {
            path.name: stat.S_IMODE(path.stat().st_mode)
            for path in [store.path, *store.path.rglob("*")]
            if not path.name.endswith("-journal")
        }
    assert modes == {
        "store": 0o700,
        "files": 0o700,
        "incoming": 0o700,
        "uploads": 0o700,
        "engines": 0o700,
        "batches": 0o700,
        batch.id: 0o700,
        batch.input_file_id: 0o600,
        "lock": 0o600,
        "vbatch.sqlite3": 0o600,
    }


def test_the_journal_is_a_rollback_journal_that_is_synced_in_full(store):
    assert store.database.read("PRAGMA journal_mode")[0][0] == "truncate"
    assert store.database.read("PRAGMA synchronous")[0][0] == 2


def test_the_directory_comes_from_the_environment_and_else_from_jupyter(tmp_path, monkeypatch):
    monkeypatch.setenv("JUPYTER_DATA_DIR", str(tmp_path / "jupyter"))
    monkeypatch.delenv("VBATCH_STORE", raising=False)
    with Store(reserve_bytes=0) as store:
        assert store.path == tmp_path / "jupyter" / "vbatch"
    monkeypatch.setenv("VBATCH_STORE", str(tmp_path / "named"))
    with Store(reserve_bytes=0) as store:
        assert store.path == tmp_path / "named"


@pytest.mark.parametrize("kind", ["nfs4", "nfs", "cifs", "lustre", "9p", "fuse.sshfs", "ceph", "fuse"])
def test_a_network_file_system_is_refused_with_the_way_out(tmp_path, kind):
    mountinfo = tmp_path / "mountinfo"
    mountinfo.write_text(f"21 1 8:1 / / rw - ext4 /dev/sda1 rw\n22 21 0:40 / {tmp_path} rw - {kind} host:/ rw\n")
    with pytest.raises(StoreFilesystemError, match=f"type {re.escape(kind)}, .*Set .* VBATCH_STORE to a directory"):
        open_store(tmp_path / "store", mountinfo=mountinfo)
    assert not (tmp_path / "store").exists()


@pytest.mark.parametrize("kind", ["ext4", "xfs", "tmpfs", "overlay", "fuse.fuse-overlayfs", "btrfs"])
def test_a_local_file_system_is_taken(tmp_path, kind):
    mountinfo = tmp_path / "mountinfo"
    mountinfo.write_text(f"22 21 0:40 / {tmp_path} rw shared:1 master:2 - {kind} none rw\n")
    open_store(tmp_path / "store", mountinfo=mountinfo).close()


def test_the_innermost_and_latest_mount_decides_and_blanks_in_its_name_are_read():
    mountinfo = (
        "1 0 8:1 / / rw - ext4 a rw\n"
        "2 1 0:40 / /home/ann\\040b rw - autofs b rw\n"
        "3 1 0:40 / /home/ann\\040b rw - nfs c rw\n"
        "4 1 0:40 / /home/ann\\040b/local rw - xfs d rw\n"
    )
    assert filesystem_type(Path("/home/ann b/store"), mountinfo) == "nfs"
    assert filesystem_type(Path("/home/ann b/local/store"), mountinfo) == "xfs"
    assert filesystem_type(Path("/home/ann"), mountinfo) == "ext4"


def test_a_directory_that_holds_other_things_is_left_as_it_is(tmp_path):
    tmp_path.chmod(0o755)
    (tmp_path / "notes.txt").write_text("mine")
    with pytest.raises(StoreError, match=r"the directory has other files in it\. Set .* VBATCH_STORE"):
        open_store(tmp_path)
    assert stat.S_IMODE(tmp_path.stat().st_mode) == 0o755
    assert sorted(path.name for path in tmp_path.iterdir()) == ["notes.txt"]


def test_an_empty_directory_is_made_private(tmp_path):
    tmp_path.chmod(0o755)
    open_store(tmp_path).close()
    assert stat.S_IMODE(tmp_path.stat().st_mode) == 0o700


def test_a_file_in_the_place_of_the_directory_is_an_error_that_names_the_variable(tmp_path):
    (tmp_path / "store").write_text("")
    with pytest.raises(StoreError, match="VBATCH_STORE"):
        open_store(tmp_path / "store")


def test_a_store_of_a_newer_release_is_refused_and_left_as_it_is(tmp_path):
    with open_store(tmp_path / "store") as store:
        store.database.write(lambda connection: connection.execute("PRAGMA user_version = 99"))
    with pytest.raises(StoreVersionError, match=r"its version is 99, this release knows \d+\). Upgrade vbatch-jupyter"):
        open_store(tmp_path / "store")


def test_a_store_of_the_release_before_is_brought_up_to_this_one(tmp_path):
    def columns(store):
        queries = (
            "PRAGMA table_info(batch)",
            "PRAGMA table_info(engine)",
            "SELECT name FROM sqlite_master ORDER BY name",
        )
        return [tuple(row) for query in queries for row in store.database.read(query)]

    with open_store(tmp_path / "store") as store:
        new = columns(store)
        with hold(store, make_batch(store, 1, target="{}").id) as lease:
            lease.update(parts="[]")
        store.database.write(
            lambda db: [
                *(
                    db.execute(f"DROP INDEX {name}")
                    for name in ("batch_by_output_file", "file_by_expiry", "upload_by_expiry", "batch_by_expiry")
                ),
                *(
                    db.execute(f"ALTER TABLE batch DROP COLUMN {name}")
                    for name in ("engine_seeds", "models", "retry_of", "origin")
                ),
                db.execute("ALTER TABLE batch RENAME COLUMN parts TO remote"),
                db.execute("ALTER TABLE engine DROP COLUMN note"),
                db.execute("DROP TRIGGER paused_has_reason"),
                db.execute("UPDATE batch SET paused = 1"),
            ]
        )
        store.database.write(lambda connection: connection.execute("PRAGMA user_version = 1"))
    with open_store(tmp_path / "store") as store:
        assert columns(store) == new
        assert [(record.origin, record.parts) for record in store.batches.list().data] == [(None, "[]")]
        assert make_batch(store, 1).origin is None
        assert store.batches.count() == 2
        # Paused without a reason, which earlier commits did.
        assert [(record.paused, record.reason) for record in store.batches.unfinished()] == [(False, None)] * 2


def test_a_file_that_is_no_database_is_a_damaged_store(tmp_path):
    open_store(tmp_path / "store").close()
    (tmp_path / "store" / "vbatch.sqlite3").write_bytes(b"no database at all" * 1000)
    with pytest.raises(StoreCorruptError, match=r"vbatch\.sqlite3 is damaged"):
        open_store(tmp_path / "store")


def test_many_processes_may_make_the_same_store_at_once(tmp_path):
    program = "import sys; from tests.batches import open_store; open_store(sys.argv[1]).close()"
    makers = [
        subprocess.Popen([sys.executable, "-c", program, str(tmp_path / "store")], stderr=subprocess.PIPE)
        for _ in range(4)
    ]
    assert [maker.communicate()[1] for maker in makers] == [b""] * 4
    with open_store(tmp_path / "store") as store:
        assert store.batches.unfinished() == []


def test_the_schema_lets_a_status_take_exactly_the_ways_of_the_status_machine(store):
    moved = set()
    for before in NEXT_STATUSES:
        for after in NEXT_STATUSES:
            if before != after and _moves(store, before, after):
                moved.add((before, after))
    assert moved == {(before, after) for before, afters in NEXT_STATUSES.items() for after in afters}


def _moves(store, before, after):
    stamps = {
        "in_progress": ["in_progress_at"],
        "finalizing": ["in_progress_at", "finalizing_at"],
        "completed": ["in_progress_at", "finalizing_at", "completed_at"],
        "failed": ["failed_at"],
        "expired": ["in_progress_at", "expired_at"],
        "cancelling": ["cancelling_at"],
        "cancelled": ["cancelling_at", "cancelled_at"],
    }
    batch = make_batch(store, 1)

    def move(connection):
        for number, status in enumerate([before, after]):
            names = stamps.get(status, [])
            others = {name for names in stamps.values() for name in names} - set(names)
            assignments = ", ".join([*(f"{name} = 1" for name in names), *(f"{name} = NULL" for name in others)])
            if number == 0:
                # To begin anywhere, the way there must not be watched.
                connection.execute("PRAGMA ignore_check_constraints = ON")
                connection.execute("DROP TRIGGER status_moves_forward")
            connection.execute(f"UPDATE batch SET status = ?, {assignments} WHERE id = ?", (status, batch.id))
            if number == 0:
                connection.execute(trigger)
                connection.execute("PRAGMA ignore_check_constraints = OFF")

    trigger = store.database.read("SELECT sql FROM sqlite_master WHERE name = 'status_moves_forward'")[0][0]
    try:
        store.database.write(move)
    except StoreError as error:
        refusal = str(error)
    else:
        return True
    assert "only moves forward" in refusal or before in TERMINAL_STATUSES
    return False


def test_a_database_that_another_process_keeps_locked_is_a_busy_store(tmp_path):
    with open_store(tmp_path / "store", wait_seconds=0.01) as store:
        rival = sqlite3.connect(store.path / "vbatch.sqlite3", isolation_level=None)
        rival.execute("BEGIN EXCLUSIVE")
        with pytest.raises(StoreBusyError, match=r"keeps the database .* locked"):
            make_batch(store, 1)
        rival.execute("ROLLBACK")
        rival.close()
        assert store.batches.unfinished() == []
        assert make_batch(store, 1).status == "validating"


def test_a_database_that_is_locked_for_a_moment_is_waited_for(store):
    rival = sqlite3.connect(store.path / "vbatch.sqlite3", isolation_level=None, check_same_thread=False)
    rival.execute("BEGIN EXCLUSIVE")
    timer = threading.Timer(0.2, rival.execute, ["ROLLBACK"])
    timer.start()
    assert make_batch(store, 1).status == "validating"
    timer.join()
    rival.close()


def test_calls_in_a_block_wait_no_longer_than_it_says_and_those_that_need_not_wait_succeed(tmp_path):
    with open_store(tmp_path / "store", wait_seconds=3600) as store:
        rival = sqlite3.connect(store.path / "vbatch.sqlite3", isolation_level=None)
        rival.execute("BEGIN EXCLUSIVE")
        with within(0.05), within(3600):
            for _ in range(3):
                with pytest.raises(StoreBusyError):
                    store.batches.unfinished()
            assert store.database.is_held
            rival.close()
            assert make_batch(store, 1).status == "validating"
        assert not store.database.is_held


def test_a_thread_that_waits_for_another_threads_call_has_the_same_deadline(tmp_path):
    with open_store(tmp_path / "store", wait_seconds=3600) as store, ThreadPoolExecutor(1) as threads:

        def impatient():
            with within(0.01):
                return store.batches.unfinished()

        def meanwhile(_connection):
            with pytest.raises(StoreBusyError):
                threads.submit(impatient).result()

        store.database.write(meanwhile)
        assert threads.submit(impatient).result() == []


def test_a_call_that_waits_for_another_process_can_be_interrupted(store):
    code = """if True:
        import sys
        from vbatch_jupyter.store import Store
        with Store(sys.argv[1], reserve_bytes=0, floor_bytes=0, wait_seconds=3600) as store:
            print("opened", flush=True)
            sys.stdin.readline()
            try:
                print("waiting", flush=True)
                store.batches.unfinished()
            except KeyboardInterrupt:
                print("interrupted", flush=True)
    """
    with subprocess.Popen(
        [sys.executable, "-c", code, str(store.path)], stdin=subprocess.PIPE, stdout=subprocess.PIPE, text=True
    ) as waiting:
        assert waiting.stdout is not None
        assert waiting.stdout.readline() == "opened\n"
        rival = sqlite3.connect(store.path / "vbatch.sqlite3", isolation_level=None)
        rival.execute("BEGIN EXCLUSIVE")
        print(file=waiting.stdin, flush=True)
        assert waiting.stdout.readline() == "waiting\n"
        waiting.send_signal(signal.SIGINT)
        assert waiting.stdout.read() == "interrupted\n"
    rival.close()


def test_a_store_that_a_newer_release_has_upgraded_meanwhile_is_not_written_and_stays_upgraded(store):
    with contextlib.closing(sqlite3.connect(store.path / "vbatch.sqlite3")) as newer:
        newer.execute(f"PRAGMA user_version = {SCHEMA_VERSION + 1}")
        for write in (store.check_writable, lambda: make_batch(store, 1)):
            with pytest.raises(StoreVersionError, match="written by a newer vbatch-jupyter"):
                write()
        assert newer.execute("PRAGMA user_version").fetchone() == (SCHEMA_VERSION + 1,)
        newer.execute(f"PRAGMA user_version = {SCHEMA_VERSION}")
    assert make_batch(store, 1).status == "validating"


def test_a_new_database_is_not_made_where_there_are_files(tmp_path):
    with open_store(tmp_path / "store") as store:
        file = store.files.create([b"{}"], filename="in.jsonl", purpose="batch")
    (store.path / "vbatch.sqlite3").unlink()
    with pytest.raises(StoreCorruptError, match=r"is missing or empty, but .*files has files"):
        open_store(store.path)
    assert store.files.path(file.id).read_bytes() == b"{}"
    (tmp_path / "home").mkdir(mode=0o700)
    (tmp_path / "home" / "thesis.tex").touch()
    with pytest.raises(StoreError, match="has other files in it"):
        open_store(tmp_path / "home")


def test_an_interrupt_in_a_transaction_writes_nothing_and_leaves_nothing_locked(store):
    batch = make_batch(store, 1)

    def interrupted(connection):
        connection.execute("UPDATE batch SET reason = 'half' WHERE id = ?", (batch.id,))
        raise KeyboardInterrupt

    with pytest.raises(KeyboardInterrupt):
        store.database.write(interrupted)
    with open_store(store.path) as other:
        assert other.batches.get(batch.id).reason is None
        assert other.batches.cancel(batch.id).status == "cancelling"


def test_the_data_version_changes_when_another_store_object_commits(store):
    before = store.database.data_version()
    assert store.database.data_version() == before
    with open_store(store.path) as other:
        make_batch(other, 1)
    assert store.database.data_version() != before


def test_threads_share_one_store_without_losing_a_batch(store):
    threads = [threading.Thread(target=lambda: [make_batch(store, 1) for _ in range(5)]) for _ in range(4)]
    for thread in threads:
        thread.start()
    for thread in threads:
        thread.join()
    assert len({record.id for record in store.batches.unfinished()}) == 20


def test_a_store_in_the_place_of_another_is_opened_without_a_restart(tmp_path):
    path = tmp_path / "store"
    with open_store(path) as store:
        before = make_batch(store, 1)
        version = store.version()
        path.rename(tmp_path / "old")
        with pytest.raises(StoreError, match=r"vbatch\.sqlite3 is gone\. Put it back"):
            store.batches.list()
        with pytest.raises(StoreError, match="is gone"):
            lifecycle.tend(store)
        # Nothing was made in its place.
        assert not path.exists()
        with open_store(path) as other:
            made = make_batch(other, 2)
            assert [record.id for record in store.batches.list().data] == [made.id]
            assert store.version() != version
            assert lifecycle.tend(store) == [made.id]
            assert other.batches.get(made.id).request_counts.total == 2
        path.rename(tmp_path / "new")
        (tmp_path / "old").rename(path)
        assert store.batches.get(before.id) == before
        assert lifecycle.tend(store) == [before.id]
        assert check(store) == []


def test_a_transaction_that_cannot_be_rolled_back_leaves_the_store_usable(store):
    def lose_the_connection(connection):
        connection.execute("UPDATE batch SET reason = 'lost'")
        store.database._connection = _Lost(connection)
        raise OSError(errno.EIO, "Input/output error")

    batch = make_batch(store, 1)
    with pytest.raises(OSError, match="Input/output error"):
        store.database.write(lose_the_connection)
    assert store.batches.get(batch.id) == batch
    assert store.batches.cancel(batch.id).status == "cancelling"


class _Lost:
    """A connection on which a rollback fails, as on a disk with an error."""

    in_transaction = True

    def __init__(self, connection):
        self.close = connection.close

    def execute(self, _statement):
        raise sqlite3.OperationalError("disk I/O error")


class _Failing(sqlite3.Connection):
    """A connection on which one statement raises an error, before it has run or after it."""

    fails: tuple[str, int, str] | None = None

    def execute(self, sql, *parameters):
        if self.fails is None or not sql.startswith(self.fails[0]):
            return super().execute(sql, *parameters)
        _, code, message = self.fails
        self.fails = None
        if sql == "COMMIT":
            super().execute(sql)
        error = sqlite3.OperationalError(message)
        error.sqlite_errorcode = code
        raise error


@pytest.fixture
def failing(store):
    """Put a connection into a store that fails where it is told to."""
    store.database._connection.close()
    connection = sqlite3.connect(
        store.path / "vbatch.sqlite3", isolation_level=None, check_same_thread=False, factory=_Failing
    )
    connection.row_factory = sqlite3.Row
    store.database._connection = connection
    return connection


def test_a_commit_that_raises_after_it_has_taken_effect_is_a_commit(store, failing):
    # The last thing that SQLite does is to put the end of the journal on the disk.
    failing.fails = "COMMIT", sqlite3.SQLITE_IOERR_FSYNC, "disk I/O error"
    batch = make_batch(store, 2)
    assert failing.fails is None
    assert [file.id for file in store.files.list().data] == [batch.input_file_id]
    failing.fails = "COMMIT", sqlite3.SQLITE_IOERR_FSYNC, "disk I/O error"
    assert store.batches.cancel(batch.id).status == "cancelling"
    failing.fails = "COMMIT", sqlite3.SQLITE_IOERR_FSYNC, "disk I/O error"
    assert lifecycle.tend(store) == [batch.id]
    assert store.files.delete(batch.input_file_id).id == batch.input_file_id
    assert [record.status for record in store.batches.list().data] == ["cancelled"]
    assert check(store) == []


@pytest.mark.parametrize(
    ("code", "message"),
    [
        (sqlite3.SQLITE_IOERR_READ, "disk I/O error"),
        # What SQLite says if the disk has an error as it reads.
        (sqlite3.SQLITE_CORRUPT, "database disk image is malformed"),
        # What it says if it cannot see whether the file was moved.
        (sqlite3.SQLITE_READONLY_DBMOVED, "attempt to write a readonly database"),
        (sqlite3.SQLITE_CANTOPEN, "unable to open database file"),
    ],
)
def test_an_error_of_the_database_that_does_not_come_again_is_not_seen(store, failing, code, message):
    failing.fails = "BEGIN", code, message
    batch = make_batch(store, 2)
    failing.fails = "SELECT", code, message
    assert store.batches.get(batch.id) == batch
    assert failing.fails is None


def test_the_reserve_is_kept_and_takes_its_room_on_the_disk(tmp_path):
    with open_store(tmp_path / "store", reserve_bytes=1 << 20) as store:
        state = (store.path / "reserve").stat()
        assert (state.st_size, state.st_blocks * 512 >= 1 << 20) == (1 << 20, True)


def test_no_descriptor_of_a_store_reaches_a_child_process(store):
    batch = make_batch(store, 1)
    with store.batches.acquire(batch.id):
        ours = [
            int(link.name)
            for link in Path("/proc/self/fd").iterdir()
            if link.exists() and link.resolve().is_relative_to(store.path)
        ]
        assert len(ours) >= 2
        assert [descriptor for descriptor in ours if os.get_inheritable(descriptor)] == []


def test_an_interrupt_at_any_step_leaves_the_store_to_the_other_threads(store):
    """An exception that is kept keeps its frames, so what they hold is not given back by itself."""
    reading, stopped = [False], [False]
    kept: list[KeyboardInterrupt] = []

    def read_on():
        while not stopped[0]:
            store.database.read("SELECT 1")

    def interrupt():
        for _ in range(300):
            while not reading[0]:
                time.sleep(0)
            reading[0] = False
            time.sleep(random.random() / 2000)
            os.kill(os.getpid(), signal.SIGINT)

    with ThreadPoolExecutor(2) as threads:
        try:
            threads.submit(read_on)
            interrupting = threads.submit(interrupt)
            while len(kept) < 300:
                try:
                    reading[0] = True
                    while True:
                        store.database.read("SELECT 1")
                except KeyboardInterrupt as error:
                    kept.append(error)
            interrupting.result()
        finally:
            stopped[0] = True
    with ThreadPoolExecutor(1) as threads:
        assert threads.submit(store.database.read, "SELECT 2 AS two").result()[0]["two"] == 2
