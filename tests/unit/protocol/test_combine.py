"""Contributions are added in the order of the ranks, whole, and once each."""

from __future__ import annotations

import errno
from pathlib import Path
from types import TracebackType
from typing import Self

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st
from hypothesis.extra import numpy as hnp

from conformance.interposed import Interposed
from estafeta.errors import Corrupt, Gone
from estafeta.protocol.combine import GradientSum
from estafeta.protocol.contribution import Tally, contribution
from estafeta.protocol.layout import Round
from estafeta.protocol.totals import means
from estafeta.store.files import Buffer, OsFiles, Reader
from estafeta.store.store import Store
from estafeta.store.tensorfile import CHUNK_BYTES, Array

ROUND = Round(0, "train")
LARGE = 3 * CHUNK_BYTES // 4 + 7
"""Elements of a gradient that is streamed in four pieces."""


def publish(
    store: Store, rank: int, gradient: Array | None, rows: int = 1, buffers: dict[str, Array] | None = None
) -> str:
    tally = Tally(rows, {"loss": 0.5 * rows}, 1)
    path = f"c{rank}"
    store.publish(path, contribution(ROUND, rank, tally, gradient, buffers or {}, "t"), "t")
    return path


def summed(store: Store, paths: list[str], size: int) -> GradientSum:
    total = GradientSum(size)
    for path in paths:
        total.add(store, path)
    return total


def test_the_sum_has_the_order_of_the_ranks(tmp_path: Path) -> None:
    numbers = np.random.default_rng(0)
    gradients = [
        (numbers.standard_normal(LARGE) * 10.0 ** numbers.integers(-4, 4)).astype(np.float32) for _ in range(5)
    ]
    paths = [publish(Store(tmp_path), rank, gradient, rows=rank) for rank, gradient in enumerate(gradients)]
    total = summed(Store(tmp_path), paths, LARGE)
    expected = np.zeros(LARGE, np.float32)
    for gradient in gradients:
        expected += gradient
    np.testing.assert_array_equal(total.gradient, expected)
    backwards = summed(Store(tmp_path), paths[::-1], LARGE)
    assert not np.array_equal(backwards.gradient, expected), "the test could not tell"
    assert total.totals.rows == 10
    assert total.totals.sums == {"loss": 5.0}


def test_a_rank_without_rows_adds_nothing(tmp_path: Path) -> None:
    store = Store(tmp_path)
    ones = np.ones(3, np.float32)
    paths = [publish(store, 0, ones, 2, {"b": np.array(4.0)}), publish(store, 1, None, 0)]
    total = summed(store, paths, 3)
    np.testing.assert_array_equal(total.gradient, ones)
    assert total.totals.rows == 2
    assert total.totals.buffers({"b": np.array(0.0)})["b"] == 4


class StaleOnce(Interposed):
    """The server loses the first opened file after so many reads; opened anew, it is there."""

    def __init__(self, reads: int) -> None:
        super().__init__(OsFiles())
        self._reads = reads
        self.opened = 0

    def open(self, path: str) -> Reader:
        self.opened += 1
        reader = super().open(path)
        return Failing(reader, self._reads) if self.opened == 1 else reader


class Failing:
    """A reader that raises ESTALE after so many reads."""

    def __init__(self, reader: Reader, reads: int) -> None:
        self.size = reader.size
        self._reader = reader
        self._reads = reads

    def readinto(self, buffer: Buffer, offset: int) -> int:
        if self._reads == 0:
            raise OSError(errno.ESTALE, "lost")
        self._reads -= 1
        return self._reader.readinto(buffer, offset)

    def __enter__(self) -> Self:
        self._reader.__enter__()
        return self

    def __exit__(
        self, kind: type[BaseException] | None, value: BaseException | None, trace: TracebackType | None
    ) -> None:
        self._reader.__exit__(kind, value, trace)


@pytest.mark.parametrize("reads", range(7))
def test_a_reading_that_begins_anew_adds_nothing_twice(reads: int, tmp_path: Path) -> None:
    """Two reads are the header's; four are the gradient's, one the buffer's."""
    gradient = np.random.default_rng(1).standard_normal(LARGE).astype(np.float32)
    path = publish(Store(tmp_path), 0, gradient, rows=3, buffers={"b": np.array(2.0)})
    files = StaleOnce(reads)
    total = summed(Store(tmp_path, files), [path], LARGE)
    np.testing.assert_array_equal(total.gradient, gradient)
    assert (total.totals.rows, total.totals.sums) == (3, {"loss": 1.5})
    assert total.totals.buffers({"b": np.array(0.0)})["b"] == 2
    assert files.opened == 2


def test_changed_bytes_are_noticed(tmp_path: Path) -> None:
    store = Store(tmp_path)
    path = publish(store, 0, np.ones(LARGE, np.float32))
    content = bytearray((tmp_path / path).read_bytes())
    content[-1] ^= 1
    (tmp_path / path).write_bytes(content)
    with pytest.raises(Corrupt, match="'gradient' has digest"):
        summed(store, [path], LARGE)
    with pytest.raises(Gone):
        summed(store, ["c1"], LARGE)


FLOATS = st.floats(width=32, allow_nan=False, allow_infinity=False)


@given(
    array=hnp.arrays(np.float32, st.integers(1, 5), elements=FLOATS),
    rows=st.lists(st.integers(1, 10_000), min_size=1, max_size=6),
)
def test_a_buffer_that_nobody_changes_keeps_its_bits(
    tmp_path_factory: pytest.TempPathFactory, array: Array, rows: list[int]
) -> None:
    store = Store(tmp_path_factory.mktemp("store"))
    paths = [publish(store, rank, array, count, {"b": array}) for rank, count in enumerate(rows)]
    mean = summed(store, paths, len(array)).totals.buffers({"b": array})["b"]
    assert mean.dtype == np.float32
    np.testing.assert_array_equal(mean, array)


@pytest.mark.parametrize(
    ("found", "expected"),
    [
        ([np.array([1.0, -np.inf]), np.array([4.0, -np.inf])], [3.0, -np.inf]),
        ([np.array([3, -7]), np.array([2, -7])], [3, -7]),
        ([np.array([True, False]), np.array([False, False])], [True, False]),
        ([np.array(1, np.float16), np.array(4, np.float16)], 3.0),
    ],
    ids=["floats by rows", "integers by size", "flags", "half precision"],
)
def test_buffers_of_all_kinds(found: list[Array], expected: object, tmp_path: Path) -> None:
    """Rank 0 has one row, rank 1 has two."""
    store = Store(tmp_path)
    paths = [publish(store, rank, np.ones(1, np.float32), rank + 1, {"b": array}) for rank, array in enumerate(found)]
    mean = summed(store, paths, 1).totals.buffers({"b": found[0]})["b"]
    assert mean.dtype == found[0].dtype
    assert mean.shape == found[0].shape
    assert mean.tolist() == expected


def test_means_carry_the_name_of_the_phase() -> None:
    assert means("valid", 4, {"loss": 2.0, "accuracy": 3.0}) == {"valid_loss": 0.5, "valid_accuracy": 0.75}
