"""What a run has to do next, computed from listings by one pure function.

Invocations are only hints that may be lost, late or doubled. Whoever holds one (the worker that finished last, the
merge, the failure handler, `resume`) takes a snapshot and does what `next_actions` says.
"""

from collections.abc import Collection, Mapping
from dataclasses import dataclass, replace
from typing import Literal

from estafeta.job.stopping import EpochRecord
from estafeta.protocol.layout import Round, name_of
from estafeta.protocol.limits import limit_at
from estafeta.protocol.listing import epochs_in, left_in, legs_in, messages_in, ranks_in, residents_in, versions_in
from estafeta.protocol.run_folder import RunFolder
from estafeta.protocol.spec import Plan
from estafeta.protocol.weights import token_of_version

Ended = Literal["done", "stopped", "failed"]
OUTCOMES: tuple[Ended, ...] = ("done", "stopped", "failed")


@dataclass(frozen=True)
class Snapshot:
    """A run as its folder shows it at one moment.

    Attributes:
        outcome: State that ended it, or None.
        stop_requested: Whether somebody asked it to stop.
        plan: What preparing found; None before that.
        version: The newest weights version; None before preparing, and when only exports and records are left.
        ranks: Ranks that have contributed to the current round.
        legs: By rank, the leg that goes on with an unfinished share of the current round.
        residents: By rank, the newest leg and generation that have been claimed.
        left: Ranks and legs that have left.
        reached: Of residents, the newest version that has been worked on; it may be ahead of the newest saved one.
        limit: Which limit of the run is reached; nothing if none. Residents find that out by themselves.
    """

    workers: int
    outcome: Ended | None = None
    stop_requested: bool = False
    plan: Plan | None = None
    version: int | None = None
    last_epoch: EpochRecord | None = None
    ranks: frozenset[int] = frozenset()
    legs: tuple[tuple[int, int], ...] = ()
    residents: tuple[tuple[int, tuple[int, int]], ...] = ()
    left: frozenset[tuple[int, int]] = frozenset()
    reached: int = 0
    limit: str = ""


@dataclass(frozen=True)
class Prepare:
    """Have a worker build the plan and the first weights."""


@dataclass(frozen=True)
class Work:
    """Have a rank work for a round, from its leg on."""

    round: Round
    rank: int
    leg: int = 0


@dataclass(frozen=True)
class Merge:
    """Combine the complete contributions of a round."""

    round: Round


@dataclass(frozen=True)
class Reside:
    """Have a rank work for as many rounds as fit, as one of its legs."""

    rank: int
    leg: int = 0
    generation: int = 0
    lead_s: float = 0.0
    share_s: float = 0.0
    expires_at: float = 0.0


@dataclass(frozen=True)
class Finish:
    """Export the weights and end the run."""

    state: str
    why: str
    limited: bool = False


Action = Prepare | Work | Merge | Reside | Finish


def next_actions(snapshot: Snapshot) -> tuple[Action, ...]:
    """What is to be done now; nothing once the run has ended. Actions of one kind only, `Work` for several ranks."""
    if snapshot.outcome:
        return ()
    if snapshot.plan is None or snapshot.version is None:
        return (Finish("stopped", "on request"),) if snapshot.stop_requested else (Prepare(),)
    if snapshot.plan.is_resident:
        return _residents(snapshot)
    if snapshot.stop_requested:
        return (Finish("stopped", "on request"),)
    round_ = current_round(snapshot.plan, snapshot.version, snapshot.last_epoch)
    if round_ is None:
        last = snapshot.last_epoch
        return (Finish("done", last.stop if last and last.stop else "all epochs are done"),)
    if snapshot.limit and not snapshot.ranks:
        return (Finish("stopped", snapshot.limit, limited=True),)
    legs = dict(snapshot.legs)
    missing = [rank for rank in ranks_of(snapshot.plan, round_, snapshot.workers) if rank not in snapshot.ranks]
    if missing:
        return tuple(Work(round_, rank, legs.get(rank, 0)) for rank in missing)
    return (Merge(round_),)


def _residents(snapshot: Snapshot) -> tuple[Action, ...]:
    """Resident ranks find out by themselves what is next, also that they are to stop; but each has to be sent for."""
    claimed = dict(snapshot.residents)
    if snapshot.stop_requested and not claimed:
        return (Finish("stopped", "on request"),)
    return tuple(Reside(rank) for rank in range(snapshot.workers) if rank not in claimed)


def takeovers(snapshot: Snapshot) -> tuple[Action, ...]:
    """What sets a run going again whose functions may all be dead: residents are replaced by the next generation."""
    if snapshot.plan is None or not snapshot.plan.is_resident or snapshot.outcome:
        return next_actions(snapshot)
    claimed = dict(snapshot.residents)
    return tuple(replacement(rank, claimed, snapshot.left) for rank in range(snapshot.workers))


