"""How a run cuts its vector: all of it, once, in nearly equal parts; and which topology a run gets."""

from __future__ import annotations

from itertools import pairwise
from typing import Any, get_args

import pytest
from hypothesis import given
from hypothesis import strategies as st

from estafeta.protocol.partition import GRAIN, REPLICATED_UP_TO, Slice, choose, cut
from estafeta.protocol.spec import Topology

SIZES = st.one_of(st.integers(0, 50), st.integers(0, 10**9))
PARTS = st.integers(1, 300)
GRAINS = st.sampled_from([1, 2, 7, GRAIN, 65_536])


@given(size=SIZES, parts=PARTS, grain=GRAINS)
def test_the_slices_cover_the_vector_once_and_in_order(size: int, parts: int, grain: int) -> None:
    slices = cut(size, parts, grain)
    assert len(slices) == parts
    assert (slices[0].first, slices[-1].last) == (0, size)
    assert all(one.last == other.first for one, other in pairwise(slices))
    assert sum(map(len, slices)) == size


@given(size=SIZES, parts=PARTS, grain=GRAINS)
def test_a_slice_begins_at_a_multiple_of_the_grain_or_is_empty(size: int, parts: int, grain: int) -> None:
    assert all(part.first % grain == 0 for part in cut(size, parts, grain) if len(part))


@given(size=SIZES, parts=PARTS, grain=GRAINS)
def test_slices_differ_by_a_grain_at_most(size: int, parts: int, grain: int) -> None:
    grains = [-(-len(part) // grain) for part in cut(size, parts, grain)]
    assert max(grains) - min(grains) <= 1


@given(size=SIZES, parts=PARTS, grain=GRAINS)
def test_a_short_vector_gives_the_first_parts_a_grain_each_and_the_last_nothing(
    size: int, parts: int, grain: int
) -> None:
    lengths = [len(part) for part in cut(size, parts, grain)]
    filled = -(-size // grain)
    if filled < parts:
        assert all(lengths[:filled])
        assert not any(lengths[filled:])
    else:
        assert all(lengths)


@pytest.mark.parametrize(
    ("size", "parts", "bounds"),
    [
        (0, 2, [0, 0, 0]),
        (5 * GRAIN, 3, [0, 2 * GRAIN, 4 * GRAIN, 5 * GRAIN]),
        (2 * GRAIN + 1, 3, [0, GRAIN, 2 * GRAIN, 2 * GRAIN + 1]),
        (GRAIN + 1, 4, [0, GRAIN, GRAIN + 1, GRAIN + 1, GRAIN + 1]),
    ],
)
def test_vectors_are_cut_at_these_bounds(size: int, parts: int, bounds: list[int]) -> None:
    assert cut(size, parts) == tuple(Slice(*bound) for bound in pairwise(bounds))


MOST = REPLICATED_UP_TO // 4
"""Parameters up to which replicated is chosen."""


@pytest.mark.parametrize("asked", get_args(Topology))
@pytest.mark.parametrize("workers", [1, 2, 100])
def test_a_run_gets_the_topology_that_is_asked_for(asked: Any, workers: int) -> None:
    assert choose(asked, 1, workers) == choose(asked, 10**9, workers) == asked


@pytest.mark.parametrize(
    ("parameters", "workers", "topology"),
    [
        (1, 3, "replicated"),
        (MOST, 3, "replicated"),
        (MOST + 1, 3, "sharded"),
        (MOST + 1, 100, "sharded"),
        (10**9, 2, "replicated"),
        (10**9, 1, "replicated"),
    ],
)
def test_the_sizes_of_model_and_world_decide(parameters: int, workers: int, topology: Topology) -> None:
    assert choose("auto", parameters, workers) == topology
