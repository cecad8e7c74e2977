"""Numbers as people read them."""

from __future__ import annotations

import pytest

from estafeta.client.run import new_name
from estafeta.client.units import size


@pytest.mark.parametrize(
    ("given", "read"),
    [
        (0, "0 B"),
        (999, "999 B"),
        (1000, "1 kB"),
        (999_499, "999 kB"),
        (999_500, "1 MB"),
        (999_999, "1 MB"),
        (1_234_567, "1.23 MB"),
        (999_600_000, "1.0 GB"),
        (12_345_000_000, "12.3 GB"),
    ],
)
def test_a_size_has_three_digits_and_never_an_exponent(given: int, read: str) -> None:
    assert size(given) == read


@pytest.mark.parametrize(
    ("job", "stem"),
    [
        ("digits:job", "digits"),
        ("My_Job:a", "my-job"),
        ("pack.mod:a", "pack.mod"),
        ("модель:a", "run"),
        ("tôt:a", "t-t"),
    ],
)
def test_a_run_is_named_for_its_module_whatever_the_letters(job: str, stem: str) -> None:
    assert new_name(job).rpartition("-")[0] == stem
