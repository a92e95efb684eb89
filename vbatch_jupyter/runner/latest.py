"""What a runner has last finished of a batch, to draw it while it runs."""

from __future__ import annotations

import threading
from collections import Counter, deque
from collections.abc import Iterable, Mapping

from vbatch_jupyter.protocol.endpoints import CHAT
from vbatch_jupyter.store import SpoolRecord

_ANSWERS = 5
_MESSAGES = 100
_MESSAGE_CHARACTERS = 500
_OTHERS = "(other messages)"


class Latest:
    """The last answers of one batch, and its errors by message; of a bounded size, and safe from any thread.

    Examples
    --------
    >>> latest = Latest()
    >>> latest.add([SpoolRecord(0, False, b"first"), SpoolRecord(1, False, b"second")])
    >>> latest.answers(), latest.errors()
    ((b'second', b'first'), {})
    """

    def __init__(self) -> None:
        self._lock = threading.Lock()
        self._answers: deque[bytes] = deque(maxlen=_ANSWERS)
        self._errors: Counter[str] = Counter()

    def add(self, records: Iterable[SpoolRecord]) -> None:
        """Take lines that have reached the spool."""
        with self._lock:
            for record in records:
                if record.is_error:
                    self._count(record.line)
                else:
                    self._answers.append(record.line)

    def _count(self, line: bytes) -> None:
        # The errors of all endpoints are alike.
        message = (CHAT.read(line).answer.error or "")[:_MESSAGE_CHARACTERS]
        # Messages that quote their request are all different.
        is_counted = message in self._errors or len(self._errors) < _MESSAGES
        self._errors[message if is_counted else _OTHERS] += 1

    def answers(self) -> tuple[bytes, ...]:
        """Return the last lines of the output file, newest first."""
        with self._lock:
            return tuple(reversed(self._answers))

    def errors(self) -> Mapping[str, int]:
        """Return how often each message of an error has come."""
        with self._lock:
            return dict(self._errors)
