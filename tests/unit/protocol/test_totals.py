"""What the ranks' sums add up to, whoever adds them."""

from __future__ import annotations

import numpy as np

from estafeta.protocol.totals import Totals, means


def totals_of(*contributions: tuple[int, float]) -> Totals:
    totals = Totals()
    for rows, loss in contributions:
        totals.add(rows, {"loss": loss}, {"b": np.array([loss], np.float32)})
    return totals


def test_sums_have_the_order_of_the_ranks() -> None:
    one, other = totals_of((1, 0.1), (1, 0.2), (1, 0.3)), totals_of((1, 0.3), (1, 0.2), (1, 0.1))
    assert one.sums["loss"] == 0.0 + 0.1 + 0.2 + 0.3
    assert other.sums != one.sums, "the test could not tell"
    assert one.rows == 3


def test_a_rank_without_rows_has_no_say_in_the_buffers() -> None:
    totals = totals_of((0, 0.0), (2, 4.0), (0, 99.0), (6, 8.0))
    assert totals.rows == 8
    assert totals.buffers({"b": np.zeros(1, np.float32)})["b"].tolist() == [7.0]


def test_who_has_no_buffers_publishes_none() -> None:
    totals = Totals()
    totals.add(3, {"loss": 1.5}, {})
    assert totals.buffers({}) == {}
    assert means("valid", totals.rows, totals.sums) == {"valid_loss": 0.5}
