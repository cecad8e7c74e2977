"""A run ends once, and says why even when nothing else can be written."""

from __future__ import annotations

import errno
import os
from pathlib import Path

import pytest

from conformance.faults import Failing
from core.faults import Disk
from estafeta.protocol.ending import RESERVE_BYTES, fail, publish_outcome
from estafeta.protocol.invocation import Invocation
from estafeta.protocol.layout import RunLayout
from estafeta.protocol.run_folder import RunFolder
from estafeta.protocol.spec import Failure, Outcome
from estafeta.store.files import Files, OsFiles
from estafeta.store.store import Store

LAYOUT = RunLayout("r")


def invocation_on(root: Path, files: Files | None = None) -> Invocation:
    store = Store(root, files)
    Store(root).make_directories(LAYOUT.root)
    return Invocation(
        store,
        lambda functions: None,
        "the-request",
        lambda: 1.0,
        "estafeta-worker",
        "the group",
        "the stream",
        quiet=True,
    )  # type: ignore[arg-type]


def outcome_of(root: Path, state: str) -> Outcome:
    return Outcome.model_validate_json((root / LAYOUT.outcome(state)).read_bytes())


def folder_of(invocation: Invocation) -> RunFolder:
    return RunFolder(invocation.store, LAYOUT.run)


def stopped(token: str) -> Outcome:
    return Outcome(token=token, state="stopped", why="on request", ended_at=1.0)


def test_a_run_ends_once(tmp_path: Path) -> None:
    invocation = invocation_on(tmp_path)
    assert publish_outcome(folder_of(invocation), stopped("first"))
    assert not publish_outcome(folder_of(invocation), stopped("second"))
    fail(folder_of(invocation), invocation, Failure(reason="Late", message="too late"))
    assert outcome_of(tmp_path, "stopped").token == "first"
    assert not (tmp_path / LAYOUT.outcome("failed")).exists()


def test_a_failure_says_where_its_log_is(tmp_path: Path) -> None:
    invocation = invocation_on(tmp_path)
    fail(folder_of(invocation), invocation, Failure(reason="Broken", message="It is broken", rank=3))
    outcome = outcome_of(tmp_path, "failed")
    assert outcome.why == "It is broken"
    assert outcome.failure == Failure(
        reason="Broken",
        message="It is broken",
        rank=3,
        function="estafeta-worker",
        request_id="the-request",
        log_group="the group",
        log_stream="the stream",
    )


def test_failure_keeps_the_place_that_it_names(tmp_path: Path) -> None:
    told = Failure(reason="Killed", message="", function="merge", request_id="1", log_group="g", log_stream="s")
    invocation = invocation_on(tmp_path)
    fail(folder_of(invocation), invocation, told)
    assert outcome_of(tmp_path, "failed").failure == told


def test_the_reserve_is_given_up_for_the_last_words(tmp_path: Path) -> None:
    disk = Disk()
    invocation = invocation_on(tmp_path, disk)
    invocation.store.publish(LAYOUT.reserve, [b"t".ljust(RESERVE_BYTES)], "t")
    disk.fill()
    fail(folder_of(invocation), invocation, Failure(reason="DiskFull", message="The store is full"))
    assert sorted(os.listdir(tmp_path / LAYOUT.root)) == ["failed.json"]


@pytest.mark.parametrize("code", [errno.ENOSPC, errno.EDQUOT])
def test_without_a_reserve_the_error_is_raised(code: int, tmp_path: Path) -> None:
    invocation = invocation_on(tmp_path, Failing(OsFiles(), "create", code))
    with pytest.raises(OSError, match=os.strerror(code)):
        publish_outcome(folder_of(invocation), stopped("t"))


def test_the_reserve_is_for_full_disks_only(tmp_path: Path) -> None:
    invocation = invocation_on(tmp_path, Failing(OsFiles(), "create", errno.EIO))
    Store(tmp_path).publish(LAYOUT.reserve, [b"t"], "t")
    with pytest.raises(OSError, match="Input/output"):
        publish_outcome(folder_of(invocation), stopped("t"))
    assert (tmp_path / LAYOUT.reserve).exists()
