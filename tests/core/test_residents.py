"""Whatever the topology, the bits are those of the merge."""

from __future__ import annotations

from pathlib import Path

import pytest

from .driver import undisturbed, undisturbed_of
from .events import shuffled, twice
from .faults import Killed, one_in_four
from .late import Uneven
from .specs import spec_of
from .stage import Stage

DRAWING = {"dropout", "noisy", "slow"}
TOPOLOGIES = pytest.mark.parametrize("topology", ["sharded", "replicated"])


@pytest.mark.parametrize("workers", [1, 2, 3, 4, 8])
@TOPOLOGIES
def test_the_bits_are_those_of_the_merge(topology: str, workers: int, tmp_path: Path) -> None:
    stage = Stage(tmp_path, spec_of("plain", topology=topology, workers=workers), seed=workers)
    assert stage.run() == undisturbed("plain", workers)
    assert stage.errors == []
    assert {event.role for event in stage.delivered} == {"worker"}


@pytest.mark.parametrize(
    "name", ["adam", "adamw", "convolutional", "batch_norm", "dropout", "noisy", "tied", "not_validated"]
)
@TOPOLOGIES
def test_every_job_has_the_same_bits(topology: str, name: str, tmp_path: Path) -> None:
    stage = Stage(tmp_path, spec_of(name, topology=topology, workers=3), seed=1, draws=name in DRAWING)
    assert stage.run() == undisturbed(name, 3)


