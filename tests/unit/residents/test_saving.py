"""What is saved, what is removed for it, and that whoever comes later gets to the same bits."""

from __future__ import annotations

import errno
import re
from collections.abc import Callable, Sequence
from pathlib import Path
from typing import Any

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st

from conformance.clock import VirtualClock
from conformance.faults import StaleReader
from conformance.interposed import Interposed
from conformance.nfs_server import refusal
from estafeta import waiting
from estafeta.errors import Gone
from estafeta.protocol.layout import Round, RunLayout
from estafeta.protocol.listing import versions_in
from estafeta.protocol.message import Wish
from estafeta.protocol.partition import slices_of
from estafeta.protocol.run_folder import RunFolder
from estafeta.protocol.weights import Weights, publish_weights
from estafeta.residents.redo import restore
from estafeta.residents.replica import Replica
from estafeta.residents.saving import Saver
from estafeta.store.files import Buffer, Files, OsFiles, Reader
from estafeta.store.store import Store

from ..ring import Ring, at_once, contribute, plan_of, resident_spec
from .test_replica import (
    BUFFERS,
    OPTIMIZERS,
    ROUNDS,
    SIZE,
    STEPS,
    TOPOLOGIES,
    bits,
    first_weights,
    merged,
    ring_of,
    said,
)


class Run:
    """A run of residents that has begun: version 0 is published.

    Args:
        root: Directory of the store.
        topology: Its topology.
        optimizer: Name in `OPTIMIZERS`.
        workers: World size.
        saves: Versions that are saved.
    """

    def __init__(
        self, root: Path, topology: str, optimizer: str = "SGD", workers: int = 3, saves: Sequence[int] = ()
    ) -> None:
        self.spec = resident_spec(topology, workers, OPTIMIZERS[optimizer])
        self.plan = plan_of(self.spec, SIZE, steps=STEPS, buffers=BUFFERS)
        self.ring = ring_of(root, self.spec, self.plan)
        self.saves = saves
        publish_weights(self.ring.store, self.ring.layout, first_weights(self.spec), "prepared")

    def folder(self, store: Store | None = None) -> RunFolder:
        return RunFolder(store or self.ring.store, self.ring.layout.run, self.spec, self.plan)

    def saver(self, rank: int, saved: int = 0, store: Store | None = None) -> Saver:
        return Saver(
            self.folder(store),
            rank=rank,
            token=f"token-of-{rank}",
            saved=saved,
            recycles=True,
        )

    def work(self, rounds: int = ROUNDS) -> None:
        """All ranks do so many rounds from the beginning, and save what is to be saved. Nothing is removed."""

        def live(rank: int) -> None:
            exchange, saver, replica = self.ring.join(rank), self.saver(rank), self.replica(rank)
            for version in range(rounds):
                contribute(exchange, Round(version, "train"), said(version, rank, self.spec.workers))
                with exchange.gather(Round(version, "train")) as gathered:
                    replica.advance(gathered, exchange)
                if version + 1 in self.saves:
                    saver.save(replica)
            exchange.close()

        at_once(*(lambda rank=rank: live(rank) for rank in range(self.spec.workers)))

    def replica(self, rank: int) -> Replica:
        slices = slices_of(self.spec, self.plan)
        own = slices[rank if len(slices) > 1 else 0]
        return Replica(self.spec, self.plan, rank, first_weights(self.spec, own=len(own)))

    def restore(self, rank: int, files: Files | None = None, exchanged: Files | None = None) -> tuple[Weights, int]:
        """What a new leg of a rank begins with; it sees what is saved by one way, contributions by another."""
        store = Store(self.ring.store.root, files)
        exchange = self.ring.join(rank, patient=0, files=exchanged)
        try:
            return restore(self.folder(store), rank, np.full(SIZE, np.nan, np.float32), exchange)
        finally:
            exchange.close()

    @property
    def saved_names(self) -> set[str]:
        return set(self.ring.store.list(self.ring.layout.weights))


def assert_restored(run: Run, rank: int, found: Weights, optimizer: str = "SGD", version: int = ROUNDS) -> None:
    expected = merged(optimizer, run.spec.workers, version)
    own = run.replica(rank).own
    state = {name: vector[own.first : own.last] for name, vector in expected.state.items()}
    assert bits(found) == bits(
        Weights(expected.version, expected.parameters, expected.buffers, state, expected.rows, expected.sums)
    )


