"""Rounds that close without the slowest ranks: who is left out is decided once, and the result follows from that."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import pytest

from estafeta import waiting
from estafeta.job.stopping import EarlyStopping
from estafeta.protocol.spec import RunSpec

from .driver import undisturbed_of
from .faults import one_in_four
from .late import Uneven, assert_fair, files_left, replayed
from .specs import spec_of

STEPS = 6
UNVALIDATED = {"validation": 0.0, "early_stopping": EarlyStopping(monitor="train_loss")}
TOPOLOGIES = pytest.mark.parametrize("topology", ["merge", "sharded", "replicated"])
RESIDENT = pytest.mark.parametrize("topology", ["sharded", "replicated"])


def quorate(topology: str, quorum: int | None = 2, name: str = "adamw", **changes: Any) -> RunSpec:
    """A run of three workers, epochs of six steps, that makes do with some contributions."""
    changes = {"workers": 3, "epochs": 3, "batch_size": 6, **changes}
    return spec_of(name, topology=topology, quorum=quorum, **changes)


@pytest.mark.parametrize("quorum", [1, 3])
@TOPOLOGIES
def test_without_a_slow_rank_the_bits_are_those_of_all(topology: str, quorum: int, tmp_path: Path) -> None:
    stage = Uneven(tmp_path, quorate(topology, quorum), slow={}, seed=quorum)
    assert stage.run() == undisturbed_of(quorate("merge", None))
    assert stage.witness.missed == set()


@pytest.mark.parametrize("seed", range(2))
@TOPOLOGIES
def test_a_slow_rank_is_left_out_and_the_result_follows_from_the_members(
    topology: str, seed: int, tmp_path: Path
) -> None:
    stage = Uneven(tmp_path, quorate(topology, 1 + seed % 2), slow={seed: 40.0}, seed=seed)
    result = stage.run()
    assert stage.witness.missed
    assert stage.errors == []
    assert_fair(stage, STEPS, waiting.MOST_MISSED)
    assert replayed(stage) == result != undisturbed_of(quorate("merge", None))


@TOPOLOGIES
def test_a_quorum_does_not_take_as_long_as_the_slowest(topology: str, tmp_path: Path) -> None:
    """A rank takes ten times as long for each of three micro-batches. Four rounds of twelve wait for it: three until it
    is known what is usual, and the first of the second epoch."""
    took_s = []
    for quorum in (None, 2):
        root = tmp_path / str(quorum)
        root.mkdir()
        spec = quorate(topology, quorum, "ponderous", epochs=2, batch_size=9, **UNVALIDATED)
        stage = Uneven(root, spec, slow={2: 10.0}, seed=1)
        stage.run()
        took_s.append(stage.now)
    assert took_s[1] < 0.8 * took_s[0]


@pytest.mark.parametrize("seed", range(2))
@TOPOLOGIES
def test_deaths_do_not_show(topology: str, seed: int, tmp_path: Path) -> None:
    """One invocation in four dies at a random call, those of a slow rank, and those that close rounds, too."""
    spec = quorate(topology, rounds_per_invocation=5)
    stage = Uneven(tmp_path, spec, slow={seed % 3: 30.0}, seed=seed, dies_after=one_in_four(seed))
    result = stage.run()
    assert stage.witness.missed
    assert_fair(stage, STEPS, waiting.MOST_MISSED)
    assert replayed(stage) == result


@pytest.mark.parametrize("seed", range(2))
@RESIDENT
def test_resuming_after_the_death_of_all_keeps_the_members(topology: str, seed: int, tmp_path: Path) -> None:
    stage = Uneven(tmp_path, quorate(topology), slow={seed: 30.0}, seed=seed)
    stage.start()
    while len(stage.witness.missed) < 2 + 3 * seed:
        stage.step()
    for _ in range(10 * seed):
        stage.step()
    stage.kill_all()
    stage.control("resume")
    stage.drain()
    assert_fair(stage, STEPS, waiting.MOST_MISSED)
    assert replayed(stage) == stage.result()


@RESIDENT
def test_nothing_is_left_over(topology: str, tmp_path: Path) -> None:
    stage = Uneven(tmp_path, quorate(topology, rounds_per_invocation=4), slow={1: 30.0}, seed=3)
    stage.run()
    assert stage.witness.missed
    assert files_left(stage) == []


@RESIDENT
def test_a_rank_that_is_always_late_is_waited_for_now_and_then(topology: str, tmp_path: Path) -> None:
    stage = Uneven(tmp_path, quorate(topology, batch_size=3, epochs=1), slow={1: 40.0}, seed=1)
    stage.run()
    assert len(stage.witness.missed) == waiting.MOST_MISSED
    assert_fair(stage, 12, waiting.MOST_MISSED)


@RESIDENT
def test_listing_finds_members_on_other_machines(topology: str, tmp_path: Path) -> None:
    stage = Uneven(tmp_path, quorate(topology), slow={1: 60.0}, shared=True, seed=2)
    result = stage.run()
    assert stage.witness.missed
    assert_fair(stage, STEPS, waiting.MOST_MISSED)
    assert replayed(stage) == result


@RESIDENT
def test_a_run_stops_though_rank_0_is_left_out(topology: str, tmp_path: Path) -> None:
    stage = Uneven(tmp_path, quorate(topology, epochs=20), slow={0: 30.0}, seed=1)
    stage.start()
    while not stage.witness.missed:
        stage.step()
    stage.control("stop")
    stage.drain()
    assert stage.outcome().state == "stopped"
    assert (stage.outcome().version or 0) < 2 * STEPS
    stage.assert_exports_agree()


def test_without_validation_the_record_of_an_epoch_does_not_come_too_late(tmp_path: Path) -> None:
    """Rank 0 publishes it; a rank that begins anew must find it."""
    stage = Uneven(tmp_path, quorate("replicated", batch_size=16, **UNVALIDATED), slow={0: 60.0}, seed=1)
    result = stage.run()
    assert stage.witness.missed
    assert_fair(stage, 3, waiting.MOST_MISSED)
    assert replayed(stage) == result
