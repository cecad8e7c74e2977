"""The seam under the store: the few file-system calls that the protocol needs, and the clock.

`store.py` decides what is safe; this module only carries it out. Anything that can do these calls can replace it: the
operating system (here), an imitation of an NFS client's caches, a simulator with a virtual clock. Paths are absolute
strings, errors are `OSError` with the errno of the call.
"""

import mmap
import os
import time
from collections.abc import Iterable, Sequence
from types import TracebackType
from typing import Protocol, Self

import numpy as np

from estafeta.cost.meter import SETTLE_AFTER, Meter
from estafeta.store.inotify import LOCAL, filesystem_of, watch

Buffer = bytes | bytearray | memoryview
"""Bytes to write, or memory to read into (numpy arrays by their `.data`)."""
IOV_MAX = os.sysconf("SC_IOV_MAX")
"""Number of buffers that one `writev` or `preadv` takes at most (POSIX; 1024 on Linux)."""


class Reader(Protocol):
    """A published file, opened for reading. The size is that at opening: published files never change."""

    size: int

    def readinto(self, buffer: Buffer, offset: int) -> int:
        """Read at `offset` bytes until `buffer` is full or the file ends; return the number of bytes."""

    def scatter(self, buffers: Sequence[Buffer], offset: int) -> int:
        """Read as `readinto` does, into several buffers, one after the other, by one call of the system."""

    def close(self) -> None:
        """Close the descriptor."""

    def __enter__(self) -> Self:
        """Return itself."""

    def __exit__(
        self, kind: type[BaseException] | None, value: BaseException | None, trace: TracebackType | None
    ) -> None:
        """Close it."""


class Writer(Protocol):
    """A file that only its owner writes and nobody sees yet."""

    def write(self, chunks: Sequence[Buffer], offset: int) -> None:
        """Write all chunks, one after the other, from `offset` bytes on."""

    def close(self) -> None:
        """Close the descriptor; errors of the write-back appear at the latest here."""


class Watch(Protocol):
    """The kernel's report of new names in some directories."""

    def wait(self, timeout_s: float) -> None:
        """Return when a name has appeared since the last call, or after so many seconds."""

    def close(self) -> None:
        """Stop watching."""


class Files(Protocol):
    """The calls that the store makes of a file system."""

    def listdir(self, path: str) -> list[str]:
        """Names in a directory; the server is asked each time (opening a directory revalidates it on NFS)."""

    def create(self, path: str, chunks: Sequence[Buffer]) -> None:
        """Create a new file, write all chunks, close it; errors of the write-back appear at the latest on close."""

    def write(self, path: str) -> Writer:
        """Create a new file and leave it open for writing."""

    def open(self, path: str) -> Reader:
        """Open an existing file afresh (close-to-open consistency: the server is asked)."""

    def watch(self, paths: Sequence[str]) -> Watch | None:
        """Watch directories; None if nobody could report the changes of other machines.

        A watch means that all users of the directories are on this machine. They see a new name at once, and the
        content of an open file before its writer closes it.
        """

    def append(self, path: str, data: bytes) -> None:
        """Append to a file with only one writer, and close it; create it if it does not exist."""

    def link(self, source: str, target: str) -> None:
        """Give a file a second name; EEXIST if that name is taken."""

    def rename(self, source: str, target: str) -> None:
        """Rename, replacing the target if there is one."""

    def unlink(self, path: str) -> None:
        """Remove a name."""

    def mkdir(self, path: str) -> None:
        """Create one directory; its parent exists."""

    def rmdir(self, path: str) -> None:
        """Remove an empty directory."""


class Clock(Protocol):
    """Time, so that waiting can be tested without waiting."""

    def monotonic(self) -> float:
        """Seconds since an arbitrary moment, never going back."""

    def time(self) -> float:
        """Seconds since 1970, by this machine's clock."""

    def sleep(self, seconds: float) -> None:
        """Let so much time pass."""


class OsReader:
    """`Reader` over a file descriptor of its own."""

    def __init__(self, path: str, meter: Meter | None = None) -> None:
        self._path = path
        self._descriptor = os.open(path, os.O_RDONLY | os.O_CLOEXEC)
        self.size = os.fstat(self._descriptor).st_size
        self._sizes = [] if meter is None else meter.reads
        if meter is not None:
            meter.opened.append(self.size)

    def readinto(self, buffer: Buffer, offset: int) -> int:
        """See `Reader.readinto`."""
        return self._read([buffer], offset)

    def scatter(self, buffers: Sequence[Buffer], offset: int) -> int:
        """See `Reader.scatter`. On a file system of this machine, the call maps the file and copies from there."""
        if self.size and filesystem_of(os.path.dirname(self._path)) in LOCAL:
            with mmap.mmap(self._descriptor, self.size, prot=mmap.PROT_READ) as mapped:
                count = _copy(mapped, offset, buffers)
            self._sizes.append(count)
            return count
        return self._read(buffers, offset)

    def _read(self, buffers: Sequence[Buffer], offset: int) -> int:
        views, done = _views(buffers), 0
        while views and (count := os.preadv(self._descriptor, views[:IOV_MAX], offset + done)):
            done += count
            _pass(views, count)
        self._sizes.append(done)
        return done

    def close(self) -> None:
        """See `Reader.close`."""
        os.close(self._descriptor)

    def __enter__(self) -> Self:
        return self

    def __exit__(
        self, kind: type[BaseException] | None, value: BaseException | None, trace: TracebackType | None
    ) -> None:
        self.close()


