"""The preparation publishes version 0 and then the plan, and any worker publishes the same ones."""

from __future__ import annotations

from pathlib import Path

import numpy as np
import pytest
import torch

from core import jobs
from core.driver import Relay
from core.faults import Killed, Mortal
from core.specs import spec_of
from estafeta.protocol.snapshot import read_plan
from estafeta.protocol.spec import Slot
from estafeta.protocol.weights import read_state, read_weights


def prepared(tmp_path: Path, name: str, **changes: object) -> Relay:
    relay = Relay(tmp_path, spec_of(name, **changes))
    relay.start()
    relay.step()
    return relay


def test_the_plan_counts_rows_steps_and_parameters(tmp_path: Path) -> None:
    relay = prepared(tmp_path, "plain")
    plan = read_plan(relay.store, relay.layout)
    assert (plan.train_rows, plan.valid_rows, plan.steps_per_epoch, plan.total_steps) == (36, 12, 3, 6)
    assert plan.size == 123
    assert plan.parameters[0] == Slot(name="0.weight", shape=(12, 6))


def test_the_plan_knows_buffers_and_frozen_tensors(tmp_path: Path) -> None:
    relay = prepared(tmp_path, "tied")
    plan = read_plan(relay.store, relay.layout)
    assert [slot.name for slot in plan.parameters] == ["encoder.weight", "head.weight", "head.bias"]
    assert plan.buffers == (Slot(name="seen", shape=(), dtype="F64"), Slot(name="offset", shape=(2,), dtype="I64"))
    assert [slot.name for slot in plan.frozen] == ["fixed.weight", "fixed.bias"]
    assert relay.store.exists(relay.layout.frozen)
    assert ("decoder.weight", "parameter", "encoder.weight") in plan.state_dict


@pytest.mark.parametrize(("drop_last", "steps"), [(False, 3), (True, 2)])
def test_the_last_batch_counts_unless_it_is_dropped(drop_last: bool, steps: int, tmp_path: Path) -> None:
    relay = prepared(tmp_path, "plain", drop_last=drop_last)
    assert read_plan(relay.store, relay.layout).steps_per_epoch == steps


def test_version_0_is_the_model_as_it_was_made(tmp_path: Path) -> None:
    relay = prepared(tmp_path, "adam")
    torch.manual_seed(jobs.adam.seed)
    expected = torch.nn.utils.parameters_to_vector(jobs.mlp().parameters()).detach()
    np.testing.assert_array_equal(read_weights(relay.store, relay.layout, 0).parameters, expected)
    state = read_state(relay.store, relay.layout, 0)
    assert set(state) == {"exp_avg", "exp_avg_sq"}
    assert not any(vector.any() for vector in state.values())


@pytest.mark.parametrize("calls", range(1, 30))
def test_a_run_with_a_plan_has_weights(calls: int, tmp_path: Path) -> None:
    files = Mortal()
    relay = Relay(tmp_path, spec_of("tied"), files=files)
    relay.start()
    relay.on_delivery = lambda event: files.start(calls if event.attempt == 1 else None)
    relay.step()
    if relay.store.exists(relay.layout.plan):
        assert relay.store.exists(relay.layout.version(0))
        assert relay.store.exists(relay.layout.optimizer(0))
        assert relay.store.exists(relay.layout.frozen)
    assert all(isinstance(error, Killed) for error in relay.errors)


def test_preparing_again_changes_nothing_and_sets_the_run_going(tmp_path: Path) -> None:
    relay = prepared(tmp_path, "plain")
    before = {path: path.read_bytes() for path in tmp_path.rglob("*.*") if path.is_file()}
    while relay.queued():
        relay.drop()
    relay.send("worker", relay.delivered[0].payload)
    relay.step()
    assert {path: path.read_bytes() for path in tmp_path.rglob("*.*") if path.is_file()} == before
    relay.drain()
    assert relay.outcome().state == "done"
