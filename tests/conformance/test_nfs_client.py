"""The imitation is as bad as the real thing: each test shows a measured behaviour of real NFS clients."""

from __future__ import annotations

import errno
from collections.abc import Callable

import pytest

from estafeta.store.files import Reader

from .conftest import ROOT, Nfs
from .nfs_client import NfsClientFiles
from .turns import interleave

F = f"{ROOT}/f"
D = f"{ROOT}/d"

MOSTLY_B = ([0] + [1] * 9) * 9
"""Order of turns in which a poll of B's fits between two requests of A's."""


def opens(files: NfsClientFiles, path: str) -> bool:
    try:
        with files.open(path):
            return True
    except FileNotFoundError:
        return False


def content(reader: Reader) -> bytes:
    buffer = bytearray(reader.size)
    return bytes(buffer[: reader.readinto(buffer, 0)])


def seconds_until(nfs: Nfs, sees: Callable[[], bool]) -> float:
    start = nfs.clock.monotonic()
    while not sees():
        nfs.clock.sleep(1)
    return nfs.clock.monotonic() - start


@pytest.mark.parametrize("look", [opens, NfsClientFiles.exists])
@pytest.mark.parametrize(("polled_s", "latest_s"), [(3, 30), (100, 60)])
def test_a_name_that_was_absent_appears_up_to_a_minute_late(
    nfs: Nfs, look: Callable[[NfsClientFiles, str], bool], polled_s: int, latest_s: int
) -> None:
    for _ in range(polled_s):
        assert not look(nfs.b, F)
        nfs.clock.sleep(1)
    nfs.a.create(F, [b"x"])
    late_s = seconds_until(nfs, lambda: look(nfs.b, F))
    assert latest_s / 3 <= late_s <= latest_s


def test_a_file_may_be_written_from_behind(nfs: Nfs) -> None:
    writer = nfs.a.write(F)
    writer.write([b"c", b"d"], 2)
    with nfs.b.open(F) as reader:
        assert content(reader) == b"\0\0cd"
    writer.write([b"ab"], 0)
    writer.close()
    with nfs.b.open(F) as reader:
        assert content(reader) == b"abcd"


def test_a_name_never_looked_up_is_seen_at_the_first_look(nfs: Nfs) -> None:
    nfs.b.listdir(ROOT)
    nfs.a.create(F, [b"x"])
    assert opens(nfs.b, F)


def test_a_removed_file_still_exists_for_others_but_does_not_open(nfs: Nfs) -> None:
    nfs.a.create(F, [b"x"])
    assert nfs.b.exists(F)
    nfs.a.unlink(F)
    assert nfs.b.exists(F)
    assert not opens(nfs.b, F)
    assert not nfs.b.exists(F)


def test_a_new_folder_is_late_too_and_so_is_all_that_is_in_it(nfs: Nfs) -> None:
    assert not nfs.b.exists(D)
    nfs.a.mkdir(D)
    nfs.a.create(f"{D}/f", [b"x"])
    with pytest.raises(FileNotFoundError):
        nfs.b.listdir(D)
    assert not nfs.b.exists(f"{D}/f")
    assert 10 <= seconds_until(nfs, lambda: nfs.b.exists(f"{D}/f")) <= 30


@pytest.mark.parametrize(
    "call",
    [
        lambda files: files.unlink(F),
        lambda files: files.rename(F, f"{ROOT}/g"),
        lambda files: files.link(F, f"{ROOT}/g"),
        lambda files: files.listdir(D),
        lambda files: files.create(f"{D}/f", [b"x"]),
    ],
)
def test_every_call_believes_a_remembered_absence(nfs: Nfs, call: Callable[[NfsClientFiles], object]) -> None:
    assert not nfs.b.exists(F)
    assert not nfs.b.exists(D)
    nfs.a.create(F, [b"x"])
    nfs.a.mkdir(D)
    with pytest.raises(FileNotFoundError):
        call(nfs.b)
    nfs.b.listdir(ROOT)
    call(nfs.b)


def test_a_refused_mkdir_refreshes_that_name_alone(nfs: Nfs) -> None:
    assert not nfs.b.exists(F)
    assert not nfs.b.exists(D)
    nfs.a.create(F, [b"x"])
    nfs.a.mkdir(D)
    with pytest.raises(FileExistsError):
        nfs.b.mkdir(D)
    assert nfs.b.listdir(D) == []
    assert not nfs.b.exists(F)


def test_listing_sees_it_now_and_so_does_every_look_after_it(nfs: Nfs) -> None:
    assert not opens(nfs.b, F)
    nfs.a.create(F, [b"x"])
    assert not opens(nfs.b, F)
    assert nfs.b.listdir(ROOT) == ["f"]
    assert opens(nfs.b, F)
    nfs.a.unlink(F)
    assert nfs.b.listdir(ROOT) == []


