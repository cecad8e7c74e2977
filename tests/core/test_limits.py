"""A run stops by itself at a limit of its own, within a round, and goes on from there with the same bits."""

from __future__ import annotations

import random
from collections.abc import Mapping
from dataclasses import replace
from pathlib import Path
from typing import Any

import pytest

from estafeta.cost.cost import invocation_usd, second_usd
from estafeta.job.stopping import EarlyStopping
from estafeta.protocol.limits import HOUR_S
from estafeta.protocol.listing import versions_in
from estafeta.protocol.spec import Limits, RunSpec
from estafeta.protocol.weights import Weights, spent_at

from .driver import Relay, undisturbed, undisturbed_of
from .events import Event, shuffled
from .faults import Killed
from .late import Uneven, replayed
from .specs import FUNCTIONS, spec_of
from .stage import Stage

TOPOLOGIES = pytest.mark.parametrize("topology", ["merge", "sharded", "replicated"])
EPOCHS = 8
ROUNDS = 3 * EPOCHS
"""Train rounds: an epoch has three, and a valid round."""


def spec(topology: str, **limits: Any) -> RunSpec:
    return spec_of("plain", topology=topology, workers=3, epochs=EPOCHS, limits=Limits(**limits))


def quorate(topology: str, **limits: Any) -> RunSpec:
    """A run of which two of the three ranks are enough for a round."""
    return spec(topology, **limits).model_copy(update={"quorum": 2})


def spent(relay: Relay) -> float:
    """What a run says that it has cost, when it has ended."""
    version = max(versions_in(relay.store.list(relay.layout.weights), relay.spec.workers))
    return max(spent_at(relay.store, relay.layout, version), *(record.spent_usd for record in relay.epochs()), 0.0)


def on_stage(folder: Path, spec: RunSpec, seed: int) -> Stage:
    folder.mkdir()
    return Stage(folder, spec, seed=seed)


def resumed(relay: Relay, **limits: float | None) -> Any:
    """Resume a run that has stopped at a limit, and let it go on to its end."""
    answer = relay.control("resume", limits=limits)
    assert "error" not in answer, answer
    relay.drain()
    return relay.result()


@pytest.fixture
def said(monkeypatch: pytest.MonkeyPatch) -> dict[int, float]:
    """By version, what the run is said to have cost with it, whoever makes it."""
    said: dict[int, float] = {}
    advance = Weights.advance

    def noted(weights: Weights, *totals: Any) -> None:
        advance(weights, *totals)
        said[weights.version] = max(said.get(weights.version, 0.0), weights.spent_usd)

    monkeypatch.setattr(Weights, "advance", noted)
    return said


def assert_stopped_within_a_round(stage: Relay, limit_usd: float, said: Mapping[int, float]) -> None:
    """It has stopped by itself, after its first round and before its last, and within a round of the limit."""
    outcome = stage.outcome()
    assert (outcome.state, outcome.limited) == ("stopped", True)
    assert outcome.version is not None
    assert 0 < outcome.version < ROUNDS
    dearest = max(said[version] - said[version - 1] for version in said if version > 1)
    assert limit_usd - dearest < spent(stage) < limit_usd + dearest


@pytest.mark.parametrize("seed", range(2))
@TOPOLOGIES
def test_a_third_of_the_price_stops_the_run_within_a_round(
    topology: str, seed: int, tmp_path: Path, said: dict[int, float]
) -> None:
    """GIVEN the price of a run WHEN it may cost a third of it THEN it stops within a round of that, and goes on."""
    whole = on_stage(tmp_path / "whole", spec(topology), seed)
    expected = whole.run()
    price = spent(whole)
    stage = on_stage(tmp_path / "limited", spec(topology, max_cost_usd=price / 3), seed)
    said.clear()
    stage.start()
    stage.drain()
    assert_stopped_within_a_round(stage, price / 3, said)
    assert stage.outcome().why.startswith("it has cost $")
    stage.assert_exports_agree()
    answer = stage.control("resume")
    assert "is at a limit: it has cost $" in answer["error"]["message"]
    assert "--max-cost" in answer["error"]["hint"]
    assert stage.outcome().state == "stopped", "a refusal changes nothing"
    assert resumed(stage, max_cost_usd=price * 10) == expected
    assert stage.errors == []


