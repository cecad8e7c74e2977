"""What a resident rank knows of the run's limits: it wishes the end of the run in the round that reaches one.

Rank 0 looks; with a quorum all ranks do, since rank 0 may be late. What the run has cost may look a little different to
each of them. That does no harm: what ends the run is the wish, which all of them read.
"""

from __future__ import annotations

from estafeta.protocol.invocation import Invocation
from estafeta.protocol.layout import Round, RunLayout
from estafeta.protocol.limits import limit_reached, newest_limits
from estafeta.protocol.message import Wish
from estafeta.protocol.snapshot import round_after
from estafeta.protocol.spec import Plan, RunSpec


class Budget:
    """The limits of a run, as one leg of a rank looks at them.

    Args:
        spec: The run's spec.
        plan: The run's plan.
        rank: The rank.
        invocation: This invocation.

    Attributes:
        reached: Which limit was reached when it was looked at last; nothing if none.
    """

    def __init__(self, spec: RunSpec, plan: Plan, rank: int, invocation: Invocation) -> None:
        self.reached = ""
        self._plan, self._workers = plan, spec.workers
        self._clock = invocation.store.clock
        self._looks = rank == 0 or spec.quorum is not None
        if self._looks:
            layout = RunLayout(spec.run)
            names = invocation.store.list(layout.root)
            self._limits = newest_limits(invocation.store, layout, spec, names)

    def is_reached(self, following: Round | None, spent_usd: float) -> bool:
        """Whether a limit ends the run before its next round.

        Args:
            following: That round; None after the last.
            spent_usd: What the run has cost.
        """
        if self._looks:
            self.reached = limit_reached(self._limits, following, spent_usd=spent_usd, now=self._clock.time())
        return bool(self.reached)

    def wish(self, round_: Round, spent_usd: float, own_usd: float) -> Wish:
        """What to wish in the contribution to a round.

        Args:
            round_: The round.
            spent_usd: What the run has cost before it.
            own_usd: What this rank has cost since; the others, of whom that is not known yet, are taken to be alike.
        """
        spent_usd += self._workers * own_usd
        following = round_after(self._plan, round_)
        is_reached = self.is_reached(following, spent_usd)
        if not is_reached and following and following.phase == "valid" and not self._plan.valid_rows:
            # Nobody contributes to that round, so nobody could wish anything in it.
            is_reached = self.is_reached(round_after(self._plan, following), spent_usd)
        return Wish.LIMIT if is_reached else Wish.NONE
