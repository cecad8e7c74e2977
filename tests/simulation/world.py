"""Worlds: a job, its machines, and the faults that happen to them. A seed draws one, of a profile."""

from __future__ import annotations

import random
from collections.abc import Callable, Mapping
from dataclasses import dataclass, replace
from typing import Literal

from core.specs import FUNCTIONS, spec_of
from estafeta.job.optim import SGD, Adam, to_dict
from estafeta.job.stopping import EarlyStopping
from estafeta.protocol.spec import Limits, RunSpec, Topology

Storage = Literal["nfs", "local"]

SLOWNESS = 6.0
"""Factor by which a slow environment is slower in everything."""

LONGEST_S = 900.0
"""Lambda's longest time limit."""


@dataclass(frozen=True)
class Faults:
    """Probabilities of faults, for one event if nothing else is said.

    Attributes:
        duplicate: It is delivered twice.
        late: It is delivered up to two minutes late.
        drop: It is never delivered.
        refuse: The call that sends it ends in an error; half of them are queued all the same.
        kill: Its invocation is killed at one of its first calls, perhaps in the middle of a write.
        slow: An environment computes and calls several times more slowly.
        reclaim: An environment that waits is gone.
        stall: A call to the store takes as long as a fail-over, and the server forgets removed files.
        lost_reply: The same, of a call that was carried out at once and is refused when it is sent again.
        until_s: Time when the faults end.

    Only `drop` may leave a run with no hint at all.
    """

    duplicate: float = 0.0
    late: float = 0.0
    drop: float = 0.0
    refuse: float = 0.0
    kill: float = 0.0
    slow: float = 0.0
    reclaim: float = 0.0
    stall: float = 0.0
    lost_reply: float = 0.0
    until_s: float = 3600.0

    @property
    def loses_nothing(self) -> bool:
        """Whether each event is delivered, and each invocation gets as far as its time allows."""
        return not (self.drop or self.refuse or self.kill or self.stall or self.lost_reply)


@dataclass(frozen=True)
class Mishap:
    """An error that ends a run as failed, and is over after enough resumptions.

    Attributes:
        reason: As the failure says it. `UserCodeError`: the job raises in a micro-batch; `NotFinite`: a micro-batch has
            a gradient that is NaN, and buffers; `Diverged`: a step has parameters that are not finite.
        after: Number of times that all goes well before.
        times: Number of times that it happens then.
    """

    reason: Literal["UserCodeError", "NotFinite", "Diverged"]
    after: int
    times: int


@dataclass(frozen=True)
class World:
    """One run and its surroundings.

    Attributes:
        seed: Seed of every random choice in it.
        shape: Index of the trained spec in `SHAPES`.
        topology: See `RunSpec`.
        workers: World size.
        storage: The machines' view of the store: one NFS client each, or one machine for all.
        limit_s: Time limit of the functions.
        compute_s: Seconds that a micro-batch takes.
        latency_s: Seconds that a call to the store takes.
        cold_s: Seconds that a cold start takes.
        concurrency: Number of functions, at most, that run at the same time.
        rounds_per_invocation: See `RunSpec`.
        stop_after_s: Time when the client stops the run, to resume it later; None: not at all.
        watch_s: Seconds between two looks of the client.
        resumes: Whether it resumes the run at each of the first looks, at work or not.
        faults: Faults of the world.
        most_s: Time when the run must be over.
        quorum: See `RunSpec`.
        damaged: Number of the published vector that the disk damages; None: none.
        tends: Whether the watchdog looks after the run, on a schedule. If no event is lost, it must go on without.
        mishap: Error that makes the run fail; None: nothing.
        max_rounds: Limit of the run, which is raised by as much each time it has stopped for it; None: no limit.
    """

    seed: int
    shape: int = 0
    topology: Topology = "merge"
    workers: int = 2
    storage: Storage = "nfs"
    limit_s: float = LONGEST_S
    compute_s: float = 0.5
    latency_s: float = 0.005
    cold_s: float = 2.0
    concurrency: int = 1000
    rounds_per_invocation: int | None = None
    stop_after_s: float | None = None
    watch_s: float = 60.0
    resumes: bool = False
    faults: Faults = Faults()
    most_s: float = 6 * 3600.0
    quorum: int | None = None
    damaged: int | None = None
    tends: bool = False
    mishap: Mishap | None = None
    max_rounds: int | None = None

    @property
    def patience_s(self) -> float:
        """The time for which a run may seem to stand still in any case: a slow share is no reason to worry."""
        return max(self.watch_s, 12 * SLOWNESS * self.compute_s)

    @property
    def spec(self) -> RunSpec:
        """The spec that the client starts."""
        limit = {"timeout_s": int(self.limit_s)}
        spec = SHAPES[self.shape].model_copy(
            update={
                "token": "of-the-client",
                "workers": self.workers,
                "topology": self.topology,
                "rounds_per_invocation": self.rounds_per_invocation,
                "quorum": self.quorum,
                "limits": Limits(max_rounds=self.max_rounds),
                "functions": {role: function.model_copy(update=limit) for role, function in FUNCTIONS.items()},
            }
        )
        spec.arguments["model"]["seconds"] = self.compute_s
        return spec


