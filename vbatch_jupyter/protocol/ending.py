"""What has ended an answer before its own end, as an error says it."""

from __future__ import annotations

import json
from typing import Any


class Cut:
    """The limit that an answer has reached.

    Parameters
    ----------
    key
        The request's key that raises it.
    tokens
        How many tokens were written, if it is known.
    """

    def __init__(self, key: str, tokens: int | None) -> None:
        self.key = key
        self._tokens = tokens

    def __str__(self) -> str:
        counted = f" after {self._tokens:,} {'token' if self._tokens == 1 else 'tokens'}" if self._tokens else ""
        return f"was cut off{counted}. Raise {self.key}, or the engine's max_model_len if {self.key} is not set"


class Stop:
    """The text or the token at which an answer had to end.

    Parameters
    ----------
    reason
        vLLM's ``stop_reason``.
    """

    def __init__(self, reason: str | int) -> None:
        self._reason = reason

    def __str__(self) -> str:
        key = "stop" if isinstance(self._reason, str) else "stop_token_ids"
        return f"was ended by {self._reason!r} of {key}. Leave that out"


def goes_on(content: Any) -> bool:
    """Return whether a text begins with a whole JSON object, and is longer.

    Examples
    --------
    >>> goes_on('{"stars": 4}'), goes_on('{"stars": 4} user')
    (False, True)
    """
    try:
        value, end = json.JSONDecoder().raw_decode(content.lstrip())
    except (AttributeError, ValueError, RecursionError):
        return False
    return isinstance(value, dict) and bool(content.lstrip()[end:].strip())
