"""A rank that waits for a peer for too long has it replaced.

    missing for longer than rounds take ─▶ claim the call ─▶ invoke the rank's next generation
                                             │ another rank was first: wait for what comes of its call
                                             ▼ the last of `MOST_CALLS` is dead for sure
                                           the run fails

The missing files say which rank is lost; the claims say in which leg and generation it has to come. The ranks claim a
call by publish-once, so that only one of them sends. Nothing depends on that, nor on the guess that the rank is lost.
A rank that was only slow publishes the same bits, sees that it was replaced, and leaves.

A wait may be longer than the leg that waits. So a call says when it was made, and the next leg goes on from there.
"""

import json
from collections.abc import Collection
from dataclasses import dataclass, field

from estafeta import waiting
from estafeta.errors import Command, Gone
from estafeta.protocol.ending import fail
from estafeta.protocol.invocation import Invocation
from estafeta.protocol.layout import Round, claim_of_call
from estafeta.protocol.listing import calls_in, left_in, residents_in
from estafeta.protocol.run_folder import RunFolder
from estafeta.protocol.snapshot import replacement
from estafeta.protocol.spec import Failure
from estafeta.residents.ending import Leaving
from estafeta.residents.leg import Leg
from estafeta.residents.marks import Claim, publish_left, read_claim, send_for
from estafeta.store.store import claim_name


@dataclass
class _Missing:
    """A rank that this leg waits for."""

    since: float  # when this leg missed it, or last saw something of it
    seen: object = None  # calls, leg and generation, legs that have left


@dataclass
class _Wait:
    """The wait of one round."""

    round: Round
    missing: dict[int, _Missing] = field(default_factory=dict)
    look_at: float = 0.0