def replacement(
    rank: int,
    residents: Mapping[int, tuple[int, int]],
    left: Collection[tuple[int, int]],
    lead_s: float = 0.0,
    share_s: float = 0.0,
) -> Reside:
    """The leg that replaces a missing resident rank: its first leg, or the next one, or a new generation.

    `residents` has by rank the newest leg and generation that have been claimed, `left` the ranks and legs that have
    left; starting takes `lead_s` seconds and a share `share_s`, as far as is known.
    """
    if rank not in residents:
        return Reside(rank, 0, 0, lead_s, share_s)
    leg, generation = residents[rank]
    if (rank, leg) in left:
        return Reside(rank, leg + 1, 0, lead_s, share_s)
    return Reside(rank, leg, generation + 1, lead_s, share_s)


def current_round(plan: Plan, version: int, last_epoch: EpochRecord | None) -> Round | None:
    """The round that starts from the newest version, or None after the last.

    Every epoch ends with a valid round; it makes the epoch's record also when there is nothing to validate.
    """
    epoch, step = divmod(version, plan.steps_per_epoch)
    recorded = last_epoch.epoch if last_epoch else 0
    if step == 0 and epoch > recorded:
        return Round(version, "valid")
    if version >= plan.total_steps or (last_epoch and last_epoch.stop):
        return None
    return Round(version, "train")


def round_after(plan: Plan, round_: Round) -> Round | None:
    """The round that follows another, if no verdict ends the run before it."""
    if round_.phase == "valid":
        return Round(round_.version, "train") if round_.version < plan.total_steps else None
    version = round_.version + 1
    return Round(version, "valid" if version % plan.steps_per_epoch == 0 else "train")


def ranks_of(plan: Plan, round_: Round, workers: int) -> range:
    """The ranks that contribute to a round: all, but nobody where there is nothing to validate."""
    return range(workers if round_.phase == "train" or plan.valid_rows else 0)


def take_snapshot(folder: RunFolder) -> Snapshot:
    """List a run's folder and read its newest epoch record."""
    store, layout, workers = folder.store, folder.layout, folder.spec.workers
    top = store.list(layout.root)
    outcome = next((state for state in OUTCOMES if f"{state}.json" in top), None)
    stop_requested = name_of(layout.stop) in top
    plan = folder.plan if name_of(layout.plan) in top else None
    # Epochs before weights: a version is published before its epoch's record, so no verdict is newer than the version.
    epoch = max(epochs_in(store.list(layout.epochs)), default=0)
    version = max(versions_in(store.list(layout.weights), workers), default=None)
    last_epoch = read_epoch(folder, epoch)
    if plan is None or version is None:
        return Snapshot(workers, outcome, stop_requested, plan, None, last_epoch)
    seen = Snapshot(workers, outcome, stop_requested, plan, version, last_epoch, reached=version)
    if plan.is_resident:
        newest = max(messages_in(store.list(layout.outbox(0)), "gradient"), default=0)
        marks = store.list(layout.legs)
        residents = tuple(sorted(residents_in(marks).items()))
        return replace(seen, residents=residents, left=left_in(marks), reached=max(version, newest))
    round_ = current_round(plan, version, last_epoch)
    ranks, legs = frozenset[int](), dict[int, int]()
    if round_ is not None:
        ranks = ranks_in(store.list(layout.contributions), round_)
        legs = legs_in(store.list(layout.partial), round_)
    limit = limit_at(folder, top, round_, last_epoch)
    return replace(seen, ranks=ranks, legs=tuple(sorted(legs.items())), limit=limit)


def is_current(round_: Round | None, folder: RunFolder) -> bool:
    """Whether a run is still at a round: then a file that its functions miss is lost, and not merely swept."""
    snapshot = take_snapshot(folder)
    if snapshot.outcome or snapshot.plan is None or snapshot.version is None:
        return False
    return round_ == current_round(snapshot.plan, snapshot.version, snapshot.last_epoch)


def maker_of(snapshot: Snapshot, folder: RunFolder) -> str:
    """Token of who made what the current round starts from: the newest version, or the record of the epoch it ended.

    Raises:
        Gone: The run has moved on.
    """
    version, last = snapshot.version, snapshot.last_epoch
    if last is not None and last.version == version:
        return last.token
    return "" if version is None else token_of_version(folder, version)


def newest_epoch(folder: RunFolder, most: int) -> EpochRecord | None:
    """Read the newest record of the first `most` epochs, if there is one."""
    epochs = epochs_in(folder.store.list(folder.layout.epochs))
    return read_epoch(folder, max((epoch for epoch in epochs if epoch <= most), default=0))


def read_epoch(folder: RunFolder, epoch: int) -> EpochRecord | None:
    """Read the record of an epoch; None for epoch 0, which has none."""
    path = folder.layout.epoch(epoch)
    return EpochRecord.model_validate_json(folder.store.read(path)) if epoch else None
