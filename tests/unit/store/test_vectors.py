"""Finite elements and digests of vectors."""

from __future__ import annotations

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st
from hypothesis.extra import numpy as hnp

from estafeta.store.tensorfile import Array
from estafeta.store.vectors import digest, is_finite


@given(
    values=hnp.arrays(
        np.float32,
        st.integers(0, 40),
        elements=st.floats(-(2.0**90), 2.0**90, width=32) | st.just(np.nan) | st.just(np.inf),
    )
)
def test_a_vector_is_finite_if_all_of_it_is(values: Array) -> None:
    assert is_finite(values) == np.isfinite(values).all()


@pytest.mark.parametrize(
    ("values", "expected"),
    [
        ([3e38, 3e38], True),
        ([3e38, -3e38, 3e38], True),
        ([np.inf, -np.inf], False),
        ([np.inf], False),
        ([0.0] * 1000 + [np.nan], False),
    ],
)
def test_an_overflow_of_the_sum_is_none_of_the_vector(values: list[float], expected: bool) -> None:
    assert is_finite(np.array(values, np.float32)) is expected


@given(values=hnp.arrays(np.uint32, st.integers(0, 50)), cuts=st.lists(st.integers(0, 50), max_size=4))
def test_the_digests_of_the_parts_make_that_of_the_whole(values: Array, cuts: list[int]) -> None:
    vector = values.view(np.float32)
    parts = np.split(vector, sorted(min(cut, values.size) for cut in cuts))
    combined = 0
    for part in reversed(parts):
        combined ^= digest(part)
    assert combined == digest(vector)


@given(values=hnp.arrays(np.uint32, st.integers(1, 50)), at=st.integers(0, 49), bit=st.integers(0, 31))
def test_a_bit_that_is_flipped_changes_the_digest(values: Array, at: int, bit: int) -> None:
    flipped = values.copy()
    flipped[at % values.size] ^= np.uint32(1 << bit)
    assert digest(flipped.view(np.float32)) != digest(values.view(np.float32))
