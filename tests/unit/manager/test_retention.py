"""What a clean removes from a store, and what stays because something still needs it."""

from __future__ import annotations

import pytest

from tests.batches import begin, group, make_batch, open_store
from vbatch_jupyter import cli
from vbatch_jupyter.errors import BadRequestError
from vbatch_jupyter.manager import Manager, lifecycle
from vbatch_jupyter.manager.retention import clean, seconds_of
from vbatch_jupyter.store.fsck import check

DAY = 86_400


@pytest.fixture
def clock():
    return [1_700_000_000.0]


@pytest.fixture
def store(tmp_path, clock):
    with open_store(tmp_path / "store", clock=lambda: clock[0]) as store:
        yield store


def finished(store, **fields):
    with begin(store, 4, **fields) as lease:
        lease.append(group(lease.id, range(4)))
        return lifecycle.finish(store, lease)


def ids_of(records):
    return {record.id for record in records}


def file_ids(*records):
    return {id_ for each in records for id_ in (each.input_file_id, each.output_file_id, each.error_file_id) if id_}


def test_batches_that_ended_long_ago_go_with_their_files_and_a_dry_run_says_the_same(store, clock):
    old = [finished(store), finished(store)]
    unused, other = (
        Manager(store).files.create([b"{}\n"], filename="x", purpose=purpose) for purpose in ("batch", "user_data")
    )
    clock[0] += 20 * DAY
    young, waiting = finished(store), make_batch(store, 2)
    clock[0] += 15 * DAY
    before = sum(path.stat().st_size for path in store.files.directory.iterdir())
    said = clean(store, older_than_seconds=30 * DAY, dry_run=True)
    assert ids_of(said.batches) == ids_of(old)
    assert ids_of(said.files) == file_ids(*old) | {unused.id}
    assert ids_of(store.batches.list().data) == ids_of([*old, young, waiting])
    done = clean(store, older_than_seconds=30 * DAY)
    assert (done.batches, done.files, done.bytes) == (said.batches, said.files, said.bytes)
    assert sum(path.stat().st_size for path in store.files.directory.iterdir()) == before - done.bytes
    assert ids_of(store.batches.list().data) == ids_of([young, waiting])
    assert ids_of(store.files.list().data) == file_ids(young, waiting) | {other.id}
    assert check(store) == []
    assert clean(store, older_than_seconds=30 * DAY).batches == ()


def test_a_batch_stays_as_long_as_a_retry_of_it_and_a_file_as_long_as_a_batch_of_it(store, clock):
    first = finished(store)
    middle = finished(store, retry_of=first.id)
    shared = finished(store)
    clock[0] += 40 * DAY
    last = finished(store, retry_of=middle.id)
    again = Manager(store, profile="local").batches.create(
        input_file_id=shared.input_file_id, endpoint="/v1/chat/completions"
    )
    gone = clean(store, older_than_seconds=30 * DAY)
    assert ids_of(gone.batches) == {shared.id}
    assert ids_of(gone.files) == file_ids(shared) - {shared.input_file_id}
    assert ids_of(store.batches.list().data) == ids_of([first, middle, last, again])
    clock[0] += 40 * DAY
    assert ids_of(clean(store, older_than_seconds=30 * DAY).batches) == ids_of([first, middle, last])


def test_the_command_says_what_would_go_and_removes_it_only_with_an_age(store, clock, capsys):
    old = finished(store)
    clock[0] += 31 * DAY
    for arguments in ([], ["--dry-run"], ["--older-than", "30d", "--dry-run"]):
        assert cli.main(["clean", str(store.path), *arguments]) == 0
        first, total, *_ = capsys.readouterr().out.splitlines()
        assert first.startswith(f"{old.id}  completed  ended 2023-11-14  ")
        assert total.startswith("1 batch and 3 files (")
        assert total.endswith(" would be removed.")
    assert len(store.batches.list().data) == 1
    assert cli.main(["clean", str(store.path), "--older-than", "30d"]) == 0
    assert capsys.readouterr().out.splitlines()[-1].endswith(" were removed.")
    assert store.batches.list().data == ()
    assert cli.main(["clean", str(store.path), "--older-than", "soon"]) == 1
    assert "such as 30d" in capsys.readouterr().err


@pytest.mark.parametrize(("age", "seconds"), [("90m", 5400), ("12h", 43_200), ("30d", 2_592_000), ("2w", 1_209_600)])
def test_an_age_is_a_number_and_a_unit(age, seconds):
    assert seconds_of(age) == seconds


@pytest.mark.parametrize("age", ["", "30", "d", "-1d", "1.5d", "30 d", "1y"])
def test_another_age_is_refused(age):
    with pytest.raises(BadRequestError, match="such as 30d"):
        seconds_of(age)
