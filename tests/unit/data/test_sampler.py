"""Some rank uses every row once in an epoch; the seed and the counters alone decide when."""

from __future__ import annotations

import itertools

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st

from estafeta.data.sampler import (
    Rows,
    batch_of,
    held_out,
    micro_batches,
    seed_of,
    share_of,
    split_rows,
    steps_per_epoch,
)
from estafeta.protocol.layout import Round

SEEDS = st.integers(0, 2**40)
ROWS = st.integers(1, 200)
BATCH_SIZES = st.integers(1, 64)
WORKERS = st.integers(1, 17)


def epoch_of(epoch: int, rows: int, batch_size: int, seed: int, drop_last: bool = False) -> list[Rows]:
    """The global batches of one epoch."""
    steps = steps_per_epoch(rows, batch_size, drop_last)
    return [
        batch_of(step, train_rows=rows, batch_size=batch_size, steps=steps, seed=seed)
        for step in range(epoch * steps, (epoch + 1) * steps)
    ]


@given(
    rows=ROWS, batch_size=BATCH_SIZES, workers=WORKERS, micro=st.integers(1, 40), epoch=st.integers(0, 5), seed=SEEDS
)
def test_every_row_once_in_an_epoch(
    rows: int, batch_size: int, workers: int, micro: int, epoch: int, seed: int
) -> None:
    used = [
        part
        for batch in epoch_of(epoch, rows, batch_size, seed)
        for rank in range(workers)
        for part in micro_batches(share_of(batch, rank, workers), micro)
    ]
    assert sorted(itertools.chain.from_iterable(used)) == list(range(rows))
    assert all(1 <= len(part) <= micro for part in used)


@given(rows=ROWS, batch_size=BATCH_SIZES, workers=WORKERS, seed=SEEDS)
def test_the_global_batches_do_not_depend_on_the_workers(rows: int, batch_size: int, workers: int, seed: int) -> None:
    """The shares of a batch, one after the other, are the batch."""
    for batch in epoch_of(0, rows, batch_size, seed):
        shares = [share_of(batch, rank, workers) for rank in range(workers)]
        np.testing.assert_array_equal(np.concatenate(shares), batch)
        sizes = [len(share) for share in shares]
        assert max(sizes) - min(sizes) <= 1


@given(rows=ROWS, batch_size=BATCH_SIZES, seed=SEEDS)
def test_batches_are_full_but_for_the_last(rows: int, batch_size: int, seed: int) -> None:
    sizes = [len(batch) for batch in epoch_of(0, rows, batch_size, seed)]
    assert all(size == batch_size for size in sizes[:-1])
    assert 1 <= sizes[-1] <= batch_size
    full = [len(batch) for batch in epoch_of(0, rows, batch_size, seed, drop_last=True)]
    assert full == [batch_size] * (rows // batch_size)


@given(rows=st.integers(20, 200), seed=SEEDS)
def test_epochs_and_seeds_have_orders_of_their_own(rows: int, seed: int) -> None:
    (first,), (second,), (other,) = (
        epoch_of(0, rows, rows, seed),
        epoch_of(1, rows, rows, seed),
        epoch_of(0, rows, rows, seed + 1),
    )
    assert not np.array_equal(first, second)
    assert not np.array_equal(first, other)
    np.testing.assert_array_equal(first, epoch_of(0, rows, rows, seed)[0])


@given(rows=ROWS, validation=st.floats(0, 1, exclude_max=True), seed=SEEDS)
def test_a_split_deals_every_row_to_one_side(rows: int, validation: float, seed: int) -> None:
    train, valid = split_rows(rows, validation, seed)
    np.testing.assert_array_equal(np.sort(np.concatenate([train, valid])), np.arange(rows))
    assert len(valid) == round(rows * validation)
    assert (np.diff(train) > 0).all()
    assert (np.diff(valid) > 0).all()
    np.testing.assert_array_equal(split_rows(rows, validation, seed)[1], valid)


def test_the_split_is_a_random_one() -> None:
    _, valid = split_rows(1000, 0.2, 0)
    assert len(valid) == 200
    assert 350 < valid.mean() < 650
    assert not np.array_equal(valid, split_rows(1000, 0.2, 1)[1])


@given(size=st.integers(0, 100), most=st.integers(1, 40))
def test_micro_batches_are_few_and_even(size: int, most: int) -> None:
    parts = micro_batches(np.arange(size), most)
    assert len(parts) == -(-size // most)
    sizes = [len(part) for part in parts]
    assert not sizes or max(sizes) - min(sizes) <= 1
    assert list(itertools.chain.from_iterable(parts)) == list(range(size))


def test_each_micro_batch_has_random_numbers_of_its_own() -> None:
    places = list(itertools.product((0, 7), range(3), range(3), range(3)))
    seeds = [seed_of(seed, Round(version, "train"), rank, part) for seed, version, rank, part in places]
    assert len(set(seeds)) == len(places)
    assert all(0 <= seed < 2**63 for seed in seeds)
    assert seeds == [seed_of(seed, Round(version, "train"), rank, part) for seed, version, rank, part in places]


def test_the_streams_are_those_of_the_first_release() -> None:
    """With other numbers, a run could not be resumed by a newer version of Estafeta or NumPy."""
    assert split_rows(10, 0.3, 1)[1].tolist() == [1, 3, 9]
    assert epoch_of(1, 8, 8, 3)[0].tolist() == [6, 7, 2, 3, 5, 0, 4, 1]
    assert seed_of(3, Round(5, "train"), 2, 1) == 3576740661676309016


@given(st.integers(0, 3000), st.floats(0, 0.99), st.integers(0, 5), st.data())
def test_held_out_rows_do_not_depend_on_the_asked_range(
    rows: int, fraction: float, seed: int, data: st.DataObject
) -> None:
    whole = held_out(0, rows, fraction, seed)
    assert abs(whole.sum() - rows * fraction) < 1 + 1e-6
    first = data.draw(st.integers(0, rows))
    last = data.draw(st.integers(first, rows))
    np.testing.assert_array_equal(held_out(first, last, fraction, seed), whole[first:last])


@pytest.mark.parametrize("fraction", [0.1, 0.2, 0.3, 0.7, 1 / 3, 0.9])
def test_rounding_loses_no_row_at_a_border(fraction: float) -> None:
    whole = held_out(0, 500, fraction, 1)
    parts = [held_out(row, row + 1, fraction, 1) for row in range(500)]
    np.testing.assert_array_equal(np.concatenate(parts), whole)


def test_rows_are_held_out_at_random() -> None:
    drawn = [held_out(0, 10_000, 0.1, seed) for seed in range(200)]
    assert [int(mask.sum()) for mask in drawn] == [1000] * 200
    np.testing.assert_allclose(np.mean(drawn, 0), 0.1, atol=0.12)
    assert (drawn[0] != drawn[1]).any()