def _shape(rows: int, size: int, **changes: object) -> RunSpec:
    return spec_of(
        "plain",
        workers=1,
        arguments={"model": {"size": size, "seconds": 0.0}, "dataset": {"rows": rows}},
        **{"batch_size": 18, "micro_batch_size": 2, "epochs": 1, **changes},
    )


TIMES = {"nfs": (300.0, 450.0, LONGEST_S), "local": (60.0, 120.0, LONGEST_S)}
"""Time limits, in seconds. Peers lose patience after 10 s on one machine. On a network file system it takes 90 s,
or 180 s at the start. A waiting leg must last so long, and twice if it is to send a second time."""

SHAPES = (
    _shape(36, 24),
    _shape(48, 41, optimizer=to_dict(Adam(lr=0.05))),
    _shape(48, 40, optimizer=to_dict(SGD(lr=0.05, momentum=0.9, clip_norm=0.5)), epochs=2),
    _shape(40, 24, validation=0.0, early_stopping=EarlyStopping(monitor="train_loss"), epochs=2),
    _shape(60, 8, batch_size=9, micro_batch_size=1),
    _shape(36, 40, epochs=4, early_stopping=EarlyStopping(monitor="valid_loss", patience=1, min_delta=1e9)),
)
"""Trainings to choose from: one to four epochs of two to five steps, with one to nine micro-batches in a share."""


def _sometimes(numbers: random.Random, value: Callable[[], float], chance: float = 0.4) -> float:
    return value() if numbers.random() < chance else 0.0


def _anything(seed: int) -> World:
    """Anything may happen, each thing in some of the worlds."""
    numbers = random.Random(f"world {seed}")
    world = _calm(seed)
    up_to = numbers.uniform
    faults = Faults(
        duplicate=_sometimes(numbers, lambda: up_to(0.02, 0.5)),
        late=_sometimes(numbers, lambda: up_to(0.02, 0.3)),
        drop=_sometimes(numbers, lambda: up_to(0.01, 0.15), 0.3),
        refuse=_sometimes(numbers, lambda: up_to(0.01, 0.1), 0.3),
        kill=_sometimes(numbers, lambda: up_to(0.05, 0.3)),
        slow=_sometimes(numbers, lambda: up_to(0.1, 0.4)),
        reclaim=_sometimes(numbers, lambda: up_to(0.1, 1.0)),
        stall=_sometimes(numbers, lambda: up_to(0.001, 0.01), 0.3),
        lost_reply=_sometimes(numbers, lambda: up_to(0.01, 0.1), 0.3),
        until_s=up_to(300.0, 1800.0),
    )
    return replace(
        world,
        faults=faults,
        compute_s=min(world.compute_s, world.limit_s / 40),
        concurrency=numbers.randint(1, 2) + (world.workers if world.topology == "merge" else 2 * world.workers)
        if numbers.random() < 0.3
        else 1000,
        stop_after_s=up_to(1.0, 120.0) if numbers.random() < 0.25 else None,
        watch_s=up_to(60.0, 400.0),
        tends=faults.drop > 0 or numbers.random() < 0.2,
    )


def _calm(seed: int) -> World:
    """Nothing goes wrong; still there are caches, cold starts and time limits."""
    numbers = random.Random(f"calm {seed}")
    topology: Topology = numbers.choice(("merge", "merge", "sharded", "replicated"))
    storage: Storage = numbers.choice(("nfs", "local"))
    limit_s, compute_s = numbers.choice(TIMES[storage]), numbers.choice((0.01, 0.3, 2.0))
    if numbers.random() < 0.3:
        compute_s = limit_s / 12  # a share may not fit
    return World(
        seed,
        shape=numbers.randrange(len(SHAPES)),
        topology=topology,
        workers=numbers.choice((1, 2, 2, 2, 3, 3, 3, 4)) if numbers.random() < 0.9 else numbers.randint(5, 9),
        storage=storage,
        limit_s=limit_s,
        compute_s=compute_s,
        latency_s=numbers.choice((0.0005, 0.005, 0.02)),
        cold_s=numbers.uniform(0.2, 5.0),
        rounds_per_invocation=numbers.choice((None, None, 1, 2, 3)) if topology != "merge" else None,
    )


