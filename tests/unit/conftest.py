"""What unit tests leave open is closed."""

from __future__ import annotations

import sys
from collections.abc import Iterator

import pytest


@pytest.fixture(autouse=True)
def no_rank_is_left_open() -> Iterator[None]:
    yield
    if ring := sys.modules.get("unit.ring"):
        ring.close_all()