@pytest.mark.parametrize("rounds", [1, 2, 3, 5])
@TOPOLOGIES
def test_the_number_of_rounds_in_an_invocation_does_not_show(topology: str, rounds: int, tmp_path: Path) -> None:
    spec = spec_of("plain", topology=topology, workers=3, rounds_per_invocation=rounds)
    stage = Stage(tmp_path, spec, seed=rounds)
    assert stage.run() == undisturbed("plain", 3)
    legs = max(event.payload["leg"] for event in stage.delivered) + 1
    assert legs >= -(-8 // rounds)


@pytest.mark.parametrize("seed", range(5))
@TOPOLOGIES
def test_doubled_and_late_events_do_not_show(topology: str, seed: int, tmp_path: Path) -> None:
    spec = spec_of("plain", topology=topology, workers=2, rounds_per_invocation=3)
    stage = Stage(tmp_path, spec, seed=seed, arrivals=shuffled(seed) if seed else twice)
    assert stage.run() == undisturbed("plain", 2)
    assert stage.errors == []


@pytest.mark.parametrize("limit_s", [1.9, 2.5, 3.5])
@TOPOLOGIES
def test_a_time_limit_that_is_a_few_rounds_does_not_show(topology: str, limit_s: float, tmp_path: Path) -> None:
    """A call takes ten virtual milliseconds, a round some two hundred."""
    spec = spec_of("plain", topology=topology, workers=3, epochs=15)
    stage = Stage(tmp_path, spec, seed=4, limit_s=limit_s)
    assert stage.run() == undisturbed_of(spec_of("plain", workers=3, epochs=15))
    assert max(event.payload["leg"] for event in stage.delivered) >= 1
    assert {event.attempt for event in stage.delivered} == {1}, "they left in time, none was killed"


@pytest.mark.parametrize("seed", range(3))
@TOPOLOGIES
def test_a_share_that_does_not_fit_the_time_is_continued(topology: str, seed: int, tmp_path: Path) -> None:
    """Eight rows of a third of a second each, in pairs, where a leg has three seconds."""
    spec = spec_of("slow", topology=topology, workers=2)
    stage = Stage(tmp_path, spec, seed=seed, limit_s=3.0, draws=True)
    shares: set[str] = set()
    stage.on_delivery = lambda event: shares.update(stage.store.list(stage.layout.partial))
    assert stage.run() == undisturbed("slow", 2)
    assert stage.errors == []
    assert shares, "no share was continued"
    assert stage.store.list(stage.layout.partial) == frozenset()


@pytest.mark.parametrize("seed", range(12))
@TOPOLOGIES
def test_deaths_do_not_show(topology: str, seed: int, tmp_path: Path) -> None:
    """One invocation in four dies at a random call; Lambda tries again, and whoever comes goes on from the store."""
    spec = spec_of("adamw", topology=topology, workers=3, rounds_per_invocation=4)
    stage = Stage(tmp_path, spec, seed=seed, dies_after=one_in_four(seed))
    assert stage.run() == undisturbed("adamw", 3)
    assert all(isinstance(error, Killed) for error in stage.errors)


@pytest.mark.parametrize("turns", [60, 150, 300, 600])
@TOPOLOGIES
def test_resuming_goes_on_after_the_death_of_all(topology: str, turns: int, tmp_path: Path) -> None:
    stage = Stage(tmp_path, spec_of("adamw", topology=topology, workers=3), seed=turns)
    stage.start()
    for _ in range(turns):
        stage.step()
    stage.kill_all()
    stage.control("resume")
    stage.drain()
    assert stage.result() == undisturbed("adamw", 3)


@pytest.mark.parametrize("turns", [200, 500])
@TOPOLOGIES
def test_a_run_stops_where_all_agree_and_is_resumed(topology: str, turns: int, tmp_path: Path) -> None:
    stage = Stage(tmp_path, spec_of("plain", topology=topology, workers=3, epochs=15), seed=turns)
    stage.start()
    for _ in range(turns):
        stage.step()
    stage.control("stop")
    stage.drain()
    assert stage.outcome().state == "stopped"
    stage.assert_exports_agree()
    stage.control("resume")
    stage.drain()
    assert stage.result() == undisturbed_of(spec_of("plain", workers=3, epochs=15))


@TOPOLOGIES
def test_rank_that_ended_a_run_removes_nothing_after_it_was_resumed(topology: str, tmp_path: Path) -> None:
    """GIVEN a rank that stands still once it has published the end WHEN the run is resumed, and that rank wakes."""
    spec = spec_of("plain", topology=topology, workers=3, epochs=15)
    stage = Stage(tmp_path, spec, seed=1)
    stage.start()
    for _ in range(200):
        stage.step()
    stage.control("stop")
    while not stage.store.exists(f"{stage.layout.root}/stopped.json"):
        stage.step()
    (ending,) = (actor for actor in stage.at_work if actor.event.payload.get("rank") == 0)
    stage.freeze(ending, 1e6)
    stage.control("resume")

    def exchanged() -> set[str]:
        return {f"{rank}/{name}" for rank in range(3) for name in stage.store.list(stage.layout.outbox(rank))}

    before = exchanged()
    while len(exchanged() - before) < 6:
        stage.step()
    new = exchanged() - before
    for actor in stage.at_work:
        stage.freeze(actor, 0.0 if actor is ending else 1000.0)
    while ending in stage.at_work:
        stage.step()
    assert new <= exchanged()
    stage.drain()
    assert stage.result() == undisturbed_of(spec_of("plain", workers=3, epochs=15))


@TOPOLOGIES
def test_an_unfinished_share_is_continued_after_a_round_that_was_done_already(topology: str, tmp_path: Path) -> None:
    """Each leg has time for twelve of sixteen rows. One is killed that has contributed, and had no reason to save."""
    spec = spec_of("ponderous", topology=topology, workers=1)
    stage = Stage(tmp_path, spec, seed=1, limit_s=4.4)
    stage.start()
    while not stage.store.exists(stage.layout.message(0, "gradient", 0)):
        assert stage.step()
    (actor,) = (actor for actor in stage.at_work if actor.event.payload.get("rank") == 0)
    actor.dies_after = actor.calls
    stage.drain()
    assert stage.result() == undisturbed("ponderous", 1)


@TOPOLOGIES
def test_resuming_goes_on_after_the_loss_of_all_successors(topology: str, tmp_path: Path) -> None:
    """All legs have left, and nobody has claimed the next ones."""
    spec = spec_of("adamw", topology=topology, workers=3, rounds_per_invocation=2)
    stage = Stage(tmp_path, spec, seed=5)
    stage.start()
    while stage.step():
        stage.lose(lambda event: event.payload.get("leg") == 1)
    assert stage.control("status")["state"] == "running"
    stage.control("resume")
    stage.drain()
    assert stage.result() == undisturbed("adamw", 3)


def test_leg_that_begins_after_a_valid_round_does_not_wait_for_retired_messages(tmp_path: Path) -> None:
    """A slow rank still saves when another's next leg begins, which goes on from the version saved before that one."""
    spec = spec_of("adamw", topology="sharded", workers=3, batch_size=6, rounds_per_invocation=4)
    stage = Uneven(tmp_path, spec, slow={1: 30.0}, seed=2)
    assert stage.run() == undisturbed_of(spec_of("adamw", workers=3, batch_size=6))
    assert stage.errors == []
