"""A resident rank's leg: when it must go, and when it calls its successor.

    claim ─▶ (a successor: ready ─▶ wait until the leg before has left) ─▶ rounds … ─▶ left
                  ▲                                                       │
                  └───────────── called while there is time ◀─────────────┘

The leg at work calls its successor so early that it can start, import and load meanwhile. It knows how long that takes
from its own start. When the successors of all ranks are ready, or one rank cannot stay any longer, all ranks hand over
after the same round: so the ring stalls once.

The result needs nothing of this. A leg may end at any moment: the next one goes on from the store.
"""

import contextlib
import json
from collections import deque
from collections.abc import Sequence

from estafeta import waiting
from estafeta.errors import Gone
from estafeta.protocol.invocation import Invocation, dispatch
from estafeta.protocol.layout import claim_of_leg, name_of
from estafeta.protocol.listing import generation_in, leg_of
from estafeta.protocol.message import Wish
from estafeta.protocol.patience import Patience
from estafeta.protocol.run_folder import RunFolder
from estafeta.protocol.snapshot import OUTCOMES, Reside
from estafeta.protocol.spec import WorkerEvent
from estafeta.residents.ending import Leaving
from estafeta.residents.marks import has_left, publish_left
from estafeta.store.arrivals import Arrivals, is_local
from estafeta.store.store import claim_name


