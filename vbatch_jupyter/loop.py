"""One loop that repeats a step: an error of the step is reported once and counted, and the step is tried again.

Every loop of the package is a `Loop`: those of a kernel, of the Jupyter server, and of a live widget's thread. Only its
owner, a cancel, an interrupt or the end of the process stops one. Pauses that grow are a `Backoff` everywhere.
"""

from __future__ import annotations

import asyncio
import contextlib
import dataclasses
import logging
import os
import random
import threading
import time
from collections.abc import Awaitable, Callable, Iterable
from typing import Any, Self, TypeVar

from vbatch_jupyter.errors import VBatchError

T = TypeVar("T")

_QUIET_SECONDS = 60.0
"""The same kind of problem is not reported again within this time."""


@dataclasses.dataclass(frozen=True, slots=True)
class Backoff:
    """How often to try again, and how long to wait before: each pause is longer than the one before.

    Parameters
    ----------
    first, longest
        Seconds.
    growth
        The factor from each pause to the next.
    spread
        The random part of a pause, 0 to 1, so that not everyone tries again at once.
    attempts
        How many attempts to make; None for no limit.

    Examples
    --------
    >>> backoff = Backoff(first=0.5, longest=3, attempts=5)
    >>> [backoff.after(failures) for failures in (1, 2, 3, 4, 5)]
    [0.5, 1.0, 2.0, 3, None]
    """

    first: float
    longest: float
    growth: float = 2.0
    spread: float = 0.0
    attempts: int | None = None

    def pause(self, failures: int) -> float:
        """Return the seconds to wait after this many failures in a row."""
        pause = min(self.first * self.growth ** min(failures - 1, 64), self.longest)
        return pause * random.uniform(1 - self.spread, 1) if self.spread else pause  # noqa: S311 - not for secrets

    def after(self, failures: int, *, asked: str | None = None) -> float | None:
        """Return the seconds to wait after this many failed attempts, or None to give up.

        Parameters
        ----------
        failures
            In a row, the last one included.
        asked
            The pause that a server has asked for, as in HTTP's Retry-After.
        """
        if self.attempts is not None and failures >= self.attempts:
            return None
        if asked is not None and asked.isdecimal():
            return min(float(asked), self.longest)
        return self.pause(failures)


@dataclasses.dataclass(frozen=True, slots=True)
class Failure:
    """What has failed, each time that it was tried.

    Parameters
    ----------
    times
        How many times in a row.
    since
        When it failed first, in monotonic seconds.
    again_at
        When it may be tried again.
    mark
        What was remembered with it.
    """

    times: int
    since: float
    again_at: float
    mark: int | None = None


