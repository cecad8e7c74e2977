"""A clock that moves only when a test sleeps, so that a minute of waiting takes no time."""

from __future__ import annotations

import heapq
import itertools
from collections.abc import Callable


class VirtualClock:
    """`Clock` shared by all machines of a test; due actions happen during a sleep."""

    def __init__(self) -> None:
        self._now = 0.0
        self._due: list[tuple[float, int, Callable[[], object]]] = []
        self._ties = itertools.count()

    def monotonic(self) -> float:
        """Seconds slept so far."""
        return self._now

    def time(self) -> float:
        """Seconds slept so far, as if the clock had begun in 1970."""
        return self._now

    def sleep(self, seconds: float) -> None:
        """Go forward, stopping for each action at its own time."""
        end = self._now + seconds
        while self._due and self._due[0][0] <= end:
            self._now, _, action = heapq.heappop(self._due)
            action()
        self._now = end

    def after(self, seconds: float, action: Callable[[], object]) -> None:
        """Let `action` happen (on another machine) so many seconds later."""
        heapq.heappush(self._due, (self._now + seconds, next(self._ties), action))
