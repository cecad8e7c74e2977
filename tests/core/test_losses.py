"""A resident rank that is lost is noticed by its peers and replaced, whatever became of it, and no bit changes.

Nothing here is tried again by Lambda unless it is said so: what is lost is lost without a word.
"""

from __future__ import annotations

import random
from collections.abc import Callable, Sequence
from pathlib import Path
from typing import Any

import pytest

from estafeta import waiting
from estafeta.protocol.listing import calls_in, residents_in

from .driver import undisturbed, undisturbed_of
from .events import Event
from .faults import Killed
from .late import Uneven
from .specs import FUNCTIONS, spec_of
from .stage import Actor, Stage

TOPOLOGIES = pytest.mark.parametrize("topology", ["sharded", "replicated"])
RANKS = pytest.mark.parametrize("rank", [0, 1, 2])


def is_reside(event: Event, rank: int, leg: int | None = None) -> bool:
    payload = event.payload
    return payload.get("task") == "reside" and payload["rank"] == rank and leg in (None, payload["leg"])


def first(which: Callable[[Event], bool], times: int = 1) -> Callable[[Event], Sequence[int]]:
    """Arrivals that lose the first events of a kind."""
    left = [times]

    def arrivals(event: Event) -> Sequence[int]:
        if which(event) and left[0]:
            left[0] -= 1
            return ()
        return (0,)

    return arrivals


def stage_of(tmp_path: Path, topology: str, seed: int, *, name: str = "adamw", **stage: Any) -> Stage:
    changes = stage.pop("changes", {})
    return Stage(tmp_path, spec_of(name, topology=topology, workers=3, **changes), seed=seed, **stage)


def until(stage: Stage, condition: Callable[[], bool]) -> None:
    while not condition():
        assert stage.step(), "\n".join(("the run stands still", *stage.history[-20:]))


def actor_of(stage: Stage, rank: int) -> Actor:
    """The invocation of a rank that is at work, as soon as there is one."""
    until(stage, lambda: any(is_reside(actor.event, rank) for actor in stage.at_work))
    return next(actor for actor in stage.at_work if is_reside(actor.event, rank))


def generation_of(stage: Stage, rank: int) -> int:
    return residents_in(stage.store.list(stage.layout.legs))[rank][1]


@RANKS
@TOPOLOGIES
def test_a_rank_that_was_never_delivered(topology: str, rank: int, tmp_path: Path) -> None:
    stage = stage_of(tmp_path, topology, rank, arrivals=first(lambda event: is_reside(event, rank)))
    assert stage.run() == undisturbed("adamw", 3)
    assert sum(is_reside(event, rank) for event in stage.delivered) == 1, "one of all that noticed has sent"


@TOPOLOGIES
def test_a_call_that_was_lost_is_repeated(topology: str, tmp_path: Path) -> None:
    stage = stage_of(tmp_path, topology, 1, arrivals=first(lambda event: is_reside(event, 1), times=3))
    assert stage.run() == undisturbed("adamw", 3)
    assert sum(is_reside(event, 1) for event in stage.delivered) == 1


@pytest.mark.parametrize("calls", [0, 2, 20, 60])
@RANKS
@TOPOLOGIES
def test_a_rank_that_is_killed(topology: str, rank: int, calls: int, tmp_path: Path) -> None:
    """Before it claims its leg, while it holds the claim, in the middle of a round: and Lambda does not try again."""
    stage = stage_of(tmp_path, topology, calls)
    stage.start()
    actor = actor_of(stage, rank)
    until(stage, lambda: actor.calls >= calls)
    stage.kill(actor)
    stage.drain()
    assert stage.result() == undisturbed("adamw", 3)
    assert sum(is_reside(event, rank) for event in stage.delivered) == 2


