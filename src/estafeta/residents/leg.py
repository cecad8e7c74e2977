"""A resident rank's leg: who it is, when it must go, and who comes after it.

    claim ─▶ (a successor: ready ─▶ wait until the leg before has left) ─▶ rounds … ─▶ left
                  ▲                                                       │
                  └───────────── called while there is time ◀─────────────┘

A leg is claimed by publish-once, in a generation. The leg that is at work calls its successor so early that it can
start, import and load meanwhile, by what starting took this leg. When the successors of all ranks are ready, or one
rank cannot stay any longer, all ranks hand over after the same round: the ring stalls once.

Nothing here is needed for the result. A leg may end at any moment: what follows it goes on from the store.
"""

from __future__ import annotations

import contextlib
import json
import secrets
from collections import deque
from collections.abc import Collection, Sequence
from dataclasses import dataclass

from estafeta.errors import Gone
from estafeta.protocol.invocation import Invocation, dispatch
from estafeta.protocol.layout import RunLayout, claim_of_leg
from estafeta.protocol.listing import contributions_in, generation_in, leg_of, residents_in
from estafeta.protocol.message import Wish, round_time_of
from estafeta.protocol.patience import RECENT, Patience, floor_s, start_s
from estafeta.protocol.snapshot import OUTCOMES, Action, Reside
from estafeta.protocol.spec import RunSpec, WorkerEvent
from estafeta.residents.exchange import is_stand_in
from estafeta.store.arrivals import ALARM_S, Arrivals, is_local
from estafeta.store.store import Store, claim_name

LEAD_MARGIN = 1.5
"""A successor may take this much longer to get ready than this leg did."""

ROUND_MARGIN = 1.5
"""The next round may take this much longer than this rank's longest share and the usual round together."""

SAVE_MARGIN = 2.0
"""Saving may take this much longer than it did."""

FLOOR_S = 0.2
"""Kept back in any case, for the marks, an invocation, and the answer to Lambda."""

CHECK_S = 1.0
"""Between two looks at whether the run has ended, or another incarnation has taken over."""

LOOK_CALLS = 8
"""Calls to the store, and one for each rank, from one look of who waits to the next, or until its leg has left."""

READY_LOOK_S = 0.02
"""Between two looks for the successor's mark."""

ROUNDS_OF_PATIENCE = 4.0
"""A leg that has published nothing for as many of its rounds may be dead."""

STARTS_OF_PATIENCE = 3.0
"""Starting may take as many times longer elsewhere than it took here, where perhaps everything was warm."""

LOOKING_RANK = 0
"""The one rank whose second deliveries look for signs of life: somebody must, if all are dead or have ended."""


class Leaving(Exception):  # an order to its own leg, not an error
    """This leg is to end now, without anything more; what it leaves is in the store.

    Attributes:
        silently: Somebody else has its place: it must not even say that it has left.
    """

    def __init__(self, why: str, *, silently: bool = False) -> None:
        super().__init__(why)
        self.silently = silently


@dataclass(frozen=True)
class Claim:
    """Who is a leg, by its claim.

    Attributes:
        holder: Token: a request id, and what tells its attempts apart.
        expires_at: When the holder is dead for sure, in seconds since 1970.
        log_group, log_stream: Where its log goes.
    """

    holder: str
    expires_at: float
    log_group: str
    log_stream: str

    @property
    def request_id(self) -> str:
        """Of the event that the holder was invoked with."""
        return self.holder.partition("/")[0]


def read_claim(store: Store, layout: RunLayout, rank: int, leg: int, generation: int) -> Claim:
    """The claim of a leg.

    Raises:
        Gone: It has been swept.
    """
    facts = json.loads(store.read(f"{layout.legs}/{claim_name(claim_of_leg(rank, leg), generation)}"))
    return Claim(facts["holder"], facts["expires_at"], facts["log_group"], facts["log_stream"])


