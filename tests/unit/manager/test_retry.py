"""Whether a retry would run something, as every face asks it."""

from __future__ import annotations

import pytest

from tests.batches import begin, line, open_store
from vbatch_jupyter.manager import Manager, lifecycle
from vbatch_jupyter.manager.retry import has_unanswered


@pytest.fixture
def ended(tmp_path):
    """Return a manager and a batch whose requests have all completed."""
    with open_store(tmp_path / "store") as store:
        with begin(store, 3) as lease:
            lease.append([line(lease.id, position) for position in range(3)])
            record = lifecycle.finish(store, lease)
        assert record.request_counts.completed == 3
        yield Manager(store, profile="local"), record


@pytest.mark.parametrize("harm", ["lost", "damaged", "deleted"])
@pytest.mark.parametrize("kind", ["input", "output"])
def test_a_batch_whose_files_cannot_be_read_offers_no_retry_and_is_no_error(tmp_path, ended, harm, kind):
    manager, record = ended
    file_id = getattr(record, f"{kind}_file_id")
    path = tmp_path / "store" / "files" / file_id
    if harm == "lost":
        path.unlink()
    elif harm == "damaged":
        path.write_bytes(b'"json_schema"\nno JSON\n')
    else:
        manager.files.delete(file_id)
    assert not has_unanswered(manager, record)


def test_what_could_not_be_read_once_is_read_again(ended, monkeypatch):
    manager, record = ended

    def refuse(_: str) -> None:
        raise OSError(24, "Too many open files")

    with monkeypatch.context() as patch:
        patch.setattr(manager.files, "content", refuse)
        assert not has_unanswered(manager, record)
    assert manager.batches.have_misfits == {}
    assert not has_unanswered(manager, record)
    assert manager.batches.have_misfits == {record.id: False}
