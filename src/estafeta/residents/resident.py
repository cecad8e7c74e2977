"""The life of a resident worker: a rank stays for many rounds, and is its part of the parameter server.

    invoked with (run, rank, leg)
      → claim the leg; another invocation has it: leave
      → job, model, data; ready; wait until the leg before has left
      → the newest saved version, and the steps since then
      → round after round:
            compute the share, publish it as it comes
            read the next rows, then wait for the contributions of all
            update one's slice and exchange slices (sharded), or update everything (replicated)
            at an epoch's end: score, and judge as all ranks do
            save, now and then
      → an `Ending` of this leg (time is short, successors are ready): save, leave
      → an `Ending` of the run, or no round left: save; rank 0 exports

No rank is in command. What a round decides beyond its numbers (to save, to hand over, to stop) follows from wishes that
the contributions carry, so all ranks come to the same decision without another message.

A leg may end anywhere. Everything here is a function of what is published: the next leg publishes the same.
"""

from collections.abc import Iterator, Mapping
from contextlib import contextmanager

from estafeta import waiting
from estafeta.errors import Corrupt, EstafetaError, Gone
from estafeta.protocol.ending import finish
from estafeta.protocol.epoch import conclude
from estafeta.protocol.invocation import Invocation
from estafeta.protocol.layout import Round
from estafeta.protocol.message import Wish
from estafeta.protocol.partition import slices_of
from estafeta.protocol.run_folder import RunFolder
from estafeta.protocol.snapshot import Finish, current_round, newest_epoch, take_snapshot
from estafeta.protocol.spending import Tab
from estafeta.protocol.totals import Totals
from estafeta.residents.budget import Budget
from estafeta.residents.contributor import Contributor
from estafeta.residents.ending import Ending, Leaving
from estafeta.residents.exchange import Exchange
from estafeta.residents.gathered import Gathered
from estafeta.residents.leg import Leg
from estafeta.residents.lookout import Lookout
from estafeta.residents.redo import restore
from estafeta.residents.replica import Replica
from estafeta.residents.round_closer import closer_of
from estafeta.residents.saving import Saver
from estafeta.store.store import Backoff
from estafeta.training.session import Session, open_session


def reside(leg: Leg, folder: RunFolder, invocation: Invocation, tab: Tab) -> str:
    """Run one leg of a resident rank, which this invocation has claimed; return what it did, for the log.

    Raises:
        UserCodeError, NotFinite, Diverged, UsageError, Corrupt: What fails every time.
    """
    session = open_session(folder, invocation)
    session.version = None  # its parameters will be those of no saved version
    try:
        leg.await_turn()
    except Leaving as order:
        if not order.silently:
            leg.leave(None, str(order))
        return f"left: {order}"
    leg.sweep()
    lookout = Lookout(leg, folder, invocation)
    exchange = Exchange(
        folder.store,
        folder.layout,
        rank=leg.rank,
        workers=folder.spec.workers,
        size=folder.plan.size,
        slices=slices_of(folder.spec, folder.plan),
        sums=tuple(session.learner.sums),
        buffers=folder.plan.buffers,
        token=leg.token,
        alarm=lookout.alarm,
    )
    resident: _Resident | None = None
    try:
        resident = _Resident(leg, session, folder, invocation, tab, lookout, exchange)
        return resident.stay()
    except Leaving as order:
        return f"left: {order}"
    except EstafetaError:
        raise  # the end of the run
    except Exception:  # Lambda retries, and need not find out whether this leg is still alive
        leg.crash()
        raise
    finally:
        missed = {"missed": resident.missed} if resident and resident.missed else {}
        invocation.note(folder.run, rounds=leg.rounds, looks=exchange.arrivals.looks, **missed)
        exchange.close()


@contextmanager
def _in_place(leg: Leg) -> Iterator[None]:
    """Find out whether the leg was left behind when a file is missing or is no longer what it was.

    Raises:
        Leaving: Another leg has its place. Otherwise the error stays as it is.
    """
    try:
        yield
    except (Corrupt, Gone, OSError):
        leg.check_place()
        raise


