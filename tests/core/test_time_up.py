"""Whose time is short leaves by itself, and is not killed at its time limit, whatever it is at."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import pytest

from .driver import undisturbed
from .late import Uneven
from .specs import spec_of
from .test_losses import actor_of, first, is_reside, until

LIMIT_S = 60.0
TOPOLOGIES = pytest.mark.parametrize("topology", ["sharded", "replicated"])


def stage_of(tmp_path: Path, topology: str, *, shared: bool, **stage: Any) -> Uneven:
    """Two ranks, of which the first takes twenty times as long for each call as the other."""
    spec = spec_of("adamw", topology=topology, workers=2)
    return Uneven(tmp_path, spec, slow={0: 20.0}, shared=shared, seed=1, limit_s=LIMIT_S, **stage)


@pytest.mark.parametrize("shared", [False, True], ids=["one machine", "network"])
@TOPOLOGIES
def test_rank_that_waits_for_contributions_leaves_in_time(topology: str, shared: bool, tmp_path: Path) -> None:
    stage = stage_of(tmp_path, topology, shared=shared, arrivals=lambda event: () if is_reside(event, 1) else (0,))
    stage.start()
    until(stage, lambda: stage.now > 2.5 * LIMIT_S)
    assert stage.errors == []
    stage.kill_all()


@TOPOLOGIES
def test_rank_that_waits_for_saved_parts_at_the_end_leaves_in_time(topology: str, tmp_path: Path) -> None:
    """The other rank has died when it was about to save, and nobody sends for it."""
    stage = stage_of(tmp_path, topology, shared=True)
    stage.start()
    last = stage.layout.message(1, "scores", undisturbed("adamw", 2).version or 0)
    until(stage, lambda: stage.store.exists(last))
    stage.kill(actor_of(stage, 1))
    stage.lose(lambda event: is_reside(event, 1))
    stage._arrivals = lambda event: () if is_reside(event, 1) else (0,)
    until(stage, lambda: stage.now > 4 * LIMIT_S)
    assert stage.errors == []
    stage.kill_all()


@TOPOLOGIES
def test_a_lost_rank_is_sent_for_by_legs_that_have_less_time_than_was_agreed(topology: str, tmp_path: Path) -> None:
    """The functions' time limit was lowered after the run had begun: no leg lives as long as a wait was to last."""
    stage = Uneven(
        tmp_path,
        spec_of("adamw", topology=topology, workers=2),
        slow={},
        shared=True,
        limit_s=LIMIT_S,
        arrivals=first(lambda event: is_reside(event, 1)),
    )
    assert stage.spec.functions["worker"].timeout_s > 10 * LIMIT_S
    assert stage.run() == undisturbed("adamw", 2)


def test_no_share_is_begun_that_cannot_get_done(tmp_path: Path) -> None:
    """A micro-batch takes six seconds, and the other rank comes when the leg has little more left."""
    spec = spec_of("ponderous", topology="replicated", workers=2, batch_size=2, epochs=1)
    stage = Uneven(
        tmp_path,
        spec,
        slow={0: 20.0},
        shared=True,
        seed=1,
        limit_s=LIMIT_S,
        arrivals=lambda event: (520 if is_reside(event, 1, leg=0) else 0,),
    )
    stage.start()
    until(stage, lambda: stage.now > 2 * LIMIT_S)
    assert stage.errors == []
    assert any("there is no time for another share" in line for line in stage.history)
    stage.kill_all()
