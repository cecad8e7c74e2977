"""What is known of the ranks that were late."""

from __future__ import annotations

from estafeta.protocol.attendance import NOTHING_MISSED, Attendance


def test_misses_are_counted_in_all_and_in_a_row() -> None:
    attendance = NOTHING_MISSED
    for missing in ([2], [2, 0], [2], [], [1], [2, 1]):
        attendance = attendance.after(missing)
    assert attendance == Attendance({0: 1, 1: 2, 2: 4}, {1: 2, 2: 1})
    assert list(attendance.missed) == [0, 1, 2]
    assert Attendance.from_json(attendance.to_json()) == attendance


def test_attendance_is_empty_while_no_rank_is_late() -> None:
    assert NOTHING_MISSED.after([]) is NOTHING_MISSED


def test_all_have_had_the_version_of_the_last_round_that_each_was_in() -> None:
    attendance = NOTHING_MISSED
    assert attendance.settled(7, []) == 7
    assert attendance.settled(7, [1]) == 6
    for missing in ([1], [1, 2]):  # rounds 5 and 6
        attendance = attendance.after(missing)
    assert attendance.settled(7, [1, 2]) == 4
    assert attendance.settled(7, [2]) == 5
    assert attendance.settled(7, []) == 7


def test_absent_rank_may_have_no_version() -> None:
    assert NOTHING_MISSED.after([0]).settled(1, [0]) == -1