def take(event: WorkerEvent, spec: RunSpec, invocation: Invocation) -> Leg | str:
    """Claim the leg that an event is for.

    A second delivery of an event whose leg is claimed is the retry of a leg that has died, or the duplicate of one that
    is at work. Lambda does not tell. If the leg has said that it ended with an error, it is a retry. Otherwise it
    leaves at once: if the leg is dead, its peers will notice. Only rank 0 looks whether the leg still publishes.

    Returns:
        The leg, or why there is nothing to do.
    """
    store, layout = invocation.store, RunLayout(spec.run)
    token = f"{invocation.token}/{secrets.token_hex(4)}"
    facts = {
        "expires_at": store.clock.time() + invocation.remaining_s(),
        "log_group": invocation.log_group,
        "log_stream": invocation.log_stream,
    }
    generation = event.generation
    while True:
        names = store.list(layout.legs)
        leg, newest = residents_in(names).get(event.rank, (0, 0))
        if leg > event.leg:
            if leg == event.leg + 1 and _must_look(event, names, invocation) and _is_dead(event, invocation):
                publish_left(store, layout, event.rank, event.leg, token, None)  # its successor waits in vain
            return "left: a later leg is there"
        generation = max(generation, newest if leg == event.leg else 0)
        name = claim_of_leg(event.rank, event.leg)
        if store.claim(layout.legs, name, generation=generation, token=token, **facts):
            return Leg(event, generation, token, spec, invocation)
        try:
            claim = read_claim(store, layout, event.rank, event.leg, generation)
        except Gone:
            return "left: the leg is long over"
        if claim.request_id != invocation.token:
            return "left: a duplicate"
        if layout.fell(event.rank, event.leg, generation).rpartition("/")[2] not in names:
            if event.rank != LOOKING_RANK:
                return "left: a duplicate, or its peers will notice"
            # A leg whose turn has not come does not show whether it lives: it is as well replaced.
            has_turn = event.leg == 0 or _has_left(event.rank, event.leg - 1, names, layout)
            if has_turn and not _is_dead(event, invocation, claim.expires_at - store.clock.time()):
                return "left: a duplicate of a leg that is at work"
        generation += 1


