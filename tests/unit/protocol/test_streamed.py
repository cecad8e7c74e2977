"""The merge adds contributions in the order of the ranks, whole, and once each."""

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
from estafeta.protocol.layout import Round, RunLayout
from estafeta.protocol.message import CHUNK, Kind, form_of
from estafeta.protocol.spec import Plan, Slot
from estafeta.protocol.streamed import Streamed
from estafeta.protocol.totals import means
from estafeta.store.files import Buffer, OsFiles, Reader
from estafeta.store.store import Store
from estafeta.store.tensorfile import CODES, Array

ROUND = Round(0, "train")
LAYOUT = RunLayout("r")
LARGE = 3 * CHUNK + 7
"""Elements of a gradient that the merge reads in four chunks."""


def plan_of(size: int, **buffers: Array) -> Plan:
    """The plan of a run whose parameters are one vector."""
    return Plan(
        token="t",
        train_rows=1,
        valid_rows=1,
        steps_per_epoch=1,
        total_steps=1,
        sums=("loss",),
        parameters=(Slot(name="w", shape=(size,)),),
        buffers=tuple(Slot(name=name, shape=array.shape, dtype=CODES[array.dtype]) for name, array in buffers.items()),
        frozen=(),
        state_dict=(),
    )


def publish(
    store: Store, plan: Plan, rank: int, gradient: Array | None, rows: int = 1, buffers: dict[str, Array] | None = None
) -> str:
    store.make_directories(LAYOUT.contributions)
    head = {"version": 0, "rank": rank, "rows": rows, "sums": (0.5 * rows,), "buffers": buffers, "token": "t"}
    path = LAYOUT.contribution(ROUND, rank)
    store.publish(path, form_of(plan, "train").content(Kind.GRADIENT, gradient, **head), "t")
    return path


def summed(store: Store, plan: Plan, workers: int) -> tuple[Array, Streamed]:
    """The sum of all gradients, and what it came from."""
    total = Streamed(store, LAYOUT, plan, ROUND, workers)
    gradient = np.full(plan.size, np.nan, np.float32)
    for first in range(0, plan.size, 100_000):
        total.add_up(0, first, gradient[first : first + 100_000])
    return gradient, total


def test_the_sum_has_the_order_of_the_ranks(tmp_path: Path) -> None:
    numbers = np.random.default_rng(0)
    gradients = [
        (numbers.standard_normal(LARGE) * 10.0 ** numbers.integers(-4, 4)).astype(np.float32) for _ in range(5)
    ]
    store, backwards, plan = Store(tmp_path), Store(tmp_path / "backwards"), plan_of(LARGE)
    (tmp_path / "backwards").mkdir()
    for rank, gradient in enumerate(gradients):
        publish(store, plan, rank, gradient, rows=rank + 1)
        publish(backwards, plan, 4 - rank, gradient)
    found, total = summed(store, plan, 5)
    expected = np.zeros(LARGE, np.float32)
    for gradient in gradients:
        expected += gradient
    np.testing.assert_array_equal(found, expected)
    assert not np.array_equal(summed(backwards, plan, 5)[0], expected), "the test could not tell"
    assert total.totals.rows == 15
    assert total.totals.sums == {"loss": 7.5}


def test_a_rank_without_rows_adds_nothing(tmp_path: Path) -> None:
    store, plan = Store(tmp_path), plan_of(3, b=np.array(0.0))
    ones = np.ones(3, np.float32)
    publish(store, plan, 0, ones, 2, {"b": np.array(4.0)})
    publish(store, plan, 1, None, 0)
    found, total = summed(store, plan, 2)
    np.testing.assert_array_equal(found, ones)
    assert total.totals.rows == 2
    assert total.totals.buffers({"b": np.array(0.0)})["b"] == 4


def test_the_first_that_has_rows_is_taken_as_it_is(tmp_path: Path) -> None:
    """Zero plus a negative zero would be another zero."""
    store, plan = Store(tmp_path), plan_of(2)
    for rank, gradient in enumerate([None, [-0.0, 1.0], [-0.0, 2.0]]):
        vector = None if gradient is None else np.array(gradient, np.float32)
        publish(store, plan, rank, vector, rows=int(vector is not None))
    assert summed(store, plan, 3)[0].tobytes() == np.array([-0.0, 3.0], np.float32).tobytes()


