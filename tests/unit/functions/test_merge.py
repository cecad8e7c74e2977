"""The life of one merge invocation. What becomes of many is in `tests/core`."""

from __future__ import annotations

import math
from collections.abc import Mapping
from dataclasses import replace
from pathlib import Path
from typing import Any

import pytest

from core.driver import Relay, undisturbed
from core.environment import forget
from core.events import Event, failure_record
from core.specs import spec_of
from estafeta.functions import merge as module
from estafeta.protocol.layout import Round, claim_of, contribution_name
from estafeta.protocol.listing import version_of, versions_in
from estafeta.protocol.spec import MergeEvent, Role, WorkerEvent


def at_merge(tmp_path: Path, round_: str, **changes: Any) -> tuple[Relay, Event]:
    """A run whose next event is the merge of a round."""
    relay = Relay(tmp_path, spec_of("plain", **changes))
    relay.start()
    relay.drain_until(lambda: bool(relay.queued()) and relay.queued()[0].payload.get("round") == round_)
    return relay, relay.queued()[0]


def merge(relay: Relay, round_: str = "") -> str:
    return str(relay.call("merge", MergeEvent(run="r", round=round_).model_dump())["done"])


def workers_queued(relay: Relay) -> list[tuple[str, int, int]]:
    return [(e.payload["task"], e.payload["version"], e.payload["rank"]) for e in relay.queued() if e.role == "worker"]


def test_a_round_is_merged_and_the_next_begun(tmp_path: Path) -> None:
    relay, event = at_merge(tmp_path, "train-00000000")
    assert relay.redeliver(event)["done"] == "merged train-00000000, invoked 2 workers"
    relay.drop()
    assert workers_queued(relay) == [("train", 1, 0), ("train", 1, 1)]
    assert versions_in(relay.store.list(relay.layout.weights)) == {0, 1}


def test_another_hint_finds_the_workers_at_it(tmp_path: Path) -> None:
    relay, _ = at_merge(tmp_path, "train-00000000")
    relay.step()
    queued = len(relay.queued())
    for round_ in ("train-00000000", "train-00000001", ""):
        assert merge(relay, round_) == "left: the workers are at it"
    assert len(relay.queued()) == queued


ROUNDS = pytest.mark.parametrize("round_", ["train-00000000", "train-00000002", "valid-00000003"])


@ROUNDS
@pytest.mark.parametrize("calls", [0, 1, 2])
def test_a_retry_invokes_the_workers_again(round_: str, calls: int, tmp_path: Path) -> None:
    """It was killed when its version was published, or its record, before or between its calls."""
    relay, event = at_merge(tmp_path, round_)
    relay.step()
    began = workers_queued(relay)
    assert len(began) == 2
    for _ in range(2 - calls):
        relay.lose_last()
    forget()
    assert relay.redeliver(event)["done"] == "invoked 2 workers"
    assert workers_queued(relay)[calls:] == began
    relay.drain()
    assert relay.outcome().state == "done"


