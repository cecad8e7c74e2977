"""A share that does not fit one invocation is continued by the next leg, and has the same bits."""

from __future__ import annotations

from pathlib import Path

import pytest

from .driver import Relay, undisturbed
from .events import Arrivals, in_order, shuffled, twice
from .faults import Mortal
from .specs import spec_of


def no_time() -> float:
    """Seconds left, in a function that can do one micro-batch and no more."""
    return 0.0


def time_for(deliveries: int, relay: Relay) -> float:
    """Seconds left, where every so many invocations get all the time in the world."""
    return 1e9 if len(relay.delivered) % deliveries == 0 else 0.0


@pytest.mark.parametrize("name", ["plain", "dropout", "noisy", "batch_norm", "tied"])
@pytest.mark.parametrize("workers", [1, 2, 3])
def test_one_micro_batch_in_each_leg(name: str, workers: int, tmp_path: Path) -> None:
    relay = Relay(tmp_path, spec_of(name, workers=workers), remaining_s=no_time)
    assert relay.run() == undisturbed(name, workers)
    legs = {(event.payload["task"], event.payload["leg"]) for event in relay.delivered if event.role == "worker"}
    longest = {1: 4, 2: 2, 3: 2}[workers]  # parts of 4 rows in a share of 16 // workers
    assert {leg for task, leg in legs if task == "train"} == set(range(longest))
    assert {leg for task, leg in legs if task == "valid"} == set(range({1: 3, 2: 2, 3: 1}[workers]))


@pytest.mark.parametrize("arrivals", [in_order, shuffled(seed=5)], ids=["in order", "shuffled"])
def test_legs_of_different_lengths(arrivals: Arrivals, tmp_path: Path) -> None:
    relay = Relay(
        tmp_path, spec_of("dropout", workers=1), remaining_s=lambda: time_for(3, relay), arrivals=arrivals, cold=True
    )
    assert relay.run() == undisturbed("dropout", 1)


def test_legs_that_die_after_each_of_their_calls(tmp_path: Path) -> None:
    files = Mortal()
    spec = spec_of("batch_norm", workers=1)
    relay = Relay(tmp_path, spec, files=files, attempts=1000, remaining_s=no_time)
    relay.on_delivery = lambda event: files.start(dies_after=event.attempt)
    assert relay.run() == undisturbed("batch_norm", 1)


def test_duplicates_of_legs_do_not_multiply(tmp_path: Path) -> None:
    """Twelve legs one after the other, each event delivered twice: not two to the power of twelve."""
    settings = {"workers": 1, "micro_batch_size": 1, "batch_size": 12, "epochs": 1}
    once = Relay(tmp_path, spec_of("plain", run="once", **settings), remaining_s=no_time)
    relay = Relay(tmp_path, spec_of("plain", **settings), remaining_s=no_time, arrivals=twice)
    once.run()
    relay.run()
    assert relay.deliveries("worker") <= 5 * once.deliveries("worker")


def test_the_unfinished_shares_of_a_round_are_swept(tmp_path: Path) -> None:
    relay = Relay(tmp_path, spec_of("plain"), remaining_s=no_time)
    relay.start()
    relay.drain_until(lambda: bool(relay.store.list(relay.layout.partial)))
    relay.drain()
    rounds = {name.partition("-")[2][:8] for name in relay.store.list(relay.layout.partial)}
    assert rounds == {"00000006"}
