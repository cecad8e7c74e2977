"""Who waits for a peer for too long sends for it again.

    missing for longer than rounds take ─▶ claim the call ─▶ invoke the rank's next generation
                                             │ somebody was first: wait for what comes of it
                                             ▼ called so often already, and the last one is dead for sure
                                           the run fails

Who is missing is known from what is waited for; in which leg and generation it has to come follows from the claims. A
call is itself claimed by publish-once, so that of all ranks that notice one sends; nothing depends on that, nor on the
guess that the rank is lost: one that was only slow publishes the same bits, sees that it has been replaced, and leaves.

A wait may be longer than the leg that waits. So a call says when it was made, and the next leg goes on from there.
"""

from __future__ import annotations

import json
from collections.abc import Collection
from dataclasses import dataclass, field

from estafeta.errors import Command, Gone
from estafeta.protocol.invocation import Invocation
from estafeta.protocol.layout import Round, RunLayout, claim_of_call
from estafeta.protocol.listing import calls_in, left_in, residents_in
from estafeta.protocol.outcome import fail
from estafeta.protocol.snapshot import replacement
from estafeta.protocol.spec import Failure, RunSpec
from estafeta.residents.leg import CHECK_S, Claim, Leaving, Leg, publish_left, read_claim, send_for
from estafeta.store.store import Store, claim_name

MOST_CALLS = 5
"""How often a rank is sent for at one version. If it is still missing then, the run fails."""

SHARES_OF_PATIENCE = 2.0
"""A peer may take as many times longer than this rank took for its own share of the round."""

GROWTH = 2.0
"""Each further call waits that many times as long as the one before: the rank may be slow to start, or restore."""

LONGEST, LONGEST_SHARE = 1 / 3, 1 / 2
"""Of the time that the leg has: the wait before a first look at the calls is not longer, or the one who waits would be
gone before it was over. Half of it is for a rank whose share may take as long as that."""


@dataclass
class _Missing:
    """A rank that is waited for.

    Attributes:
        since: When it was missed, or something was last seen of it.
        seen: What that was: calls, leg and generation, legs that have left.
    """

    since: float
    seen: object = None


@dataclass
class _Wait:
    """What is waited for at present."""

    round: Round | None = None
    missing: dict[int, _Missing] = field(default_factory=dict)
    look_at: float = 0.0


