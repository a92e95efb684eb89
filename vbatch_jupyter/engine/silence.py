"""The one rule by which an engine that hangs is told from one that works for long.

Only an engine that has requests can be silent. Two things are signs of life:

- **A step**: the engine has sent something. It ends any silence.
- **Work**: the engine's processes compute, and none of them is stopped. A prefill of 8,192 tokens may take minutes on a
  CPU, and a grammar may be compiled for a minute before the first token; neither sends anything meanwhile, and both
  compute. It is the same on GPUs: the process that waits for one polls it (CUDA's default, which vLLM does not change),
  and thus takes CPU time as long as the step lasts. A deadlock, a process that was stopped, and a read that never ends
  take none.

What spins for ever takes CPU time too: a collective of NCCL whose partner has gone, or an endless loop. So work alone
counts for `MORE_FOR_WORK` times as long. (vLLM itself ends workers whose step takes more than 300 s,
VLLM_EXECUTE_MODEL_TIMEOUT_SECONDS, but not its core.)

A server elsewhere works if it answers when it is asked for its figures; a step is an answer, or that its tokens have
become more. This is for servers of vLLM; of others nothing is known but that a request has no answer yet.

Time counts only while somebody looks: after this process was stopped, or the machine was asleep, the engine has the
same time as before.
"""

from __future__ import annotations

from typing import Literal

from vbatch_jupyter.records import Patience

MORE_FOR_WORK = 10
"""How many times as long an engine may go without a step if it works."""

Verdict = Literal["alive", "not responding", "hung"]


class Silence:
    """How long one engine has given no sign of life.

    Parameters
    ----------
    patience
        How long that may be.

    Attributes
    ----------
    seconds
        For how long it has given none, as far as somebody has looked.
    without_step
        The same for steps alone.
    is_over
        Whether the engine counts as not responding.

    Examples
    --------
    >>> silence = Silence(Patience(silence_seconds=2, rebuild_seconds=1))
    >>> [silence.look(1, is_busy=True, steps=7, works=False) for _ in range(4)]
    ['alive', 'alive', 'not responding', 'hung']
    >>> silence.look(1, is_busy=True, steps=8, works=False)
    'alive'
    """

    def __init__(self, patience: Patience) -> None:
        self._patience = patience
        self._steps = -1
        self.seconds = self.without_step = 0.0
        self.is_over = False

    def end(self) -> None:
        """Take note of a sign of life."""
        self.seconds = self.without_step = 0.0
        self.is_over = False

    def has_stepped(self, steps: int) -> bool:
        """Return whether the engine has sent something since the last look.

        Parameters
        ----------
        steps
            See `look`.
        """
        return steps != self._steps

    def look(self, seconds: float, *, is_busy: bool, steps: int, works: bool) -> Verdict:
        """Take note of what is seen, and judge.

        Parameters
        ----------
        seconds
            Since the look before.
        is_busy
            Whether the engine has requests. One that does not respond is given up by its clients, so that it has none;
            that alone is not a sign of life.
        steps
            A number that has changed if the engine has sent something.
        works
            Whether its processes have computed since the last sign of life, and none of them is stopped.
        """
        if self.has_stepped(steps) or not (is_busy or self.is_over):
            self._steps = steps
            self.end()
            return "alive"
        self.without_step += seconds
        self.seconds = 0.0 if works else self.seconds + seconds
        first, second = self._patience.silence_seconds, self._patience.rebuild_seconds
        beyond = max(self.seconds - first, self.without_step / MORE_FOR_WORK - first) if first else -1.0
        self.is_over = beyond >= 0
        if self.is_over and second and beyond >= second:
            return "hung"
        return "not responding" if self.is_over else "alive"
