"""Counts errors by what their messages have in common: most messages quote their request, so all of them differ."""

from __future__ import annotations

import itertools
import re
from collections import defaultdict
from collections.abc import Callable, Iterable, Sequence

_MOST = 200
_BEGIN, _END = 400, 100
"""How many characters of a long message are looked at."""

_FEW = 3
"""Up to so many messages that begin alike are shown apart."""

_KEY_WORDS = 4
_OTHERS = "(other messages)"

_VARIES = re.compile(r"""(?<!\w)(["'`])(?:.*?)\1(?!\w)|\d(?:[\d.,:]*\d)?""")
"""A quoted text or a number."""


class ErrorGroups:
    """Errors, counted by what their messages have in common; of a bounded size.

    Parameters
    ----------
    messages
        The first ones.

    Examples
    --------
    >>> groups = ErrorGroups(f"The prompt of row {n} has {n}00 tokens." for n in range(20))
    >>> groups.add("No such model.")
    >>> groups.counted()
    {'The prompt of row … has … tokens.': 20, 'No such model.': 1}
    """

    def __init__(self, messages: Iterable[str] = ()) -> None:
        # By pattern, what is shown and how often it came.
        self._groups: dict[str, tuple[str, int]] = {}
        for message in messages:
            self.add(message)

    def add(self, message: str) -> None:
        """Count a message."""
        if len(message) > _BEGIN + _END:
            message = f"{message[:_BEGIN]} … {message[-_END:]}"
        message = " ".join(message.split())
        pattern = _VARIES.sub(lambda found: f"{found[1]}…{found[1]}" if found[1] else "…", message)
        if pattern not in self._groups and len(self._groups) >= _MOST:
            self._groups = _merged(self._groups)
            if len(self._groups) >= _MOST:
                pattern = message = _OTHERS
        shown, count = self._groups.get(pattern, (message, 0))
        self._groups[pattern] = (message if message == shown else pattern, count + 1)

    def counted(self) -> dict[str, int]:
        """Return how often each kind of message came, the most frequent first."""
        counts: dict[str, int] = defaultdict(int)
        for shown, count in _merged(self._groups).values():
            counts[shown] += count
        return dict(sorted(counts.items(), key=lambda kind: -kind[1]))


def _merged(groups: dict[str, tuple[str, int]]) -> dict[str, tuple[str, int]]:
    groups = _merged_by(groups, lambda words: words[:_KEY_WORDS])
    return _merged_by(groups, lambda words: words[-_KEY_WORDS:])


def _merged_by(
    groups: dict[str, tuple[str, int]], key: Callable[[Sequence[str]], Sequence[str]]
) -> dict[str, tuple[str, int]]:
    """Make one group of many that begin, or end, alike."""
    alike: dict[tuple[str, ...], list[str]] = defaultdict(list)
    for pattern in groups:
        alike[tuple(key(pattern.split()))].append(pattern)
    merged = {}
    for patterns in alike.values():
        if len(patterns) <= _FEW:
            merged.update({pattern: groups[pattern] for pattern in patterns})
        else:
            common = _common([pattern.split() for pattern in patterns])
            merged[common] = (common, sum(groups[pattern][1] for pattern in patterns))
    return merged


def _common(texts: Sequence[Sequence[str]]) -> str:
    begin = _alike(texts)
    end = _alike([text[len(begin) :][::-1] for text in texts])
    return " ".join([*begin, "…", *end[::-1]])


def _alike(texts: Sequence[Sequence[str]]) -> list[str]:
    """Return the words that all texts begin with."""
    places = itertools.takewhile(lambda words: len(set(words)) == 1, zip(*texts, strict=False))
    return [words[0] for words in places]
