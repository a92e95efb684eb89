from __future__ import annotations

import re

import pytest

from tests.batches import begin, content, group, make_batch
from vbatch_jupyter.cli import main
from vbatch_jupyter.manager import lifecycle
from vbatch_jupyter.store.fsck import check


@pytest.fixture
def ended(store):
    """End a batch of six: it completed with requests 0, 1, 2, 4, 5 in the output file, 3 in the error file."""
    with begin(store, 6) as lease:
        lease.append(group(lease.id, range(6)))
        return lifecycle.finish(store, lease)


def rewrite(store, file_id, lines):
    """Change a file and its row, as a bug would, and not the disk."""
    data = b"".join(line + b"\n" for line in lines)
    store.files.path(file_id).unlink()
    file = store.files.create([data], filename="x", purpose="batch_output")
    store.files.path(file.id).rename(store.files.path(file_id))

    def swap(connection):
        connection.execute("DELETE FROM file WHERE id = ?", (file.id,))
        connection.execute("UPDATE file SET bytes = ?, sha256 = ? WHERE id = ?", (file.bytes, file.sha256, file_id))

    store.database.write(swap)


def only_problem(store):
    problems = check(store)
    assert len(problems) == 1, problems
    return problems[0]


def test_a_store_in_every_state_is_sound(store, ended):
    make_batch(store, 1)
    with begin(store, 2) as lease:
        lease.append(group(lease.id, [0]))
        assert check(store) == []
    cancelled = make_batch(store, 1)
    store.batches.cancel(cancelled.id)
    lifecycle.tend(store)
    assert check(store) == []
    store.files.delete(ended.input_file_id)
    store.files.delete(ended.output_file_id)
    assert check(store) == []


def test_i1_a_request_in_both_files_is_found(store, ended):
    outputs = content(store, ended.output_file_id).splitlines()
    rewrite(store, ended.error_file_id, outputs[:1])
    problems = check(store)
    assert f"batch {ended.id} (completed): 1 requests are both in its output file and in its error file" in problems
    assert any("in neither file; the first is line 4 of the input file" in line for line in problems)


def test_i1_a_request_twice_in_one_file_is_found(store, ended):
    outputs = content(store, ended.output_file_id).splitlines()
    rewrite(store, ended.output_file_id, [*outputs[:-1], outputs[0]])
    problems = check(store)
    assert f"batch {ended.id} (completed): 1 requests are twice in one of its files" in problems
    assert any("the first is line 6 of the input file" in problem for problem in problems)


def test_i2_a_line_that_answers_no_request_is_found(store, ended):
    outputs = content(store, ended.output_file_id).splitlines()
    rewrite(store, ended.output_file_id, [outputs[0].replace(b'"row-0"', b'"row-99"'), *outputs[1:]])
    problems = check(store)
    assert f"batch {ended.id} (completed): 1 lines of its files answer no request of the input file" in problems


def test_i3_wrong_counts_are_found(store, ended):
    def change(connection):
        connection.execute("DROP TRIGGER finished_batch_is_final")
        connection.execute("UPDATE batch SET completed = 4, failed = 2 WHERE id = ?", (ended.id,))

    store.database.write(change)
    assert check(store) == [
        f"batch {ended.id} (completed): its completed is 4, but its files have 5",
        f"batch {ended.id} (completed): its failed is 2, but its files have 1",
    ]


def test_i4_a_lost_a_cut_and_an_altered_file_are_told_apart(store, ended):
    path = store.files.path(ended.output_file_id)
    whole = path.read_bytes()
    path.write_bytes(whole.replace(b"answer 0", b"answer 9"))
    assert only_problem(store) == (
        f"file {ended.output_file_id} ('{ended.id}_output.jsonl'): "
        "its content has changed since it was written: the SHA-256 differs"
    )
    path.write_bytes(whole[:-1])
    assert re.search(r"it has [\d,]+ bytes, but its row says [\d,]+$", only_problem(store))
    path.unlink()
    assert check(store)[0].endswith(f"its content is missing at {path}")
    # It cannot be read, and that must not end the check.
    path.mkdir()
    of_the_file, of_the_batch = check(store)
    assert of_the_file.endswith(f"its content at {path} cannot be read: Is a directory")
    assert of_the_batch.startswith(f"batch {ended.id} (completed): ")


def test_i5_what_has_no_row_is_found_and_swept(store, ended):
    (store.files.directory / ("file-" + "0" * 22)).write_bytes(b"x")
    (store.batches.directory / ended.id).mkdir()
    assert check(store) == [
        f"{store.files.directory}/file-{'0' * 22}: belongs to no file of the store; the next sweep removes it",
        f"{store.batches.directory / ended.id}: belongs to no unfinished batch of the store; the next sweep removes it",
    ]
    store.sweep()
    assert check(store) == []


def test_i6_a_row_that_breaks_the_schemas_rules_is_found(store, ended):
    def change(connection):
        connection.execute("PRAGMA ignore_check_constraints = ON")
        connection.execute("DROP TRIGGER finished_batch_is_final")
        connection.execute("UPDATE batch SET completed_at = NULL WHERE id = ?", (ended.id,))
        connection.execute("PRAGMA ignore_check_constraints = OFF")

    store.database.write(change)
    assert only_problem(store) == "database: CHECK constraint failed in batch"


def test_a_spool_that_lost_what_was_counted_is_found(store):
    with begin(store, 3) as lease:
        lease.append(group(lease.id, [0, 1]))
    (store.batches.directory / lease.id / "spool-0000000001").write_bytes(b"")
    assert only_problem(store) == (
        f"batch {lease.id} (in_progress): 2 requests were counted as finished, but its spool has 0"
    )


def test_a_damaged_index_and_a_missing_directory_are_found(store):
    with begin(store, 3) as lease:
        pass
    directory = store.batches.directory / lease.id
    (directory / "index").write_bytes(b"x")
    assert only_problem(store).startswith(f"batch {lease.id} (in_progress): its index {directory / 'index'} is damaged")
    for path in directory.iterdir():
        path.unlink()
    directory.rmdir()
    assert only_problem(store) == f"batch {lease.id} (in_progress): its directory {directory} is missing"


def test_a_batch_that_an_owner_is_writing_is_not_looked_into(store):
    with begin(store, 3) as lease:
        lease.append(group(lease.id, [0]))
        with (store.batches.directory / lease.id / "spool-0000000001").open("ab") as file:
            file.write(b"half")
        assert check(store) == []


def test_the_command_says_that_all_is_well_in_one_sentence(store, ended, capsys):
    store.close()
    assert main(["fsck", str(store.path)]) == 0
    assert capsys.readouterr() == (f"The store in {store.path} is sound.\n", "")


def test_the_command_takes_the_store_from_the_environment_and_prints_a_line_for_each_problem(
    store, ended, capsys, monkeypatch
):
    store.files.path(ended.output_file_id).unlink()
    monkeypatch.setenv("VBATCH_STORE", str(store.path))
    assert main(["fsck"]) == 1
    lines = capsys.readouterr().out.splitlines()
    assert [line.split()[1] for line in lines] == [ended.output_file_id, ended.id]
    assert (store.path / "reserve").exists() is False


def test_the_command_makes_no_store_where_there_is_none(tmp_path, capsys):
    assert main(["fsck", str(tmp_path / "nothing")]) == 1
    assert capsys.readouterr().err == (
        f"There is no store in {tmp_path / 'nothing'}. Set VBATCH_STORE to its directory.\n"
    )
    assert list(tmp_path.iterdir()) == []
