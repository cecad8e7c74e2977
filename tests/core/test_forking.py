"""A fork goes on from a version of another run, with the bits that the other has from there."""

from __future__ import annotations

import json
from pathlib import Path
from typing import Any

import pytest

from estafeta.job.optim import SGD, to_dict
from estafeta.job.stopping import EarlyStopping
from estafeta.protocol.layout import RunLayout
from estafeta.protocol.listing import versions_in
from estafeta.protocol.spec import RunSpec
from estafeta.store.store import TEMPORARY

from .driver import Relay, Result, undisturbed, undisturbed_of
from .faults import Killed, Mortal
from .specs import spec_of
from .stage import Stage

LISTED = "there are: 3, 5, 6"
RESIDENT = pytest.mark.parametrize("topology", ["sharded", "replicated"])


def fork_of(relay: Relay, version: str | int, **changes: Any) -> dict[str, Any]:
    """Ask for a fork named `f`; what control answers."""
    spec = relay.spec.model_copy(update={"run": "f", "token": "fork", **changes})
    return relay.control("fork", version=version, spec=spec.model_dump(mode="json"))


def go_on(relay: Relay) -> Result:
    """Carry out what is left to do for the run and its fork; how the fork ended."""
    relay.drain()
    relay.layout = RunLayout("f")
    relay.spec = RunSpec.model_validate_json(relay.store.read(relay.layout.spec))
    return relay.result()


def assert_same(fork: Result, other: Result) -> None:
    """All that is not about names is the same."""
    for field in ("state", "version", "best_version", "weights_sha256", "epochs"):
        assert getattr(fork, field) == getattr(other, field), field
    for path, digest in other.files.items():
        if path.endswith(".safetensors"):
            assert fork.files[path.replace("runs/r/", "runs/f/")] == digest, path


@pytest.mark.parametrize("version", [0, 1, 3, 4, 6])
def test_a_fork_has_the_bits_of_its_origin(version: int, tmp_path: Path) -> None:
    """An epoch has three steps; the origin goes on meanwhile."""
    relay = Relay(tmp_path, spec_of("dropout"))
    relay.start()
    relay.drain_until(lambda: relay.store.exists(relay.layout.version(version)))
    assert fork_of(relay, version) == {"run": "f", "version": version}
    relay.drain()
    assert relay.result() == undisturbed("dropout")
    assert_same(go_on(relay), undisturbed("dropout"))
    assert relay.spec.origin is not None
    assert relay.spec.origin.model_dump() == {"run": "r", "token": relay.spec.origin.token, "version": version}


@pytest.mark.parametrize("name", ["plain", "adamw", "batch_norm", "tied", "not_validated"])
def test_every_job_can_be_forked(name: str, tmp_path: Path) -> None:
    relay = Relay(tmp_path, spec_of(name))
    relay.start()
    relay.drain_until(lambda: relay.store.exists(relay.layout.version(2)))
    fork_of(relay, 2)
    assert_same(go_on(relay), undisturbed(name))


@RESIDENT
@pytest.mark.parametrize("version", ["best", "final"])
def test_residents_go_on_from_pieces(version: str, topology: str, tmp_path: Path) -> None:
    stage = Stage(tmp_path, spec_of("plain", workers=3, topology=topology), seed=1)
    stage.run()
    assert fork_of(stage, version, epochs=4)["run"] == "f"
    assert_same(go_on(stage), undisturbed_of(spec_of("plain", workers=3, epochs=4)))


@RESIDENT
def test_residents_at_work_can_be_forked(topology: str, tmp_path: Path) -> None:
    stage = Stage(tmp_path, spec_of("plain", topology=topology, rounds_per_invocation=2), seed=2)
    stage.start()

    def saved() -> set[int]:
        return set(versions_in(stage.store.list(stage.layout.weights), 2)) - {0}

    stage.drain_until(lambda: bool(saved()))
    fork_of(stage, max(saved()))
    assert_same(go_on(stage), undisturbed("plain"))


def test_more_epochs_go_on_where_the_origin_ended(tmp_path: Path) -> None:
    relay = Relay(tmp_path, spec_of("plain"))
    relay.run()
    fork_of(relay, "final", epochs=5)
    before = len(relay.delivered)
    assert_same(go_on(relay), undisturbed_of(spec_of("plain", epochs=5)))
    assert len(relay.delivered) - before == 3 * 4 * (2 + 1), "what the origin has done was done again"


def test_a_fork_of_the_final_version_with_nothing_changed_ends_at_once(tmp_path: Path) -> None:
    relay = Relay(tmp_path, spec_of("plain"))
    relay.run()
    fork_of(relay, "final")
    before = len(relay.delivered)
    assert_same(go_on(relay), undisturbed("plain"))
    assert len(relay.delivered) == before + 1


