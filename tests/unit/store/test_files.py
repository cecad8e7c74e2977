"""The operating system's calls, as the store relies on them."""

from __future__ import annotations

import errno
import os
import shutil
from pathlib import Path

import numpy as np
import pytest

from estafeta.store.files import IOV_MAX, OsFiles, SystemClock, free_bytes

FILES = OsFiles()


def open_descriptors() -> int:
    return len(os.listdir("/proc/self/fd"))


def read(path: Path, offset: int = 0, room: int = 100) -> bytes:
    buffer = bytearray(room)
    with FILES.open(str(path)) as reader:
        return bytes(buffer[: reader.readinto(buffer, offset)])


def test_create_writes_all_kinds_of_buffers_in_order(tmp_path: Path) -> None:
    numbers = np.arange(3, dtype=np.float32)
    FILES.create(str(tmp_path / "f"), [b"ab", bytearray(b"cd"), memoryview(b"ef"), numbers.data, b"", b"gh"])
    assert (tmp_path / "f").read_bytes() == b"abcdef" + numbers.tobytes() + b"gh"


@pytest.mark.parametrize("chunks", [[], [b""], [np.empty((0,), np.uint8).data]])
def test_create_writes_nothing_when_there_is_nothing(tmp_path: Path, chunks: list[bytes]) -> None:
    FILES.create(str(tmp_path / "f"), chunks)
    assert (tmp_path / "f").read_bytes() == b""


def test_create_never_writes_to_a_file_that_is_there(tmp_path: Path) -> None:
    (tmp_path / "f").write_bytes(b"old")
    with pytest.raises(FileExistsError):
        FILES.create(str(tmp_path / "f"), [b"new"])
    assert (tmp_path / "f").read_bytes() == b"old"


def test_create_takes_more_chunks_than_one_call(tmp_path: Path) -> None:
    chunks = [b"%d," % number for number in range(IOV_MAX * 2 + 3)]
    FILES.create(str(tmp_path / "f"), chunks)
    assert (tmp_path / "f").read_bytes() == b"".join(chunks)


@pytest.mark.parametrize("at_once", [1, 3, 4, 7])
def test_create_goes_on_after_a_short_write(tmp_path: Path, monkeypatch: pytest.MonkeyPatch, at_once: int) -> None:
    def short(descriptor: int, views: list[memoryview], offset: int) -> int:
        return os.pwrite(descriptor, b"".join(views)[:at_once], offset)

    monkeypatch.setattr("estafeta.store.files.os.pwritev", short)
    FILES.create(str(tmp_path / "f"), [b"abc", b"d", b"", b"efghij"])
    assert (tmp_path / "f").read_bytes() == b"abcdefghij"