class Leg:
    """The leg that this invocation is.

    Args:
        event: What it was invoked with.
        generation: In which it was claimed.
        token: Of all that it publishes.
        spec: The run's spec.
        invocation: This invocation.

    Attributes:
        rounds: Rounds done in this leg.
        lead_s: How long it took from being sent for to being ready.
        time_s: How much time this leg had when it began. The functions' limit may be another by now than the spec says.
        relieved_at: When the leg before left, in seconds since 1970; None if this one did not wait for it.
        pace: What rounds take, and how long others are waited for.
    """

    def __init__(self, event: WorkerEvent, generation: int, token: str, spec: RunSpec, invocation: Invocation) -> None:
        self.rank, self.leg, self.generation, self.token = event.rank, event.leg, generation, token
        self.rounds = 0
        self.lead_s = event.lead_s
        self._former_share_s = event.share_s
        self.time_s = invocation.remaining_s()
        self.relieved_at: float | None = None
        self._sent_at, self._expires_at = event.sent_at, event.expires_at
        self._spec, self._invocation = spec, invocation
        self._store, self._layout = invocation.store, RunLayout(spec.run)
        self._clock = invocation.store.clock
        self._is_first = generation == event.generation
        self._waits = event.leg > 0 and event.generation == 0
        self._busy_s: deque[float] = deque([0.0], maxlen=RECENT)
        local = is_local(self._store, self._layout.outbox(self.rank))
        self.pace = Patience(floor_s=floor_s(is_local=local), start_s=start_s(is_local=local))
        self._save_s = 0.0
        self._called = False
        self._is_next_ready = False
        self._look_at = 0.0
        self._check_at = self._clock.monotonic() + CHECK_S
        self._calls_s: deque[float] = deque([0.0], maxlen=2)
        self._stop_seen = False

    # Coming

    def await_turn(self) -> None:
        """Say that this leg is ready, and wait until the one before has left, or cannot be alive any more."""
        if self._sent_at and self._is_first:  # a leg in place of a dead one has spent its time on being sure of that
            self.lead_s = max(0.0, self._clock.time() - self._sent_at)
        self.pace.start_s = max(self.pace.start_s, STARTS_OF_PATIENCE * self.lead_s)
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
            publish_left(self._store, self._layout, self.rank, self.leg - 1, self.token, None)
        except Gone:
            self.check_place()  # who has been replaced while it read finds the mark swept
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
        """How long this rank's own work for the last round took, be it in the leg before."""
        return self._busy_s[-1] or self._former_share_s

    @property
    def round_s(self) -> float:
        """How long rounds take, by the median of the last ones; 0 if that is not known yet."""
        return self.pace.usual_s

    def note_save(self, seconds: float) -> None:
        """Learn how long saving took."""
        self._save_s = max(self._save_s, seconds)

    @property
    def margin_s(self) -> float:
        """Seconds that one more round, saving, and leaving may take."""
        return ROUND_MARGIN * (max(self._busy_s) + self.round_s) + SAVE_MARGIN * self._save_s + FLOOR_S

    def wishes(self) -> Wish:
        """What to wish in the next contribution; the successor is called if it is time.

        Raises:
            Leaving: Another incarnation has this leg's place. Who never waits for long would not notice otherwise.
        """
        left_s, limit = self._invocation.remaining_s(), self._spec.rounds_per_invocation
        rounds_left = None if limit is None else limit - self.rounds - 1  # after this one
        if rounds_left is not None:
            left_s = min(left_s, rounds_left * (self.round_s or FLOOR_S) + self.margin_s)
        wishes = Wish.NONE
        if left_s < LEAD_MARGIN * self.lead_s + self.margin_s:
            self.call_successor()
            if self._has_successor():
                wishes |= Wish.READY
        if rounds_left == 0 or self._invocation.remaining_s() < 2 * self.margin_s:
            wishes |= Wish.LEAVE
        if self._clock.monotonic() >= self._check_at:
            self.check_place()
        # Whoever may be left out of rounds is not heard in them, so then all look.
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
        """Look whether to go on; called now and then by whoever waits.

        Raises:
            Leaving: The run has ended, another incarnation has this leg's place, or the time is up.
        """
        # The next look may come that late. Of two the shorter: a call that was held up says nothing of the others.
        look_s = (LOOK_CALLS + self._spec.workers) * min(self._calls_s)
        if self._invocation.remaining_s() < ALARM_S + look_s + FLOOR_S:
            raise Leaving("its time is up")
        if self._clock.monotonic() >= self._check_at:
            self.check_place()

    def check_place(self) -> None:
        """Look at once whether this leg is still the one; raises as `check` does."""
        began = self._clock.monotonic()
        self._check_at = began + CHECK_S
        names = self._store.list(self._layout.root)
        if not names.isdisjoint(f"{state}.json" for state in OUTCOMES):
            raise Leaving("the run has ended", silently=True)
        self._stop_seen |= self._layout.stop.rpartition("/")[2] in names
        names = self._store.list(self._layout.legs)
        self._calls_s.append((self._clock.monotonic() - began) / 2)
        mine = claim_name(claim_of_leg(self.rank, self.leg), self.generation)  # which a later leg may have swept
        overtaken = mine not in names or generation_in(names, self.rank, self.leg) > self.generation
        if overtaken or _has_left(self.rank, self.leg, names, self._layout):
            raise Leaving("another incarnation has taken over", silently=True)

    # Going

    def leave(self, version: int | None, why: str) -> None:
        """Say that this leg has left, and after which version; the successor is called if it has not been yet.

        Nothing of that if another incarnation has its place: what it said would be said in the other one's name.
        """
        try:
            self.check_place()
        except Leaving:
            return
        self.call_successor()
        publish_left(self._store, self._layout, self.rank, self.leg, self.token, version)
        self._invocation.note(self._spec.run, left_at=version, why=why, rounds=self.rounds)

    def fall(self) -> None:
        """Say that this leg ends with an error, so that Lambda's next attempt need not find out whether it lives."""
        mark = json.dumps({"token": self.token}).encode()
        with contextlib.suppress(OSError):  # which may be the very reason; it costs time, then
            self._store.publish(self._layout.fell(self.rank, self.leg, self.generation), [mark], self.token)

    def sweep(self) -> None:
        """Remove the marks of this rank's legs before the last one."""
        names = self._store.list(self._layout.legs)
        old = [name for name in names if (mark := leg_of(name)) and mark[0] == self.rank and mark[1] < self.leg - 1]
        self._store.sweep(self._layout.legs, old)

    def _has_successor(self) -> bool:
        if not self._is_next_ready and (now := self._clock.monotonic()) >= self._look_at:
            self._look_at = now + READY_LOOK_S
            self._is_next_ready = self._store.exists(self._layout.ready(self.rank, self.leg + 1))
        return self._is_next_ready


