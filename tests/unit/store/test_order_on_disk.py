"""In which order things reach the disk: what a kill does not show, and a power loss would."""

from __future__ import annotations

import os
from pathlib import Path

import pytest

from tests.batches import begin, group, make_batch
from vbatch_jupyter.manager import lifecycle
from vbatch_jupyter.protocol.ids import result_file_id


@pytest.fixture
def events(store, monkeypatch):
    """List what is synced, renamed and removed, and what the database commits, in order."""
    events: list[str] = []

    def name(target):
        path = Path(f"/proc/self/fd/{target}").resolve() if isinstance(target, int) else Path(target)
        return str(path.relative_to(store.path)) if path.is_relative_to(store.path) else str(path)

    def note(verb, function):
        def noting(*arguments, **keywords):
            events.append(" ".join([verb, *map(name, arguments[: 2 if verb == "rename" else 1])]))
            return function(*arguments, **keywords)

        return noting

    for verb in ("fsync", "fdatasync", "rename", "rmdir", "truncate"):
        monkeypatch.setattr(os, verb, note(verb, getattr(os, verb)))

    def trace(statement):
        if statement in {"BEGIN IMMEDIATE", "COMMIT"}:
            events.append(statement)

    store.database._connection.set_trace_callback(trace)
    yield events
    store.database._connection.set_trace_callback(None)


def test_a_file_is_whole_on_the_disk_before_its_row_is(store, events):
    file = store.files.create([b"x"], filename="a", purpose="batch")
    temporary = events[0].removeprefix("fsync ")
    assert temporary.startswith("incoming/.tmp-")
    assert events == [
        f"fsync {temporary}",
        f"rename {temporary} files/{file.id}",
        "fsync files",
        "BEGIN IMMEDIATE",
        "COMMIT",
    ]


def test_a_batch_has_its_index_on_the_disk_before_it_is_in_progress(store, events):
    batch = make_batch(store, 1)
    events.clear()
    with store.batches.acquire(batch.id) as lease:
        directory = f"batches/{batch.id}"
        lifecycle.validate(store, lease)
        assert events == [
            "fsync batches",
            "BEGIN IMMEDIATE",
            "COMMIT",
            f"fsync {directory}/index-0000000001.tmp",
            f"rename {directory}/index-0000000001.tmp {directory}/index",
            f"fsync {directory}",
            "BEGIN IMMEDIATE",
            "COMMIT",
        ]


def test_a_group_is_on_the_disk_before_it_is_counted(store, events):
    with begin(store, 2) as lease:
        lease.recover()
        directory = f"batches/{lease.id}"
        events.clear()
        lease.append(group(lease.id, [0]))
        lease.append(group(lease.id, [1]))
        assert events == [
            f"fsync {directory}",
            f"fdatasync {directory}/spool-0000000001",
            "BEGIN IMMEDIATE",
            "COMMIT",
            f"fdatasync {directory}/spool-0000000001",
            "BEGIN IMMEDIATE",
            "COMMIT",
        ]


def test_the_files_of_a_batch_are_on_the_disk_before_it_ends_and_its_spool_goes_after(store, events):
    with begin(store, 4) as lease:
        lease.update(answers_key="an engine")
        lease.append(group(lease.id, range(4)))
        directory = f"batches/{lease.id}"
        events.clear()
        lifecycle.finish(store, lease)
    results = {kind: f"files/{result_file_id(lease.id, kind)}" for kind in ("output", "error")}
    assert events[:13] == [
        "BEGIN IMMEDIATE",
        "COMMIT",
        f"fsync {directory}/output-0000000001.tmp",
        f"fsync {directory}/error-0000000001.tmp",
        f"fsync {directory}/answers-0000000001.tmp",
        "BEGIN IMMEDIATE",
        f"rename {directory}/timings-0000000001.tmp {results['output']}.timings",
        f"rename {directory}/answers-0000000001.tmp {results['output']}.answers",
        f"rename {directory}/output-0000000001.tmp {results['output']}",
        "fsync files",
        f"rename {directory}/error-0000000001.tmp {results['error']}",
        "fsync files",
        "COMMIT",
    ]
    assert events[13].startswith("rmdir ")
    assert events[13].endswith(lease.id)