def test_listing_from_the_top_down_finds_a_new_folder_now(nfs: Nfs) -> None:
    assert not nfs.b.exists(f"{D}/f")
    nfs.a.mkdir(D)
    nfs.a.create(f"{D}/f", [b"x"])
    nfs.b.listdir(ROOT)
    assert nfs.b.listdir(D) == ["f"]
    assert nfs.b.exists(f"{D}/f")


def test_a_change_of_ones_own_after_that_of_another_ends_remembered_absence(nfs: Nfs) -> None:
    assert not nfs.b.exists(F)
    nfs.a.create(F, [b"x"])
    nfs.b.create(f"{ROOT}/scratch", [])
    assert nfs.b.exists(F)


def test_a_change_of_ones_own_before_that_of_another_does_not(nfs: Nfs) -> None:
    assert not nfs.b.exists(F)
    nfs.b.create(f"{ROOT}/scratch", [])
    nfs.a.create(F, [b"x"])
    assert not nfs.b.exists(F)


def test_a_folder_removed_elsewhere_is_looked_up_anew(nfs: Nfs) -> None:
    nfs.a.mkdir(D)
    assert nfs.b.listdir(D) == []
    nfs.a.rmdir(D)
    nfs.a.mkdir(D)
    assert nfs.b.listdir(D) == []
    nfs.a.rmdir(D)
    with pytest.raises(FileNotFoundError):
        nfs.b.listdir(D)


def test_a_refused_link_refreshes_that_name(nfs: Nfs) -> None:
    assert not opens(nfs.b, F)
    nfs.b.create(f"{ROOT}/mine", [b"b"])
    nfs.a.create(F, [b"a"])
    assert not opens(nfs.b, F)
    with pytest.raises(FileExistsError):
        nfs.b.link(f"{ROOT}/mine", F)
    with nfs.b.open(F) as reader:
        assert content(reader) == b"a"


def test_a_file_created_in_place_is_seen_empty_and_short(nfs: Nfs) -> None:
    seen: set[bytes] = set()

    def look() -> None:
        for _ in range(12):
            if nfs.b.listdir(ROOT):
                with nfs.b.open(F) as reader:
                    seen.add(content(reader))

    interleave(MOSTLY_B, lambda: nfs.a.create(F, [b"one", b"two"]), look)
    assert seen == {b"", b"one", b"onetwo"}


def test_two_machines_that_append_lose_a_record(nfs: Nfs) -> None:
    nfs.b.listdir(ROOT)
    interleave([], lambda: nfs.a.append(F, b"a\n"), lambda: nfs.b.append(F, b"b\n"))
    with nfs.a.open(F) as reader:
        assert reader.size < len(b"a\nb\n")


def remove(files: NfsClientFiles) -> None:
    files.unlink(F)


def replace(files: NfsClientFiles) -> None:
    files.create(f"{ROOT}/new", [b"new"])
    files.rename(f"{ROOT}/new", F)


@pytest.mark.parametrize("lose_it", [remove, replace])
def test_a_file_removed_elsewhere_can_be_read_until_the_server_restarts(
    nfs: Nfs, lose_it: Callable[[NfsClientFiles], None]
) -> None:
    nfs.a.create(F, [b"old"])
    with nfs.b.open(F) as reader:
        lose_it(nfs.a)
        assert content(reader) == b"old"
        nfs.server.restart()
        with pytest.raises(OSError, match="Stale") as caught:
            content(reader)
    assert caught.value.errno == errno.ESTALE


def test_a_file_with_another_name_survives_a_restart(nfs: Nfs) -> None:
    nfs.a.create(F, [b"old"])
    with nfs.b.open(F) as reader:
        nfs.a.link(F, f"{ROOT}/kept")
        nfs.a.unlink(F)
        nfs.server.restart()
        assert content(reader) == b"old"


@pytest.mark.parametrize("lose_it", [remove, replace])
def test_ones_own_open_file_is_kept_under_another_name_until_it_is_closed(
    nfs: Nfs, lose_it: Callable[[NfsClientFiles], None]
) -> None:
    nfs.a.create(F, [b"old"])
    with nfs.a.open(F) as reader:
        lose_it(nfs.a)
        nfs.server.restart()
        assert content(reader) == b"old"
        (kept,) = (name for name in nfs.b.listdir(ROOT) if name.startswith(".nfs"))
        with pytest.raises(OSError, match="busy") as caught:
            nfs.a.unlink(f"{ROOT}/{kept}")
        assert caught.value.errno == errno.EBUSY
    assert not [name for name in nfs.b.listdir(ROOT) if name.startswith(".nfs")]
