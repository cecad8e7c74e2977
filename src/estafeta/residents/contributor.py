"""How a resident rank contributes to a round: it computes its share, and publishes the gradient as it comes.

The share of a round may not fit the time of one leg. Then the leg publishes how far it got, and the next one goes on.
"""

from contextlib import suppress
from dataclasses import dataclass

from estafeta.errors import Gone
from estafeta.protocol.deadline import Deadline
from estafeta.protocol.invocation import Invocation
from estafeta.protocol.layout import Round
from estafeta.protocol.listing import legs_in, partial_rank, round_of
from estafeta.protocol.message import Wish
from estafeta.protocol.run_folder import RunFolder
from estafeta.protocol.spending import Tab
from estafeta.residents.budget import Budget
from estafeta.residents.ending import Leaving
from estafeta.residents.exchange import Exchange
from estafeta.residents.leg import Leg
from estafeta.residents.replica import Replica
from estafeta.residents.round_closer import RoundCloser
from estafeta.residents.saving import Saver
from estafeta.training.session import Session
from estafeta.training.share import Share


@dataclass
class Contributor:
    """Publishes the contributions of one rank.

    Attributes:
        is_behind: Whether another leg, or a peer, published this rank's last contribution first.
    """

    leg: Leg
    session: Session
    folder: RunFolder
    invocation: Invocation
    tab: Tab
    exchange: Exchange
    replica: Replica
    saver: Saver
    budget: Budget
    closer: RoundCloser
    is_behind: bool = False
    _next: Share | None = None
    _step_s: float = 0.0
    _has_swept_partials: bool = False

    def contribute(self, round_: Round) -> Wish:
        """Publish this rank's contribution to a round; return what it wishes.

        Raises:
            Leaving: The share did not fit the time. How far it got is published, if it was worth beginning.
            UserCodeError, NotFinite: The job's code failed, or its numbers are not finite.
        """
        leg, session = self.leg, self.session
        learner, clock = session.learner, self.folder.store.clock
        self.is_behind = False
        deadline = Deadline(self.invocation.remaining_s, session.transfer_s, clock.monotonic, step_s=self._step_s)
        if self._step_s and deadline.is_near():  # a leg tries its first share in any case, to get on
            raise Leaving("there is no time for another share")
        for name, array in learner.buffers.items():
            array[...] = self.replica.weights.buffers[name]
        share = self._share(round_)
        is_train = round_.phase == "train"
        outgoing = self.exchange.outgoing() if is_train and len(share.parts) else None
        began = clock.monotonic()
        try:
            share.work(deadline, outgoing.put if outgoing else None, self.closer.watch(round_))
            if not share.is_complete and not self.exchange.has_contributed(round_):
                path = self.folder.layout.partial_of(round_, share.rank, leg.leg + 1)
                share.publish(self.folder.store, path, leg.token, deadline, self.tab)
                raise Leaving("its share did not fit the time")
        except BaseException:
            if outgoing:
                self.exchange.drop(outgoing)
            raise
        self._step_s = deadline.step_s
        if not share.is_complete:  # the others have closed the round without this rank
            if outgoing is not None:
                self.exchange.drop(outgoing)
            self.is_behind = True
            self._sweep_partials(round_)
            leg.check_place()
            return leg.wishes()
        leg.note_share(clock.monotonic() - began)
        spent_usd = share.spent_usd + self.tab.usd()
        wishes = leg.wishes() | self.saver.wish(round_.version, leg.round_s)
        wishes |= self.budget.wish(round_, self.replica.weights.spent_usd, spent_usd)
        mine = self.exchange.contribute(
            round_,
            outgoing,
            rows=learner.rows,
            parts=share.done,
            wishes=wishes,
            round_s=leg.round_s,
            spent_usd=spent_usd,
            sums=tuple(learner.sums.values()),
            buffers=learner.buffers if is_train and learner.rows else None,
        )
        self._sweep_partials(round_)
        if mine:
            self.tab.said(spent_usd - share.spent_usd)
        else:
            self.is_behind = True
            leg.check_place()  # another leg was first: with the same bits, but perhaps in this one's place
        return wishes

    def prepare(self, round_: Round) -> None:
        """Read the next rows while the others are at work. After an epoch's last step nobody knows what is next."""
        following = round_.version + 1
        if round_.phase == "train" and following % self.folder.plan.steps_per_epoch:
            self._next = self._share_of(Round(following, "train"))
            self._next.prefetch()

    def _share_of(self, round_: Round) -> Share:
        return Share.of(self.session, self.folder, round_, self.leg.rank)

    def _share(self, round_: Round) -> Share:
        store, layout = self.folder.store, self.folder.layout
        share, self._next = self._next, None
        if share is None or share.round != round_:
            share = self._share_of(round_)
        if not self._has_swept_partials:  # the leg before may have left in the middle
            legs = legs_in(store.list(layout.partial), round_)
            if self.leg.rank in legs:
                # It is gone if another leg has published all of the share meanwhile. Then nobody needs this one's.
                with suppress(Gone):
                    share.resume(store, layout.partial_of(round_, share.rank, legs[self.leg.rank]))
        return share

    def _sweep_partials(self, round_: Round) -> None:
        """Remove how far earlier legs had got with a share, now that all of it is published."""
        if self._has_swept_partials:
            return
        self._has_swept_partials = True
        store, partial = self.folder.store, self.folder.layout.partial
        names = store.list(partial)
        own = [
            name for name in names if partial_rank(name) == self.leg.rank and (of := round_of(name)) and of <= round_
        ]
        store.sweep(partial, own)
