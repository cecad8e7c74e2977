"""The memory of a worker is added up, and refused with its numbers if it is too much."""

from __future__ import annotations

import pytest

from core.specs import FUNCTIONS, spec_of
from estafeta.data.manifest import Extent, Kind, Manifest
from estafeta.errors import UsageError
from estafeta.protocol.spec import Choice, FunctionSettings
from estafeta.training.memory import MIB, RUNTIME_BYTES, MemoryPlan, plan_memory

WORKERS = 4


def manifest(blocks: int, *, rows: int = 1024, sparse: bool = False) -> Manifest:
    """Blocks of 4 MiB."""
    kind = Kind(name="x", dtype="F32", shape=(1 << 20,) if sparse else (1024,), sparse=sparse)
    return Manifest(
        token="t",
        name="n",
        created_at=0,
        estafeta="0",
        source=(),
        attempt="a",
        inputs=(kind,),
        target=Kind(name="target", dtype="I64"),
        blocks=tuple(Extent(rows=rows, bytes=4 * MIB) for _ in range(blocks)),
    )


def plan_of(
    *manifests: Manifest,
    memory_mb: int = 1769,
    name: str = "adam",
    dense: bool = False,
    window_mb: int = 128,
    topology: Choice = "replicated",
) -> MemoryPlan:
    worker = FunctionSettings(name="w", memory_mb=memory_mb, timeout_s=900)
    spec = spec_of(
        name,
        functions={**FUNCTIONS, "worker": worker},
        window_mb=window_mb,
        dense=dense,
        topology=topology,
        workers=WORKERS,
    )
    return plan_memory(spec, 11 * MIB, 10 * MIB, manifests)


def test_the_parts() -> None:
    plan = plan_of(manifest(1000))
    batch = 2 * 4 * 4096  # two times 4 rows of 4 KiB
    order = 2 * 8 * 64 * 1024  # of the rows of 64 blocks, and as much again
    assert plan == MemoryPlan(1769 * MIB, 11 * MIB, 20 * MIB, 20 * MIB, 256 * MIB + order, batch)
    assert plan.room == (1769 * MIB - RUNTIME_BYTES - 51 * MIB - batch) // 2
    plan.check(128)


@pytest.mark.parametrize(
    ("topology", "optimizer"),
    [
        ("merge", 0),  # it is the merge's
        ("replicated", 20 * MIB),
        ("sharded", 2 * 2 * 4 * (10 * 65_536)),  # of each vector the slice of 10 blocks of 40, and another to redo
    ],
)
def test_the_optimizer_is_as_much_as_the_topology_has_a_worker_hold(topology: Choice, optimizer: int) -> None:
    assert plan_of(topology=topology).optimizer == optimizer


def test_without_stored_data_there_are_no_windows() -> None:
    plan = plan_of(memory_mb=340)
    assert (plan.windows, plan.batch) == (0, 0)
    with pytest.raises(UsageError, match=r"needs 371 MB and has 340: .*, twice 20, the optimiser 20(\n|$)") as caught:
        plan.check(128)
    assert caught.value.hint == "-o worker.memory_mb=464, or more --workers with --topology sharded"


@pytest.mark.parametrize(
    ("name", "topology", "less"),
    [("adam", "merge", "a smaller model"), ("adam", "replicated", "more --workers with --topology sharded")],
)
def test_a_model_that_does_not_fit(name: str, topology: Choice, less: str) -> None:
    """The hint names the part that takes most."""
    with pytest.raises(UsageError) as caught:
        plan_of(name=name, topology=topology, memory_mb=330).check(1)
    assert less in caught.value.hint


@pytest.mark.parametrize(
    ("manifests", "window_mb", "windows"),
    [((manifest(3),), 128, 12), ((manifest(1000),), 1, 8), ((manifest(1000), manifest(3)), 10, 32)],
)
def test_windows_are_no_larger_than_the_data_and_no_smaller_than_a_block(
    manifests: tuple[Manifest, ...], window_mb: int, windows: int
) -> None:
    order = 2 * 8 * 1024 * windows // 4  # 1024 rows in 4 MiB
    assert plan_of(*manifests, window_mb=window_mb).windows == windows * MIB + order


def test_the_order_of_narrow_rows_is_as_large_as_they_are() -> None:
    assert plan_of(manifest(1000, rows=(4 * MIB) // 16)).windows == 2 * 256 * MIB


def test_dense_rows_of_sparse_data_are_as_long_as_they_are() -> None:
    stored = manifest(10, sparse=True)
    assert plan_of(stored).batch == 2 * 4 * 4096
    assert plan_of(stored, dense=True).batch == 2 * 4 * (4096 + (4 << 20))


def test_blocks_have_room_for_two_windows_at_least() -> None:
    plan = plan_of(manifest(1000), memory_mb=700)
    plan.check(128)
    assert plan.room == plan.windows


def test_too_little_memory_is_refused_with_two_ways_out() -> None:
    with pytest.raises(
        UsageError, match=r"A worker needs 629 MB and has 512: .*the optimiser 20, two windows"
    ) as caught:
        plan_of(manifest(1000), memory_mb=512).check(128)
    assert caught.value.hint == "-o worker.memory_mb=786, or -o window_mb=32"
    plan_of(manifest(1000), memory_mb=786).check(128)
    plan_of(manifest(1000), memory_mb=512, window_mb=32).check(32)
