"""The life of a resident worker: a rank stays for many rounds, and is its part of the parameter server.

    invoked with (run, rank, leg)
      → claim the leg; somebody has it: leave
      → job, model, data; ready; wait until the leg before has left
      → the newest saved version, and what has been contributed since
      → round after round:
            compute the share, publish it as it comes
            read the next rows, then wait for the contributions of all
            update one's slice and exchange slices (sharded), or update everything (replicated)
            at an epoch's end: score, and judge as everyone does
            save, now and then
      → time is short, or all successors are ready: save, leave
      → the end: save; rank 0 exports

No rank is in command. What a round decides beyond its numbers (to save, to hand over, to stop) follows from wishes that
the contributions carry, so all ranks come to the same decision without another word.

It may end anywhere. Everything here is a function of what is published: whoever comes next publishes the same.
"""

from __future__ import annotations

from collections.abc import Callable, Collection, Mapping
from contextlib import suppress
from functools import partial

from estafeta.errors import Corrupt, EstafetaError, Gone
from estafeta.job.stopping import EpochRecord
from estafeta.protocol.deadline import Deadline
from estafeta.protocol.epoch import conclude
from estafeta.protocol.finish import finish
from estafeta.protocol.invocation import Invocation
from estafeta.protocol.layout import Round, RunLayout
from estafeta.protocol.listing import legs_in, partial_rank, round_of
from estafeta.protocol.message import Wish
from estafeta.protocol.partition import slices_of
from estafeta.protocol.quorum import Closing, may_miss, new_patience
from estafeta.protocol.snapshot import Finish, current_round, newest_epoch, read_plan, take_snapshot
from estafeta.protocol.spec import Plan, RunSpec
from estafeta.protocol.spending import Tab
from estafeta.protocol.totals import Totals
from estafeta.residents.budget import Budget
from estafeta.residents.exchange import Exchange
from estafeta.residents.gathered import Gathered
from estafeta.residents.leg import Leaving, Leg
from estafeta.residents.lookout import Lookout
from estafeta.residents.outgoing import Outgoing
from estafeta.residents.replica import Replica
from estafeta.residents.saving import Saver, restore
from estafeta.store.arrivals import ALARM_S
from estafeta.store.store import Backoff
from estafeta.training.session import Session, open_session
from estafeta.training.share import Share

STOPPED = "the run is to stop"
LIMITED = "a limit of the run is reached"

LOOK_S = 0.05
"""Between two looks whether a round has been closed while this rank still works on its share of it."""


def reside(leg: Leg, spec: RunSpec, invocation: Invocation, tab: Tab) -> str:
    """Be a leg of a rank, which has been claimed.

    Returns:
        What was done, for the log.

    Raises:
        UserCodeError, NotFinite, Diverged, UsageError, Corrupt: What fails every time.
    """
    plan = read_plan(invocation.store, RunLayout(spec.run))
    session = open_session(spec, invocation)
    session.version = None  # its parameters will be those of no saved version
    try:
        leg.await_turn()
    except Leaving as order:
        if not order.silently:
            leg.leave(None, str(order))
        return f"left: {order}"
    leg.sweep()
    return _Resident(leg, session, spec, plan, invocation, tab).stay()