# Restoring


@pytest.mark.parametrize("saves", [(), (2,), (1, 4), (ROUNDS,)], ids=str)
@pytest.mark.parametrize(("optimizer", "workers"), [("SGD", 1), ("SGD", 3), ("Adam, clipped", 2)])
@TOPOLOGIES
def test_from_any_saved_version_one_gets_to_the_same_bits(
    topology: str, optimizer: str, workers: int, saves: tuple[int, ...], tmp_path: Path
) -> None:
    """The parameters, the own slice of the optimiser's state, the buffers and the tally of the epoch.

    The last round to which all have contributed is not redone but done: others may wait for this rank's part in it.
    """
    run = Run(tmp_path, topology, optimizer, workers, saves)
    run.work()
    before = run.saved_names
    for rank in range(workers):
        found, saved = run.restore(rank)
        assert saved == max((0, *saves))
        assert_restored(run, rank, found, optimizer, max(saved, ROUNDS - 1))
        if saved < ROUNDS:
            exchange = run.ring.join(rank, patient=0)
            replica = Replica(run.spec, run.plan, rank, found)
            with exchange.gather(Round(ROUNDS - 1, "train")) as gathered:
                replica.advance(gathered, exchange)
            exchange.close()
            assert_restored(run, rank, replica.weights, optimizer)
    assert run.saved_names == before, "restoring publishes nothing"


@pytest.mark.parametrize("saves", [(), (2,)], ids=str)
def test_ranks_without_a_slice_get_there_too(saves: tuple[int, ...], tmp_path: Path) -> None:
    run = Run(tmp_path, "sharded", "Adam, clipped", workers=5, saves=saves)
    assert not len(run.replica(4).own)
    run.work()
    for rank in (0, 2):
        assert_restored(run, rank, run.restore(rank)[0], "Adam, clipped", ROUNDS - 1)
    found, _ = run.restore(4)
    assert found.parameters.tobytes() == merged("Adam, clipped", 5, ROUNDS - 1).parameters.tobytes()


@TOPOLOGIES
def test_steps_are_taken_as_far_as_all_have_contributed(topology: str, tmp_path: Path) -> None:
    run = Run(tmp_path, topology, saves=(1,))
    run.work()
    run.ring.store.sweep(run.ring.layout.outbox(2), ["gradient-00000003"])
    found, saved = run.restore(0)
    assert saved == 1
    assert_restored(run, 0, found, version=2)


@TOPOLOGIES
def test_a_step_is_over_when_all_have_scored_what_it_made(topology: str, tmp_path: Path) -> None:
    """They have retired their slices of it: who took it once more would wait for ever."""
    run = Run(tmp_path, topology, saves=(1,))
    run.work()
    for rank in range(run.spec.workers):
        run.ring.store.publish(run.ring.layout.message(rank, "scores", ROUNDS), [b"token"], "token")
    found, saved = run.restore(0)
    assert saved == 1
    assert_restored(run, 0, found)


@TOPOLOGIES
def test_a_version_of_which_a_part_is_missing_is_not_taken(topology: str, tmp_path: Path) -> None:
    """A rank died before it had saved; the others' parts are there, and the redo log too."""
    run = Run(tmp_path, topology, saves=(1, 3))
    run.work()
    part = "00000003-0002.safetensors" if topology == "sharded" else "00000003.safetensors"
    run.ring.store.sweep(run.ring.layout.weights, [part])
    found, saved = run.restore(0)
    assert saved == 1
    assert_restored(run, 0, found, version=ROUNDS - 1)


class Meanwhile(Interposed):
    """Something happens just before the first file of a kind is opened."""

    def __init__(self, pattern: str, happens: Callable[[], object]) -> None:
        super().__init__(OsFiles())
        self._pattern = re.compile(pattern)
        self._happens: Callable[[], object] | None = happens

    def open(self, path: str) -> Reader:
        if self._happens and self._pattern.search(path):
            happens, self._happens = self._happens, None
            happens()
        return super().open(path)


