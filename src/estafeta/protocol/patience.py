"""How long to wait for others before they count as lost: learnt from how long things took so far.

The limit is median + k·MAD of the last durations, MAD being the median of their distances from the median. Half of the
durations may be arbitrarily long (a round in which somebody died took as long as it took to notice) without moving it.
A wrong guess costs an invocation, never a bit.

It knows durations in seconds; never what they are of.
"""

from collections import deque
from statistics import median

from estafeta import waiting


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
        self._durations_s: deque[float] = deque(maxlen=waiting.RECENT_ROUNDS)

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
        if len(self._durations_s) < waiting.KNOWN_ROUNDS:
            return max(self._floor_s, self.start_s)
        usual_s = self.usual_s
        deviation_s = median(abs(seconds - usual_s) for seconds in self._durations_s)
        return max(self._floor_s, usual_s + waiting.DEVIATIONS * max(deviation_s, waiting.LEAST_DEVIATION * usual_s))
