"""What is left of a run that was cleaned: nothing, or its exports and records."""

from __future__ import annotations

import base64
from pathlib import Path
from typing import Any

import pytest

from core.driver import Relay
from core.faults import Killed, Mortal
from core.specs import CODE, spec_of
from core.stage import Stage
from estafeta.protocol.layout import RunLayout
from estafeta.protocol.spec import Status
from estafeta.store.store import TEMPORARY, temporary_name

KEPT = {
    "run.json",
    "plan.json",
    "ending.json",
    "done.json",
    "epochs/0001.json",
    "epochs/0002.json",
    *(
        f"{which}/{file}"
        for which in ("best", "final")
        for file in ("model.safetensors", "optimizer.safetensors", "state.json")
    ),
}


@pytest.fixture
def relay(tmp_path: Path) -> Relay:
    relay = Relay(tmp_path, spec_of("plain"))
    relay.run()
    return relay


def files_in(root: Path) -> set[str]:
    return {str(path.relative_to(root)) for path in root.rglob("*") if path.is_file()}


def leave_behind(root: Path) -> None:
    """What writers that died, and NFS clients, leave in each folder."""
    for folder in [root, *(path for path in root.rglob("*") if path.is_dir())]:
        (folder / temporary_name("draft")).write_bytes(b"half a file")
        (folder / ".nfs0000000000000001").write_bytes(b"")


@pytest.mark.parametrize("topology", ["merge", "sharded", "replicated"])
def test_leftovers_go_with_their_run(topology: str, tmp_path: Path) -> None:
    stage = Stage(tmp_path, spec_of("plain", topology=topology), seed=1)
    stage.run()
    leave_behind(tmp_path / stage.layout.root)
    assert stage.control("clean") == {"run": "r"}
    assert {path.name for path in tmp_path.rglob("*")} == {"runs"}


def test_stripping_that_was_killed_can_be_repeated(tmp_path: Path) -> None:
    """After each call, until it needs no more of them."""
    files = Mortal()
    for calls in range(1, 200, 3):
        relay = Relay(tmp_path, spec_of("plain"), files=files)
        relay.run()
        files.start(calls)
        try:
            relay.control("clean", keep_final=True)
        except Killed:
            files.start(None)
        else:
            break
        relay.control("clean", keep_final=True)
        assert files_in(tmp_path / relay.layout.root) == KEPT
        relay.control("clean")
    assert calls > 20


def test_only_exports_and_records_are_kept(relay: Relay, tmp_path: Path) -> None:
    status = Status.model_validate(relay.control("status", since_epoch=0))
    exported = relay.control("fetch", which="best")
    for _ in range(2):
        leave_behind(tmp_path / relay.layout.root)
        assert relay.control("clean", keep_final=True) == {"run": "r"}
        published = {name for name in files_in(tmp_path / relay.layout.root) if "/.nfs" not in f"/{name}"}
        assert published == KEPT
    assert Status.model_validate(relay.control("status", since_epoch=0)) == status
    assert relay.control("fetch", which="best") == exported
    relay.control("clean")
    assert files_in(tmp_path) == set()


def test_a_run_without_weights_cannot_go_on(tmp_path: Path) -> None:
    relay = Relay(tmp_path, spec_of("plain"))
    relay.start()
    relay.drain_until(lambda: relay.control("status")["version"] == 2)
    relay.control("stop")
    relay.drain()
    relay.control("clean", keep_final=True)
    assert "was cleaned" in relay.control("resume")["error"]["message"]
    spec = relay.spec.model_copy(update={"run": "f", "token": "fork"}).model_dump(mode="json")
    error = relay.control("fork", version="final", spec=spec)["error"]
    assert "does not have version 2" in error["message"]
    assert error["hint"] == "there are none"
    status = relay.control("status")
    assert (status["state"], status["version"], status["total_steps"]) == ("stopped", 2, 6)
    assert files_in(tmp_path / RunLayout("f").root) == set()


FAILING = (
    CODE["jobs.py"]
    + """
def fails(output, target):
    fails.calls += 1
    if fails.calls > 12:
        raise ValueError("enough")
    return nn.functional.cross_entropy(output, target)
fails.calls = 0
plain = _like_plain(loss=fails)
"""
)


def test_a_failed_run_exports_its_last_good_version_first(tmp_path: Path) -> None:
    relay = Relay(tmp_path, spec_of("plain"), {"jobs.py": FAILING})
    relay.run_to_failure()
    root = tmp_path / relay.layout.root
    assert not (root / "final/model.safetensors").exists()
    relay.control("clean", keep_final=True)
    assert (root / "final/model.safetensors").exists()
    assert not (root / "weights").exists()
    answer: dict[str, Any] = relay.control("fetch", which="final", file="state.json")
    assert b'"run": "r"' in base64.b64decode(answer["data"])


def test_a_run_that_never_had_weights_keeps_its_records(tmp_path: Path) -> None:
    relay = Relay(tmp_path, spec_of("plain", workers=1000))
    relay.run_to_failure()
    relay.control("clean", keep_final=True)
    assert files_in(tmp_path / relay.layout.root) == {"run.json", "failed.json"}
    assert not list(tmp_path.rglob(f"{TEMPORARY}*"))