def test_another_rule_judges_the_epochs_anew(tmp_path: Path) -> None:
    """GIVEN a run that stopped early WHEN its fork has no such rule THEN it goes on as if there had been none."""
    early = EarlyStopping(monitor="valid_loss", target=100.0)
    relay = Relay(tmp_path, spec_of("plain", early_stopping=early))
    assert relay.run().version == 3
    fork_of(relay, "final", early_stopping=EarlyStopping())
    assert_same(go_on(relay), undisturbed("plain"))


def test_another_learning_rate_holds_from_there_on(tmp_path: Path) -> None:
    relay = Relay(tmp_path, spec_of("plain"))
    relay.run()
    changed = to_dict(SGD(lr=0.01, momentum=0.9, nesterov=True))
    fork_of(relay, "final", epochs=3, optimizer=changed)
    result = go_on(relay)
    assert result.epochs[:2] == undisturbed("plain").epochs
    assert result.weights_sha256 != undisturbed_of(spec_of("plain", epochs=3)).weights_sha256


def test_a_fork_outlives_its_origin(tmp_path: Path) -> None:
    relay = Relay(tmp_path, spec_of("tied"))
    relay.run()
    fork_of(relay, "best", epochs=3)
    relay.control("clean")
    assert_same(go_on(relay), undisturbed_of(spec_of("tied", epochs=3)))


def test_no_tensor_is_copied(tmp_path: Path) -> None:
    relay = Relay(tmp_path, spec_of("plain"))
    relay.run()
    fork_of(relay, "final")
    for name in ("00000006.safetensors", "00000006.optimizer.safetensors"):
        assert (tmp_path / f"runs/f/weights/{name}").samefile(tmp_path / f"runs/r/weights/{name}")


@pytest.mark.parametrize(
    ("version", "changes", "message", "hint"),
    [
        (2, {}, "r does not have version 2, or does not have it any more", LISTED),
        (99, {}, "r does not have version 99", LISTED),
        (5, {"epochs": 1}, "version 5 is beyond 1 epochs of 3 steps", "-o epochs=2"),
        ("final", {"optimizer": to_dict(SGD(lr=0.1))}, "has kept momentum_buffer", "leave them as they were"),
        ("final", {"early_stopping": EarlyStopping(monitor="valid_f1")}, "the metrics are", "name one of these"),
        ("worst", {}, "does not understand", ""),
        ("final", {"run": "r"}, "There is a run named r already", ""),
    ],
)
def test_impossible_forks_are_refused_and_change_nothing(
    version: str | int, changes: dict[str, Any], message: str, hint: str, tmp_path: Path
) -> None:
    relay = Relay(tmp_path, spec_of("plain"))
    relay.run()
    before = {path: path.read_bytes() for path in tmp_path.rglob("*") if path.is_file()}
    error = fork_of(relay, version, **changes)["error"]
    assert message in error["message"]
    assert hint in error["hint"]
    assert {path: path.read_bytes() for path in tmp_path.rglob("*") if path.is_file()} == before


def test_a_run_at_work_has_no_final_version(tmp_path: Path) -> None:
    relay = Relay(tmp_path, spec_of("plain"))
    relay.start()
    assert "has not been prepared" in fork_of(relay, 0)["error"]["message"]
    relay.step()
    error = fork_of(relay, "final")["error"]
    assert "r is still running" in error["message"]
    assert error["hint"] == "there are: 0"
    assert "no epoch has ended" in fork_of(relay, "best")["error"]["message"]


def test_fork_that_died_can_be_asked_for_again(tmp_path: Path) -> None:
    """After each call: the fork is there or not, and asking again, as the same client, makes it."""
    files = Mortal()
    for calls in range(1, 200, 3):
        relay = Relay(tmp_path / f"{calls}", spec_of("plain", epochs=1, batch_size=36), files=files)
        (tmp_path / f"{calls}").mkdir()
        relay.run()
        files.start(calls)
        try:
            fork_of(relay, "final", epochs=2)
        except Killed:
            files.start(None)
        else:
            break
        assert fork_of(relay, "final", epochs=2)["run"] == "f"
        assert json.loads(relay.store.read("runs/f/plan.json"))["total_steps"] == 2
        if calls % 10 == 0:
            assert_same(go_on(relay), undisturbed_of(spec_of("plain", epochs=2, batch_size=36)))
    assert calls > 40
    assert not [path for path in tmp_path.rglob(f"{TEMPORARY}*") if "runs/r" in str(path)]
