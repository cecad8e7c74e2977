"""What the ranks' sums add up to, whichever function adds them."""

from __future__ import annotations

import numpy as np

from estafeta.protocol.message import Head, Kind
from estafeta.protocol.totals import Totals, means
from estafeta.store.tensorfile import Array


def head_of(rank: int, rows: int, loss: float, buffers: dict[str, Array], *, is_stand_in: bool = False) -> Head:
    return Head(Kind.GRADIENT, 0, rank, rows, 0, 0.0, 0.5, "t", (0,), (loss,), buffers, is_stand_in)


def totals_of(*contributions: tuple[int, float]) -> Totals:
    totals = Totals(("loss",))
    for rank, (rows, loss) in enumerate(contributions):
        totals.add(head_of(rank, rows, loss, {"b": np.array([loss], np.float32)}))
    return totals


def test_sums_have_the_order_of_the_ranks() -> None:
    one, other = totals_of((1, 0.1), (1, 0.2), (1, 0.3)), totals_of((1, 0.3), (1, 0.2), (1, 0.1))
    assert one.sums["loss"] == 0.0 + 0.1 + 0.2 + 0.3
    assert other.sums != one.sums, "the test could not tell"
    assert one.rows == 3
    assert one.spent_usd == 1.5


def test_a_rank_without_rows_has_no_say_in_the_buffers() -> None:
    totals = totals_of((0, 0.0), (2, 4.0), (0, 99.0), (6, 8.0))
    assert totals.rows == 8
    assert totals.buffers({"b": np.zeros(1, np.float32)})["b"].tolist() == [7.0]


def test_a_model_without_buffers_gets_none() -> None:
    totals = Totals(("loss",))
    totals.add(head_of(0, 3, 1.5, {}))
    assert totals.buffers({}) == {}
    assert means("valid", totals.rows, totals.sums) == {"valid_loss": 0.5}


def test_ranks_with_a_stand_in_have_missed_the_round() -> None:
    totals = Totals(("loss",))
    for rank in range(3):
        totals.add(head_of(rank, rank % 2, 0.0, {}, is_stand_in=rank != 1))
    assert totals.missed == [0, 2]