@pytest.mark.parametrize("seconds", [3.0, 30.0, 1500.0])
@pytest.mark.parametrize("calls", [10, 40, 60])
@TOPOLOGIES
def test_a_rank_that_stands_still_and_comes_back(topology: str, calls: int, seconds: float, tmp_path: Path) -> None:
    """It comes back when its place is another's, at work for the same round or a later one; or beyond its time."""
    stage = stage_of(tmp_path, topology, calls)
    stage.start()
    actor = actor_of(stage, 1)
    until(stage, lambda: actor.calls >= calls)
    stage.freeze(actor, seconds)
    stage.drain()
    assert stage.result() == undisturbed("adamw", 3)
    assert seconds < 10 or generation_of(stage, 1) == 1, "where little is known of rounds, three seconds are not long"
    assert [generation_of(stage, rank) for rank in (0, 2)] == [0, 0]
    if generation_of(stage, 1) and not actor.dead:
        assert actor.machine.results[0]["done"].startswith("left: "), "it must not go on beside the other"


@TOPOLOGIES
def test_two_of_three_are_lost(topology: str, tmp_path: Path) -> None:
    stage = stage_of(tmp_path, topology, 2)
    stage.start()
    actors = [actor_of(stage, rank) for rank in (0, 2)]
    until(stage, lambda: actors[0].calls > 50)
    for actor in actors:
        stage.kill(actor)
    stage.drain()
    assert stage.result() == undisturbed("adamw", 3)


@RANKS
@TOPOLOGIES
def test_a_successor_that_never_came(topology: str, rank: int, tmp_path: Path) -> None:
    stage = stage_of(
        tmp_path,
        topology,
        rank,
        changes={"rounds_per_invocation": 2},
        arrivals=first(lambda event: is_reside(event, rank, leg=1)),
    )
    assert stage.run() == undisturbed("adamw", 3)


def in_short_legs(tmp_path: Path, topology: str, limit_s: int, arrivals: Callable[[Event], Sequence[int]]) -> Stage:
    """A share takes 2.4 s. There is time for it in each leg, but not for waiting twice as long for the others'."""
    functions = {role: each.model_copy(update={"timeout_s": limit_s}) for role, each in FUNCTIONS.items()}
    spec = spec_of("ponderous", topology=topology, workers=2, functions=functions)
    return Stage(tmp_path, spec, seed=1, limit_s=limit_s, arrivals=arrivals)


@TOPOLOGIES
def test_a_wait_that_is_longer_than_a_leg(topology: str, tmp_path: Path) -> None:
    """Each leg of rank 0 has less time than it would give the other one; between them, they notice."""
    stage = in_short_legs(tmp_path, topology, 4, first(lambda event: is_reside(event, 1), times=3))
    assert stage.run() == undisturbed("ponderous", 2)
    calls = [event.payload for event in stage.delivered if is_reside(event, 1, leg=0)]
    assert len(calls) == 1, "two calls have been lost"


def test_a_rank_that_is_only_slow_is_not_given_up(tmp_path: Path) -> None:
    """It is sent for again and again, in vain: each of its legs needs longer than all these waits, and gets it."""
    spec = spec_of("ponderous", topology="sharded", workers=2, epochs=1)
    stage = Uneven(tmp_path, spec, slow={1: 150.0}, seed=1)
    stage.start()
    until(stage, lambda: calls_in(stage.store.list(stage.layout.legs), 1).get(0) == waiting.MOST_CALLS)
    stage.drain()
    assert stage.result() == undisturbed_of(spec_of("ponderous", workers=2, epochs=1))


@pytest.mark.parametrize("rank", [0, 2])
@TOPOLOGIES
def test_a_leg_that_dies_while_its_successor_waits(topology: str, rank: int, tmp_path: Path) -> None:
    """The successor is ready: it is told to go on, and nobody has to start."""
    stage = stage_of(tmp_path, topology, rank, name="plain", limit_s=2.0, changes={"epochs": 6})
    stage.start()
    actor = actor_of(stage, rank)
    until(stage, lambda: stage.store.exists(stage.layout.ready(rank, 1)))
    stage.kill(actor)
    before = len(stage.delivered)
    until(stage, lambda: stage.store.exists(stage.layout.left(rank, 0)))
    assert not any(event.payload["generation"] for event in stage.delivered[before:])
    stage.drain()
    assert stage.result() == undisturbed_of(spec_of("plain", workers=3, epochs=6))