@pytest.mark.parametrize("slow", [{}, {2: 40.0}], ids=["even", "late"])
@TOPOLOGIES
def test_with_a_quorum_a_third_of_the_price_stops_it_as_well(
    topology: str, slow: dict[int, float], tmp_path: Path, said: dict[int, float]
) -> None:
    """Whoever notices it first, and whomever rounds are closed without: what comes out follows from the members."""
    for name in ("whole", "limited"):
        (tmp_path / name).mkdir()
    whole = Uneven(tmp_path / "whole", quorate(topology), slow=slow, seed=3)
    result = whole.run()
    price = spent(whole)
    said.clear()
    stage = Uneven(tmp_path / "limited", quorate(topology, max_cost_usd=price / 3), slow=slow, seed=3)
    stage.start()
    stage.drain()
    assert_stopped_within_a_round(stage, price / 3, said)
    end = resumed(stage, max_cost_usd=None)
    assert bool(stage.witness.missed) == bool(slow)
    stage.spec = whole.spec  # what is replayed takes this machine's time, and is not to be stopped for it
    assert replayed(stage) == end
    assert slow or end == result
    assert stage.errors == []


@pytest.mark.parametrize("most", [1, 6])
@TOPOLOGIES
def test_the_number_of_rounds_is_kept_exactly(topology: str, most: int, tmp_path: Path) -> None:
    """Six are two epochs: they get the record of the second one before the run stops."""
    stage = Stage(tmp_path, spec(topology, max_rounds=most), seed=most)
    stage.start()
    stage.drain()
    outcome = stage.outcome()
    assert (outcome.state, outcome.limited, outcome.version) == ("stopped", True, most)
    assert outcome.why == f"it has done {most} rounds, and may do {most}"
    assert len(stage.epochs()) == most // 3
    assert resumed(stage, max_rounds=None) == undisturbed_of(spec(topology="merge"))


@pytest.mark.parametrize("most", [3, 4])
@TOPOLOGIES
def test_the_number_of_rounds_is_kept_where_nothing_is_scored(topology: str, most: int, tmp_path: Path) -> None:
    """No contribution comes between the last round of an epoch and the first of the next."""
    unscored = {"validation": 0.0, "early_stopping": EarlyStopping(monitor="train_loss"), "epochs": 3}
    whole = spec_of("plain", workers=2, **unscored)
    limits = Limits(max_rounds=most)
    stage = Stage(tmp_path, spec_of("plain", topology=topology, workers=2, limits=limits, **unscored), seed=most)
    stage.start()
    stage.drain()
    outcome = stage.outcome()
    assert (outcome.state, outcome.limited, outcome.version) == ("stopped", True, most)
    assert outcome.why == f"it has done {most} rounds, and may do {most}"
    assert len(stage.epochs()) == 1
    assert resumed(stage, max_rounds=None) == undisturbed_of(whole)


@TOPOLOGIES
def test_a_limit_that_is_reached_with_the_last_round_leaves_the_run_done(topology: str, tmp_path: Path) -> None:
    stage = Stage(tmp_path, spec(topology, max_rounds=ROUNDS), seed=1)
    assert stage.run() == undisturbed_of(spec(topology="merge"))


@TOPOLOGIES
def test_a_limit_that_is_reached_before_the_first_round_leaves_none(topology: str, tmp_path: Path) -> None:
    """Preparing has taken longer than the run may take: whoever begins at a saved version looks first."""
    stage = Stage(tmp_path, spec(topology, max_hours=1e-6), seed=1)
    stage.start()
    stage.drain()
    outcome = stage.outcome()
    assert (outcome.state, outcome.limited, outcome.version) == ("stopped", True, 0)
    assert resumed(stage, max_hours=None) == undisturbed_of(spec("merge"))


