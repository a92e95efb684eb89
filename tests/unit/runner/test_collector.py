from __future__ import annotations

import asyncio
import threading

import pytest

from tests.batches import begin, group
from tests.unit.runner.running import on_a_loop
from vbatch_jupyter.errors import FencedError
from vbatch_jupyter.protocol.batch import RequestCounts
from vbatch_jupyter.runner.collector import GROUP_LINES, GROUP_SECONDS, Collector

MOST_LINES_WAITING = 4096


@on_a_loop
async def test_a_disk_that_is_slow_holds_the_lines_back_and_loses_none(store, monkeypatch):
    lease = begin(store, 10_000)
    records = group(lease.id, range(10_000))
    disk_is_ready = threading.Event()
    append = lease.append

    def slow(records):
        assert disk_is_ready.wait(30)
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
    await asyncio.sleep(1.0)
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
        first, *others = group(lease.id, range(300))
        await collector.put(first)
        assert lease.refresh().request_counts.completed == 0
        await asyncio.sleep(GROUP_SECONDS + 0.3)
        assert lease.refresh().request_counts.completed == 1
        # A full group goes at once.
        for record in others[:GROUP_LINES]:
            await collector.put(record)
        await asyncio.sleep(GROUP_SECONDS / 2)
        counts = lease.refresh().request_counts
        assert counts.completed + counts.failed == 1 + GROUP_LINES
        await collector.end()


@on_a_loop
async def test_what_is_put_after_the_end_of_a_failed_collector_is_an_error(store):
    with begin(store, 3) as lease:
        collector = Collector(lease)
        lease.release()
        await collector.put(group(lease.id, [0])[0])
        with pytest.raises(FencedError, match="is no longer this owner's"):
            await collector.end()
        with pytest.raises(FencedError, match="is no longer this owner's"):
            await collector.put(group(lease.id, [1])[0])
