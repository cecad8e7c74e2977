"""The run's limits, as a resident rank looks at them: it wishes the end of the run in the round that reaches one.

Rank 0 looks; with a quorum all ranks do, since rank 0 may be late. The cost so far may look a little different to each
of them. That does no harm: the wish ends the run, and all ranks read the same wishes.
"""

from estafeta.protocol.layout import Round
from estafeta.protocol.limits import limit_reached, newest_limits
from estafeta.protocol.message import Wish
from estafeta.protocol.run_folder import RunFolder
from estafeta.protocol.snapshot import round_after


class Budget:
    """The limits of a run, as one leg of a rank looks at them.

    Attributes:
        reached: The limit that was reached at the last look, in words; empty if none was.
    """

    def __init__(self, folder: RunFolder, rank: int) -> None:
        self.reached = ""
        self._plan, self._workers = folder.plan, folder.spec.workers
        self._clock = folder.store.clock
        self._looks = rank == 0 or folder.spec.quorum is not None
        if self._looks:
            names = folder.store.list(folder.layout.root)
            self._limits = newest_limits(folder, names)

    def is_reached(self, following: Round | None, spent_usd: float) -> bool:
        """Tell whether a limit ends the run, which has cost so much, before its next round (None after the last)."""
        if self._looks:
            self.reached = limit_reached(self._limits, following, spent_usd=spent_usd, now=self._clock.time())
        return bool(self.reached)

    def wish(self, round_: Round, spent_usd: float, own_usd: float) -> Wish:
        """Return what to wish in the contribution to a round; the run had cost `spent_usd` before it.

        This rank has cost `own_usd` since then. The others have not said theirs yet; it is taken to be the same.
        """
        spent_usd += self._workers * own_usd
        following = round_after(self._plan, round_)
        is_reached = self.is_reached(following, spent_usd)
        if not is_reached and following and following.phase == "valid" and not self._plan.valid_rows:
            # Nobody contributes to that round, so nobody could wish anything in it.
            is_reached = self.is_reached(round_after(self._plan, following), spent_usd)
        return Wish.LIMIT if is_reached else Wish.NONE
