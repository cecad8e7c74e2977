"""The files that a run leaves, and the digest of its weights."""

from __future__ import annotations

import hashlib
import json
from pathlib import Path

import numpy as np
import pytest
from safetensors.numpy import load_file

from core.driver import Relay
from core.specs import spec_of
from estafeta.protocol.finish import state_dict, weights_digest
from estafeta.protocol.snapshot import read_plan
from estafeta.protocol.spec import Plan, Slot
from estafeta.protocol.weights import Weights

PLAN = Plan(
    token="t",
    train_rows=1,
    valid_rows=0,
    steps_per_epoch=1,
    total_steps=1,
    sums=("loss",),
    parameters=(Slot(name="a.w", shape=(2, 3)), Slot(name="b.w", shape=(2,), offset=6)),
    buffers=(Slot(name="a.n", shape=(), dtype="I64"),),
    frozen=(Slot(name="f.w", shape=(2,)),),
    state_dict=(
        ("b.w", "parameter", "b.w"),
        ("a.n", "buffer", "a.n"),
        ("a.w", "parameter", "a.w"),
        ("tied", "parameter", "b.w"),
        ("f.w", "frozen", "f.w"),
    ),
)
WEIGHTS = Weights(1, np.arange(8, dtype=np.float32), {"a.n": np.array(5)})
FROZEN = {"f.w": np.array([9, 9], np.float32)}


def test_the_state_dict_has_its_order_and_its_shapes() -> None:
    tensors = state_dict(PLAN, WEIGHTS, FROZEN)
    assert list(tensors) == ["b.w", "a.n", "a.w", "tied", "f.w"]
    assert tensors["a.w"].tolist() == [[0, 1, 2], [3, 4, 5]]
    assert tensors["b.w"].tolist() == tensors["tied"].tolist() == [6, 7]
    assert tensors["a.n"] == 5


def test_the_digest_is_over_each_parameter_once() -> None:
    raw = np.array([6, 7, 0, 1, 2, 3, 4, 5, 9, 9], "<f4").tobytes()
    assert weights_digest(PLAN, state_dict(PLAN, WEIGHTS, FROZEN)) == hashlib.sha256(raw).hexdigest()


def test_the_digest_can_be_computed_from_the_export(tmp_path: Path) -> None:
    relay = Relay(tmp_path, spec_of("tied", workers=3))
    result = relay.run()
    tensors = load_file(tmp_path / relay.layout.export("final") / "model.safetensors")
    names = ["encoder.weight", "fixed.weight", "fixed.bias", "head.weight", "head.bias"]
    digest = hashlib.sha256(b"".join(tensors[name].tobytes() for name in names)).hexdigest()
    assert result.weights_sha256 == digest
    state = json.loads((tmp_path / relay.layout.export("final") / "state.json").read_text())
    assert state["weights_sha256"] == digest


@pytest.mark.parametrize(("name", "has_state"), [("adam", True), ("convolutional", False)])
def test_the_optimizer_is_exported_if_it_has_a_state(name: str, has_state: bool, tmp_path: Path) -> None:
    relay = Relay(tmp_path, spec_of(name))
    relay.run()
    for which in ("best", "final"):
        folder = tmp_path / relay.layout.export(which)
        assert (folder / "optimizer.safetensors").exists() == has_state
        assert json.loads((folder / "state.json").read_text())["has_optimizer_state"] == has_state
    if has_state:
        vectors = load_file(tmp_path / relay.layout.export("final") / "optimizer.safetensors")
        slots = read_plan(relay.store, relay.layout).parameters
        assert {name: vector.shape for name, vector in vectors.items()} == {
            f"{slot.name}.{moment}": slot.shape for slot in slots for moment in ("exp_avg", "exp_avg_sq")
        }


@pytest.mark.parametrize("stop_at_version", [0, 1, 3])
def test_a_run_that_ends_before_its_first_record_has_a_best_version(stop_at_version: int, tmp_path: Path) -> None:
    relay = Relay(tmp_path, spec_of("plain"))
    relay.start()
    relay.step()
    relay.drain_until(lambda: relay.control("status")["version"] == stop_at_version)
    relay.control("stop")
    relay.drain()
    outcome = relay.outcome()
    assert outcome.state == "stopped"
    assert outcome.version == outcome.best_version >= stop_at_version
    state = json.loads((tmp_path / relay.layout.export("best") / "state.json").read_text())
    assert (state["version"], state["metrics"]) == (outcome.version, {})
