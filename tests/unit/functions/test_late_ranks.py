"""The worker that stays in `merge` until the others are late."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import numpy as np
import pytest

from conformance.clock import VirtualClock
from core.driver import Relay
from core.specs import spec_of
from estafeta import waiting
from estafeta.functions.late_ranks import await_others, patience_of
from estafeta.protocol.invocation import Invocation
from estafeta.protocol.layout import Round
from estafeta.protocol.listing import ranks_in
from estafeta.protocol.message import Kind, form_of, glance
from estafeta.protocol.run_folder import RunFolder
from estafeta.protocol.warm import Warm
from estafeta.store.store import Store

ROUND = Round(1, "train")


class Waiting:
    """A run of three workers in its second round, to which ranks 0 and 2 have contributed.

    Args:
        root: Directory of the store.
        rows: In each of these contributions.
    """

    def __init__(self, root: Path, rows: int = 1) -> None:
        self.relay = Relay(root, spec_of("plain", workers=3, quorum=2))
        self.relay.start()
        self.relay.drain_until(lambda: self.relay.store.exists(self.relay.layout.version(1)))
        while self.relay.queued():
            self.relay.drop()
        self.clock = VirtualClock()
        self.store = Store(root, clock=self.clock)
        self.folder = RunFolder(self.store, "r", self.relay.spec)
        self.folder = RunFolder(self.store, "r", self.relay.spec)
        for rank in (0, 2):
            self.contribute(rank, rows)

    def contribute(self, rank: int, rows: int = 1) -> None:
        plan = self.relay.folder.plan
        gradient = np.ones(plan.size, np.float32) if rows else None
        head = {"version": ROUND.version, "rank": rank, "rows": rows, "sums": (1.0, 1.0), "token": "t"}
        content = form_of(plan, "train").content(Kind.GRADIENT, gradient, **head)
        self.store.publish(self.relay.layout.contribution(ROUND, rank), content, "t")

    def wait(self, *, known_s: float | None = 10.0, token: str = "waits", **changes: Any) -> frozenset[int]:
        """What rank 0 finds, in an environment where shares have taken so long."""
        options = {"remaining_s": lambda: 900.0, "warm": Warm(), **changes}
        invocation = Invocation(self.store, lambda functions: self.relay, token, **options)
        for _ in range(waiting.KNOWN_ROUNDS if known_s else 0):
            patience_of(self.folder, invocation).note(known_s or 0.0)
        return await_others(ROUND, 0, self.clock.monotonic(), self.folder, invocation)

    def missed(self) -> set[int]:
        """Ranks that have a stand-in."""
        layout = self.relay.layout
        return {
            rank
            for rank in ranks_in(self.store.list(layout.contributions), ROUND)
            if self.store.reading(layout.contribution(ROUND, rank), lambda reader: glance(reader).is_stand_in)
        }


def test_it_closes_the_round_when_half_as_long_again_has_passed(tmp_path: Path) -> None:
    late = Waiting(tmp_path)
    assert late.wait() == {0, 1, 2}
    assert late.clock.monotonic() == pytest.approx(15.0)
    assert late.missed() == {1}


def test_it_does_not_wait_when_all_come(tmp_path: Path) -> None:
    late = Waiting(tmp_path)
    late.clock.after(3.0, lambda: late.contribute(1))
    assert late.wait() == {0, 1, 2}
    assert late.clock.monotonic() < 6.0
    assert late.missed() == set()


def test_it_does_not_stay_longer_than_its_time_allows(tmp_path: Path) -> None:
    late = Waiting(tmp_path)
    assert late.wait(remaining_s=lambda: waiting.CLOSING_RESERVE_S + 4.0) == {0, 1, 2}
    assert late.clock.monotonic() == pytest.approx(4.0)


def test_one_waits_and_its_retry_in_its_place(tmp_path: Path) -> None:
    late = Waiting(tmp_path)
    late.store.claim(late.relay.layout.legs, "close-train-00000001", generation=0, token="waits")
    assert late.wait(token="another") == {0, 2}
    assert late.clock.monotonic() == 0.0
    assert late.wait(token="waits") == {0, 1, 2}


def test_a_worker_that_does_not_know_how_long_shares_take_leaves(tmp_path: Path) -> None:
    late = Waiting(tmp_path)
    assert late.wait(known_s=None) == {0, 2}
    assert late.wait(token="another") == {0, 1, 2}, "it has not claimed what it does not do"


def test_a_round_without_rows_is_not_closed(tmp_path: Path) -> None:
    late = Waiting(tmp_path, rows=0)
    assert late.wait() == {0, 2}
    assert late.missed() == set()


def test_a_swept_contribution_is_not_missing(tmp_path: Path) -> None:
    """The round is over, and another's sweeping has got as far as rank 1."""
    late = Waiting(tmp_path)
    layout = late.relay.layout

    def go_on() -> None:
        for path in (layout.optimizer(1), layout.version(1)):
            late.store.publish(path.replace("00000001", "00000002"), [b"a token"], "token")

    late.clock.after(3.0, go_on)
    assert late.wait() == {0, 2}
    assert late.missed() == set()
