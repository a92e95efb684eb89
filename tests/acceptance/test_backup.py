"""A backup that is made while another process runs batches is a sound store."""

from __future__ import annotations

import multiprocessing

import pytest

from tests.acceptance import store_owner
from tests.batches import assert_every_request_once, content, open_store
from tests.waiting import wait_for
from vbatch_jupyter import cli
from vbatch_jupyter.store.fsck import check

BACKUPS = 5


@pytest.fixture
def processes():
    context = multiprocessing.get_context("forkserver")
    context.set_forkserver_preload([store_owner.__name__])
    return context


def test_backups_of_a_store_in_which_batches_begin_and_end_are_sound_and_go_on(tmp_path, processes, capsys):
    stop = processes.Event()
    with open_store(tmp_path / "store") as store:
        owner = processes.Process(target=store_owner.run_batches_until, args=(store.path, stop))
        owner.start()
        try:
            for number in range(BACKUPS):
                least = 2 * number
                wait_for(lambda: store.batches.count() > least)  # noqa: B023 - called before the next round
                assert cli.main(["backup", str(tmp_path / f"copy-{number}"), str(store.path)]) == 0
        finally:
            stop.set()
            owner.join(60)
        assert owner.exitcode == 0
        made = store.batches.list(limit=10_000).data
        assert len(made) > BACKUPS
        assert check(store) == []
        assert capsys.readouterr().out.count(f" is a copy of {store.path}: ") == BACKUPS
        for number in range(BACKUPS):
            with open_store(tmp_path / f"copy-{number}") as copy:
                assert check(copy) == []
                kept = copy.batches.list(limit=10_000).data
                assert {record.id for record in kept} <= {record.id for record in made}
                for file in copy.files.list().data:
                    if store.files.alive([file.id]):
                        assert content(copy, file.id) == content(store, file.id)
                store_owner.advance_all(copy, group_size=4)
                for record in copy.batches.list(limit=10_000).data:
                    assert record.status == "completed"
                    if copy.files.alive([str(record.output_file_id)]):
                        assert_every_request_once(copy, record, store_owner.REQUESTS)
                assert check(copy) == []
