"""How a run comes to its end: early, at its end, on request, and how it goes on from there."""

from __future__ import annotations

import json
import math
from pathlib import Path

import pytest
from safetensors.torch import load_file

from estafeta.job.stopping import EarlyStopping
from estafeta.protocol.listing import versions_in
from estafeta.store.store import Store

from . import jobs
from .driver import Relay, undisturbed
from .events import Arrivals, in_order, shuffled, twice_and_late
from .specs import spec_of
from .stage import Stage

UP_AND_DOWN = """
import torch
from torch import nn
from estafeta import SGD, Job

class Scripted(nn.Module):
    '''Its validation loss is read from a list, by the number of steps that it has been trained for.'''

    def __init__(self, script):
        super().__init__()
        self.script = script
        self.weight = nn.Parameter(torch.zeros(1))
        self.register_buffer("steps", torch.zeros((), dtype=torch.int64))

    def forward(self, inputs):
        if self.training:
            self.steps += 1
            return inputs[:, 0] * self.weight
        return torch.full((len(inputs),), self.script[int(self.steps)])

def loss(output, target):
    return output

def score(output, target):
    return -output

job = Job(
    model=lambda script: Scripted(script), loss=loss, metrics={"score": score}, optimizer=SGD(),
    dataset=lambda: (torch.zeros(10, 1), torch.zeros(10)),
)
"""
NAN = math.nan


def scripted(tmp_path: Path, script: list[float], rule: EarlyStopping, *, workers: int = 1) -> Relay:
    """A run whose epochs, of one step each, end with the given validation losses."""
    spec = spec_of(
        "mine:job",
        jobs.plain,
        workers=workers,
        epochs=len(script),
        batch_size=8,
        micro_batch_size=8,
        validation=0.2,
        early_stopping=rule,
        arguments={"model": {"script": [NAN, *script]}},
    )
    relay = Relay(tmp_path, spec, {"mine.py": UP_AND_DOWN})
    relay.run()
    return relay


@pytest.mark.parametrize(
    ("script", "rule", "epochs", "best", "why"),
    [
        ([3, 2, 1], EarlyStopping(), 3, 3, "all epochs are done"),
        ([3, 1, 2], EarlyStopping(), 3, 2, "all epochs are done"),
        ([1, 1, 1], EarlyStopping(), 3, 1, "all epochs are done"),
        ([3, 1, 2, 2, 2], EarlyStopping(patience=2), 4, 2, "valid_loss has not improved for 2 epochs"),
        ([3, 1, 2, 0.5, 2, 2], EarlyStopping(patience=2), 6, 4, "valid_loss has not improved for 2 epochs"),
        ([3, 2.5, 2, 1.5], EarlyStopping(patience=2, min_delta=0.6), 4, 3, "all epochs are done"),
        ([3, 2.5, 2.45, 1.5], EarlyStopping(patience=2, min_delta=0.6), 3, 1, "has not improved for 2 epochs"),
        ([3, 1, 0.5], EarlyStopping(target=1.0), 2, 2, "valid_loss 1 has reached the target 1"),
        ([3, 1.05, 0.5], EarlyStopping(target=1.0, min_delta=0.1), 3, 3, "valid_loss 0.5 has reached the target 1"),
        ([3, 1, 2], EarlyStopping(monitor="valid_score", target=0.0), 3, 2, "all epochs are done"),
        ([3, 1, 2], EarlyStopping(monitor="valid_score", target=-1.0), 2, 2, "valid_score -1 has reached"),
        ([3, 1, 2], EarlyStopping(monitor="valid_score", mode="min"), 3, 1, "all epochs are done"),
        ([3, 1, 2], EarlyStopping(monitor="valid_loss", mode="max"), 3, 1, "all epochs are done"),
        ([NAN, 3, NAN, 2], EarlyStopping(), 4, 4, "all epochs are done"),
        ([2, NAN, NAN, 1], EarlyStopping(patience=2), 3, 1, "valid_loss has not improved for 2 epochs"),
        ([NAN, NAN], EarlyStopping(target=1.0, patience=3), 2, 1, "all epochs are done"),
    ],
)
def test_when_a_run_stops_and_which_epoch_was_the_best(
    script: list[float], rule: EarlyStopping, epochs: int, best: int, why: str, tmp_path: Path
) -> None:
    relay = scripted(tmp_path, script, rule)
    outcome = relay.outcome()
    assert (outcome.state, outcome.version, outcome.best_version) == ("done", epochs, best)
    assert why in outcome.why
    seen = [record.metrics["valid_loss"] for record in relay.epochs()]
    assert seen == pytest.approx(script[:epochs], nan_ok=True)


