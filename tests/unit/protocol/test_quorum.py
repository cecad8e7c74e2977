"""When a round may close without some ranks."""

from __future__ import annotations

from math import inf

import pytest

from conformance.clock import VirtualClock
from core.specs import spec_of
from estafeta import waiting
from estafeta.protocol.attendance import Attendance
from estafeta.protocol.layout import Phase, Round
from estafeta.protocol.quorum import Closing, may_miss, new_patience
from estafeta.protocol.spec import Plan

from ..ring import plan_of

SPEC = spec_of("plain", workers=4, quorum=3, topology="replicated")
PLAN: Plan = plan_of(SPEC, 10, steps=5)


@pytest.mark.parametrize(
    ("version", "phase", "quorum", "in_a_row", "may"),
    [
        (6, "train", 3, 0, True),
        (5, "train", 3, 0, False),
        (0, "train", 3, 0, False),
        (10, "valid", 3, 0, False),
        (6, "train", None, 0, False),
        (6, "train", 4, 0, False),
        (6, "train", 3, waiting.MOST_MISSED - 1, True),
        (6, "train", 3, waiting.MOST_MISSED, False),
    ],
)
def test_which_rounds_may_be_missed(version: int, phase: Phase, quorum: int | None, in_a_row: int, may: bool) -> None:
    spec = SPEC.model_copy(update={"quorum": quorum})
    attendance = Attendance({2: in_a_row, 3: 99}, {2: in_a_row, 3: 99})
    assert may_miss(spec, PLAN, Round(version, phase), [1, 2], attendance) is may


def closing(clock: VirtualClock, *quorate_s: float, is_local: bool = True) -> Closing:
    """Of a round, after rounds in which a quorum was there after so many seconds."""
    patience = new_patience(is_local=is_local)
    for seconds in quorate_s:
        patience.note(seconds)
    return Closing(3, patience, clock, clock.monotonic(), lambda missing: True)


def test_nobody_is_late_while_it_is_not_known_what_is_usual() -> None:
    clock = VirtualClock()
    wait = closing(clock, *[1.0] * (waiting.KNOWN_ROUNDS - 1))
    assert wait.left_s(3) == inf
    wait.learn()
    assert wait.left_s(3) == 1.5, "half as long again as usual"


def test_too_few_wait_for_ever_and_a_quorum_half_as_long_again() -> None:
    clock = VirtualClock()
    wait = closing(clock, 4.0, 4.0, 4.0)
    clock.sleep(5.0)
    assert wait.left_s(2) == inf
    assert wait.left_s(3) == 1.0
    clock.sleep(1.5)
    assert wait.left_s(3) == -0.5


@pytest.mark.parametrize(
    ("is_local", "floor_s"), [(True, waiting.LOCAL.quorum_floor_s), (False, waiting.SHARED.quorum_floor_s)]
)
def test_no_round_is_closed_before_the_floor(is_local: bool, floor_s: float) -> None:
    assert closing(VirtualClock(), 1e-3, 1e-3, 1e-3, is_local=is_local).left_s(3) == floor_s


def test_what_is_learnt_is_when_the_quorum_was_there_and_not_the_last_rank() -> None:
    clock = VirtualClock()
    patience = new_patience(is_local=True)
    for _ in range(waiting.KNOWN_ROUNDS):
        wait = Closing(3, patience, clock, clock.monotonic(), lambda missing: True)
        assert wait.left_s(2) == inf
        clock.sleep(2.0)
        wait.left_s(3)
        clock.sleep(100.0)
        wait.learn()
    assert patience.usual_s == 2.0


def test_the_first_look_comes_a_little_before_a_quorum_is_usual() -> None:
    clock = VirtualClock()
    assert closing(clock).expected_s == 0.0
    wait = closing(clock, 5.0, 5.0, 5.0)
    clock.sleep(1.0)
    assert wait.expected_s == pytest.approx(5 * waiting.EAGERNESS - 1)
    clock.sleep(9.0)
    assert wait.expected_s == 0.0
