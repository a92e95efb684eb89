"""A scheduler that computes for a while before some requests: ``--scheduler-cls tests.engine.slow_scheduler.…``."""

from __future__ import annotations

import time
from typing import Any

from vllm.v1.core.sched.async_scheduler import AsyncScheduler

SLOW_TOKENS = 7
"""A request for so many tokens is a slow one."""

SLOW_SECONDS = 6.0


class SlowScheduler(AsyncScheduler):  # type: ignore[misc, unused-ignore]
    """Computes before a slow request as the compiler of a grammar does: the engine sends nothing meanwhile."""

    def schedule(self, *arguments: Any, **options: Any) -> Any:
        if any(request.max_tokens == SLOW_TOKENS for request in self.waiting):
            until = time.process_time() + SLOW_SECONDS
            while time.process_time() < until:
                sum(range(10_000))
        return super().schedule(*arguments, **options)