class Attempts:
    """When to try again what has failed, by its name; safe from any thread.

    Parameters
    ----------
    backoff
        The pauses between two attempts.
    stays_after_seconds
        A failure that has come back for so long is one that stays.
    clock
        Monotonic seconds.

    Examples
    --------
    >>> attempts = Attempts(stays_after_seconds=60, clock=iter([0, 0.05, 0.1, 100]).__next__)
    >>> attempts.failed("a").times, attempts.is_due("a"), attempts.is_due("a"), attempts.failed("a").times
    (1, False, True, 2)
    """

    def __init__(
        self,
        backoff: Backoff = Backoff(first=0.1, longest=300.0),
        *,
        stays_after_seconds: float = 3600.0,
        clock: Callable[[], float] = time.monotonic,
    ) -> None:
        self._backoff = backoff
        self._stays_after_seconds = stays_after_seconds
        self._clock = clock
        self._failures: dict[str, Failure] = {}

    @classmethod
    def from_environment(cls) -> Self:
        """Return what a kernel uses: a Jupyter server's settings are in the environment of the kernels it starts."""
        longest = float(os.environ.get("VBATCH_RETRY_LONGEST_SECONDS", "300"))
        stays_after = float(os.environ.get("VBATCH_PAUSE_AFTER_SECONDS", "3600"))
        return cls(Backoff(first=0.1, longest=longest), stays_after_seconds=stays_after)

    def __contains__(self, name: str) -> bool:
        """Return whether something has failed and has not succeeded since."""
        return name in self._failures

    def failed(self, name: str) -> Failure:
        """Count a failure, and return all of the row."""
        now, before = self._clock(), self._failures.get(name)
        times = before.times + 1 if before else 1
        failure = Failure(times, before.since if before else now, now + self._backoff.pause(times))
        self._failures[name] = failure
        return failure

    def remember(self, name: str, mark: int | None) -> None:
        """Remember something with a failure, until the next one."""
        if (failure := self._failures.get(name)) is not None:
            self._failures[name] = dataclasses.replace(failure, mark=mark)

    def mark(self, name: str) -> int | None:
        """Return what was remembered with a failure."""
        failure = self._failures.get(name)
        return None if failure is None else failure.mark

    def is_due(self, name: str) -> bool:
        """Return whether something may be tried: it has not failed, or its pause is over."""
        failure = self._failures.get(name)
        return failure is None or self._clock() >= failure.again_at

    def pause(self, name: str) -> float:
        """Return the seconds until the next attempt."""
        failure = self._failures.get(name)
        return 0.0 if failure is None else max(failure.again_at - self._clock(), 0.0)

    def stays(self, name: str) -> bool:
        """Return whether a failure has come back for so long that it will not go away by itself."""
        failure = self._failures.get(name)
        return failure is not None and self._clock() - failure.since >= self._stays_after_seconds

    def forget(self, name: str) -> None:
        """Something has succeeded."""
        self._failures.pop(name, None)


@dataclasses.dataclass(frozen=True, slots=True)
class Problem:
    """Why a loop's last step failed.

    Parameters
    ----------
    loop
        The loop's name.
    text
        What the step raised.
    since
        Unix seconds of the first of these failures.
    times
        How many steps in a row have failed.
    """

    loop: str
    text: str
    since: float
    times: int

    def __str__(self) -> str:
        since = time.strftime("%H:%M:%S", time.localtime(self.since))
        return f"{self.loop}: {self.text} (since {since}, failed {self.times:,} times, trying again)"