def _prompt(seed: int) -> World:
    """Residents on machines of their own with little to do: it is over as soon as they see each other's files."""
    world = replace(_calm(seed), topology=("sharded", "replicated")[seed % 2], workers=2 + seed % 3)
    return replace(
        world, storage="nfs", compute_s=0.01, limit_s=LONGEST_S, rounds_per_invocation=None, watch_s=10.0, most_s=100.0
    )


def _doubled(seed: int) -> World:
    """Every other event is delivered twice, often at the same time."""
    return replace(_calm(seed), faults=Faults(duplicate=0.5))


def _killed(seed: int) -> World:
    """Every third invocation is killed, some in the middle of a write."""
    return replace(_calm(seed), limit_s=LONGEST_S, faults=Faults(kill=0.35, until_s=600.0))


def _failover(seed: int) -> World:
    """The server fails over again and again: calls take long, and some that were carried out are sent once more."""
    return replace(_calm(seed), limit_s=LONGEST_S, faults=Faults(stall=0.003, lost_reply=0.15, until_s=600.0))


def _replaced(seed: int) -> World:
    """Residents are replaced while they are at work: some are slow, and the client resumes the run all the time."""
    world = replace(_calm(seed), topology=("sharded", "replicated")[seed % 2], resumes=True, watch_s=6.0, compute_s=3.0)
    return replace(world, limit_s=LONGEST_S, faults=Faults(slow=0.3, until_s=60.0))


def _quorum(seed: int) -> World:
    """Rounds close without the last one or two of at least three ranks, of which some are slow or killed."""
    world = _calm(seed)
    workers = max(world.workers, 3)
    return replace(
        world,
        workers=workers,
        quorum=workers - 1 - seed % 2,
        compute_s=min(world.compute_s, 2.0),
        faults=Faults(slow=0.3, kill=0.1, duplicate=0.1, until_s=600.0),
    )


def _given_up(seed: int) -> World:
    """For a while no leg gets beyond some calls: Lambda gives events up, and the run fails until it is resumed."""
    world = replace(_calm(seed), topology=("sharded", "replicated")[seed % 2], limit_s=LONGEST_S, watch_s=120.0)
    return replace(world, faults=Faults(kill=1.0, until_s=900.0))


def _tended(seed: int) -> World:
    """The watchdog looks after runs that need nobody; some shares are longer than it takes to be sure of that."""
    world = replace(_calm(seed), workers=1 + seed % 3, shape=4, limit_s=LONGEST_S, compute_s=LONGEST_S / 40, tends=True)
    return replace(world, faults=Faults(slow=0.4, late=0.1, duplicate=0.1))


def _failing(seed: int) -> World:
    """A lasting error comes some times: the run says why, or stops at its limit, until it is resumed."""
    numbers, world = random.Random(f"failing {seed}"), _calm(seed)
    faults = Faults(duplicate=0.2, late=0.1, kill=0.03 * (seed % 2), slow=0.1, until_s=1800.0)
    world = replace(world, faults=faults, watch_s=numbers.uniform(5.0, 60.0))
    if seed % 4 == 0:
        return replace(world, max_rounds=numbers.randint(1, 3))
    reason, most = REASONS[seed % 4]
    return replace(world, mishap=Mishap(reason, numbers.randrange(most), numbers.randint(1, 3)))


REASONS: Mapping[int, tuple[Literal["UserCodeError", "NotFinite", "Diverged"], int]] = {
    1: ("UserCodeError", 30),
    2: ("NotFinite", 30),
    3: ("Diverged", 4),
}
"""By a rest of the seed: what fails, and before which micro-batch or step at the latest."""


def _damaged(seed: int) -> World:
    """A byte of one published vector is damaged on the disk."""
    return replace(_calm(seed), damaged=random.Random(f"damaged {seed}").randrange(20))


PROFILES: Mapping[str, Callable[[int], World]] = {
    "anything": _anything,
    "calm": _calm,
    "prompt": _prompt,
    "doubled": _doubled,
    "killed": _killed,
    "failover": _failover,
    "replaced": _replaced,
    "given-up": _given_up,
    "quorum": _quorum,
    "damaged": _damaged,
    "tended": _tended,
    "failing": _failing,
}