def test_the_best_version_outlives_the_sweeping(tmp_path: Path) -> None:
    relay = scripted(tmp_path, [3, 1, 2, 3, 4, 5], EarlyStopping(), workers=2)
    steps = {
        which: load_file(tmp_path / relay.layout.export(which) / "model.safetensors")["steps"]
        for which in ("best", "final")
    }
    assert {which: int(count) for which, count in steps.items()} == {"best": 2, "final": 6}
    states = {which: json.loads((tmp_path / relay.layout.export(which) / "state.json").read_text()) for which in steps}
    assert (states["best"]["version"], states["best"]["epoch"]) == (2, 2)
    assert states["best"]["metrics"]["valid_loss"] == 1
    assert states["final"]["version"] == 6
    assert versions_in(relay.store.list(relay.layout.weights)) == {2, 5, 6}


def exported_versions(relay: Relay) -> dict[str, int]:
    store: Store = relay.store
    return {
        which: json.loads(store.read(f"{relay.layout.export(which)}/state.json"))["version"]
        for which in ("best", "final")
        if store.exists(f"{relay.layout.export(which)}/state.json")
    }


@pytest.mark.parametrize("arrivals", [in_order, twice_and_late(9), shuffled(seed=4)], ids=["once", "late", "shuffled"])
@pytest.mark.parametrize("stop_at", range(0, 33, 4))
def test_a_run_that_is_stopped_can_go_on_as_if_nothing_had_happened(
    stop_at: int, arrivals: Arrivals, tmp_path: Path
) -> None:
    relay = Relay(tmp_path, spec_of("plain", workers=3), arrivals=arrivals)
    relay.start()
    for _ in range(stop_at):
        relay.step()
    version = relay.control("status")["version"]
    assert relay.control("stop")["state"] == "stopping"
    relay.drain()
    outcome = relay.outcome()
    assert outcome.state == "stopped"
    assert outcome.why == "on request"
    if outcome.version is None:  # before it was prepared
        assert stop_at == 0
        assert exported_versions(relay) == {}
    else:
        assert version <= outcome.version <= version + 1
        assert exported_versions(relay) == {"best": outcome.best_version, "final": outcome.version}
    delivered = len(relay.delivered)
    relay.drain()
    assert len(relay.delivered) == delivered, "nobody is at work any more"
    assert relay.control("resume")["state"] in ("running", "preparing")
    relay.drain()
    assert relay.result() == undisturbed("plain", 3)


def test_a_run_is_stopped_and_resumed_again_and_again(tmp_path: Path) -> None:
    relay = Relay(tmp_path, spec_of("plain"))
    relay.start()
    for deliveries in range(1, 6):
        for _ in range(deliveries):
            relay.step()
        relay.control("stop")
        relay.drain()
        assert relay.outcome().state == "stopped"
        relay.control("resume")
    relay.drain()
    assert relay.result() == undisturbed("plain")
    earlier = {name for name in relay.store.list(relay.layout.root) if name.startswith("stopped-")}
    assert earlier == {f"stopped-{number:02d}.json" for number in range(1, 6)}


def test_a_run_at_which_nobody_works_is_stopped_too(tmp_path: Path) -> None:
    relay = Relay(tmp_path, spec_of("plain"))
    relay.start()
    relay.drain_until(lambda: relay.control("status")["version"] == 2)
    while relay.queued():
        relay.drop()
    relay.control("stop")
    relay.drain()
    assert (relay.outcome().state, relay.outcome().version) == ("stopped", 2)
    relay.assert_exports_agree()


def test_a_hint_that_was_lost_is_replaced_by_resuming(tmp_path: Path) -> None:
    """Every delivery in turn is dropped; nobody notices, until somebody asks."""
    relay = Relay(tmp_path, spec_of("plain"))
    relay.start()
    relay.step()
    while relay.control("status")["state"] == "running":
        relay.drop()
        relay.control("resume")
        for _ in range(3):
            relay.step()
    relay.drain()
    assert relay.result() == undisturbed("plain")


@pytest.mark.parametrize("topology", ["sharded", "replicated"])
def test_rank_0_dies_when_the_others_have_stopped(topology: str, tmp_path: Path) -> None:
    """Its retry reads in the contributions to the last round that the run was to stop, and sends for nobody."""
    stage = Stage(tmp_path, spec_of("plain", topology=topology, epochs=9), seed=3)
    stage.start()
    while not stage.store.exists(stage.layout.message(0, "gradient", 3)):
        stage.step()
    stage.control("stop")
    while not (ended := [line for line in stage.history if "ended at version" in line]):
        stage.step()
    (rank_0,) = stage.at_work
    rank_0.dies_after = rank_0.calls
    stage.drain()
    assert f"ended at version {stage.outcome().version}'" in ended[0]
    assert sum(event.payload.get("rank") == 1 for event in stage.delivered) == 1
    stage.assert_exports_agree()
