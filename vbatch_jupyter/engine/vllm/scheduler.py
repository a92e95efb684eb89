"""vLLM's scheduler, with the one thing that its priorities lack: an interactive request waits for no batch.

vLLM sorts the requests that wait by priority, but looks at none of them while as many run as may run
(``num_running >= max_num_active_reqs``), and gives a waiting one no memory that a running one has: it preempts only for
requests that run already. A chat would wait behind 256 answers of a batch until one of them ends. Keeping slots free
in the runner would not do: a line with ``n=8`` takes eight of them, and a chat may, too.

Here the engine has a few slots more than batches may fill. Where those are taken too, or memory is short, requests of
batches are put back into the queue before a step until those of people have room. That is the second choice, because
what was put back is computed again, and the next chat waits for that. What they have computed stays in the prefix cache
as long as there is room, and their answers stay the same requests' answers.

The step in which an interactive request begins runs interactive requests only: with 256 others its first token
would take as long as theirs. Never two such steps in a row, so that people in any number halve a batch's speed at most.
Where vLLM times the steps of its requests itself, in Model Runner V2 (the default on GPUs) and with
``--prefill-schedule-interval``, there are no such steps: docs/upgrading-vllm.md says why.

This runs in the engine's own process, which an exception in a step would end: after the first one vLLM's own scheduler
goes on alone.
"""

# ruff: noqa: SLF001 - vLLM has no public words for what a scheduler does

from __future__ import annotations

import contextlib
import itertools
import logging
import time
from collections.abc import Sequence
from typing import TYPE_CHECKING, Any

from vllm.utils.math_utils import cdiv
from vllm.v1.core.sched.async_scheduler import AsyncScheduler
from vllm.v1.core.sched.interface import PauseState
from vllm.v1.core.sched.request_queue import SchedulingPolicy
from vllm.v1.core.sched.scheduler import Scheduler
from vllm.v1.request import Request, RequestStatus

from vbatch_jupyter.engine.base import BATCH_PRIORITY

if TYPE_CHECKING:
    from vllm.config.scheduler import SchedulerConfig

_INTERACTIVE_SLOTS = 8
"""How many interactive requests run with a batch that has all its slots, before a batch request is preempted."""

_logger = logging.getLogger("vllm.vbatch")

_READY = (RequestStatus.WAITING, RequestStatus.PREEMPTED)


def put_into(config: SchedulerConfig) -> None:
    """Make an engine use this scheduler, if it has priorities and the user has not chosen another one.

    Parameters
    ----------
    config
        vLLM's, before the engine is started. Its ``max_num_active_seqs`` is then what batches may fill, and its
        ``max_num_seqs`` a little more.
    """
    if config.policy != "priority" or config.scheduler_cls is not None:
        return
    kind = AsyncInteractiveFirstScheduler if config.async_scheduling else InteractiveFirstScheduler
    config.scheduler_cls = f"{kind.__module__}.{kind.__qualname__}"
    if config.max_num_active_seqs is None:
        config.max_num_active_seqs = config.max_num_seqs
        # vLLM wants a token for each slot in a step.
        config.max_num_seqs = min(config.max_num_seqs + _INTERACTIVE_SLOTS, config.max_num_batched_tokens)


class InteractiveFirstScheduler(Scheduler):
    """Makes room for interactive requests at the cost of those of batches.

    It has no methods but those that it overrides: vLLM's own, private ones included, may have any name.
    """

    vbatch_is_on = True
    """Whether interactive requests come first; not after something of vLLM was not as expected."""

    vbatch_alone = False
    """Whether the last step was one of interactive requests alone."""

    def schedule(self, *arguments: Any, **options: Any) -> Any:
        """Plan one step."""
        if self.vbatch_is_on:
            try:
                _put_interactive_first(self)
            except Exception:
                self.vbatch_is_on = False
                _logger.exception("A chat waits for batches from here on: vLLM is not as its scheduler was expected.")
                with contextlib.suppress(Exception):
                    self.max_num_active_reqs = self.scheduler_config.max_num_active_seqs
        return super().schedule(*arguments, **options)


class AsyncInteractiveFirstScheduler(InteractiveFirstScheduler, AsyncScheduler):
    """The same for an engine that schedules a step before the previous one has ended."""


def _put_interactive_first(scheduler: InteractiveFirstScheduler) -> None:
    waiting = list(itertools.takewhile(_is_interactive, scheduler.waiting)) if scheduler.waiting else []
    running = sum(map(_is_interactive, scheduler.running))
    batches = scheduler.scheduler_config.max_num_active_seqs
    scheduler.max_num_active_reqs = min(scheduler.max_num_running_reqs, batches + running + len(waiting))
    if waiting:
        _make_room(scheduler, waiting)
    begins = _may_step_alone(scheduler) and any(request.status in _READY for request in waiting)
    scheduler.vbatch_alone = begins and not scheduler.vbatch_alone
    if scheduler.vbatch_alone:
        _pass_over_batches(scheduler, len(waiting))


def _may_step_alone(scheduler: Scheduler) -> bool:
    return not scheduler.use_v2_model_runner and scheduler.scheduler_config.prefill_schedule_interval == 1


def _is_interactive(request: Request) -> bool:
    return bool(request.priority < BATCH_PRIORITY)


def _pass_over_batches(scheduler: Scheduler, waiting: int) -> None:
    """Make the next step run no request of a batch, and start none."""
    scheduler.max_num_active_reqs = min(scheduler.max_num_active_reqs, len(scheduler.running) + waiting)
    for request in scheduler.running:
        if not _is_interactive(request):
            # As vLLM's scheduler for diffusion models does it: a step is counted before it looks.
            request.next_decode_eligible_step = max(request.next_decode_eligible_step, scheduler.current_step + 2)


def _make_room(scheduler: Scheduler, waiting: Sequence[Request]) -> None:
    if scheduler.policy != SchedulingPolicy.PRIORITY or scheduler._pause_state != PauseState.UNPAUSED:
        return
    slots = scheduler.max_num_active_reqs - len(scheduler.running) - scheduler.num_waiting_for_streaming_input
    blocks = scheduler.kv_cache_manager.block_pool.get_num_free_blocks()
    for request in waiting:
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
        if not _is_interactive(request) and scheduler._request_blocks_can_be_freed(request)
    ]
    if not victims:
        return False
    # vLLM's own choice: of the least important the youngest, which has the least to lose.
    victim = max(victims, key=lambda request: (request.priority, request.arrival_time))
    # As where vLLM resets its prefix cache: it may run again in the very step that is planned now, and then must be
    # told to the worker as new, and nothing that is still under way may count. In this order no request is lost if
    # one of these raises.
    scheduler.prev_step_scheduled_req_ids.discard(victim.request_id)
    scheduler._preempt_request(victim, time.monotonic(), drop_stale_output=True)
    scheduler.running.remove(victim)
    return True