class _Overdue(Exception):
    """The leg before cannot be alive any more."""


def _must_look(event: WorkerEvent, names: Collection[str], invocation: Invocation) -> bool:
    """Whether this is a second delivery of an event whose leg has called the next one, and that may wait for it."""
    return event.rank == LOOKING_RANK and _holds(
        invocation.token, event.rank, event.leg, names, invocation.store, event.run
    )


def _holds(request_id: str, rank: int, leg: int, names: Collection[str], store: Store, run: str) -> bool:
    """Whether a request has the newest claim of a leg that has not left."""
    layout, generation = RunLayout(run), generation_in(names, rank, leg)
    if generation < 0 or _has_left(rank, leg, names, layout):
        return False
    try:
        return read_claim(store, layout, rank, leg, generation).request_id == request_id
    except Gone:
        return False


def relieve(request_id: str, run: str, rank: int, leg: int, invocation: Invocation) -> None:
    """Say `left` for a leg whose event was given up: it is dead, and its successor need not wait until that is sure."""
    store, layout = invocation.store, RunLayout(run)
    names = store.list(layout.legs)
    if residents_in(names).get(rank, (0, 0))[0] > leg and _holds(request_id, rank, leg, names, store, run):
        publish_left(store, layout, rank, leg, invocation.token, None)


def _is_dead(event: WorkerEvent, invocation: Invocation, most_s: float = float("inf")) -> bool:
    """Whether a rank contributes nothing within the time in which it should, or within `most_s` seconds."""
    store, outbox = invocation.store, RunLayout(event.run).outbox(event.rank)
    before, local = contributions_in(store.list(outbox)), is_local(store, outbox)
    if before:
        newest = max(before, key=lambda name: name.rpartition("-")[2])
        try:
            rounds_s = ROUNDS_OF_PATIENCE * store.reading(f"{outbox}/{newest}", round_time_of)
        except Gone:
            return False
        patience_s = max(floor_s(is_local=local), rounds_s)
    else:
        patience_s = start_s(is_local=local)  # it may still be loading

    def shows_life(names: Collection[str]) -> bool:
        return any(not is_stand_in(store, f"{outbox}/{name}") for name in contributions_in(names) - before)

    timeout_s = min(patience_s, most_s, invocation.remaining_s() / 2)
    return store.wait(outbox, shows_life, timeout_s=timeout_s) is None


def _has_left(rank: int, leg: int, names: Collection[str], layout: RunLayout) -> bool:
    """Whether a leg has left, by a listing of `legs/`."""
    return layout.left(rank, leg).rpartition("/")[2] in names


def publish_left(store: Store, layout: RunLayout, rank: int, leg: int, token: str, version: int | None) -> None:
    """Say that a leg has left. Said by another, it is an order: the leg leaves when it sees it.

    Args:
        store: The store.
        layout: The run's paths.
        rank: Whose leg.
        leg: Which.
        token: Of who says it.
        version: Where it has left; None if it is dead, or is to be.
    """
    mark = {"token": token, "version": version, "at": store.clock.time()}
    store.publish(layout.left(rank, leg), [json.dumps(mark).encode()], token)


def send_for(actions: Sequence[Action], spec: RunSpec, invocation: Invocation) -> None:
    """Invoke what carries out the actions; residents that replace others need not wait for a leg before them."""
    store, layout = invocation.store, RunLayout(spec.run)
    for action in actions:
        if isinstance(action, Reside) and action.generation and action.leg:  # the leg before may still be at work
            publish_left(store, layout, action.rank, action.leg - 1, invocation.token, None)
    dispatch(tuple(actions), spec, invocation)