class _Resident:
    """A leg at work."""

    def __init__(self, leg: Leg, session: Session, spec: RunSpec, plan: Plan, invocation: Invocation, tab: Tab) -> None:
        self._leg, self._session, self._spec, self._plan, self._invocation = leg, session, spec, plan, invocation
        self._tab = tab
        self._store, self._layout = invocation.store, RunLayout(spec.run)
        self._sums = tuple(session.learner.sums)
        self._exchange = Exchange(
            self._store,
            self._layout,
            rank=leg.rank,
            workers=spec.workers,
            size=plan.size,
            slices=slices_of(spec, plan),
            sums=self._sums,
            buffers=plan.buffers,
            token=leg.token,
            alarm=self._while_missing,
        )
        self._patience = new_patience(is_local=self._exchange.arrivals.is_local) if spec.closes_early else None
        self._look_at = 0.0
        self._step_s = 0.0
        self._is_behind = False
        self._missed: Mapping[int, int] = {}
        self._lookout = Lookout(leg, spec, invocation)
        self._at: Round | None = None
        self._next: Share | None = None
        self._has_shared = False
        self._last_epoch: EpochRecord | None = None

    def stay(self) -> str:
        """Work until the end of the run, or of the leg."""
        try:
            return self._work()
        except Leaving as order:
            if not order.silently:
                self._leg.leave(self._version, str(order))
            return f"left: {order}"
        except EstafetaError:
            raise  # the end of the run
        except Exception:  # Lambda tries again, and need not find out whether this one is still alive
            self._leg.fall()
            raise
        finally:
            missed = {"missed": self._missed} if self._missed else {}
            looks = self._exchange.arrivals.looks
            self._invocation.note(self._spec.run, rounds=self._leg.rounds, looks=looks, **missed)
            self._exchange.close()

    def _work(self) -> str:
        try:
            self._begin()
            if why := self._why_the_last_ended():
                return self._go(why)
            if self._is_at_limit():
                return self._end(self._budget.reached, stopped=True, limited=True)
            while (round_ := self._current_round()) is not None:
                if why := self._in(round_):
                    return self._go(why)
            return self._end(self._last_epoch.stop if self._last_epoch else None)
        except (Corrupt, Gone, OSError):
            self._leg.check_place()  # whoever was left behind sees files that are no longer what they were, or stale
            raise

    @property
    def _version(self) -> int:
        return self._replica.weights.version

    def _begin(self) -> None:
        leg, spec, plan = self._leg, self._spec, self._plan
        parameters = self._session.learner.parameters
        weights, saved = restore(spec, plan, leg.rank, parameters, self._exchange, self._invocation)
        self._replica = Replica(spec, plan, leg.rank, weights)
        self._saver = Saver(
            self._store,
            self._layout,
            plan,
            rank=leg.rank,
            workers=spec.workers,
            token=leg.token,
            saved=saved,
            recycles=self._exchange.arrivals.is_local,
        )
        self._last_epoch = newest_epoch(self._store, self._layout, weights.version // plan.steps_per_epoch)
        if self._last_epoch:  # it knows what the valid round has cost
            weights.spent_usd = max(weights.spent_usd, self._last_epoch.spent_usd)
        self._budget = Budget(spec, plan, leg.rank, self._invocation)
        self._invocation.note(
            spec.run,
            began_at=weights.version,
            saved=saved,
            leg=leg.leg,
            generation=leg.generation,
            lead_s=round(leg.lead_s, 3),
        )

    def _why_the_last_ended(self) -> str:
        """Whether the train round that made this version had the run end: others may have ended, and wait for nobody.

        If its contributions are retired, all ranks have gone on.
        """
        last = Round(self._version - 1, "train")
        if not self._exchange.has_contributed(last):
            return ""
        try:
            with self._exchange.gather(last, wait=False) as gathered:
                why = self._why_to_go(gathered, Wish.NONE)
        except Gone:
            return ""
        return why if why in (STOPPED, LIMITED) else ""

    def _current_round(self) -> Round | None:
        return current_round(self._plan, self._version, self._last_epoch)

    def _in(self, round_: Round) -> str:
        """Do one round; an error learns which one it was."""
        self._at = round_
        try:
            return self._round(round_)
        except EstafetaError as error:
            error.round = round_.name
            raise

    def _round(self, round_: Round) -> str:
        """Do one round; return why this leg is to end after it, or nothing."""
        began = self._store.clock.monotonic()
        if round_.phase == "valid" and not self._plan.valid_rows:
            self._conclude_epoch(None)
            return LIMITED if self._is_at_limit() else ""  # otherwise the round before has said so
        is_mine, own = not self._exchange.has_contributed(round_), Wish.NONE
        if is_mine:
            own = self._contribute(round_)
        if not own & Wish.LEAVE and not self._is_behind:
            self._prepare_next(round_)
        closing = self._closing(round_, began)
        with self._exchange.gather(round_, closing=closing) as gathered:
            if closing is not None:
                closing.learn()
            settled = self._replica.weights.attendance.settled(round_.version, gathered.totals.missed)
            self._saver.sweep(settled, self._last_epoch.best_version if self._last_epoch else None)
            self._exchange.retire(settled, self._saver.redo_from)
            why = self._why_to_go(gathered, own)
            if round_.phase == "train":
                self._replica.advance(gathered, self._exchange)
                self._missed = self._replica.weights.attendance.missed
            else:
                self._conclude_epoch(gathered.totals)
        self._leg.note_round(self._store.clock.monotonic() - began)
        if self._leg.rounds == 1 and self._leg.relieved_at is not None:
            stall_s = self._store.clock.time() - self._leg.relieved_at
            self._invocation.note(self._spec.run, stall_s=round(stall_s, 4))  # the first round is in it
        if why or gathered.common & Wish.CHECKPOINT:
            self._save()
        # What an earlier leg of this rank has contributed made an end of that leg, and not of this one.
        return why if is_mine or why in (STOPPED, LIMITED) else ""

    def _while_missing(self, ranks: Collection[int]) -> None:
        """Called now and then while others are waited for: this leg may have to go, or they to be sent for."""
        self._leg.check()
        if self._at is not None:
            self._lookout.miss(ranks, self._at)

    # A contribution

    def _contribute(self, round_: Round) -> Wish:
        """Publish this rank's contribution; return what it wishes.

        Raises:
            Leaving: The share did not fit the time. How far it got is published, if it was worth beginning.
        """
        leg, session = self._leg, self._session
        learner, clock = session.learner, self._store.clock
        self._is_behind = False
        deadline = Deadline(self._invocation.remaining_s, session.transfer_s, clock.monotonic, step_s=self._step_s)
        if self._step_s and deadline.is_near():  # a leg's first one is tried in any case, to get on
            raise Leaving("there is no time for another share")
        for name, array in learner.buffers.items():
            array[...] = self._replica.weights.buffers[name]
        share = self._share(round_)
        outgoing = self._exchange.outgoing() if round_.phase == "train" and len(share.parts) else None
        began = clock.monotonic()
        try:
            share.work(deadline, outgoing.put if outgoing else None, self._in_vain(round_))
            if not share.is_complete and not self._exchange.has_contributed(round_):
                path = self._layout.partial_of(round_, share.rank, leg.leg + 1)
                share.publish(self._store, path, leg.token, deadline, self._tab)
                raise Leaving("its share did not fit the time")
        except BaseException:
            if outgoing:
                self._exchange.drop(outgoing)
            raise
        self._step_s = deadline.step_s
        if not share.is_complete:
            return self._pass(round_, outgoing)
        leg.note_share(clock.monotonic() - began)
        spent_usd = share.spent_usd + self._tab.usd()
        wishes = leg.wishes() | self._saver.wish(round_.version, leg.round_s)
        wishes |= self._budget.wish(round_, self._replica.weights.spent_usd, spent_usd)
        train = round_.phase == "train"
        mine = self._exchange.contribute(
            round_,
            outgoing,
            rows=learner.rows,
            parts=share.done,
            wishes=wishes,
            round_s=leg.round_s,
            spent_usd=spent_usd,
            sums=tuple(learner.sums.values()),
            buffers=learner.buffers if train and learner.rows else None,
        )
        self._sweep_partials(round_)
        if mine:
            self._tab.said(spent_usd - share.spent_usd)
        else:
            self._is_behind = True
            leg.check_place()  # another incarnation was first: with the same bits, but perhaps in our place
        return wishes

    def _share(self, round_: Round) -> Share:
        share, self._next = self._next, None
        if share is None or share.round != round_:
            share = Share.of(self._session, self._spec, self._plan, round_, self._leg.rank)
        if not self._has_shared:  # the leg before may have left in the middle
            legs = legs_in(self._store.list(self._layout.partial), round_)
            if self._leg.rank in legs:
                # It is gone if another incarnation has published all of the share meanwhile: then ours is in vain.
                with suppress(Gone):
                    share.resume(self._store, self._layout.partial_of(round_, share.rank, legs[self._leg.rank]))
        return share

    def _sweep_partials(self, round_: Round) -> None:
        """Remove how far earlier legs had got with a share, now that all of it is published."""
        if not self._has_shared:
            self._has_shared = True
            names = self._store.list(self._layout.partial)
            own = [
                name
                for name in names
                if partial_rank(name) == self._leg.rank and (of := round_of(name)) and of <= round_
            ]
            self._store.sweep(self._layout.partial, own)

    def _prepare_next(self, round_: Round) -> None:
        """Read the next rows while the others are at work; after the last step of an epoch, what is next is open."""
        following = round_.version + 1
        if round_.phase == "train" and following % self._plan.steps_per_epoch:
            self._next = Share.of(self._session, self._spec, self._plan, Round(following, "train"), self._leg.rank)
            self._next.prefetch()

    # Rounds that close early

    def _closing(self, round_: Round, began: float) -> Closing | None:
        """What closes a round when ranks are late; None if nothing does."""
        if self._patience is None or self._spec.quorum is None or round_.phase != "train":
            return None
        return Closing(self._spec.quorum, self._patience, self._store.clock, began, partial(self._allows, round_))

    def _allows(self, round_: Round, missing: Collection[int]) -> bool:
        allowed = may_miss(self._spec, self._plan, round_, missing, self._replica.weights.attendance)
        if allowed:
            self._leg.check_place()  # who has been replaced closes nothing
        return allowed

    def _in_vain(self, round_: Round) -> Callable[[], bool] | None:
        """Tells whether this rank's share of a round is in vain, because the round has been closed without it."""
        if self._patience is None or round_.phase != "train":
            return None
        clock, was_late = self._store.clock, self._leg.rank in self._replica.weights.attendance.in_a_row
        self._look_at = clock.monotonic() + (0.0 if was_late else LOOK_S)

        def in_vain() -> bool:
            if clock.monotonic() < self._look_at:
                return False
            self._look_at = clock.monotonic() + LOOK_S
            return self._exchange.is_closed(round_)

        return in_vain

    def _pass(self, round_: Round, outgoing: Outgoing | None) -> Wish:
        """Give up the share of a round that has been closed without this rank; return what it would have wished."""
        if outgoing is not None:
            self._exchange.drop(outgoing)
        self._is_behind = True
        self._sweep_partials(round_)
        self._leg.check_place()
        return self._leg.wishes()

    # What a round decides

    def _is_at_limit(self) -> bool:
        """Whether rank 0 begins where the run is to stop: then the others have saved that version and may have left."""
        at = self._current_round()
        if self._leg.rank != 0 or not self._budget.is_reached(at, self._replica.weights.spent_usd):
            return False
        return not self._saver.missing(self._version, self._store.list(self._layout.weights))

    def _why_to_go(self, gathered: Gathered, own: Wish) -> str:
        if gathered.wishes & Wish.STOP:
            return STOPPED
        if gathered.wishes & Wish.LIMIT:
            return LIMITED
        if gathered.wishes & Wish.LEAVE:
            return "the time of a rank is short"
        if own & Wish.LEAVE:  # not heard: the round was closed without this rank
            return "its time is short"
        return "all successors are ready" if gathered.common & Wish.READY else ""

    def _conclude_epoch(self, valid: Totals | None) -> None:
        """Judge the epoch as every rank does; rank 0 publishes the record."""
        weights, plan, now = self._replica.weights, self._plan, self._store.clock.time()
        record = conclude(self._spec, plan, self._last_epoch, weights, valid, token=self._leg.token, now=now)
        weights.spent_usd = record.spent_usd
        ends = record.stop is not None or record.version >= plan.total_steps
        if record.best_version == record.version or ends:
            self._save()
        if self._leg.rank == 0:
            if self._saver.is_pending(record.version):
                self._await_saved(record.version)  # a record must not name a version that may be lost
            self._store.publish(self._layout.epoch(record.epoch), [record.to_json()], self._leg.token)
        self._last_epoch = record

    # Saving, going, ending

    def _save(self) -> None:
        self._saver.save(self._replica)
        self._leg.note_save(self._saver.cost_s or 0.0)

    def _await_saved(self, version: int) -> None:
        self._store.wait(
            self._layout.weights,
            lambda names: not self._saver.missing(version, names),
            timeout_s=float("inf"),
            backoff=Backoff(longest_s=ALARM_S),
            alarm=lambda: self._while_missing(self._saver.missing(version, self._store.list(self._layout.weights))),
        )

    def _go(self, why: str) -> str:
        if why == STOPPED:
            return self._end("on request", stopped=True)
        if why == LIMITED:
            reached, at, spent_usd = self._budget.reached, self._current_round(), self._replica.weights.spent_usd
            if at and at.phase == "valid" and not self._plan.valid_rows and not self._budget.is_reached(at, spent_usd):
                self._conclude_epoch(None)  # it is complete, and has only rounds to stop for
                at = self._current_round()
            if at is None:  # the valid round has ended the training anyway
                return self._end(self._last_epoch.stop if self._last_epoch else None)
            return self._end(reached or why, stopped=True, limited=True)
        self._leg.leave(self._version, why)
        return f"handed over at version {self._version}: {why}"

    def _end(self, why: str | None, *, stopped: bool = False, limited: bool = False) -> str:
        """Save; rank 0 waits for the others' parts and exports."""
        self._save()
        if self._leg.rank == 0:
            self._await_saved(self._version)
            self._replica.weights.state.clear()  # it is read again for the export: both may not fit the memory
            end = Finish("stopped", why or "", limited) if stopped else Finish("done", why or "all epochs are done")
            outboxes = [self._layout.outbox(rank) for rank in range(self._spec.workers)]
            # What was exchanged, and kept as redo log, serves nobody any more. It is listed before the end: as soon as
            # that is published the run can be resumed, and have new files there.
            exchanged = {outbox: self._store.list(outbox) for outbox in outboxes}
            self._leg.check_place()  # a leg that comes late must not end a run that has ended and is being resumed
            finish(end, take_snapshot(self._store, self._layout, self._spec), self._spec, self._invocation)
            for outbox, names in exchanged.items():
                self._store.sweep(outbox, names)
        return f"ended at version {self._version}"
