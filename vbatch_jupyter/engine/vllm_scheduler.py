"""vLLM's scheduler, with the one thing that its priorities lack: an interactive request waits for no batch.

vLLM sorts the requests that wait by priority, but looks at none of them while as many run as may run
(``num_running >= max_num_active_reqs``), and gives a waiting one no memory that a running one has: it preempts only for
requests that run already. A chat would stand behind 256 answers of a batch until one of them ends. Keeping slots free
in the runner would not do: a line with ``n=8`` takes eight of them, and a chat may, too. Here, before each step,
requests of batches are put back into the queue until those of people have room. What they have computed stays in the
prefix cache as long as there is room, and their answers stay the same requests' answers.

This runs in the engine's own process.
"""

# ruff: noqa: SLF001 - vLLM has no public words for what a scheduler does

from __future__ import annotations

import itertools
import time
from typing import Any

from vllm.utils.math_utils import cdiv
from vllm.v1.core.sched.async_scheduler import AsyncScheduler
from vllm.v1.core.sched.interface import PauseState
from vllm.v1.core.sched.request_queue import SchedulingPolicy
from vllm.v1.core.sched.scheduler import Scheduler
from vllm.v1.request import RequestStatus

from vbatch_jupyter.engine.base import BATCH_PRIORITY

_READY = (RequestStatus.WAITING, RequestStatus.PREEMPTED)


def scheduler_name(*, asynchronous: bool) -> str:
    """Give the name under which the engine's process finds its scheduler.

    Parameters
    ----------
    asynchronous
        Whether the engine schedules a step before the one before it has ended.
    """
    kind = AsyncInteractiveFirstScheduler if asynchronous else InteractiveFirstScheduler
    return f"{kind.__module__}.{kind.__qualname__}"


class InteractiveFirstScheduler(Scheduler):
    """Makes room for interactive requests at the cost of those of batches.

    It has no methods but those that it overrides: vLLM's own, private ones included, may have any name.
    """

    def schedule(self, *arguments: Any, **options: Any) -> Any:
        """Plan one step."""
        if self.waiting and self.waiting.peek_request().priority < BATCH_PRIORITY:
            _make_room(self)
        return super().schedule(*arguments, **options)


class AsyncInteractiveFirstScheduler(InteractiveFirstScheduler, AsyncScheduler):
    """The same where a step is scheduled before the one before it has ended."""


def _make_room(scheduler: Scheduler) -> None:
    if scheduler.policy != SchedulingPolicy.PRIORITY or scheduler._pause_state != PauseState.UNPAUSED:
        return
    slots = scheduler.max_num_active_reqs - len(scheduler.running) - scheduler.num_waiting_for_streaming_input
    blocks = scheduler.kv_cache_manager.block_pool.get_num_free_blocks()
    for request in itertools.takewhile(lambda request: request.priority < BATCH_PRIORITY, scheduler.waiting):
        if request.status not in _READY:
            continue  # its grammar is being compiled
        needed = cdiv(request.num_tokens, scheduler.block_size)
        while slots < 1 or blocks < needed:
            if not _put_one_back(scheduler):
                return
            slots, blocks = slots + 1, scheduler.kv_cache_manager.block_pool.get_num_free_blocks()
        slots, blocks = slots - 1, blocks - needed


def _put_one_back(scheduler: Scheduler) -> bool:
    victims = [
        request
        for request in scheduler.running
        if request.priority >= BATCH_PRIORITY and scheduler._request_blocks_can_be_freed(request)
    ]
    if not victims:
        return False
    # vLLM's own choice: of the least important the youngest, which has the least to lose.
    victim = max(victims, key=lambda request: (request.priority, request.arrival_time))
    scheduler.running.remove(victim)
    # As where vLLM resets its prefix cache: it may run again in the very step that is planned now, and then must be
    # told to the worker as new, and nothing that is still under way may count.
    scheduler._preempt_request(victim, time.monotonic(), drop_stale_output=True)
    scheduler.prev_step_scheduled_req_ids.discard(victim.request_id)
    return True