class Lookout:
    """Looks after the peers of a leg.

    Args:
        leg: The leg that waits.
        spec: The run's spec.
        invocation: This invocation.
    """

    def __init__(self, leg: Leg, spec: RunSpec, invocation: Invocation) -> None:
        self._leg, self._spec, self._invocation = leg, spec, invocation
        self._store, self._layout = invocation.store, RunLayout(spec.run)
        self._wait = _Wait()

    def miss(self, ranks: Collection[int], round_: Round) -> None:
        """Take note that ranks are waited for in a round, and send for those that are overdue.

        Raises:
            Leaving: One of them has been sent for in vain too often; the run has been ended as failed.
        """
        now, wait = self._store.clock.monotonic(), self._wait
        if wait.round != round_:
            wait = self._wait = _Wait(round_)
        others = [rank for rank in ranks if rank != self._leg.rank]
        wait.missing = {rank: wait.missing.get(rank) or _Missing(now) for rank in others}
        overdue = [rank for rank in others if wait.missing[rank].seen or self._is_overdue(rank, others, now)]
        if not overdue or now < wait.look_at:
            return
        wait.look_at = now + CHECK_S
        names = self._store.list(self._layout.legs)
        for rank in overdue:
            self._look_after(rank, round_, names, now)

    def _is_overdue(self, rank: int, others: Collection[int], now: float) -> bool:
        """Whether a rank has been missing for too long for the first time."""
        limit_s = self._leg.pace.limit_s
        if rank == 0 and len(others) > 1:  # which may itself wait for the others to save
            limit_s = max(limit_s, self._leg.pace.start_s)
        share_s = min(SHARES_OF_PATIENCE * self._leg.share_s, LONGEST_SHARE * self._leg.time_s)
        limit_s = max(min(limit_s, LONGEST * self._leg.time_s), share_s)
        return now - self._wait.missing[rank].since > limit_s

    def _look_after(self, rank: int, round_: Round, names: Collection[str], now: float) -> None:
        missing = self._wait.missing[rank]
        calls = calls_in(names, rank).get(round_.version, 0)
        seen = calls, residents_in(names).get(rank), frozenset(mark for mark in left_in(names) if mark[0] == rank)
        if seen != missing.seen:  # it has been called, or has come: now it has to start
            is_first_look, missing.seen = missing.seen is None, seen
            if not is_first_look:
                missing.since = now
                return
            if calls:
                missing.since = now - self._since_call(rank, round_, calls - 1)
        if calls and now - missing.since <= self._limit_s(calls):
            return
        if calls >= MOST_CALLS:
            self._give_up(rank, round_, names)
            return
        call = claim_of_call(rank, round_.version)
        at = self._store.clock.time()
        if self._store.claim(self._layout.legs, call, generation=calls, token=self._leg.token, at=at):
            self._call(rank, round_, names)

    def _limit_s(self, calls: int) -> float:
        """How long is waited after so many calls: who was sent for begins its share anew, and must get done with it.

        Within its time limit a leg either does, or hands over, which shows.
        """
        first_s = max(self._leg.pace.start_s, SHARES_OF_PATIENCE * self._leg.share_s)
        return min(first_s * GROWTH ** (calls - 1), self._spec.functions["worker"].timeout_s)

    def _since_call(self, rank: int, round_: Round, number: int) -> float:
        """Seconds since a call was made, perhaps while an earlier leg waited."""
        try:
            return max(0.0, self._store.clock.time() - read_call(self._store, self._layout, rank, round_, number))
        except Gone:
            return 0.0

    def _call(self, rank: int, round_: Round, names: Collection[str]) -> None:
        residents, left = residents_in(names), left_in(names)
        leg, _ = residents.get(rank, (0, 0))
        if leg and (rank, leg - 1) not in left:  # its successor is there already, and waits in vain
            publish_left(self._store, self._layout, rank, leg - 1, self._leg.token, None)
        else:
            action = replacement(rank, residents, left, self._leg.lead_s, self._leg.share_s)
            send_for((action,), self._spec, self._invocation)
        old = [claim_of_call(rank, version) for version in calls_in(names, rank) if version < round_.version]
        self._store.sweep(self._layout.legs, [name for name in names if name.rpartition(".")[0] in old])
        self._invocation.note(self._spec.run, sent_for=rank, missing_in=round_.name)

    def _give_up(self, rank: int, round_: Round, names: Collection[str]) -> None:
        """End the run as failed, unless the last one who was sent for may be alive: it may only be slow."""
        leg, generation = residents_in(names).get(rank, (0, -1))
        claim: Claim | None = None
        if generation >= 0:
            try:
                claim = read_claim(self._store, self._layout, rank, leg, generation)
            except Gone:
                return  # a later leg has come meanwhile
            if self._store.clock.time() <= claim.expires_at:
                return
        failure = Failure(
            reason="Lost",
            message=f"rank {rank} contributed nothing to round {round_.name}, and was sent for {MOST_CALLS} times",
            hint=f"its log may say why: {Command('estafeta', 'logs', self._spec.run)}; "
            "often it is memory: -o worker.memory_mb=…",
            rank=rank,
            round=round_.name,
        )
        if claim is not None:
            place = {"request_id": claim.request_id, "log_group": claim.log_group, "log_stream": claim.log_stream}
            failure = failure.model_copy(update=place)
        fail(self._invocation, self._layout, failure)
        raise Leaving("the run has ended", silently=True)


def read_call(store: Store, layout: RunLayout, rank: int, round_: Round, number: int) -> float:
    """When a rank was sent for because it was missing in a round, in seconds since 1970.

    Raises:
        Gone: It was swept.
    """
    path = f"{layout.legs}/{claim_name(claim_of_call(rank, round_.version), number)}"
    return float(json.loads(store.read(path))["at"])
