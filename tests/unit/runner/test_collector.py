from __future__ import annotations

import asyncio
import threading

import pytest

from tests.batches import begin, group
from tests.unit.runner.running import on_a_loop, until
from vbatch_jupyter.errors import FencedError
from vbatch_jupyter.protocol.batch import RequestCounts
from vbatch_jupyter.runner.collector import GROUP_LINES, Collector

MOST_LINES_WAITING = 4096


@on_a_loop
async def test_a_disk_that_is_slow_holds_the_lines_back_and_loses_none(store, monkeypatch):
    lease = begin(store, 10_000)
    records = group(lease.id, range(10_000))
    disk_is_ready = threading.Event()
    append = lease.append

    def slow(records):
        assert disk_is_ready.wait(60)
        return append(records)

    monkeypatch.setattr(lease, "append", slow)
    collector = Collector(lease)
    put = 0

    async def put_all():
        nonlocal put
        for record in records:
            await collector.put(record)
            put += 1
            # As requests do, which end one after the other.
            await asyncio.sleep(0)

    putting = asyncio.create_task(put_all())
    seen = -1
    while seen != put:
        seen = put
        # It puts one in each turn of the loop, until it is held back.
        for _ in range(100):
            await asyncio.sleep(0)
    # What is being written, and as much as may wait for it.
    assert MOST_LINES_WAITING < put <= MOST_LINES_WAITING + 2 * GROUP_LINES
    assert collector.lines == 0
    disk_is_ready.set()
    await putting
    await collector.end()
    assert collector.lines == 10_000
    assert lease.recover().counts == RequestCounts(10_000, 8_000, 2_000)
    lease.release()


@on_a_loop
async def test_a_line_waits_for_company_only_so_long(store):
    with begin(store, 300) as lease:
        collector = Collector(lease)
        await collector.put(group(lease.id, [0])[0])
        assert lease.refresh().request_counts.completed == 0
        await until(lambda: lease.refresh().request_counts.completed == 1)
        await collector.end()


@on_a_loop
async def test_a_full_group_of_lines_does_not_wait(store, monkeypatch):
    monkeypatch.setattr("vbatch_jupyter.runner.collector.GROUP_SECONDS", 3600)
    with begin(store, 300) as lease:
        collector = Collector(lease)
        for record in group(lease.id, range(GROUP_LINES)):
            await collector.put(record)
        await until(lambda: lease.refresh().request_counts.left == 300 - GROUP_LINES)
        await collector.end()


@on_a_loop
async def test_what_is_put_after_the_end_of_a_failed_collector_is_an_error(store):
    with begin(store, 3) as lease:
        collector = Collector(lease)
        lease.release()
        await collector.put(group(lease.id, [0])[0])
        with pytest.raises(FencedError, match="no longer belongs to this owner"):
            await collector.end()
        with pytest.raises(FencedError, match="no longer belongs to this owner"):
            await collector.put(group(lease.id, [1])[0])
