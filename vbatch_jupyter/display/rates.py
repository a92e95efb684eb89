"""A rate over the whole of a batch's time, in a bounded number of values."""

from __future__ import annotations

_MOST = 240


class Rates:
    """Values that come at equal steps; when there are many, neighbours become their mean and the steps twice as long.

    Examples
    --------
    >>> rates = Rates(most=4)
    >>> for value in (1, 3, 5, 7, 10, 20):
    ...     rates.add(value)
    >>> rates.values
    [2.0, 6.0, 15.0]
    """

    def __init__(self, *, most: int = _MOST) -> None:
        self.values: list[float] = []
        self._most = most
        self._step = 1
        self._waiting: list[float] = []

    def add(self, value: float) -> None:
        """Take the next value."""
        self._waiting.append(value)
        if len(self._waiting) < self._step:
            return
        self.values.append(_mean(self._waiting))
        self._waiting.clear()
        if len(self.values) == self._most:
            self.values = [_mean(self.values[place : place + 2]) for place in range(0, self._most, 2)]
            self._step *= 2


def _mean(values: list[float]) -> float:
    return sum(values) / len(values)