@pytest.mark.parametrize("calls", [0, 3, 8, 15])
@TOPOLOGIES
def test_rank_0_dies_while_it_ends_the_run(topology: str, calls: int, tmp_path: Path) -> None:
    """The others have gone, so nobody waits for it; Lambda's second attempt looks, and goes on."""
    stage = stage_of(tmp_path, topology, calls)
    stage.start()
    actor = actor_of(stage, 0)
    until(stage, lambda: stage.store.exists(stage.layout.ending))
    actor.dies_after = actor.calls + calls
    stage.drain()
    assert stage.result() == undisturbed("adamw", 3)
    assert [type(error) for error in stage.errors] == [Killed]


@TOPOLOGIES
def test_all_die_at_once(topology: str, tmp_path: Path) -> None:
    """Second deliveries leave at once, but for rank 0's: it takes over, misses the others, and sends for them."""
    stage = stage_of(tmp_path, topology, 3)
    stage.start()
    actors = [actor_of(stage, rank) for rank in range(3)]
    until(stage, lambda: actors[0].calls > 50)
    for actor in actors:
        actor.dies_after = actor.calls
    stage.drain()
    assert stage.result() == undisturbed("adamw", 3)


@pytest.mark.parametrize("seed", range(4))
@TOPOLOGIES
def test_losses_at_random(topology: str, seed: int, tmp_path: Path) -> None:
    """One event in ten is lost; one invocation in six dies at some call, and Lambda's word of that is lost, too."""
    numbers = random.Random(seed)

    def arrivals(event: Event) -> Sequence[int]:
        if event.role == "control":
            return ()
        return () if event.payload.get("task") == "reside" and numbers.random() < 0.1 else (0,)

    def dies_after(event: Event) -> int | None:
        return numbers.randrange(120) if event.payload.get("task") == "reside" and numbers.random() < 1 / 6 else None

    stage = stage_of(
        tmp_path,
        topology,
        seed,
        changes={"rounds_per_invocation": 4},
        attempts=1,
        arrivals=arrivals,
        dies_after=dies_after,
    )
    stage.start()
    stage.drain()
    if stage.control("status")["state"] == "running":  # all were lost at the same time
        stage.control("resume")
        stage.drain()
    assert stage.result() == undisturbed("adamw", 3)


@RANKS
@TOPOLOGIES
def test_a_rank_that_is_lost_each_time_fails_the_run(topology: str, rank: int, tmp_path: Path) -> None:
    """Lambda's own word of its last attempt is lost, too: it would end the run sooner, with what Lambda knows."""
    stage = stage_of(
        tmp_path,
        topology,
        rank,
        arrivals=lambda event: () if event.role == "control" else (0,),
        dies_after=lambda event: 12 if is_reside(event, rank) else None,
    )
    stage.run_to_failure()
    failure = stage.outcome().failure
    assert failure is not None
    assert (failure.reason, failure.rank, failure.exit_code) == ("Lost", rank, 1)
    assert f"after {waiting.MOST_CALLS} calls" in failure.message
    assert failure.round is not None
    assert failure.round in failure.message
    assert failure.request_id
    assert sum(is_reside(event, rank) and event.attempt == 1 for event in stage.delivered) == 1 + waiting.MOST_CALLS
    deaths = iter([12, 12])
    stage._dies_after = lambda event: next(deaths, None) if is_reside(event, rank) else None
    stage.control("resume")
    stage.drain()
    assert stage.result() == undisturbed("adamw", 3)


@TOPOLOGIES
def test_calls_to_earlier_rounds_are_swept(topology: str, tmp_path: Path) -> None:
    stage = stage_of(tmp_path, topology, 1)
    stage.start()
    for version in (1, 4):
        until(stage, lambda: stage.store.exists(stage.layout.message(1, "gradient", version)))  # noqa: B023
        stage.kill(actor_of(stage, 1))
    stage.drain()
    assert stage.result() == undisturbed("adamw", 3)
    assert sum(is_reside(event, 1) for event in stage.delivered) == 3
    assert len(calls_in(stage.store.list(stage.layout.legs), 1)) == 1
