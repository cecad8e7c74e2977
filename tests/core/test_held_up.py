"""A function stands still between two calls to the file system, and goes on when the run is somewhere else."""

from __future__ import annotations

import random
from pathlib import Path
from typing import Any

import pytest

from estafeta.job.stopping import EarlyStopping

from .driver import Relay, undisturbed
from .environment import elsewhere
from .events import twice
from .faults import HeldUp, Mortal
from .specs import spec_of

SETTINGS: dict[str, dict[str, Any]] = {
    "two epochs of one step": {"epochs": 2, "batch_size": 36},
    "two steps, no validation": {
        "epochs": 1,
        "batch_size": 24,
        "validation": 0.0,
        "early_stopping": EarlyStopping(monitor="train_loss"),
    },
    "stopped early": {"epochs": 3, "batch_size": 18, "early_stopping": EarlyStopping(monitor="train_loss", target=9.0)},
}
CASES = 12
"""Pairs of a delivery and a call in it that are tried with each of the settings."""


class Held:
    """A run in which each event is delivered twice, and one delivery is held up.

    Args:
        root: The store's directory.
        settings: Of the run.
        delivery: Number of the delivery, 0 for the first; None: nothing is held up.
        calls: Calls to the file system that it does first.
        meanwhile: Deliveries that go past it.
    """

    def __init__(self, root: Path, settings: dict[str, Any], delivery: int | None, calls: int, meanwhile: int) -> None:
        self._files = HeldUp(self._go_on)
        self._meanwhile = meanwhile
        self.relay = Relay(root, spec_of("plain", **settings), files=self._files, arrivals=twice)
        self.relay.on_delivery = lambda event: self._files.start(
            calls if len(self.relay.delivered) - 1 == delivery else None
        )

    def _go_on(self) -> None:
        with elsewhere():
            for _ in range(self._meanwhile):
                self.relay.step()


@pytest.mark.parametrize("settings", SETTINGS.values(), ids=SETTINGS)
def test_one_delivery_is_held_up(settings: dict[str, Any], tmp_path: Path) -> None:
    straight = Held(tmp_path, settings, None, 0, 0).relay
    expected = straight.run()
    numbers = random.Random(7)
    for case in range(CASES):
        root = tmp_path / str(case)
        root.mkdir()
        delivery = numbers.randrange(len(straight.delivered))
        held = Held(root, settings, delivery, numbers.randrange(25), numbers.choice([2, 5, 1000]))
        assert held.relay.run() == expected
        assert not held.relay.errors


@pytest.mark.parametrize("merge_dies_after", [None, 4, 6, 10])
@pytest.mark.parametrize("stop_dies_after", [1, 8, 13, 18, 23])
def test_a_stop_overtakes_a_merge(stop_dies_after: int, merge_dies_after: int | None, tmp_path: Path) -> None:
    """A merge has read its contributions when the run is stopped at the version before; then one of them dies, or both.

    Whichever version the run ends with, all that it leaves is of that version.
    """

    def meanwhile() -> None:
        with elsewhere():
            relay.control("stop")
            mortal.start(stop_dies_after)
            relay.step()
            mortal.start(merge_dies_after)

    mortal = Mortal()
    files = HeldUp(meanwhile, mortal)
    relay = Relay(tmp_path, spec_of("plain"), files=files)
    relay.start()
    relay.drain_until(lambda: bool(relay.queued()) and relay.queued()[0].payload.get("round") == "train-00000001")
    files.start(8)
    relay.on_error = lambda event: mortal.start(None)
    relay.drain()
    assert len(relay.errors) == 1 + (merge_dies_after is not None)
    outcome = relay.outcome()
    assert outcome.state == "stopped"
    assert outcome.version in (1, 2)
    relay.assert_exports_agree()
    relay.control("resume")
    relay.drain()
    assert relay.result() == undisturbed("plain")
