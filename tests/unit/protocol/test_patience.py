"""How long to wait, by what it took so far."""

from __future__ import annotations

from statistics import median

import pytest
from hypothesis import given
from hypothesis import strategies as st

from estafeta import waiting
from estafeta.protocol.patience import Patience

FLOOR_S, START_S = 1.0, 10.0


def after(*durations_s: float, floor_s: float = FLOOR_S, start_s: float = START_S) -> Patience:
    learnt = Patience(floor_s=floor_s, start_s=start_s)
    for seconds in durations_s:
        learnt.note(seconds)
    return learnt


@pytest.mark.parametrize("known", range(waiting.KNOWN_ROUNDS))
def test_until_something_is_known_it_is_the_time_for_starting(known: int) -> None:
    assert after(*[100.0] * known).limit_s == START_S
    assert after(*[100.0] * known, floor_s=20.0).limit_s == 20.0, "but never shorter than the floor"


def test_it_is_the_median_and_some_deviations() -> None:
    assert after(10.0, 11.0, 12.0, 13.0, 14.0).limit_s == 12.0 + waiting.DEVIATIONS * 1.0


def test_quick_rounds_have_the_floor() -> None:
    assert after(*[0.001] * 5).limit_s == FLOOR_S


def test_what_is_regular_may_still_be_late() -> None:
    assert after(*[40.0] * 9).limit_s == 40.0 * (1 + waiting.DEVIATIONS * waiting.LEAST_DEVIATION)


def test_rounds_in_which_somebody_was_lost_do_not_move_it() -> None:
    normal = [10.0, 10.5, 9.5, 10.0, 11.0, 9.0, 10.0]
    assert after(*normal, 300.0, 400.0).limit_s <= after(*normal).limit_s + waiting.DEVIATIONS * 0.5


def test_it_follows_rounds_that_become_slower() -> None:
    learnt = after(*[1.0] * waiting.RECENT_ROUNDS)
    for _ in range(waiting.RECENT_ROUNDS // 2 + 1):
        learnt.note(30.0)
    assert learnt.limit_s > 30.0


def test_the_usual_is_the_median() -> None:
    assert after().usual_s == 0.0
    assert after(1.0, 2.0, 90.0).usual_s == 2.0


@given(st.lists(st.floats(0, 1e4), min_size=waiting.KNOWN_ROUNDS, max_size=2 * waiting.RECENT_ROUNDS))
def test_it_is_never_below_the_floor_nor_below_half_as_long_again(durations_s: list[float]) -> None:
    limit_s = after(*durations_s).limit_s
    assert limit_s >= FLOOR_S
    assert limit_s >= 1.5 * median(durations_s[-waiting.RECENT_ROUNDS :]) * (1 - 1e-9)


def test_on_a_network_it_is_longer_than_a_cache_and_a_fail_over_together() -> None:
    """Measured on two NFS clients: up to 60 s, and 20 to 30 s."""
    assert waiting.SHARED.floor_s >= 60 + 30
    assert waiting.LOCAL.floor_s < waiting.SHARED.floor_s
    assert waiting.SHARED.start_s > waiting.SHARED.floor_s
    assert waiting.LOCAL.start_s > waiting.LOCAL.floor_s