def replacement(run: Run) -> Callable[[], None]:
    """Hide the version 4 of a run; what is returned brings it back, and removes what is older, as its ranks would."""
    layout, store = run.ring.layout, run.ring.store
    newer = [name for name in store.list(layout.weights) if name.startswith("00000004")]
    contents = {name: store.read(f"{layout.weights}/{name}") for name in newer}
    store.sweep(layout.weights, newer)

    def replace_it() -> None:
        for name, content in contents.items():
            store.publish(f"{layout.weights}/{name}", [content], "token-of-")
        store.sweep(layout.weights, [name for name in store.list(layout.weights) if name.startswith("00000001")])
        for rank in range(3):
            store.sweep(layout.outbox(rank), [f"gradient-{version:08d}" for version in range(4)])

    return replace_it


@pytest.mark.parametrize("name", ["00000001[.-]", r"00000001(-0000|\.optimizer)\.safetensors"])
@TOPOLOGIES
def test_a_version_that_is_replaced_by_a_newer_one_is_no_loss(topology: str, name: str, tmp_path: Path) -> None:
    run = Run(tmp_path, topology, "Adam", saves=(1, 4))
    run.work()
    found, saved = run.restore(0, Meanwhile(name, replacement(run)))
    assert saved == 4
    assert_restored(run, 0, found, "Adam", version=4)


class Stale(Interposed):
    """A contribution that is removed by another machine after it was opened, when all have saved a newer version."""

    def __init__(self, happens: Callable[[], object]) -> None:
        super().__init__(OsFiles())
        self._happens = happens
        self._opened = 0

    def open(self, path: str) -> Reader:
        reader = super().open(path)
        self._opened += path.endswith("/0002/gradient-00000002")
        if self._opened == 1:  # the last of the round, so all are open
            self._opened += 1
            self._happens()
            return StaleReader(reader)
        return reader


@TOPOLOGIES
def test_a_contribution_that_is_removed_while_it_is_read_is_no_loss(topology: str, tmp_path: Path) -> None:
    run = Run(tmp_path, topology, "Adam", saves=(1, 4))
    run.work()
    found, saved = run.restore(0, exchanged=Stale(replacement(run)))
    assert saved == 4
    assert_restored(run, 0, found, "Adam", version=4)


class NeverThere(Interposed):
    """Files of weights that are gone whenever they are opened, and listed again afterwards."""

    def __init__(self) -> None:
        super().__init__(OsFiles())
        self.opened = 0
        self._is_hidden = False

    def listdir(self, path: str) -> list[str]:
        hidden, self._is_hidden = self._is_hidden, False
        return [] if hidden else super().listdir(path)

    def open(self, path: str) -> Reader:
        self.opened += 1
        self._is_hidden = True
        raise refusal(errno.ENOENT, path)


def test_what_is_gone_each_time_is_given_up(tmp_path: Path) -> None:
    run, files = Run(tmp_path, "replicated"), NeverThere()
    with pytest.raises(Gone):
        run.restore(0, files)
    assert files.opened == waiting.RESTORE_ATTEMPTS


# When to save


class Slow(Interposed):
    """Files that take a while to create."""

    def __init__(self, clock: VirtualClock, seconds: float) -> None:
        super().__init__(OsFiles())
        self._clock = clock
        self.seconds = seconds

    def create(self, path: str, chunks: Sequence[Buffer]) -> None:
        self._clock.sleep(self.seconds)
        super().create(path, chunks)


def small_replica(version: int, topology: str = "sharded", workers: int = 1, rank: int = 0) -> Replica:
    spec = resident_spec(topology, workers, {"name": "SGD", "lr": 0.1})
    weights = Weights(version, np.zeros(10, np.float32), {})
    return Replica(spec, plan_of(spec, 10), rank, weights)


def small_saver(
    tmp_path: Path,
    topology: str = "sharded",
    workers: int = 1,
    rank: int = 0,
    size: int = 10,
    recycles: bool = True,
    **store: Any,
) -> Saver:
    spec = resident_spec(topology, workers, {"name": "SGD", "lr": 0.1})
    ring = Ring(tmp_path, workers=workers, size=10)
    return Saver(
        RunFolder(Store(tmp_path, **store), ring.layout.run, spec, plan_of(spec, size)),
        rank=rank,
        token="t",
        saved=0,
        recycles=recycles,
    )


def test_the_first_time_is_soon_as_the_cost_is_not_known(tmp_path: Path) -> None:
    saver = small_saver(tmp_path)
    wishes = [saver.wish(version, 1e-6) for version in range(2 * waiting.FIRST_SAVING)]
    assert wishes.index(Wish.CHECKPOINT) == waiting.FIRST_SAVING - 1
    assert set(wishes[waiting.FIRST_SAVING :]) == {Wish.CHECKPOINT}, "until it is done"


