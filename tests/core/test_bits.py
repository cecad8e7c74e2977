"""The bits of the result do not depend on how often, when, and in which order events arrive."""

from __future__ import annotations

from dataclasses import replace
from pathlib import Path

import pytest

from estafeta.client.inline import InlineInvoker

from .driver import Relay, undisturbed
from .events import Arrivals, shuffled, twice, twice_and_late
from .specs import CODE, FUNCTIONS, spec_of

WORLD_SIZES = pytest.mark.parametrize("workers", [1, 2, 3, 4, 8])
ARRIVALS = {
    "twice": twice,
    "twice, late": twice_and_late(15),
    "twice, much later": twice_and_late(1000),
    "twice, shuffled": shuffled(seed=1),
    "four times, shuffled": shuffled(seed=2, copies=4, spread=40),
}


@WORLD_SIZES
def test_two_runs(workers: int, tmp_path: Path) -> None:
    assert Relay(tmp_path, spec_of("plain", workers=workers)).run() == undisturbed("plain", workers)


@WORLD_SIZES
@pytest.mark.parametrize("arrivals", ARRIVALS.values(), ids=ARRIVALS)
def test_events_that_are_delivered_more_than_once(workers: int, arrivals: Arrivals, tmp_path: Path) -> None:
    relay = Relay(tmp_path, spec_of("plain", workers=workers), arrivals=arrivals)
    assert relay.run() == undisturbed("plain", workers)
    assert not relay.errors


@pytest.mark.parametrize("name", ["adamw", "batch_norm", "dropout", "noisy", "tied", "row_losses"])
def test_jobs_of_all_kinds(name: str, tmp_path: Path) -> None:
    relay = Relay(tmp_path, spec_of(name, workers=3), arrivals=shuffled(seed=3, copies=1), cold=True)
    assert relay.run() == undisturbed(name, 3)
    assert not relay.errors


@pytest.mark.parametrize("workers", [1, 3])
def test_environments_that_remember_nothing(workers: int, tmp_path: Path) -> None:
    assert Relay(tmp_path, spec_of("plain", workers=workers), cold=True).run() == undisturbed("plain", workers)


def test_two_runs_take_turns_in_one_environment(tmp_path: Path) -> None:
    """Their modules have the same names, and what the one leaves in memory is not the other's."""
    relays = [Relay(tmp_path, spec_of("plain", run="r")), Relay(tmp_path, spec_of("adam", run="s", workers=3))]
    for relay in relays:
        relay.start()
    while relays[0].step() | relays[1].step():
        pass
    one, other = (relay.result() for relay in relays)
    assert one == undisturbed("plain")
    assert other.weights_sha256 == undisturbed("adam", 3).weights_sha256


def test_duplicates_do_not_multiply(tmp_path: Path) -> None:
    relay = Relay(tmp_path, spec_of("plain"), arrivals=twice)
    relay.run()
    once = Relay(tmp_path, spec_of("plain", run="once"))
    once.run()
    assert len(relay.delivered) <= 4 * len(once.delivered)


def test_the_invoker_that_has_no_faults(tmp_path: Path) -> None:
    spec = spec_of("plain")
    invoker = InlineInvoker(str(tmp_path), {role: function.memory_mb for role, function in FUNCTIONS.items()})
    assert invoker.call("control", {"verb": "start", "spec": spec.model_dump(), "code": CODE}) == {"run": "r"}
    while invoker.step():
        pass
    assert Relay(tmp_path, spec).result() == undisturbed("plain")
    assert invoker.usage["r"].invocations == {"control": 1, "worker": 17, "merge": 8}
    assert invoker.usage["r"].legs == 16


def test_a_result_tells_runs_apart() -> None:
    one = undisturbed("plain")
    assert one.state == "done"
    assert set(one.files) == {
        f"runs/r/{which}/{name}"
        for which in ("best", "final")
        for name in ("model.safetensors", "optimizer.safetensors", "state.json")
    }
    assert len(one.epochs) == 2
    for other in (undisturbed("plain", 3), undisturbed("adam")):
        assert one.weights_sha256 != other.weights_sha256
        assert one.files["runs/r/final/optimizer.safetensors"] != other.files["runs/r/final/optimizer.safetensors"]
        assert one != replace(one, files=other.files)