class Loop:
    """A step that is repeated until it is stopped, however often it fails.

    Parameters
    ----------
    name
        What it does, in a word or two.
    say
        Called with one sentence when the step begins to fail; by default it is logged.
    backoff
        The pauses while the step fails; they are never shorter than those between steps.

    Attributes
    ----------
    last_problem
        Why the last step failed; None if it did not.
    problems
        How many steps have failed.

    Examples
    --------
    >>> loop = Loop("example")
    >>> async def step():
    ...     loop.end()
    >>> asyncio.run(loop.run(step, every=1.0))
    """

    def __init__(
        self,
        name: str,
        *,
        say: Callable[[str], object] | None = None,
        backoff: Backoff = Backoff(first=0.25, longest=5.0),
    ) -> None:
        self.name = name
        self.last_problem: Problem | None = None
        self.problems = 0
        self._say = say or logging.getLogger(__name__).warning
        self._backoff = backoff
        self._said: dict[type[BaseException], float] = {}
        self._woken = asyncio.Event()
        self._asyncio: asyncio.AbstractEventLoop | None = None
        self._task: asyncio.Task[None] | None = None
        self._is_ending = False
        self._begun = self._ended = 0
        self._step_ended = threading.Condition()

    def report(self) -> dict[str, Any]:
        """Return the state of the loop as JSON: its name, its steps that ended and that failed, its problem."""
        problem = self.last_problem
        return {
            "loop": self.name,
            "steps": self._ended,
            "problems": self.problems,
            "problem": None if problem is None else dataclasses.asdict(problem),
        }

    async def run(self, step: Callable[[], Awaitable[object]], *, every: float) -> None:
        """Repeat a step until the loop is ended or this is cancelled.

        Parameters
        ----------
        step
            What to do; the first time at once.
        every
            Seconds between the end of a step and the next one; `wake` cuts the pause short.
        """
        self._asyncio = asyncio.get_running_loop()
        self._task = asyncio.current_task()
        while not self._is_ending:
            self._woken.clear()
            with self._step_ended:
                self._begun += 1
            pause = every
            try:
                await step()
                self.last_problem = None
            except (Exception, asyncio.CancelledError) as error:
                # A cancel that nobody has asked of this task is that of something the step waited for: it fails.
                if isinstance(error, asyncio.CancelledError) and self._task is not None and self._task.cancelling():
                    raise
                pause = max(every, self._backoff.pause(self._failed(error).times))
            with self._step_ended:
                self._ended = self._begun
                self._step_ended.notify_all()
            if not self._woken.is_set():
                with contextlib.suppress(TimeoutError):
                    await asyncio.wait_for(self._woken.wait(), pause)

    def _failed(self, error: BaseException) -> Problem:
        text = str(error) if isinstance(error, VBatchError) and str(error) else f"{type(error).__name__}: {error}"
        last = self.last_problem
        self.problems += 1
        self.last_problem = problem = Problem(
            self.name, text, since=last.since if last else time.time(), times=last.times + 1 if last else 1
        )
        now = time.monotonic()
        if now - self._said.get(type(error), float("-inf")) > _QUIET_SECONDS:
            # Reporting may fail too, for instance if the front end has gone.
            with contextlib.suppress(Exception):
                self._say(f"The {self.name} loop failed and will try again: {text}")
        self._said[type(error)] = now
        return problem

    def start(self, step: Callable[[], Awaitable[object]], *, every: float) -> None:
        """Run as a task of the running event loop; a loop that is already running continues.

        Parameters
        ----------
        step, every
            See `run`.
        """
        self._is_ending = False
        if self._task is None or self._task.done():
            self._task = asyncio.create_task(self.run(step, every=every))

    def wake(self) -> None:
        """Take the next step at once; from any thread."""
        if self._asyncio is None:
            self._woken.set()
            return
        # A loop that has closed has nothing to wake.
        with contextlib.suppress(RuntimeError):
            self._asyncio.call_soon_threadsafe(self._woken.set)

    def end(self) -> None:
        """Take no further step; from any thread."""
        self._is_ending = True
        self.wake()

    async def stop(self, *, within: float = 5.0) -> None:
        """Take no further step, and wait for the end of the one that is being taken.

        Parameters
        ----------
        within
            Seconds after which that step is cancelled.
        """
        self.end()
        if self._task is not None:
            await asyncio.wait({self._task}, timeout=within)
            self._task.cancel()
            await asyncio.wait({self._task})

    def looked(self, timeout: float = 60.0) -> None:
        """Take the next step at once, and wait in another thread for its end; it begins after this call.

        Raises
        ------
        TimeoutError
            No step ended within that time.
        """
        with self._step_ended:
            begun = self._begun
            self.wake()
            if not self._step_ended.wait_for(lambda: self._ended > begun, timeout):
                raise TimeoutError(f"No step of the {self.name} loop ended within {timeout:g} s.")


async def each_of(
    items: Iterable[T], do: Callable[[T], Awaitable[object]], *, give_up_on: type[Exception] | tuple[()] = ()
) -> None:
    """Do something with each of several, whatever becomes of the others; the last failure is raised at the end.

    Parameters
    ----------
    items, do
        With what, and what.
    give_up_on
        A failure that the others would meet as well; it is raised at once.
    """
    problem: Exception | None = None
    for item in items:
        try:
            await do(item)
        except give_up_on:
            raise
        except Exception as error:  # noqa: BLE001 - raised below
            problem = error
    if problem is not None:
        raise problem


async def in_thread(function: Callable[..., T], *arguments: object) -> T:
    """Call a function that blocks, off the event loop.

    Parameters
    ----------
    function, arguments
        The call.
    """
    try:
        return await asyncio.to_thread(function, *arguments)
    except RuntimeError as error:
        # The interpreter is going down and takes no more threads; what is finished must still reach the disk, and the
        # engine must end. It says "after interpreter shutdown", and "after shutdown" once the pool has lost a thread.
        # Or the operating system has no thread for us now.
        if not str(error).startswith(("cannot schedule new futures after", "can't start new thread")):
            raise
        return function(*arguments)