@given(cost_s=st.floats(1e-4, 100), round_s=st.floats(1e-4, 100))
def test_saving_takes_its_share_of_the_time_and_no_more(
    cost_s: float, round_s: float, tmp_path_factory: pytest.TempPathFactory
) -> None:
    """By the numbers that it is told, and by its own."""
    clock = VirtualClock()
    saver = small_saver(tmp_path_factory.mktemp("run"), files=Slow(clock, cost_s), clock=clock)
    saver.save(small_replica(1))
    assert saver.cost_s == pytest.approx(cost_s)
    rounds = next(n for n in range(1, waiting.MOST_REDO + 1) if saver.wish(n, round_s) is Wish.CHECKPOINT)
    if rounds < waiting.MOST_REDO:
        assert cost_s <= waiting.SAVING_FRACTION * rounds * round_s * 1.001
    assert rounds == 1 or cost_s > waiting.SAVING_FRACTION * (rounds - 1) * round_s * 0.999, "and not much less"


def test_the_redo_log_has_an_end_however_dear_saving_is(tmp_path: Path) -> None:
    clock = VirtualClock()
    saver = small_saver(tmp_path, files=Slow(clock, 1e6), clock=clock)
    saver.save(small_replica(1))
    assert saver.wish(waiting.MOST_REDO - 1, 1e-3) is Wish.NONE
    assert saver.wish(waiting.MOST_REDO, 1e-3) is Wish.CHECKPOINT


@pytest.mark.parametrize(("recycles", "rounds"), [(True, 5), (False, waiting.MOST_REDO)])
def test_of_files_that_could_be_filled_again_few_bytes_are_kept(tmp_path: Path, recycles: bool, rounds: int) -> None:
    clock = VirtualClock()
    size = waiting.MOST_REDO_BYTES // (4 * rounds) if recycles else waiting.MOST_REDO_BYTES
    saver = small_saver(tmp_path, size=size, recycles=recycles, files=Slow(clock, 1e6), clock=clock)
    saver.save(small_replica(1))
    assert saver.wish(rounds - 1, 1e-3) is Wish.NONE
    assert saver.wish(rounds, 1e-3) is Wish.CHECKPOINT


def test_the_dearest_saving_counts(tmp_path: Path) -> None:
    clock = VirtualClock()
    files = Slow(clock, 3.0)
    saver = small_saver(tmp_path, files=files, clock=clock)
    saver.save(small_replica(1))
    files.seconds = 1.0
    saver.save(small_replica(2))
    assert saver.cost_s == pytest.approx(3.0)


# What is saved, and what is removed


def test_each_saves_its_slice_or_one_in_turn_all(tmp_path: Path) -> None:
    for topology in ("sharded", "replicated"):
        (tmp_path / topology).mkdir()
        for rank in range(3):
            small_saver(tmp_path / topology, topology, 3, rank).save(small_replica(7, topology, 3, rank))
    assert {path.name for path in (tmp_path / "sharded/runs/r/weights").iterdir()} == {
        f"00000007-000{rank}.safetensors" for rank in range(3)
    }
    assert {path.name for path in (tmp_path / "replicated/runs/r/weights").iterdir()} == {"00000007.safetensors"}
    by_whom = (tmp_path / "replicated/runs/r/weights/00000007.safetensors").read_bytes()
    small_saver(tmp_path / "replicated", "replicated", 3, rank=1).save(small_replica(7, "replicated", 3, 1))
    assert (tmp_path / "replicated/runs/r/weights/00000007.safetensors").read_bytes() == by_whom


def test_a_version_is_saved_once(tmp_path: Path) -> None:
    saver = small_saver(tmp_path)
    saver.save(small_replica(3))
    before = {path: path.stat() for path in tmp_path.rglob("*")}
    saver.save(small_replica(3))
    saver.save(small_replica(2))
    assert {path: path.stat() for path in tmp_path.rglob("*")} == before


def listed(root: Path) -> frozenset[str]:
    return Store(root).list(RunLayout("r").weights)


