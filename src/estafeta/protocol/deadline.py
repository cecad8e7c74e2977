"""How much of an invocation is left, and whether one more micro-batch and one publication fit into it."""

import math
import time
from collections.abc import Callable, Iterator
from contextlib import contextmanager

from estafeta import waiting


class Deadline:
    """Learns from the invocation itself how long its parts take.

    Args:
        remaining_s: Seconds until the function is killed.
        transfer_s: The longest transfer that earlier invocations of this environment have seen.
        now: Seconds since an arbitrary moment; the system's by default.
        longest_s: Seconds from now on after which it is near in any case.
        step_s: The longest micro-batch that this invocation has seen so far.

    Attributes:
        transfer_s, step_s: The same, with what has been seen since.
    """

    def __init__(
        self,
        remaining_s: Callable[[], float],
        transfer_s: float = 0.0,
        now: Callable[[], float] | None = None,
        longest_s: float = math.inf,
        step_s: float = 0.0,
    ) -> None:
        self.transfer_s, self.step_s = transfer_s, step_s
        self._remaining_s = remaining_s
        self._now = now or time.monotonic
        self._ends_at = self._now() + longest_s

    @contextmanager
    def step(self) -> Iterator[None]:
        """Around a micro-batch."""
        started = self._now()
        yield
        self.step_s = max(self.step_s, self._now() - started)

    @contextmanager
    def transfer(self) -> Iterator[None]:
        """Around the reading of weights, or the publication of a gradient."""
        started = self._now()
        yield
        self.transfer_s = max(self.transfer_s, self._now() - started)

    @property
    def needed_s(self) -> float:
        """Seconds that one more micro-batch and the publication after it may take."""
        return waiting.STEP_MARGIN * self.step_s + waiting.TRANSFER_MARGIN * self.transfer_s + waiting.ANSWER_RESERVE_S

    def is_near(self) -> bool:
        """Whether it is time to publish what there is and hand over."""
        return self._remaining_s() < self.needed_s or self._now() > self._ends_at