class Lookout:
    """Looks after a leg and its peers while the leg waits.

    Attributes:
        round: The round that the leg is at; None before its first.
    """

    def __init__(self, leg: Leg, folder: RunFolder, invocation: Invocation) -> None:
        self.round: Round | None = None
        self._leg, self._folder, self._invocation = leg, folder, invocation
        self._spec, self._store, self._layout = folder.spec, folder.store, folder.layout
        self._wait: _Wait | None = None

    def alarm(self, ranks: Collection[int]) -> None:
        """Called now and then while the leg waits for ranks: it may have to go, or they may have to be replaced.

        Raises:
            Leaving: This leg is to end, or a rank did not come after too many calls, and the run has failed.
        """
        self._leg.check()
        if self.round is not None:
            self.miss(ranks, self.round)

    def miss(self, ranks: Collection[int], round_: Round) -> None:
        """Take note that the leg waits for ranks in a round, and call those that are overdue.

        Raises:
            Leaving: One of them did not come after too many calls; the run has failed.
        """
        now, wait = self._store.clock.monotonic(), self._wait
        if wait is None or wait.round != round_:
            wait = self._wait = _Wait(round_)
        others = [rank for rank in ranks if rank != self._leg.rank]
        wait.missing = {rank: wait.missing.get(rank) or _Missing(now) for rank in others}
        overdue = [r for r in others if wait.missing[r].seen or self._is_overdue(r, wait.missing[r], others, now)]
        if not overdue or now < wait.look_at:
            return
        wait.look_at = now + waiting.CHECK_S
        names = self._store.list(self._layout.legs)
        for rank in overdue:
            self._look_after(rank, wait.missing[rank], round_, names, now)

    def _is_overdue(self, rank: int, missing: _Missing, others: Collection[int], now: float) -> bool:
        """Tell whether a rank has been missing for too long for the first time."""
        limit_s = self._leg.pace.limit_s
        if rank == 0 and len(others) > 1:  # rank 0 may itself wait for the others to save
            limit_s = max(limit_s, self._leg.pace.start_s)
        share_s = min(waiting.SHARES_OF_PATIENCE * self._leg.share_s, waiting.LONGEST_WAIT_FOR_SHARE * self._leg.time_s)
        limit_s = max(min(limit_s, waiting.LONGEST_WAIT * self._leg.time_s), share_s)
        return now - missing.since > limit_s

    def _look_after(self, rank: int, missing: _Missing, round_: Round, names: Collection[str], now: float) -> None:
        calls = calls_in(names, rank).get(round_.version, 0)
        seen = calls, residents_in(names).get(rank), frozenset(mark for mark in left_in(names) if mark[0] == rank)
        if seen != missing.seen:  # a peer has called it, or it has come: now it has to start
            is_first_look, missing.seen = missing.seen is None, seen
            if not is_first_look:
                missing.since = now
                return
            if calls:
                missing.since = now - self._since_call(rank, round_, calls - 1)
        if calls and now - missing.since <= self._limit_s(calls):
            return
        if calls >= waiting.MOST_CALLS:
            self._give_up(rank, round_, names)
            return
        call = claim_of_call(rank, round_.version)
        at = self._store.clock.time()
        if self._store.claim(self._layout.legs, call, generation=calls, token=self._leg.token, at=at):
            self._call(rank, round_, names)

    def _limit_s(self, calls: int) -> float:
        """Return how long to wait after so many calls: a replacement begins its share again, and must finish it.

        Within its time limit a leg either finishes, or hands over, which shows.
        """
        first_s = max(self._leg.pace.start_s, waiting.SHARES_OF_PATIENCE * self._leg.share_s)
        return min(first_s * waiting.CALL_GROWTH ** (calls - 1), self._spec.functions["worker"].timeout_s)

    def _since_call(self, rank: int, round_: Round, number: int) -> float:
        """Return the seconds since a call, perhaps one that an earlier leg waited for."""
        try:
            return max(0.0, self._store.clock.time() - read_call(self._folder, rank, round_, number))
        except Gone:
            return 0.0

    def _call(self, rank: int, round_: Round, names: Collection[str]) -> None:
        residents, left = residents_in(names), left_in(names)
        leg, _ = residents.get(rank, (0, 0))
        if leg and (rank, leg - 1) not in left:  # its successor is there already, and waits for its mark
            publish_left(self._folder, rank, leg - 1, self._leg.token, None)
        else:
            action = replacement(rank, residents, left, self._leg.lead_s, self._leg.share_s)
            send_for((action,), self._folder, self._invocation)
        old = [claim_of_call(rank, version) for version in calls_in(names, rank) if version < round_.version]
        self._store.sweep(self._layout.legs, [name for name in names if name.rpartition(".")[0] in old])
        self._invocation.note(self._spec.run, sent_for=rank, missing_in=round_.name)

    def _give_up(self, rank: int, round_: Round, names: Collection[str]) -> None:
        """End the run as failed, unless the last replacement may be alive: it may only be slow."""
        leg, generation = residents_in(names).get(rank, (0, -1))
        claim: Claim | None = None
        if generation >= 0:
            try:
                claim = read_claim(self._folder, rank, leg, generation)
            except Gone:
                return  # a later leg has come meanwhile
            if self._store.clock.time() <= claim.expires_at:
                return
        failure = Failure(
            reason="Lost",
            message=f"rank {rank} contributed nothing to round {round_.name}, after {waiting.MOST_CALLS} calls for it",
            hint=f"its log may say why: {Command('estafeta', 'logs', self._spec.run)}; "
            "often it is memory: -o worker.memory_mb=…",
            rank=rank,
            round=round_.name,
        )
        if claim is not None:
            place = {"request_id": claim.request_id, "log_group": claim.log_group, "log_stream": claim.log_stream}
            failure = failure.model_copy(update=place)
        fail(self._folder, self._invocation, failure)
        raise Leaving("the run has ended", silently=True)


def read_call(folder: RunFolder, rank: int, round_: Round, number: int) -> float:
    """Return when a rank was called because it was missing in a round, in seconds since 1970.

    Raises:
        Gone: A later call has swept it.
    """
    path = f"{folder.layout.legs}/{claim_name(claim_of_call(rank, round_.version), number)}"
    return float(json.loads(folder.store.read(path))["at"])
