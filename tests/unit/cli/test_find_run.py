"""From what a user types to a run's name."""

from __future__ import annotations

import pytest

from estafeta.client.find_run import choose
from estafeta.errors import RunNotFound

NAMES = ["digits-1a2b3c", "wine-4d5e6f", "digits-7a8b9c"]


@pytest.mark.parametrize(
    ("text", "name"),
    [("wine-4d5e6f", "wine-4d5e6f"), ("w", "wine-4d5e6f"), ("digits-7", "digits-7a8b9c"), ("last", "digits-7a8b9c")],
)
def test_a_name_its_beginning_or_last(text: str, name: str) -> None:
    assert choose(text, NAMES) == name


def test_a_whole_name_is_not_the_beginning_of_another() -> None:
    assert choose("a", ["a", "ab"]) == "a"


def test_a_beginning_of_several_lists_them() -> None:
    with pytest.raises(RunNotFound, match="2 runs begin with 'digits'") as caught:
        choose("digits", NAMES)
    assert caught.value.hint == "it is one of digits-1a2b3c, digits-7a8b9c"


@pytest.mark.parametrize("text", ["digts-1a2b3c", "1a2b3c"])
def test_a_wrong_name_suggests_close_ones(text: str) -> None:
    with pytest.raises(RunNotFound) as caught:
        choose(text, NAMES)
    assert "did you mean digits-1a2b3c" in caught.value.hint


def test_nothing_close_says_where_to_look() -> None:
    with pytest.raises(RunNotFound) as caught:
        choose("quite-different", NAMES)
    assert "estafeta runs" in caught.value.hint


def test_no_runs_at_all() -> None:
    with pytest.raises(RunNotFound, match="no runs yet"):
        choose("last", [])