class _Resident:
    """A leg at work, from the newest version on; `missed` is, by rank, how many rounds it has missed in this run."""

    def __init__(
        self,
        leg: Leg,
        session: Session,
        folder: RunFolder,
        invocation: Invocation,
        tab: Tab,
        lookout: Lookout,
        exchange: Exchange,
    ) -> None:
        self.missed: Mapping[int, int] = {}
        self._leg, self._folder, self._invocation = leg, folder, invocation
        self._lookout, self._exchange = lookout, exchange
        self._spec, self._plan, self._store, self._layout = folder.spec, folder.plan, folder.store, folder.layout
        with _in_place(leg):
            weights, saved = restore(folder, leg.rank, session.learner.parameters, exchange)
            epochs = weights.version // self._plan.steps_per_epoch
            self._last_epoch = newest_epoch(folder, epochs)
            self._budget = Budget(folder, leg.rank)
        if self._last_epoch:  # it knows what the valid round has cost
            weights.spent_usd = max(weights.spent_usd, self._last_epoch.spent_usd)
        self._replica = Replica(self._spec, self._plan, leg.rank, weights)
        recycles = exchange.arrivals.is_local
        self._saver = Saver(folder, rank=leg.rank, token=leg.token, saved=saved, recycles=recycles)
        self._closer = closer_of(exchange, folder, leg, self._replica)
        self._contributor = Contributor(
            leg, session, folder, invocation, tab, exchange, self._replica, self._saver, self._budget, self._closer
        )
        invocation.note(
            folder.run,
            began_at=weights.version,
            saved=saved,
            leg=leg.leg,
            generation=leg.generation,
            lead_s=round(leg.lead_s, 3),
        )

    def stay(self) -> str:
        """Work until the end of the run, or of the leg."""
        try:
            with _in_place(self._leg):
                return self._work()
        except Leaving as order:
            if not order.silently:
                self._leg.leave(self._version, str(order))
            raise

    def _work(self) -> str:
        if ending := self._ending_of_last_round():
            return self._go(ending)
        if self._is_at_limit():
            return self._end(self._budget.reached, stopped=True, limited=True)
        while (round_ := self._current_round()) is not None:
            self._lookout.round = round_
            try:
                ending = self._round(round_)
            except EstafetaError as error:
                error.round = round_.name
                raise
            if ending:
                return self._go(ending)
        return self._end(self._last_epoch.stop if self._last_epoch else None)

    @property
    def _version(self) -> int:
        return self._replica.weights.version

    def _current_round(self) -> Round | None:
        return current_round(self._plan, self._version, self._last_epoch)

    # A round

    def _round(self, round_: Round) -> Ending | None:
        """Do one round; return why this leg is to end after it, if it is."""
        began = self._store.clock.monotonic()
        if round_.phase == "valid" and not self._plan.valid_rows:
            self._conclude_epoch(None)
            return Ending.LIMITED if self._is_at_limit() else None  # otherwise the round before has said so
        is_mine, own = not self._exchange.has_contributed(round_), Wish.NONE
        if is_mine:
            own = self._contributor.contribute(round_)
        if not own & Wish.LEAVE and not self._contributor.is_behind:
            self._contributor.prepare(round_)
        with self._closer.gather(round_, began) as gathered:
            settled = self._replica.weights.attendance.settled(round_.version, gathered.totals.missed)
            self._saver.sweep(settled, self._last_epoch.best_version if self._last_epoch else None)
            self._exchange.retire(settled, self._saver.redo_from)
            ending, wishes_all = _ending_of(gathered, own), gathered.common
            if round_.phase == "train":
                self._replica.advance(gathered, self._exchange)
                self.missed = self._replica.weights.attendance.missed
            else:
                self._conclude_epoch(gathered.totals)
        self._leg.note_round(self._store.clock.monotonic() - began)
        if self._leg.rounds == 1 and self._leg.relieved_at is not None:
            stall_s = self._store.clock.time() - self._leg.relieved_at
            self._invocation.note(self._folder.run, stall_s=round(stall_s, 4))  # the first round is in it
        if ending or wishes_all & Wish.CHECKPOINT:
            self._save()
        # A contribution of an earlier leg of this rank ended that leg, and does not end this one.
        return ending if ending and (is_mine or ending.is_of_run) else None

    def _conclude_epoch(self, valid: Totals | None) -> None:
        """Judge the epoch as every rank does; rank 0 publishes the record."""
        weights, plan = self._replica.weights, self._plan
        record = conclude(self._folder, self._last_epoch, weights, valid, token=self._leg.token)
        weights.spent_usd = record.spent_usd
        ends = record.stop is not None or record.version >= plan.total_steps
        if record.best_version == record.version or ends:
            self._save()
        if self._leg.rank == 0:
            if self._saver.is_pending(record.version):
                self._await_saved(record.version)  # a record must not name a version that may be lost
            self._store.publish(self._layout.epoch(record.epoch), [record.to_json()], self._leg.token)
        self._last_epoch = record

    # Saving and ending

    def _save(self) -> None:
        self._saver.save(self._replica)
        self._leg.note_save(self._saver.cost_s or 0.0)

    def _await_saved(self, version: int) -> None:
        self._store.wait(
            self._layout.weights,
            lambda names: not self._saver.missing(version, names),
            timeout_s=float("inf"),
            backoff=Backoff(longest_s=waiting.ALARM_S),
            alarm=lambda: self._lookout.alarm(self._saver.missing(version, self._store.list(self._layout.weights))),
        )

    def _ending_of_last_round(self) -> Ending | None:
        """Tell whether the train round that made this version ended the run: its other ranks wait for nobody.

        If its contributions are retired, all ranks have gone on.
        """
        last = Round(self._version - 1, "train")
        if not self._exchange.has_contributed(last):
            return None
        try:
            with self._exchange.gather(last, wait=False) as gathered:
                ending = _ending_of(gathered, Wish.NONE)
        except Gone:
            return None
        return ending if ending and ending.is_of_run else None

    def _is_at_limit(self) -> bool:
        """Tell whether rank 0 begins where the run is to stop: then the others have saved and may have left."""
        at = self._current_round()
        if self._leg.rank != 0 or not self._budget.is_reached(at, self._replica.weights.spent_usd):
            return False
        return not self._saver.missing(self._version, self._store.list(self._layout.weights))

    def _go(self, ending: Ending) -> str:
        if ending is Ending.STOPPED:
            return self._end("on request", stopped=True)
        if ending is not Ending.LIMITED:
            self._leg.leave(self._version, ending.value)
            return f"handed over at version {self._version}: {ending.value}"
        reached, at, spent_usd = self._budget.reached, self._current_round(), self._replica.weights.spent_usd
        if at and at.phase == "valid" and not self._plan.valid_rows and not self._budget.is_reached(at, spent_usd):
            self._conclude_epoch(None)  # it is complete, and has only rounds to stop for
            at = self._current_round()
        if at is None:  # the valid round has ended the training anyway
            return self._end(self._last_epoch.stop if self._last_epoch else None)
        return self._end(reached or ending.value, stopped=True, limited=True)

    def _end(self, why: str | None, *, stopped: bool = False, limited: bool = False) -> str:
        """Save; rank 0 waits for the parts of the others, and exports."""
        self._save()
        if self._leg.rank == 0:
            self._await_saved(self._version)
            self._replica.weights.state.clear()  # it is read again for the export: both may not fit the memory
            end = Finish("stopped", why or "", limited) if stopped else Finish("done", why or "all epochs are done")
            outboxes = [self._layout.outbox(rank) for rank in range(self._spec.workers)]
            # Nobody needs the exchanged files and the redo log any more. They are listed before the end is published:
            # from then on the run can be resumed, and have new files there.
            exchanged = {outbox: self._store.list(outbox) for outbox in outboxes}
            self._leg.check_place()  # a late leg must not end a run that has ended and is being resumed
            finish(end, take_snapshot(self._folder), self._folder, self._invocation.token)
            for outbox, names in exchanged.items():
                self._store.sweep(outbox, names)
        return f"ended at version {self._version}"


def _ending_of(gathered: Gathered, own: Wish) -> Ending | None:
    """Return what the wishes of a round, and this rank's own, make of the leg.

    The own ones are not in the round if the others have closed it without this rank.
    """
    if gathered.wishes & Wish.STOP:
        return Ending.STOPPED
    if gathered.wishes & Wish.LIMIT:
        return Ending.LIMITED
    if gathered.wishes & Wish.LEAVE:
        return Ending.TIME_SHORT
    if own & Wish.LEAVE:
        return Ending.OWN_TIME_SHORT
    return Ending.SUCCESSORS_READY if gathered.common & Wish.READY else None
