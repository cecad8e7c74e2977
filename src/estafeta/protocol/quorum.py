"""Rounds that close without the slowest ranks, if the run asked for it: when, and without whom.

Who finds a quorum of contributions published, and has waited long enough, publishes an empty contribution, a
*stand-in*, in the place of each rank that is missing. A rank's contribution and its stand-in have the same name, and a
name is published once. So it is decided once for each rank whether it is a member of the round, by whichever file was
first; and all who come later, to combine, to redo or to resume, find N contributions as in any other round.

It knows counts and durations; never a vector, and no file.
"""

from collections.abc import Callable, Collection
from math import inf

from estafeta import waiting
from estafeta.protocol.attendance import Attendance
from estafeta.protocol.layout import Round
from estafeta.protocol.patience import Patience
from estafeta.protocol.spec import Plan, RunSpec
from estafeta.store.files import Clock


def may_miss(spec: RunSpec, plan: Plan, round_: Round, ranks: Collection[int], attendance: Attendance) -> bool:
    """Whether a round may close without some ranks; `attendance` is that at the round's version.

    Valid rounds wait for all: their sums are a metric. So does the first round of an epoch: when it is over, the record
    of the epoch before is published, for rank 0 publishes that before it contributes.
    """
    if not spec.closes_early or round_.phase != "train" or round_.version % plan.steps_per_epoch == 0:
        return False
    return all(attendance.in_a_row.get(rank, 0) < waiting.MOST_MISSED for rank in ranks)


def new_patience(*, is_local: bool) -> Patience:
    """How long a quorum waits for the others, learnt from how long it took to be there; at first without limit."""
    return Patience(floor_s=waiting.timing(is_local=is_local).quorum_floor_s, start_s=inf)


class Closing:
    """Decides when one round is closed. Its times count from `began`, when this rank began the round.

    `allows` says whether some ranks may be missing. It raises if this rank has nothing to decide any more.
    """

    def __init__(
        self, quorum: int, patience: Patience, clock: Clock, began: float, allows: Callable[[Collection[int]], bool]
    ) -> None:
        self.allows = allows
        self._quorum, self._patience, self._clock, self._began = quorum, patience, clock, began
        self._quorate_s: float | None = None

    @property
    def expected_s(self) -> float:
        """Seconds until a quorum may be there, if all goes a little faster than usual; 0 if that is not known."""
        return max(0.0, waiting.EAGERNESS * self._patience.usual_s - self._passed_s)

    def left_s(self, present: int) -> float:
        """Seconds until the round may be closed, when so many have contributed; infinite while they are too few."""
        if present < self._quorum:
            return inf
        if self._quorate_s is None:
            self._quorate_s = self._passed_s
        return round(self._patience.limit_s - self._passed_s, 3)  # nobody sleeps for less

    def learn(self) -> None:
        """Learn how long it took until a quorum was there. The round has been gathered."""
        self._patience.note(self._passed_s if self._quorate_s is None else self._quorate_s)

    @property
    def _passed_s(self) -> float:
        return self._clock.monotonic() - self._began
