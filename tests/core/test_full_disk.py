"""The disk is full from some file on. Nothing short is ever seen, the run says why it failed, and it can be resumed."""

from __future__ import annotations

from pathlib import Path

import pytest

from estafeta.protocol.ending import RESERVE_BYTES

from .driver import Relay, Result
from .faults import Disk
from .specs import spec_of
from .stage import Stage

SPEC = {"epochs": 2, "batch_size": 18}
"""Two steps in an epoch."""


@pytest.fixture(scope="module")
def undisturbed(tmp_path_factory: pytest.TempPathFactory) -> tuple[Result, int]:
    """The result, and the number of files that are written for it."""
    disk = Disk()
    result = Relay(tmp_path_factory.mktemp("undisturbed"), spec_of("plain", **SPEC), files=disk).run()
    return result, disk.files


def test_any_file_may_be_the_one_that_does_not_fit(undisturbed: tuple[Result, int], tmp_path: Path) -> None:
    expected, files = undisturbed
    for full_from in range(1, files + 1):
        disk = Disk(full_from)
        relay = Relay(new_folder(tmp_path, full_from), spec_of("plain", **SPEC), files=disk)
        relay.on_error = lambda event, relay=relay: relay.assert_whole()
        started = start(relay)
        relay.drain()
        relay.assert_whole()
        assert disk.refusals > 0
        disk.extend()
        if not started:
            relay.start()
        elif full_from == files:  # `done.json`, for which the reserve is given up
            assert relay.outcome().state == "done"
        else:
            assert_failed_for_want_of_room(relay)
            relay.control("resume")
        relay.drain()
        assert relay.result() == expected, full_from


def new_folder(tmp_path: Path, number: int) -> Path:
    folder = tmp_path / str(number)
    folder.mkdir()
    return folder


def assert_failed_for_want_of_room(relay: Relay) -> None:
    failure = relay.outcome().failure
    assert failure is not None
    assert failure.reason == "DiskFull"
    assert "No space left on device" in failure.message
    assert failure.exit_code == 3


def start(relay: Relay) -> bool:
    """Whether there was room for the files of a new run. If not, there is no run."""
    try:
        relay.start()
    except OSError:
        assert relay.control("status")["error"]["kind"] == "RunNotFound"
        return False
    return True


@pytest.mark.parametrize("topology", ["replicated", "sharded"])
@pytest.mark.parametrize("full_after", [3, 6, 14])
def test_residents_fill_the_disk(
    topology: str, full_after: int, undisturbed: tuple[Result, int], tmp_path: Path
) -> None:
    """With a contribution that is being written, a slice, or a version that is saved."""
    disk = Disk()
    stage = Stage(tmp_path, spec_of("plain", topology=topology, **SPEC), files=disk)
    stage.start()
    disk.fill(after=full_after)
    stage.drain()
    assert_failed_for_want_of_room(stage)
    disk.extend()
    stage.control("resume")
    stage.drain()
    assert stage.result() == undisturbed[0]


def test_the_last_words_need_the_reserve(tmp_path: Path) -> None:
    disk = Disk()
    relay = Relay(tmp_path, spec_of("plain", **SPEC), files=disk)
    relay.start()
    reserve = tmp_path / relay.layout.reserve
    assert reserve.stat().st_size == RESERVE_BYTES
    disk.fill()
    relay.drain()
    assert relay.outcome().state == "failed"
    assert not reserve.exists()
    assert (tmp_path / relay.layout.outcome("failed")).stat().st_size < RESERVE_BYTES


def test_a_run_is_not_resumed_before_there_is_room(tmp_path: Path) -> None:
    disk = Disk()
    relay = Relay(tmp_path, spec_of("plain", **SPEC), files=disk)
    relay.start()
    disk.fill()
    relay.drain()
    disk.fill()
    with pytest.raises(OSError, match="No space"):
        relay.control("resume")
    relay.drain()
    assert relay.control("status")["state"] == "failed"
    disk.extend()
    relay.control("resume")
    relay.drain()
    assert relay.outcome().state == "done"
    assert (tmp_path / relay.layout.reserve).exists()


def test_a_stopped_run_is_resumed_after_the_disk_was_full(undisturbed: tuple[Result, int], tmp_path: Path) -> None:
    """`stop` itself does not fit, or the export that follows it."""
    expected, _ = undisturbed
    for full_after in range(8):
        disk = Disk()
        relay = Relay(new_folder(tmp_path, full_after), spec_of("plain", **SPEC), files=disk)
        relay.start()
        relay.drain_until(lambda relay=relay: relay.control("status")["version"] == 3)
        disk.fill(after=full_after)
        if full_after:
            relay.control("stop")
        else:
            with pytest.raises(OSError, match="No space"):
                relay.control("stop")
        relay.drain()
        assert relay.outcome().state in ("failed", "stopped")
        relay.assert_whole()
        disk.extend()
        relay.control("resume")
        relay.drain()
        assert relay.result() == expected