class OsWriter:
    """`Writer` over a file descriptor of its own."""

    def __init__(self, path: str, meter: Meter) -> None:
        self._descriptor = os.open(path, os.O_WRONLY | os.O_CREAT | os.O_EXCL | os.O_CLOEXEC, 0o644)
        self._path, self._meter = path, meter
        meter.calls["create"] += 1

    def write(self, chunks: Sequence[Buffer], offset: int) -> None:
        """See `Writer.write`."""
        self._meter.wrote(self._path, _write_all(self._descriptor, chunks, offset))

    def close(self) -> None:
        """See `Writer.close`."""
        os.close(self._descriptor)
        self._meter.sent(self._path)


class OsFiles:
    """`Files` of the operating system: a local directory, or a mounted one.

    Args:
        meter: Meter that counts each successful call.
    """

    def __init__(self, meter: Meter | None = None) -> None:
        self._meter = meter or Meter()

    def listdir(self, path: str) -> list[str]:
        """See `Files.listdir`."""
        names = os.listdir(path)
        self._meter.calls["list"] += 1
        return names

    def create(self, path: str, chunks: Sequence[Buffer]) -> None:
        """See `Files.create`."""
        writer = OsWriter(path, self._meter)
        try:
            writer.write(chunks, 0)
        except BaseException:
            writer.close()
            raise
        writer.close()

    def write(self, path: str) -> Writer:
        """See `Files.write`."""
        return OsWriter(path, self._meter)

    def watch(self, paths: Sequence[str]) -> Watch | None:
        """See `Files.watch`: on a file system of this machine alone, by inotify(7)."""
        return watch(paths) if all(filesystem_of(path) in LOCAL for path in paths) else None

    def open(self, path: str) -> Reader:
        """See `Files.open`."""
        return OsReader(path, self._meter)

    def append(self, path: str, data: bytes) -> None:
        """See `Files.append`."""
        descriptor = os.open(path, os.O_WRONLY | os.O_CREAT | os.O_APPEND | os.O_CLOEXEC, 0o644)
        try:
            self._meter.writes.append(_write_all(descriptor, [data], None))
        finally:
            os.close(descriptor)
        self._meter.calls["append"] += 1

    def link(self, source: str, target: str) -> None:
        """See `Files.link`."""
        os.link(source, target)
        self._meter.calls["link"] += 1
        self._meter.sent(source)
        if len(self._meter.reads) > SETTLE_AFTER:
            self._meter.settle()

    def rename(self, source: str, target: str) -> None:
        """See `Files.rename`."""
        os.rename(source, target)
        self._meter.calls["rename"] += 1

    def unlink(self, path: str) -> None:
        """See `Files.unlink`."""
        os.unlink(path)
        self._meter.calls["unlink"] += 1

    def mkdir(self, path: str) -> None:
        """See `Files.mkdir`."""
        os.mkdir(path)
        self._meter.calls["mkdir"] += 1

    def rmdir(self, path: str) -> None:
        """See `Files.rmdir`."""
        os.rmdir(path)
        self._meter.calls["rmdir"] += 1


class SystemClock:
    """`Clock` of this machine."""

    def monotonic(self) -> float:
        """See `Clock.monotonic`."""
        return time.monotonic()

    def time(self) -> float:
        """See `Clock.time`."""
        return time.time()

    def sleep(self, seconds: float) -> None:
        """See `Clock.sleep`."""
        time.sleep(seconds)


def free_bytes(path: str) -> int:
    """Bytes that this user may still write to the file system of a path."""
    status = os.statvfs(path)
    return status.f_bavail * status.f_frsize


def _write_all(descriptor: int, chunks: Iterable[Buffer], offset: int | None) -> int:
    """Write all chunks, from an offset on or at the descriptor's position; return the number of bytes."""
    views, total = _views(chunks), 0
    while views:
        some = views[:IOV_MAX]
        if offset is None:
            written = os.writev(descriptor, some)
        else:
            written = os.pwritev(descriptor, some, offset)
            offset += written
        total += written
        _pass(views, written)
    return total


def _copy(mapped: mmap.mmap, offset: int, buffers: Sequence[Buffer]) -> int:
    """Copy from a mapped file; numpy needs half the time of a read, and lets other threads run."""
    content, first = np.frombuffer(mapped, np.uint8), offset
    for buffer in buffers:
        out = np.frombuffer(buffer, np.uint8)
        part = content[offset : offset + len(out)]
        out[: len(part)] = part
        offset += len(part)
    return offset - first


def _views(buffers: Iterable[Buffer]) -> list[memoryview]:
    """Bytes of the buffers, without empty ones."""
    return [view for buffer in buffers if len(view := memoryview(buffer).cast("B"))]


def _pass(views: list[memoryview], count: int) -> None:
    """Take away the first bytes, which are done."""
    while views and count >= len(views[0]):
        count -= len(views.pop(0))
    if count:
        views[0] = views[0][count:]
