"""Replicas get from version to version with the bits of the merge, in whatever topology and however many they are."""

from __future__ import annotations

from collections.abc import Callable
from functools import cache
from pathlib import Path
from tempfile import TemporaryDirectory
from typing import Any

import numpy as np
import pytest

from estafeta.errors import Corrupt, Diverged, NotFinite
from estafeta.functions.merge import advance as merge
from estafeta.protocol.clipping import BLOCK
from estafeta.protocol.layout import Round
from estafeta.protocol.message import CHUNK, Kind, form_of
from estafeta.protocol.partition import GRAIN, slices_of
from estafeta.protocol.spec import Plan, RunSpec, Slot
from estafeta.protocol.streamed import Streamed
from estafeta.protocol.weights import Weights
from estafeta.residents.exchange import Exchange
from estafeta.residents.replica import Replica
from estafeta.store.files import OsFiles
from estafeta.store.tensorfile import Array

from ..ring import Contribution, Ring, at_once, contribute, plan_of, resident_spec, shared

SIZE = 2 * BLOCK + 3 * GRAIN + 17
"""With clipping, a vector of three blocks: with five ranks, two have no slice."""

ROUNDS = 5
STEPS = 2
"""In an epoch: its tally begins anew after them."""

BUFFERS = (Slot(name="mean", shape=(3,)), Slot(name="seen", shape=(), dtype="I64"))

SGD = {"name": "SGD", "lr": 0.1, "momentum": 0.9, "nesterov": True, "weight_decay": 0.01}
ADAM = {"name": "Adam", "lr": 0.02}
SCHEDULED = {"name": "SGD", "lr": 0.1, "schedule": {"name": "StepLR", "step_size": 1, "gamma": 0.5}}
OPTIMIZERS = {
    "SGD": SGD,
    "Adam": ADAM,
    "SGD, clipped": {**SGD, "clip_norm": 0.5},
    "Adam, clipped": {**ADAM, "clip_norm": 0.5},
    "hardly clipped": {**SGD, "clip_norm": 1e9},
    "scheduled": SCHEDULED,
}

TOPOLOGIES = pytest.mark.parametrize("topology", ["sharded", "replicated"])


def said(version: int, rank: int, workers: int, size: int = SIZE) -> Contribution:
    """What a rank contributes; in each round another one has no rows, if there are enough."""
    rows = 0 if workers > 2 and rank == version % workers else 1 + (version + rank) % 3
    numbers = np.random.default_rng([version, rank])
    gradient = numbers.standard_normal(size).astype(np.float32) if rows else None
    buffers = {"mean": numbers.standard_normal(3).astype(np.float32), "seen": np.array(version * 10 + rank)}
    return Contribution(gradient, rows, (float(numbers.standard_normal()) if rows else 0.0,), buffers)


def first_weights(spec: RunSpec, size: int = SIZE, own: int | None = None) -> Weights:
    """Version 0; the optimiser's state for so many elements."""
    buffers = {"mean": np.zeros(3, np.float32), "seen": np.array(0)}
    state = spec.update_rule.initial_state(size if own is None else own)
    return Weights(0, np.random.default_rng(9).standard_normal(size).astype(np.float32), buffers, state)


@cache
def merged(optimizer: str, workers: int, rounds: int = ROUNDS) -> Weights:
    """What the merge makes of the same contributions."""
    spec = resident_spec("merge", workers, OPTIMIZERS[optimizer])
    plan = plan_of(spec, SIZE, steps=STEPS, buffers=BUFFERS)
    weights = first_weights(spec)
    with TemporaryDirectory() as root:
        ring = Ring(root, workers=workers, size=SIZE)
        for version in range(rounds):
            round_ = Round(version, "train")
            for rank in range(workers):
                says = said(version, rank, workers)
                head = {"version": version, "rank": rank, "rows": says.rows, "sums": says.sums, "token": "t"}
                content = form_of(plan, "train").content(Kind.GRADIENT, says.gradient, buffers=says.buffers, **head)
                ring.store.publish(ring.layout.contribution(round_, rank), content, "t")
            merge(weights, Streamed(ring.store, ring.layout, plan, round_, workers), spec, plan)
    return weights


def bits(weights: Weights) -> dict[str, Any]:
    arrays = {"parameters": weights.parameters, **weights.buffers}
    arrays.update({f"state.{name}": vector for name, vector in weights.state.items()})
    return {
        "version": weights.version,
        "rows": weights.rows,
        "sums": weights.sums,
        **{name: (array.dtype.str, array.shape, array.tobytes()) for name, array in arrays.items()},
    }


