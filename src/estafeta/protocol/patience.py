"""How long to wait for others before they count as lost: learnt from how long things took so far.

The limit is median + k·MAD of the last durations, MAD being the median of their distances from the median. Half of the
durations may be arbitrarily long (a round in which somebody died took as long as it took to notice) without moving it.
A wrong guess costs an invocation, never a bit.

It knows durations in seconds; never what they are of.
"""

from __future__ import annotations

from collections import deque
from statistics import median

RECENT = 32
"""Durations from which is learnt."""

KNOWN = 3
"""Durations below which nothing is known yet."""

K = 8.0
"""Deviations from the median that are no reason to worry."""

LEAST_DEVIATION = 1 / 16
"""Of the median: the limit is at least half as long again, however regular the durations are."""

LOCAL_FLOOR_S, SHARED_FLOOR_S = 1.0, 90.0
"""No limit is shorter. On a network file system a look may be answered from a cache of 60 s (nfs(5), acdirmax), or when
a fail-over of the server is over, after 30 s and more; on one machine it is the scheduler that keeps one waiting."""

LOCAL_START_S, SHARED_START_S = 10.0, 180.0
"""Nobody who may have to start first is given less: to import, to load, and on Lambda to have a package unpacked."""


class Patience:
    """A limit that follows from durations.

    Args:
        floor_s: The limit is never shorter.
        start_s: The limit while too little is known; never shorter than `floor_s`.

    Attributes:
        start_s: The same; it may be learnt later.
    """

    def __init__(self, *, floor_s: float, start_s: float) -> None:
        self.start_s = start_s
        self._floor_s = floor_s
        self._durations_s: deque[float] = deque(maxlen=RECENT)

    def note(self, seconds: float) -> None:
        """Learn how long it took this time."""
        self._durations_s.append(seconds)

    @property
    def usual_s(self) -> float:
        """The median of the last durations; 0 if there are none.

        Not the longest: a round in which somebody died has taken as long as it took to notice.
        """
        return median(self._durations_s) if self._durations_s else 0.0

    @property
    def limit_s(self) -> float:
        """Seconds after which something that has not happened should be taken for lost."""
        if len(self._durations_s) < KNOWN:
            return max(self._floor_s, self.start_s)
        usual_s = self.usual_s
        deviation_s = median(abs(seconds - usual_s) for seconds in self._durations_s)
        return max(self._floor_s, usual_s + K * max(deviation_s, LEAST_DEVIATION * usual_s))


def floor_s(*, is_local: bool) -> float:
    """The shortest limit where all writers are on one machine, or where a network lies between them."""
    return LOCAL_FLOOR_S if is_local else SHARED_FLOOR_S


def start_s(*, is_local: bool) -> float:
    """The shortest limit for somebody who may have to start first."""
    return LOCAL_START_S if is_local else SHARED_START_S