def test_create_raises_what_writing_raises_and_closes(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    def full(descriptor: int, views: list[memoryview], offset: int) -> int:
        raise OSError(errno.ENOSPC, "No space left on device")

    monkeypatch.setattr("estafeta.store.files.os.pwritev", full)
    before = open_descriptors()
    with pytest.raises(OSError, match="No space"):
        FILES.create(str(tmp_path / "f"), [b"abc"])
    assert open_descriptors() == before


def test_create_raises_what_closing_raises(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """NFS writes back on close, so a quota may be noticed only then."""
    close = os.close

    def over_quota(descriptor: int) -> None:
        close(descriptor)
        raise OSError(errno.EDQUOT, "Disk quota exceeded")

    monkeypatch.setattr("estafeta.store.files.os.close", over_quota)
    with pytest.raises(OSError, match="quota"):
        FILES.create(str(tmp_path / "f"), [b"abc"])


@pytest.mark.parametrize(
    ("offset", "room", "expected"),
    [(0, 10, b"0123456789"), (3, 4, b"3456"), (8, 10, b"89"), (10, 5, b""), (50, 5, b"")],
)
def test_a_reader_reads_anywhere(tmp_path: Path, offset: int, room: int, expected: bytes) -> None:
    (tmp_path / "f").write_bytes(b"0123456789")
    assert read(tmp_path / "f", offset, room) == expected


def test_a_reader_goes_on_after_a_short_read(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    preadv = os.preadv
    monkeypatch.setattr(
        "estafeta.store.files.os.preadv", lambda descriptor, views, offset: preadv(descriptor, [views[0][:3]], offset)
    )
    (tmp_path / "f").write_bytes(b"0123456789")
    assert read(tmp_path / "f", 1) == b"123456789"


def test_a_reader_fills_arrays(tmp_path: Path) -> None:
    numbers = np.arange(6, dtype=np.float64)
    FILES.create(str(tmp_path / "f"), [numbers.data])
    out = np.zeros((2, 2))
    with FILES.open(str(tmp_path / "f")) as reader:
        assert reader.size == 48
        assert reader.readinto(out.data, 16) == 32
    np.testing.assert_array_equal(out.reshape(-1), numbers[2:])


@pytest.mark.parametrize("file_system", ["ext4", "nfs4"])
def test_a_reader_fills_several_buffers(file_system: str, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """The call maps files on a file system of this machine, and reads them on others, with the same result."""
    monkeypatch.setattr("estafeta.store.files.filesystem_of", lambda path: file_system)
    content = np.random.default_rng(1).bytes(10_000)
    (tmp_path / "f").write_bytes(content)
    (tmp_path / "empty").touch()
    head, numbers, rest = bytearray(5), np.zeros((3, 100)), np.zeros(9_000, np.uint8)
    with FILES.open(str(tmp_path / "f")) as reader:
        assert reader.scatter([head, bytearray(), numbers.data, rest.data], 7) == 9_993
    assert head + numbers.tobytes() + rest.tobytes() == content[7:] + bytes(5 + 2400 + 9000 - 9993)
    with FILES.open(str(tmp_path / "empty")) as reader:
        assert reader.scatter([head], 0) == 0


def test_a_reader_closes(tmp_path: Path) -> None:
    (tmp_path / "f").write_bytes(b"x")
    before = open_descriptors()
    with FILES.open(str(tmp_path / "f")):
        assert open_descriptors() == before + 1
    assert open_descriptors() == before


def test_a_writer_writes_anywhere_and_again(tmp_path: Path) -> None:
    writer = FILES.write(str(tmp_path / "f"))
    writer.write([b"cd", np.frombuffer(b"ef", np.uint8).data], 2)
    writer.write([b"ab"], 0)
    writer.write([b"C"], 2)
    assert (tmp_path / "f").read_bytes() == b"abCdef", "it is there before it is closed"
    before = open_descriptors()
    writer.close()
    assert open_descriptors() == before - 1


def test_a_writer_never_writes_to_a_file_that_is_there(tmp_path: Path) -> None:
    (tmp_path / "f").write_bytes(b"old")
    with pytest.raises(FileExistsError):
        FILES.write(str(tmp_path / "f"))
    assert (tmp_path / "f").read_bytes() == b"old"


@pytest.mark.parametrize("at_once", [1, 3])
def test_append_goes_on_after_a_short_write(tmp_path: Path, monkeypatch: pytest.MonkeyPatch, at_once: int) -> None:
    def short(descriptor: int, views: list[memoryview]) -> int:
        return os.write(descriptor, b"".join(views)[:at_once])

    monkeypatch.setattr("estafeta.store.files.os.writev", short)
    FILES.append(str(tmp_path / "f"), b"abc")
    FILES.append(str(tmp_path / "f"), b"defgh")
    assert (tmp_path / "f").read_bytes() == b"abcdefgh"


def test_append_creates_and_adds(tmp_path: Path) -> None:
    FILES.append(str(tmp_path / "f"), b"one\n")
    FILES.append(str(tmp_path / "f"), b"two\n")
    assert (tmp_path / "f").read_bytes() == b"one\ntwo\n"


def test_names(tmp_path: Path) -> None:
    root = str(tmp_path)
    FILES.mkdir(f"{root}/d")
    FILES.create(f"{root}/d/f", [b"f"])
    FILES.link(f"{root}/d/f", f"{root}/d/g")
    FILES.create(f"{root}/d/h", [b"h"])
    with pytest.raises(FileExistsError):
        FILES.link(f"{root}/d/h", f"{root}/d/g")
    assert sorted(FILES.listdir(f"{root}/d")) == ["f", "g", "h"]
    FILES.rename(f"{root}/d/h", f"{root}/d/g")
    assert read(tmp_path / "d/g") == b"h"
    with pytest.raises(OSError, match="not empty"):
        FILES.rmdir(f"{root}/d")
    FILES.unlink(f"{root}/d/f")
    FILES.unlink(f"{root}/d/g")
    FILES.rmdir(f"{root}/d")
    assert FILES.listdir(root) == []


def test_the_clock_goes_forward_by_at_least_what_is_slept() -> None:
    clock = SystemClock()
    start = clock.monotonic()
    clock.sleep(0.001)
    assert clock.monotonic() >= start + 0.001


def test_room_that_is_left_is_what_the_system_says(tmp_path: Path) -> None:
    assert free_bytes(str(tmp_path)) == pytest.approx(shutil.disk_usage(tmp_path).free, rel=0.1)