def advance(replica: Replica, exchange: Exchange, rank: int, workers: int, rounds: int) -> Replica:
    """Contribute to so many rounds, and take their steps."""
    size = replica.weights.parameters.size
    for version in range(replica.weights.version, replica.weights.version + rounds):
        round_ = Round(version, "train")
        contribute(exchange, round_, said(version, rank, workers, size), [size // 3])
        with exchange.gather(round_) as gathered:
            exchange.retire(version, version)
            replica.advance(gathered, exchange)
    return replica


def ring_of(root: Path, spec: RunSpec, plan: Plan, **options: Any) -> Ring:
    return Ring(root, workers=spec.workers, size=plan.size, slices=slices_of(spec, plan), buffers=BUFFERS, **options)


def replicas(
    root: Path, topology: str, optimizer: str, workers: int, rounds: int = ROUNDS, **options: Any
) -> list[Replica]:
    """All replicas after so many rounds, in which they work at the same time."""
    spec = resident_spec(topology, workers, OPTIMIZERS[optimizer])
    plan = plan_of(spec, SIZE, steps=STEPS, buffers=BUFFERS)
    ring = ring_of(root, spec, plan, **options)

    def live(rank: int) -> Replica:
        exchange = ring.join(rank)
        own = len(slices_of(spec, plan)[rank]) if topology == "sharded" else SIZE
        replica = Replica(spec, plan, rank, first_weights(spec, own=own))
        try:
            return advance(replica, exchange, rank, workers, rounds)
        finally:
            exchange.close()

    return at_once(*(lambda rank=rank: live(rank) for rank in range(workers)))


def assert_bits_of(expected: Weights, of_ranks: list[Replica]) -> None:
    """Each has all parameters, and the optimiser's state of its slice."""
    for replica in of_ranks:
        own = replica.own
        state = {name: vector[own.first : own.last] for name, vector in expected.state.items()}
        wanted = Weights(expected.version, expected.parameters, expected.buffers, state, expected.rows, expected.sums)
        assert bits(replica.weights) == bits(wanted)


@pytest.mark.parametrize("workers", [1, 2, 3, 5])
@pytest.mark.parametrize("optimizer", OPTIMIZERS)
@TOPOLOGIES
def test_the_bits_are_those_of_the_merge(topology: str, optimizer: str, workers: int, tmp_path: Path) -> None:
    assert_bits_of(merged(optimizer, workers), replicas(tmp_path, topology, optimizer, workers))


@TOPOLOGIES
def test_they_are_the_same_where_nothing_is_filled_twice(topology: str, tmp_path: Path) -> None:
    found = replicas(tmp_path, topology, "Adam, clipped", 3, files=shared)
    assert_bits_of(merged("Adam, clipped", 3), found)


def test_clipping_changes_them() -> None:
    """Or the tests above could not tell whether the norm is the same."""
    one, other = merged("SGD", 3), merged("SGD, clipped", 3)
    assert one.parameters.tobytes() != other.parameters.tobytes()
    assert one.parameters.tobytes() == merged("hardly clipped", 3).parameters.tobytes()


@pytest.mark.parametrize("size", [1, GRAIN + 1, CHUNK, BLOCK * 3 + 1])
@pytest.mark.parametrize("workers", [2, 5])
def test_slices_hold_whole_blocks_where_norms_are_taken(size: int, workers: int) -> None:
    for optimizer, grain in (("SGD", GRAIN), ("SGD, clipped", BLOCK)):
        spec = resident_spec("sharded", workers, OPTIMIZERS[optimizer])
        slices = slices_of(spec, plan_of(spec, size))
        assert all(part.first % grain == 0 for part in slices if len(part))
        assert sum(map(len, slices)) == size
    spec = resident_spec("replicated", workers, SGD)
    (whole,) = slices_of(spec, plan_of(spec, size))
    assert (whole.first, whole.last) == (0, size)


# Errors


def spoiled(tmp_path: Path, topology: str, spoil: Callable[[Array], None]) -> Callable[[], object]:
    """Takes the first step of rank 0 of two, after the gradients of both were spoilt."""
    spec = resident_spec(topology, 2, SGD)
    plan = plan_of(spec, SIZE, buffers=BUFFERS)
    ring = ring_of(tmp_path, spec, plan, files=OsFiles)
    one, other = ring.join_all(patient=0)
    for rank, exchange in enumerate((one, other)):
        says = said(0, rank, 2)
        assert says.gradient is not None
        spoil(says.gradient)
        contribute(exchange, Round(0, "train"), says)
    replica = Replica(spec, plan, 0, first_weights(spec, own=len(slices_of(spec, plan)[0])))

    def step() -> None:
        with one.gather(Round(0, "train")) as gathered:
            replica.advance(gathered, one)

    return step


@TOPOLOGIES
def test_a_step_that_leads_astray_is_noticed(topology: str, tmp_path: Path) -> None:
    """Each gradient is finite, and their sum is not."""

    def spoil(gradient: Array) -> None:
        gradient[17] = np.finfo(np.float32).max

    with pytest.raises(Diverged, match="Step 1 made parameters that are not finite"):
        spoiled(tmp_path, topology, spoil)()


@pytest.mark.parametrize("value", [np.nan, np.inf, -np.inf])
@TOPOLOGIES
def test_a_gradient_that_is_not_finite_is_not_published(topology: str, value: float, tmp_path: Path) -> None:
    def spoil(gradient: Array) -> None:
        gradient[-1] = value

    with pytest.raises(NotFinite, match="The gradient"):
        spoiled(tmp_path, topology, spoil)


def test_nothing_is_published_of_a_slice_that_is_damaged(tmp_path: Path) -> None:
    step = spoiled(tmp_path, "sharded", lambda gradient: None)
    spec = resident_spec("sharded", 2, SGD)
    ring = ring_of(tmp_path, spec, plan_of(spec, SIZE))
    path = ring.layout.message(1, "gradient", 0)
    ring.damage(path, -4 * SIZE)
    with pytest.raises(Corrupt, match="slice 0 of rank 1"):
        step()
    assert ring.names(0) == {"gradient-00000000"}
