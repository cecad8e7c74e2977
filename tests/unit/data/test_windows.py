"""Every row of a stored data set is used once in an epoch, and a worker needs few blocks at a time."""

from __future__ import annotations

from itertools import chain

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st

from estafeta.data.sampler import Rows, held_out, steps_per_epoch
from estafeta.data.windows import PARTS, BlockRows, Deal, RankRows


def block_rows(lengths: list[int], held: bool | None = None, fraction: float = 0.0, size: int = 100) -> BlockRows:
    starts = np.cumsum([0, *lengths], dtype=np.int64)
    return BlockRows(starts, (size,) * len(lengths), held, fraction, seed=4)


def deal_of(rows: BlockRows, *, workers: int = 1, batch: int = 10, drop: bool = False, window: int = 300) -> Deal:
    steps = steps_per_epoch(len(rows), batch, drop)
    return Deal(rows, workers, batch, steps, micro_batch_size=7, window_bytes=window, seed=1)


def rows_of(share: RankRows) -> list[int]:
    return [row for part in range(len(share)) for row in share[part].tolist()]


LENGTHS = st.lists(st.integers(1, 12), min_size=1, max_size=25)


@given(
    lengths=LENGTHS,
    held=st.sampled_from([None, False]),
    fraction=st.floats(0, 0.9),
    workers=st.integers(1, 7),
    batch=st.integers(1, 40),
    drop=st.booleans(),
    window=st.integers(1, 3000),
    epoch=st.integers(0, 3),
)
def test_an_epoch_is_every_row_once(
    lengths: list[int],
    held: bool | None,
    fraction: float,
    workers: int,
    batch: int,
    drop: bool,
    window: int,
    epoch: int,
) -> None:
    rows = block_rows(lengths, held, fraction)
    deal = deal_of(rows, workers=workers, batch=batch, drop=drop, window=window)
    seen: list[int] = []
    for step in range(epoch * deal.steps, (epoch + 1) * deal.steps):
        shares = [deal.train(step, rank) for rank in range(workers)]
        micro = [[len(share[part]) for part in range(len(share))] for share in shares]
        assert all(max(sizes) - min(sizes) <= 1 and max(sizes) <= 7 for sizes in micro if sizes)
        sizes = [len(rows_of(share)) for share in shares]
        assert max(sizes) - min(sizes) <= 1
        left = len(rows) - (step % deal.steps) * batch
        assert sum(sizes) == min(batch, left)
        seen += [row for share in shares for row in rows_of(share)]
    every = np.concatenate([rows.of_block(block) for block in range(len(lengths))]).tolist()
    assert len(seen) == len(set(seen)) == (deal.steps * batch if drop else len(rows))
    assert set(seen) <= set(every)


@given(lengths=LENGTHS, fraction=st.floats(0, 0.9), workers=st.integers(1, 7))
def test_validation_is_every_held_out_row_once(lengths: list[int], fraction: float, workers: int) -> None:
    rows = block_rows(lengths, True, fraction)
    deal = deal_of(rows, workers=workers)
    shares = [rows_of(deal.valid(rank)) for rank in range(workers)]
    assert list(chain(*shares)) == np.flatnonzero(held_out(0, sum(lengths), fraction, 4)).tolist()
    assert max(map(len, shares)) - min(map(len, shares)) <= 1


@given(lengths=LENGTHS, workers=st.integers(1, 4), window=st.integers(1, 2000))
def test_a_window_is_all_that_is_needed_at_once(lengths: list[int], workers: int, window: int) -> None:
    rows = block_rows(lengths)
    deal = deal_of(rows, workers=workers, batch=5, window=window)
    most = max(1, window // 100)
    for rank in range(workers):
        for step in range(2 * deal.steps):
            share = deal.train(step, rank)
            for part in range(len(share)):
                needed = set((np.searchsorted(rows.starts, share[part], side="right") - 1).tolist())
                ahead = share.blocks(part).tolist()
                assert len(ahead) <= 2 * most
                if len(needed - set(ahead)):  # only if the micro-batch goes beyond the window after this one
                    assert len(share[part]) > most
    assert len(deal._parts) <= PARTS


def test_each_block_is_read_in_one_stretch() -> None:
    """Blocks that have left a rank's window do not come back in the epoch."""
    rows = block_rows([10] * 40)
    deal = deal_of(rows, workers=3, batch=30, window=400)
    for rank in range(3):
        blocks = [row // 10 for step in range(deal.steps) for row in rows_of(deal.train(step, rank))]
        stretch = {block: blocks.index(block) for block in blocks}
        last = {block: len(blocks) - blocks[::-1].index(block) for block in blocks}
        assert max(last[block] - stretch[block] for block in stretch) <= 40
        assert len(stretch) <= 40 // 3 + 3


def test_the_order_depends_on_seed_epoch_and_world_size_alone() -> None:
    rows = block_rows([10] * 20)

    def epoch(deal: Deal, number: int, rank: int = 0) -> list[int]:
        steps = range(number * deal.steps, (number + 1) * deal.steps)
        return [row for step in steps for row in rows_of(deal.train(step, rank))]

    one, other = deal_of(rows, workers=2), deal_of(rows, workers=2)
    later = epoch(other, 3)
    assert epoch(one, 3) == later
    backwards = [rows_of(one.train(step, 0)) for step in reversed(range(3 * one.steps, 4 * one.steps))]
    assert list(chain(*backwards[::-1])) == later
    assert epoch(one, 0) != later
    assert sorted(epoch(one, 0)) != sorted(later), "ranks get other blocks in each epoch"
    assert epoch(one, 0, 1) != epoch(one, 0, 0)
    assert epoch(deal_of(rows, workers=1), 0) != epoch(one, 0)


def test_rows_are_shuffled_in_their_window() -> None:
    deal = deal_of(block_rows([10] * 30), window=3000, batch=300)
    (share,) = [deal.train(0, 0)]
    positions = np.array(rows_of(share))
    assert abs(np.corrcoef(positions, np.arange(300))[0, 1]) < 0.2


def test_rows_beyond_the_end_and_empty_shares() -> None:
    share = deal_of(block_rows([10])).train(0, 0)
    with pytest.raises(IndexError):
        share[len(share)]
    more_workers_than_rows = deal_of(block_rows([2]), workers=5)
    assert [len(more_workers_than_rows.train(0, rank)) for rank in range(5)] == [0, 0, 1, 0, 1]
    nothing: Rows = np.empty(0, np.int64)
    assert deal_of(block_rows([3], True, 0.0)).valid(0).rows(0, 0).tolist() == nothing.tolist()