class Leg:
    """The leg that this invocation has claimed.

    Attributes:
        rounds: Number of rounds done in this leg.
        lead_s: Seconds from the call for this leg until it was ready.
        time_s: Seconds that this leg had when it began. The functions' limit may differ by now from the spec's.
        relieved_at: Time when the leg before left, in seconds since 1970; None if this one did not wait for it.
        pace: How long rounds take, and how long this leg waits for others.
    """

    def __init__(
        self, event: WorkerEvent, generation: int, token: str, folder: RunFolder, invocation: Invocation
    ) -> None:
        self.rank, self.leg, self.generation, self.token = event.rank, event.leg, generation, token
        self.rounds = 0
        self.lead_s = event.lead_s
        self._former_share_s = event.share_s
        self.time_s = invocation.remaining_s()
        self.relieved_at: float | None = None
        self._sent_at, self._expires_at = event.sent_at, event.expires_at
        self._spec, self._invocation = folder.spec, invocation
        self._folder, self._store, self._layout = folder, folder.store, folder.layout
        self._clock = folder.store.clock
        self._is_first = generation == event.generation
        self._waits = event.leg > 0 and event.generation == 0
        self._busy_s: deque[float] = deque([0.0], maxlen=waiting.RECENT_ROUNDS)
        timing = waiting.timing(is_local=is_local(self._store, self._layout.outbox(self.rank)))
        self.pace = Patience(floor_s=timing.floor_s, start_s=timing.start_s)
        self._save_s = 0.0
        self._called = False
        self._is_next_ready = False
        self._look_at = 0.0
        self._check_at = self._clock.monotonic() + waiting.CHECK_S
        self._calls_s: deque[float] = deque([0.0], maxlen=2)
        self._stop_seen = False

    # Coming

    def await_turn(self) -> None:
        """Publish that this leg is ready, and wait until the one before has left, or cannot be alive any more."""
        if self._sent_at and self._is_first:  # a replacement has spent its time on being sure that the other is dead
            self.lead_s = max(0.0, self._clock.time() - self._sent_at)
        self.pace.start_s = max(self.pace.start_s, waiting.STARTS_OF_PATIENCE * self.lead_s)
        if not self._waits:
            return
        mark = json.dumps({"token": self.token}).encode()
        self._store.publish(self._layout.ready(self.rank, self.leg), [mark], self.token)
        arrivals = Arrivals(self._store, [self._layout.legs], self._check_turn, writers=self._spec.workers)
        left = self._layout.left(self.rank, self.leg - 1)
        try:
            arrivals.collect([left])[0].close()
            self.relieved_at = float(json.loads(self._store.read(left))["at"])
        except _Overdue:
            publish_left(self._folder, self.rank, self.leg - 1, self.token, None)
        except Gone:
            self.check_place()  # a leg that was replaced while it read finds the mark swept
            raise
        finally:
            arrivals.close()

    def _check_turn(self, _awaited: Sequence[str]) -> None:
        if self._clock.time() > self._expires_at:
            raise _Overdue
        self.check()

    # Staying

    def note_share(self, seconds: float) -> None:
        """Learn how long this rank's own work for a round took."""
        self._busy_s.append(seconds)

    def note_round(self, seconds: float) -> None:
        """Learn how long a round took, with all waiting."""
        self.rounds += 1
        self.pace.note(seconds)

    @property
    def share_s(self) -> float:
        """Seconds of this rank's own work for the last round, even if an earlier leg did it."""
        return self._busy_s[-1] or self._former_share_s

    @property
    def round_s(self) -> float:
        """Median seconds of the last rounds; 0 if that is not known yet."""
        return self.pace.usual_s

    def note_save(self, seconds: float) -> None:
        """Learn how long saving took."""
        self._save_s = max(self._save_s, seconds)

    @property
    def margin_s(self) -> float:
        """Seconds that one more round, saving, and leaving may take."""
        round_s = waiting.ROUND_MARGIN * (max(self._busy_s) + self.round_s)
        return round_s + waiting.SAVE_MARGIN * self._save_s + waiting.LEG_RESERVE_S

    def wishes(self) -> Wish:
        """Return what to wish in the next contribution, and call the successor if it is time.

        Raises:
            Leaving: Another leg has this one's place. A rank that never waits for long would not notice otherwise.
        """
        left_s, limit = self._invocation.remaining_s(), self._spec.rounds_per_invocation
        rounds_left = None if limit is None else limit - self.rounds - 1  # after this one
        if rounds_left is not None:
            left_s = min(left_s, rounds_left * (self.round_s or waiting.LEG_RESERVE_S) + self.margin_s)
        wishes = Wish.NONE
        if left_s < waiting.LEAD_MARGIN * self.lead_s + self.margin_s:
            self.call_successor()
            if self._has_successor():
                wishes |= Wish.READY
        if rounds_left == 0 or self._invocation.remaining_s() < 2 * self.margin_s:
            wishes |= Wish.LEAVE
        if self._clock.monotonic() >= self._check_at:
            self.check_place()
        # A rank that misses rounds is not heard in them; so with a quorum all ranks look.
        if self._stop_seen and (self.rank == 0 or self._spec.closes_early):
            wishes |= Wish.STOP
        return wishes

    def call_successor(self) -> None:
        """Invoke the next leg, once."""
        if not self._called:
            self._called = True
            expires_at = self._clock.time() + self._invocation.remaining_s()
            following = Reside(self.rank, self.leg + 1, 0, self.lead_s, self.share_s, expires_at)
            dispatch((following,), self._spec, self._invocation)

    def check(self) -> None:
        """Look whether to go on. A waiting leg calls this now and then.

        Raises:
            Leaving: The run has ended, another leg has this one's place, or the time is up.
        """
        # The next look may come that late. The shorter of two counts: one call that was held up says nothing.
        look_s = (waiting.LOOK_CALLS + self._spec.workers) * min(self._calls_s)
        if self._invocation.remaining_s() < waiting.ALARM_S + look_s + waiting.LEG_RESERVE_S:
            raise Leaving("its time is up")
        if self._clock.monotonic() >= self._check_at:
            self.check_place()

    def check_place(self) -> None:
        """Look at once whether this leg is still the one; raises as `check` does."""
        began = self._clock.monotonic()
        self._check_at = began + waiting.CHECK_S
        names = self._store.list(self._layout.root)
        if not names.isdisjoint(f"{state}.json" for state in OUTCOMES):
            raise Leaving("the run has ended", silently=True)
        self._stop_seen |= name_of(self._layout.stop) in names
        names = self._store.list(self._layout.legs)
        self._calls_s.append((self._clock.monotonic() - began) / 2)
        mine = claim_name(claim_of_leg(self.rank, self.leg), self.generation)  # which a later leg may have swept
        overtaken = mine not in names or generation_in(names, self.rank, self.leg) > self.generation
        if overtaken or has_left(self.rank, self.leg, names, self._layout):
            raise Leaving("another leg has taken over", silently=True)

    # Going

    def leave(self, version: int | None, why: str) -> None:
        """Publish that this leg has left, and after which version; call the successor if nobody has.

        A leg that was replaced does neither: the mark would stand for the other leg.
        """
        try:
            self.check_place()
        except Leaving:
            return
        self.call_successor()
        publish_left(self._folder, self.rank, self.leg, self.token, version)
        self._invocation.note(self._spec.run, left_at=version, why=why, rounds=self.rounds)

    def crash(self) -> None:
        """Publish that this leg ends with an error, so that Lambda's retry need not find out whether it lives."""
        mark = json.dumps({"token": self.token}).encode()
        with contextlib.suppress(OSError):  # the disk may be the very reason; without the mark the retry takes longer
            self._store.publish(self._layout.crashed(self.rank, self.leg, self.generation), [mark], self.token)

    def sweep(self) -> None:
        """Remove the marks of this rank's legs before the last one."""
        names = self._store.list(self._layout.legs)
        old = [name for name in names if (mark := leg_of(name)) and mark[0] == self.rank and mark[1] < self.leg - 1]
        self._store.sweep(self._layout.legs, old)

    def _has_successor(self) -> bool:
        if not self._is_next_ready and (now := self._clock.monotonic()) >= self._look_at:
            self._look_at = now + waiting.READY_LOOK_S
            self._is_next_ready = self._store.exists(self._layout.ready(self.rank, self.leg + 1))
        return self._is_next_ready


class _Overdue(Exception):
    """The leg before cannot be alive any more."""