@pytest.mark.parametrize("calls", [40, 63])
def test_a_leg_that_comes_late_does_not_stop_a_run_again_that_is_being_resumed(calls: int, tmp_path: Path) -> None:
    """A second delivery, which nobody needed, has found the run at its limit; it goes on when that has been lifted."""
    stage = Stage(tmp_path, spec("sharded", max_rounds=2), seed=1)
    stage.start()
    stage.drain()
    event = next(event for event in reversed(stage.delivered) if event.payload.get("rank") == 0)
    late = stage._begin(replace(event, attempt=2))
    while late.calls < calls and not late.machine.finished:
        stage.step()
    stage.freeze(late, 2.0)
    assert resumed(stage, max_rounds=None) == undisturbed_of(spec("merge"))
    assert stage.errors == []


@TOPOLOGIES
def test_hours_count_from_the_start_and_anew_from_each_resumption(topology: str, tmp_path: Path) -> None:
    whole = on_stage(tmp_path / "whole", spec(topology), 2)
    expected = whole.run()
    third = whole.now / 3
    stage = on_stage(tmp_path / "limited", spec(topology, max_hours=third / HOUR_S), 2)
    stage.start()
    stage.drain()
    stops, versions = 0, [0]
    while (outcome := stage.outcome()).state == "stopped":
        assert outcome.limited
        assert outcome.why.startswith("it may run for ")
        assert stage.now - stage.control("status")["limits"]["since"] >= third
        versions.append(outcome.version or 0)
        stops += 1
        stage.control("resume")
        stage.drain()
    assert 2 <= stops <= 6, "starting takes its time, each time"
    assert versions == sorted(set(versions)), "each time it has got further"
    assert stage.result() == expected


@pytest.mark.parametrize("seed", range(3))
@TOPOLOGIES
def test_accidents_leave_agreement_and_bits_as_they_are(topology: str, seed: int, tmp_path: Path) -> None:
    """GIVEN deaths and doubled events WHEN a limit is reached again and again THEN all ranks stop in the same round."""
    numbers = random.Random(seed)

    def dies_after(event: Event) -> int | None:
        dies = event.role == "worker" and event.attempt == 1 and numbers.random() < 0.2
        return numbers.randrange(120) if dies else None

    stage = Stage(tmp_path, spec(topology, max_rounds=5), seed=seed, dies_after=dies_after, arrivals=shuffled(seed))
    stage.start()
    stage.drain()
    for most in (10, 16, 20):
        outcome = stage.outcome()
        assert (outcome.state, outcome.version) == ("stopped", most - {10: 5, 16: 6, 20: 4}[most])
        stage.assert_exports_agree()
        stage.control("resume", limits={"max_rounds": most})
        stage.drain()
    assert resumed(stage, max_rounds=None) == undisturbed_of(spec(topology="merge"))
    assert all(isinstance(error, Killed) for error in stage.errors)


@TOPOLOGIES
def test_reported_cost_is_a_close_lower_bound_of_the_bill(topology: str, tmp_path: Path) -> None:
    """Where nothing dies, all that is missing is the end of the last invocations, and environments that are not used
    again."""
    stage = Stage(tmp_path, spec(topology), seed=6)
    seconds = 0.0
    done = stage._turn

    def turn(actor: Any) -> None:
        nonlocal seconds
        done(actor)
        if actor.machine.finished and actor.event.role != "control":
            seconds += stage.now - actor.began

    stage._turn = turn  # type: ignore[method-assign]
    stage.run()
    spec_ = stage.spec
    billed = seconds * second_usd(FUNCTIONS["worker"].memory_mb, spec_.basis)
    billed += len(stage.delivered) * invocation_usd(spec_.basis.prices)
    assert 0.6 * billed < spent(stage) <= billed * (1 + 1e-6)


def test_the_limits_that_do_not_fit_are_refused(tmp_path: Path) -> None:
    relay = Relay(tmp_path, spec_of("plain", limits=Limits(max_rounds=2)))
    relay.start()
    relay.drain()
    for wrong in ({"max_rounds": 0}, {"max_cost_usd": -1}, {"max_hours": 0}, {"max_days": 3}):
        answer = relay.control("resume", limits=wrong)
        assert answer["error"]["kind"] == "UsageError", answer
    assert relay.outcome().version == 2
    assert resumed(relay, max_rounds=None) == undisturbed("plain")
