"""The kernel's report of new names."""

from __future__ import annotations

import os
import time
from pathlib import Path

import pytest

from estafeta.store.files import OsFiles
from estafeta.store.inotify import LOCAL, Inotify, filesystem_of

LONG_S = 30.0
"""Seconds of a wait; a shorter one was ended by a name."""


def open_descriptors() -> int:
    return len(os.listdir("/proc/self/fd"))


@pytest.fixture
def directories(tmp_path: Path) -> list[str]:
    for name in ("a", "b"):
        (tmp_path / name).mkdir()
    (tmp_path / "source").write_bytes(b"x")
    return [str(tmp_path / "a"), str(tmp_path / "b")]


@pytest.mark.parametrize("act", [os.link, os.rename], ids=["link", "rename"])
def test_a_name_that_appears_in_any_of_the_directories_ends_the_wait(
    act: object, directories: list[str], tmp_path: Path
) -> None:
    watch = Inotify(directories)
    act(tmp_path / "source", tmp_path / "b/f")  # type: ignore[operator]
    began = time.monotonic()
    watch.wait(LONG_S)
    assert time.monotonic() - began < LONG_S
    watch.close()


def test_a_name_is_reported_once_and_writing_to_it_not_at_all(directories: list[str], tmp_path: Path) -> None:
    """The second wait lasts until its time is up: an earlier name does not end it."""
    watch = Inotify(directories)
    os.link(tmp_path / "source", tmp_path / "a/f")
    watch.wait(LONG_S)
    (tmp_path / "a/f").write_bytes(b"more")
    (tmp_path / "a/f").unlink()
    began = time.monotonic()
    watch.wait(0.01)
    assert time.monotonic() - began >= 0.01
    watch.close()


def test_a_directory_that_is_not_there_is_an_error_and_leaves_nothing_open(directories: list[str]) -> None:
    Inotify(directories).close()
    before = open_descriptors()
    with pytest.raises(FileNotFoundError):
        Inotify([*directories, f"{directories[0]}/missing"])
    assert open_descriptors() == before


def test_closing_lets_go(directories: list[str]) -> None:
    before = open_descriptors()
    watch = Inotify(directories)
    assert open_descriptors() == before + 1
    watch.close()
    assert open_descriptors() == before


def test_the_type_of_a_file_system_is_known() -> None:
    assert filesystem_of("/proc") == "proc"
    assert "proc" not in LOCAL
    assert not any(name.startswith(("nfs", "fuse")) for name in LOCAL)


def test_file_systems_of_other_machines_are_not_watched(directories: list[str]) -> None:
    files = OsFiles()
    assert files.watch(["/proc"]) is None
    assert files.watch([*directories, "/proc"]) is None
