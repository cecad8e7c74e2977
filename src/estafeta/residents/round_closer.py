"""How a rank gathers a round: it waits for all contributions, or closes the round without late ranks if the run may.

A run without a quorum has the plain `RoundCloser`, so the round reads the same for both (`protocol/quorum.py` has the
rule, docs/decisions/0017-stand-ins.md the reasons).
"""

from collections.abc import Callable, Collection, Iterator
from contextlib import contextmanager
from functools import partial

from estafeta import waiting
from estafeta.protocol.layout import Round
from estafeta.protocol.quorum import Closing, may_miss, new_patience
from estafeta.protocol.run_folder import RunFolder
from estafeta.residents.exchange import Exchange
from estafeta.residents.gathered import Gathered
from estafeta.residents.leg import Leg
from estafeta.residents.replica import Replica


class RoundCloser:
    """Gathers rounds of a run that waits for all ranks."""

    def __init__(self, exchange: Exchange) -> None:
        self._exchange = exchange

    @contextmanager
    def gather(self, round_: Round, began: float) -> Iterator[Gathered]:
        """Give the contributions of a round open; this rank began it at `began`, by the store's monotonic clock.

        Raises:
            Corrupt, Gone, Leaving: As `Exchange.gather`.
        """
        with self._exchange.gather(round_) as gathered:
            yield gathered

    def watch(self, round_: Round) -> Callable[[], bool] | None:
        """Return a test that tells whether others have closed the round while this rank computes; None: nobody can."""
        return None


class QuorumCloser(RoundCloser):
    """Closes train rounds without late ranks, when a quorum has contributed."""

    def __init__(self, exchange: Exchange, folder: RunFolder, leg: Leg, replica: Replica, quorum: int) -> None:
        super().__init__(exchange)
        self._folder, self._leg, self._replica, self._quorum = folder, leg, replica, quorum
        self._clock = folder.store.clock
        self._patience = new_patience(is_local=exchange.arrivals.is_local)

    @contextmanager
    def gather(self, round_: Round, began: float) -> Iterator[Gathered]:
        """See `RoundCloser.gather`; in a train round stand-ins are published for ranks that are too late."""
        if round_.phase != "train":
            with super().gather(round_, began) as gathered:
                yield gathered
            return
        closing = Closing(self._quorum, self._patience, self._clock, began, partial(self._allows, round_))
        with self._exchange.gather(round_, closing=closing) as gathered:
            closing.learn()
            yield gathered

    def watch(self, round_: Round) -> Callable[[], bool] | None:
        """See `RoundCloser.watch`; the test looks at the store now and then only."""
        if round_.phase != "train":
            return None
        was_late = self._leg.rank in self._replica.weights.attendance.in_a_row
        look_at = self._clock.monotonic() + (0.0 if was_late else waiting.CLOSED_LOOK_S)

        def is_closed() -> bool:
            nonlocal look_at
            if self._clock.monotonic() < look_at:
                return False
            look_at = self._clock.monotonic() + waiting.CLOSED_LOOK_S
            return self._exchange.is_closed(round_)

        return is_closed

    def _allows(self, round_: Round, missing: Collection[int]) -> bool:
        spec, plan = self._folder.spec, self._folder.plan
        allowed = may_miss(spec, plan, round_, missing, self._replica.weights.attendance)
        if allowed:
            self._leg.check_place()  # a leg that was replaced closes nothing
        return allowed


def closer_of(exchange: Exchange, folder: RunFolder, leg: Leg, replica: Replica) -> RoundCloser:
    """Return what gathers the rounds of a run."""
    quorum = folder.spec.quorum
    if quorum is None or not folder.spec.closes_early:
        return RoundCloser(exchange)
    return QuorumCloser(exchange, folder, leg, replica, quorum)
