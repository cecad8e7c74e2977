"""The simulation notices when a safeguard is missing; otherwise it would prove nothing."""

from __future__ import annotations

import pytest

from .history import live
from .mutants import MUTANTS
from .stand_ins import stand_ins
from .world import PROFILES


@pytest.mark.parametrize("safeguard", MUTANTS)
def test_a_missing_safeguard_is_noticed(safeguard: str) -> None:
    mutant = MUTANTS[safeguard]
    with stand_ins(), mutant.missing():
        histories = (live(PROFILES[mutant.profile](seed)) for seed in range(mutant.within))
        assert any(history.violation for history in histories), f"nothing without {safeguard}"
