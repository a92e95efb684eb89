"""Advances the batches that run at services: when to ask for each one, and why one waits.

A kernel with the service's key continues them, also those that another kernel has made. A service that does not
answer, or has no room, is asked again after a pause that grows; the batch says why it waits. An error of the store is
tried again in the same way. Nothing but a cancel or the service itself ends a batch.
"""

from __future__ import annotations

import asyncio
import contextlib
from collections.abc import Callable

import msgspec

from vbatch_jupyter.errors import ConflictError, FencedError, ServiceError, StoreBusyError, StoreError
from vbatch_jupyter.loop import Attempts, Backoff, Loop, each_of, in_thread
from vbatch_jupyter.manager import lifecycle
from vbatch_jupyter.manager.waiting import why_again
from vbatch_jupyter.protocol.batch import BatchRecord
from vbatch_jupyter.store import Lease, Store
from vbatch_jupyter.targets.configuration import Target
from vbatch_jupyter.targets.service import Service
from vbatch_jupyter.targets.service_batch import ServiceBatch

LOOK_SECONDS = 0.5
"""How often the store is looked at."""

POLL = Backoff(first=1.0, longest=30.0, growth=1.5)
"""The pauses between two requests to a service."""

_KEY_SECONDS = 2.0


class TargetRunner:
    """Advances the batches of the store that run at services.

    Parameters
    ----------
    store
        Where the batches are.
    on_notice
        Called with one sentence when a batch is followed again.
    attempts
        When a batch that has met an error of the store is tried again.
    """

    def __init__(
        self,
        store: Store,
        *,
        on_notice: Callable[[str], None] = lambda _: None,
        attempts: Attempts | None = None,
    ) -> None:
        self._store = store
        self._attempts = attempts or Attempts()
        self._on_notice = on_notice
        self._tasks: dict[str, asyncio.Task[None]] = {}
        self._cancelled: dict[str, asyncio.Event] = {}
        self.loop = Loop("target runner", say=on_notice)

    async def run(self) -> None:
        """Run until stopped."""
        await self.loop.run(self._look, every=LOOK_SECONDS)

    async def stop(self) -> None:
        """Leave the batches as they are at their services."""
        await self.loop.stop()
        tasks = list(self._tasks.values())
        for task in tasks:
            task.cancel()
        if tasks:
            await asyncio.wait(tasks)

    async def _look(self) -> None:
        records = [record for record in await in_thread(self._store.batches.unfinished) if record.target is not None]
        for record in records:
            if record.id in self._tasks and record.status == "cancelling":
                self._cancelled[record.id].set()
        await each_of(
            [record for record in records if record.id not in self._tasks], self._acquire, give_up_on=StoreBusyError
        )

    async def _acquire(self, record: BatchRecord) -> None:
        if (lease := await in_thread(self._store.batches.acquire, record.id)) is not None:
            self._start(record, lease)

    def _start(self, record: BatchRecord, lease: Lease) -> None:
        self._cancelled[record.id] = asyncio.Event()
        task = asyncio.create_task(self._follow(record, lease))
        self._tasks[record.id] = task
        task.add_done_callback(lambda _: self._ended(record.id))

    def _ended(self, id: str) -> None:  # noqa: A002 - OpenAI's word
        del self._tasks[id], self._cancelled[id]

    async def _follow(self, record: BatchRecord, lease: Lease) -> None:
        try:
            target = msgspec.json.decode(record.target or "", type=Target)
            if record.parts is not None:
                self._on_notice(f"Continuing to follow batch {record.id} at {target.name}.")
            if await self._has_key(target, lease):
                service = Service(target, target.key() or "")
                try:
                    await self._until_ended(target, service, lease)
                finally:
                    await service.close()
        except (FencedError, ConflictError):
            # Another owner has it, or it has ended.
            pass
        except Exception as error:  # noqa: BLE001
            # Before the service was asked, as with a proxy of the environment that is not valid. Looks try again.
            await asyncio.sleep(await self._pause_after(error, lease))
        finally:
            await in_thread(lease.release)

    async def _has_key(self, target: Target, lease: Lease) -> bool:
        """Wait until the service's key is there; False if the batch has ended without."""
        while target.key() is None:
            if await in_thread(self._may_give_up, lease):
                await in_thread(lifecycle.finish, self._store, lease)
                return False
            await self._say(
                lease,
                f"Set the environment variable {target.api_key_env} to the API key for {target.name} to continue.",
            )
            await asyncio.sleep(_KEY_SECONDS)
        return True

    async def _until_ended(self, target: Target, service: Service, lease: Lease) -> None:
        batch = ServiceBatch(self._store, lease, target, service)
        quiet, after, cancelled = 0, 0.0, self._cancelled[lease.id]
        while True:
            has_passed_on = cancelled.is_set()
            # One that was wrong may have been put right.
            service.use(target.key() or "")
            try:
                state = await batch.advance()
                if state == "ended":
                    return
                quiet, after = 0 if state == "changed" else quiet + 1, 0.0
                await self._say(lease, None)
                self._attempts.forget(lease.id)
            except FencedError:
                raise
            except ServiceError as error:
                if await in_thread(self._may_give_up, lease):
                    await in_thread(lifecycle.finish, self._store, lease)
                    return
                await self._say(lease, str(error))
                quiet, after = quiet + 1, error.after_seconds or 0.0
            except Exception as error:  # noqa: BLE001
                quiet, after = quiet + 1, await self._pause_after(error, lease)
            pause = max(POLL.pause(quiet + 1), after)
            # A cancel is passed on at once; then the service takes its time.
            with contextlib.suppress(TimeoutError):
                await asyncio.wait_for(asyncio.sleep(pause) if has_passed_on else cancelled.wait(), pause)

    async def _pause_after(self, error: Exception, lease: Lease) -> float:
        """Return the seconds until the next attempt, when the batch says why it waits."""
        await self._say(lease, why_again(error))
        self._attempts.failed(lease.id)
        if isinstance(error, StoreError | OSError):
            return self._attempts.pause(lease.id)
        # Started again at once it would only fail again, forever.
        return POLL.longest

    async def _say(self, lease: Lease, reason: str | None) -> None:
        with contextlib.suppress(StoreError, ConflictError, OSError):
            if (await in_thread(lease.refresh)).reason != reason:
                await in_thread(lambda: lease.update(reason=reason))

    def _may_give_up(self, lease: Lease) -> bool:
        # A service that is gone must not keep a batch that nobody wants any more; until the window has passed it may
        # still have answers.
        record = lease.refresh()
        return record.status == "cancelling" and lifecycle.is_expired(record, self._store.clock())
