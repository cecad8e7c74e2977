"""When it is time to hand over, learnt from how long things took. Time is virtual."""

from __future__ import annotations

from types import SimpleNamespace

import pytest

from estafeta import waiting
from estafeta.protocol import deadline as module
from estafeta.protocol.deadline import Deadline


class Clock:
    """Goes on when it is told to."""

    def __init__(self) -> None:
        self.now = 0.0

    def monotonic(self) -> float:
        return self.now


@pytest.fixture
def clock(monkeypatch: pytest.MonkeyPatch) -> Clock:
    clock = Clock()
    monkeypatch.setattr(module, "time", SimpleNamespace(monotonic=clock.monotonic))
    return clock


def take(clock: Clock, deadline: Deadline, *, step_s: float = 0.0, transfer_s: float = 0.0) -> None:
    with deadline.step():
        clock.now += step_s
    with deadline.transfer():
        clock.now += transfer_s


def test_the_longest_of_each_counts(clock: Clock) -> None:
    deadline = Deadline(lambda: 100.0)
    assert deadline.needed_s == waiting.ANSWER_RESERVE_S
    take(clock, deadline, step_s=2.0, transfer_s=1.0)
    take(clock, deadline, step_s=4.0, transfer_s=0.5)
    take(clock, deadline, step_s=1.0)
    assert deadline.needed_s == pytest.approx(
        waiting.STEP_MARGIN * 4.0 + waiting.TRANSFER_MARGIN * 1.0 + waiting.ANSWER_RESERVE_S
    )


def test_one_more_step_is_begun_while_it_fits(clock: Clock) -> None:
    """A function of 60 s, steps of 5 s, a transfer of 1 s: what is begun is finished and published in time."""
    deadline = Deadline(lambda: 60.0 - clock.now)
    take(clock, deadline, transfer_s=1.0)
    while not deadline.is_near():
        take(clock, deadline, step_s=5.0)
    assert 60 - clock.now > 1.0, "there is time to publish"
    assert 60 - clock.now < 5 * waiting.STEP_MARGIN + waiting.TRANSFER_MARGIN + 5, "but none was wasted"


def test_a_warm_environment_knows_how_long_a_transfer_takes(clock: Clock) -> None:
    first = Deadline(lambda: 100.0)
    take(clock, first, transfer_s=3.0)
    assert first.transfer_s == 3.0
    second = Deadline(lambda: 100.0, first.transfer_s)
    assert second.needed_s == pytest.approx(waiting.TRANSFER_MARGIN * 3.0 + waiting.ANSWER_RESERVE_S)
    take(clock, second, transfer_s=1.0)
    assert second.transfer_s == 3.0


def test_near_is_less_than_needed(clock: Clock) -> None:
    remaining = [waiting.ANSWER_RESERVE_S]
    deadline = Deadline(lambda: remaining[0])
    assert not deadline.is_near()
    remaining[0] -= 0.001
    assert deadline.is_near()