def test_a_valid_round_has_sums_alone(tmp_path: Path) -> None:
    store, plan, valid = Store(tmp_path), plan_of(LARGE), Round(4, "valid")
    store.make_directories(LAYOUT.contributions)
    for rank in range(2):
        head = {"version": 4, "rank": rank, "rows": rank + 1, "sums": (0.25,), "token": "t"}
        store.publish(LAYOUT.contribution(valid, rank), form_of(plan, "valid").content(Kind.SCORES, None, **head), "t")
    totals = Streamed(store, LAYOUT, plan, valid, 2).totals
    assert (totals.rows, totals.sums) == (3, {"loss": 0.5})


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


@pytest.mark.parametrize("reads", range(5))
def test_a_reading_that_begins_anew_adds_nothing_twice(reads: int, tmp_path: Path) -> None:
    """The first read is the head's, and four are the gradient's."""
    gradient, plan = np.random.default_rng(1).standard_normal(LARGE).astype(np.float32), plan_of(LARGE, b=np.array(0.0))
    publish(Store(tmp_path), plan, 0, gradient, rows=3, buffers={"b": np.array(2.0)})
    files = StaleOnce(reads)
    found, total = summed(Store(tmp_path, files), plan, 1)
    np.testing.assert_array_equal(found, gradient)
    assert (total.totals.rows, total.totals.sums) == (3, {"loss": 1.5})
    assert total.totals.buffers({"b": np.array(0.0)})["b"] == 2
    assert files.opened == 2


@pytest.mark.parametrize("size", [5, LARGE])
def test_changed_bytes_are_noticed(size: int, tmp_path: Path) -> None:
    store, plan = Store(tmp_path), plan_of(size)
    path = publish(store, plan, 0, np.ones(size, np.float32))
    content = bytearray((tmp_path / path).read_bytes())
    content[-1] ^= 1
    (tmp_path / path).write_bytes(content)
    with pytest.raises(
        Corrupt,
        match="0000-0000 is damaged: slice 0 of rank 0, version 0, is not",
    ):
        summed(store, plan, 1)


def test_a_contribution_that_is_not_there_is_gone(tmp_path: Path) -> None:
    store, plan = Store(tmp_path), plan_of(3)
    publish(store, plan, 0, np.ones(3, np.float32))
    with pytest.raises(Gone):
        summed(store, plan, 2)


def test_a_contribution_under_a_wrong_name_is_noticed(tmp_path: Path) -> None:
    store, plan = Store(tmp_path), plan_of(3)
    path = publish(store, plan, 0, np.ones(3, np.float32))
    (tmp_path / LAYOUT.contribution(ROUND, 1)).write_bytes((tmp_path / path).read_bytes())
    with pytest.raises(Corrupt, match="rank 0, version 0"):
        summed(store, plan, 2)


FLOATS = st.floats(width=32, allow_nan=False, allow_infinity=False)


@given(
    array=hnp.arrays(np.float32, st.integers(1, 5), elements=FLOATS),
    rows=st.lists(st.integers(1, 10_000), min_size=1, max_size=6),
)
def test_a_buffer_that_no_rank_changes_keeps_its_bits(
    tmp_path_factory: pytest.TempPathFactory, array: Array, rows: list[int]
) -> None:
    store, plan = Store(tmp_path_factory.mktemp("store")), plan_of(len(array), b=array)
    for rank, count in enumerate(rows):
        publish(store, plan, rank, array, count, {"b": array})
    mean = summed(store, plan, len(rows))[1].totals.buffers({"b": array})["b"]
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
    store, plan = Store(tmp_path), plan_of(1, b=found[0])
    for rank, array in enumerate(found):
        publish(store, plan, rank, np.ones(1, np.float32), rank + 1, {"b": array})
    mean = summed(store, plan, len(found))[1].totals.buffers({"b": found[0]})["b"]
    assert mean.dtype == found[0].dtype
    assert mean.shape == found[0].shape
    assert mean.tolist() == expected


def test_means_carry_the_name_of_the_phase() -> None:
    assert means("valid", 4, {"loss": 2.0, "accuracy": 3.0}) == {"valid_loss": 0.5, "valid_accuracy": 0.75}
