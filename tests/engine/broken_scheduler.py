"""A scheduler whose vLLM has changed: ``--scheduler-cls tests.engine.broken_scheduler.BrokenScheduler``."""

from __future__ import annotations

from typing import Any

from vbatch_jupyter.engine.vllm.scheduler import AsyncInteractiveFirstScheduler


class BrokenScheduler(AsyncInteractiveFirstScheduler):
    """Puts no request back in the way that we ask for; vLLM itself asks for nothing else."""

    def _preempt_request(self, request: Any, timestamp: float) -> None:
        super()._preempt_request(request, timestamp)