@pytest.mark.parametrize(("topology", "missing"), [("sharded", [1, 2]), ("replicated", [1])])
def test_who_has_not_saved_its_part_is_missing(topology: str, missing: list[int], tmp_path: Path) -> None:
    """Replicated, it is one rank's turn to save all of it."""
    saver = small_saver(tmp_path, topology, workers=3)
    saver.save(small_replica(4, topology, workers=3))
    assert saver.missing(4, listed(tmp_path)) == missing
    for rank in missing:
        small_saver(tmp_path, topology, workers=3, rank=rank).save(small_replica(4, topology, workers=3, rank=rank))
    assert saver.missing(4, listed(tmp_path)) == []


def test_a_version_is_pending_until_all_have_begun_the_next_round(tmp_path: Path) -> None:
    one, other = (small_saver(tmp_path, workers=2, rank=rank) for rank in range(2))
    assert not one.is_pending(0)
    one.save(small_replica(3, workers=2))
    assert one.is_pending(3)
    assert one.missing(3, listed(tmp_path)) == [1]
    other.save(small_replica(3, workers=2, rank=1))
    assert one.missing(3, listed(tmp_path)) == []
    one.sweep(3, None)
    assert not one.is_pending(3)
    assert one.redo_from == 3


def names_of(*versions: int, ranks: Sequence[int] = range(3)) -> set[str]:
    return {f"{version:08d}-{rank:04d}.safetensors" for version in versions for rank in ranks}


def test_older_parts_are_removed_each_by_its_rank_but_for_the_best(tmp_path: Path) -> None:
    run = Run(tmp_path, "sharded", saves=(1, 2, 3, 5))
    run.work()
    whole = {"00000000.safetensors", "00000000.optimizer.safetensors"}
    assert run.saved_names == whole | names_of(1, 2, 3, 5)
    savers = [run.saver(rank, saved=0) for rank in range(3)]
    for saver in savers:
        saver._newest = 3
    savers[1].sweep(2, best=2)
    assert run.saved_names == whole | names_of(1, 2, 3, 5), "not before all have begun the round after it"
    assert savers[1].redo_from == 0
    savers[1].sweep(3, best=2)
    assert run.saved_names == whole | names_of(1, ranks=(0, 2)) | names_of(2, 3, 5)
    assert savers[1].redo_from == 3
    savers[0].sweep(4, best=2)
    assert run.saved_names == names_of(1, ranks=(2,)) | names_of(2, 3, 5), "version 0 is rank 0's"
    savers[2].sweep(4, best=None)
    assert run.saved_names == names_of(2, ranks=(0, 1)) | names_of(3, 5)


def test_whole_versions_are_removed_by_who_saved_them(tmp_path: Path) -> None:
    run = Run(tmp_path, "replicated", saves=(1, 2, 4, 5))
    (tmp_path / run.ring.layout.frozen).write_bytes(b"frozen")
    run.work()
    savers = [run.saver(rank) for rank in range(3)]
    for saver in savers:
        saver._newest = 5
        saver.sweep(5, best=1)
    assert versions_in(run.saved_names) == {1, 5}
    assert run.saved_names == {
        f"0000000{version}{suffix}" for version in (1, 5) for suffix in (".safetensors", ".optimizer.safetensors")
    } | {"frozen.safetensors"}


@TOPOLOGIES
def test_what_redo_needs_is_never_removed(topology: str, tmp_path: Path) -> None:
    """After each round, whatever was saved, removed and retired by then, a lost rank can be rebuilt."""
    run = Run(tmp_path, topology, workers=2)
    ring = run.ring

    def live(rank: int) -> None:
        exchange, saver, replica = ring.join(rank), run.saver(rank), run.replica(rank)
        parameters = {0: replica.weights.parameters.tobytes()}
        for version in range(ROUNDS):
            contribute(exchange, Round(version, "train"), said(version, rank, 2))
            with exchange.gather(Round(version, "train")) as gathered:
                saver.sweep(version, best=None)
                exchange.retire(version, saver.redo_from)
                replica.advance(gathered, exchange)
            if version % 2:
                saver.save(replica)
            parameters[version + 1] = replica.weights.parameters.tobytes()
            if rank == 0:
                found, _ = run.restore(1)
                assert found.version in (version, version + 1)
                assert found.parameters.tobytes() == parameters[found.version]

    at_once(lambda: live(0), lambda: live(1))
    assert {name for name in ring.names(0) if name.startswith("gradient")} == {"gradient-00000004"}