@ROUNDS
def test_a_retry_in_the_same_environment_invokes_the_workers(
    round_: str, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """A call was refused, so the function raised."""
    relay, _ = at_merge(tmp_path, round_)

    def refuse(role: Role, event: Mapping[str, Any]) -> None:
        monkeypatch.undo()
        raise ConnectionRefusedError

    monkeypatch.setattr(relay, "send", refuse)
    relay.step()
    assert workers_queued(relay) == []
    relay.step()
    assert len(workers_queued(relay)) == 2
    relay.drain()
    assert relay.outcome().state == "done"


@ROUNDS
def test_a_duplicate_in_the_same_environment_invokes_nobody(round_: str, tmp_path: Path) -> None:
    relay, event = at_merge(tmp_path, round_)
    relay.step()
    queued = relay.queued()
    assert relay.redeliver(event)["done"] == "left: the workers are at it"
    assert relay.queued() == queued


def test_a_retry_invokes_the_workers_of_whatever_round_it_got_to(tmp_path: Path) -> None:
    """The first attempt was a late delivery, merged another round than the event's, and could not invoke them all."""
    relay, event = at_merge(tmp_path, "train-00000001")
    relay.redeliver(event)
    while relay.queued():
        relay.drop()
    forget()
    late = replace(event, payload=MergeEvent(run="r", round="train-00000000").model_dump())
    assert relay.redeliver(late)["done"] == "invoked 2 workers"


def test_control_invokes_the_workers_of_a_merge_that_was_given_up_beyond_its_round(tmp_path: Path) -> None:
    relay, event = at_merge(tmp_path, "train-00000001")
    relay.redeliver(event)
    while relay.queued():
        relay.drop()
    for token, workers in ("another", 0), (event.token, 2):
        late = replace(event, token=token, payload=MergeEvent(run="r", round="train-00000000").model_dump())
        relay.call("control", failure_record(late, "ConnectionRefusedError", ""))
        assert len(workers_queued(relay)) == workers
    relay.drain()
    assert relay.result() == undisturbed("plain", 2)


def test_a_round_that_lacks_a_rank_is_not_merged(tmp_path: Path) -> None:
    relay = Relay(tmp_path, spec_of("plain", workers=3))
    relay.start()
    relay.drain_until(lambda: len(relay.store.list(relay.layout.contributions)) == 2)
    assert merge(relay, "train-00000000") == "left: the workers are at it"
    assert versions_in(relay.store.list(relay.layout.weights)) == {0}


def test_a_run_that_has_ended_is_left_alone(tmp_path: Path) -> None:
    relay = Relay(tmp_path, spec_of("plain"))
    relay.run()
    before = {path: path.stat().st_mtime_ns for path in tmp_path.rglob("*")}
    assert merge(relay, "valid-00000006") == "left: nothing to do"
    assert {path: path.stat().st_mtime_ns for path in tmp_path.rglob("*")} == before


def test_a_run_that_is_not_prepared_is_left_alone(tmp_path: Path) -> None:
    relay = Relay(tmp_path, spec_of("plain"))
    relay.start()
    assert merge(relay) == "left: nothing to do"


def test_the_second_of_two_merges_leaves(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """Both have summed; the other has published, and swept what this one has just read."""
    relay, event = at_merge(tmp_path, "train-00000000")
    plain = module.advance

    def advance_slowly(*arguments: Any) -> None:
        plain(*arguments)
        monkeypatch.setattr(module, "advance", plain)
        assert merge(relay, "train-00000000") == "merged train-00000000, invoked 2 workers"

    monkeypatch.setattr(module, "advance", advance_slowly)
    assert relay.redeliver(event)["done"] == "left: another merge was first"
    assert len(workers_queued(relay)) == 2


def test_an_attempt_that_broke_off_leaves_nothing_in_memory(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """The step has changed the parameters in place when memory runs out; the retry finds the same environment."""
    relay, _ = at_merge(tmp_path, "train-00000001")
    plain = module.advance

    def advance_and_break(weights: Any, *others: Any) -> None:
        monkeypatch.setattr(module, "advance", plain)
        weights.parameters += 1
        raise MemoryError

    monkeypatch.setattr(module, "advance", advance_and_break)
    relay.drain()
    assert len(relay.errors) == 1
    assert relay.result() == undisturbed("plain")


def test_the_merge_sweeps_what_no_step_needs(tmp_path: Path) -> None:
    relay, _ = at_merge(tmp_path, "train-00000004")
    relay.step()
    store, layout = relay.store, relay.layout
    assert relay.control("status")["version"] == 5
    assert versions_in(store.list(layout.weights)) == {3, 4, 5}, "3 is the best so far"
    assert {version_of(name) for name in store.list(layout.weights)} == {3, 4, 5}
    assert store.list(layout.contributions) == frozenset()
    assert store.list(layout.legs) == frozenset()
    relay.step()
    assert store.list(layout.contributions) == {contribution_name(Round(5, "train"), 0)}


def test_a_late_merge_sweeps_nothing_that_a_later_one_needs(tmp_path: Path) -> None:
    """The first round's merge, delivered again when the run is two rounds further."""
    relay, event = at_merge(tmp_path, "train-00000000")
    relay.drain_until(lambda: relay.control("status")["version"] == 2)
    relay.step()
    before = {name: relay.store.list(name) for name in relay.layout.directories()}
    assert relay.redeliver(event)["done"] == "left: the workers are at it"
    assert {name: relay.store.list(name) for name in relay.layout.directories()} == before


def test_train_metrics_are_those_of_the_epoch_alone(tmp_path: Path) -> None:
    """With a learning rate of 0 and whole epochs, every epoch has the same loss."""
    relay = Relay(tmp_path, spec_of("plain", optimizer={"name": "SGD", "lr": 0.0}, epochs=3))
    relay.run()
    losses = [record.metrics["train_loss"] for record in relay.epochs()]
    assert losses == pytest.approx([losses[0]] * 3, rel=1e-6)
    assert [record.version for record in relay.epochs()] == [3, 6, 9]
    assert all(math.isfinite(record.metrics["train_accuracy"]) for record in relay.epochs())


def test_a_contribution_that_is_broken_fails_the_run(tmp_path: Path) -> None:
    relay, _ = at_merge(tmp_path, "train-00000001")
    path = tmp_path / relay.layout.contribution(Round(1, "train"), 1)
    content = bytearray(path.read_bytes())
    content[-1] ^= 1
    path.write_bytes(content)
    relay.drain()
    failure = relay.outcome().failure
    assert failure is not None
    assert (failure.reason, failure.round, failure.exit_code) == ("Corrupt", "train-00000001", 3)
    assert "contributions/train-00000001-0001 is damaged" in failure.message


def test_a_claim_is_for_hints_alone(tmp_path: Path) -> None:
    """Whoever is invoked merges; the claim only keeps the workers from all invoking the merge."""
    relay, _ = at_merge(tmp_path, "train-00000000")
    assert relay.store.list(relay.layout.legs) == {f"{claim_of(Round(0, 'train'))}.g00"}
    assert merge(relay) == "merged train-00000000, invoked 2 workers"
    assert WorkerEvent.model_validate(relay.queued()[-1].payload).version == 1
