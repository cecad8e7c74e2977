"""The seam under the store: the few file-system calls that the protocol is made of, and the clock beside them.

`store.py` decides what is safe; this module only carries it out. Anything that can do these calls can stand in: the
operating system (here), an imitation of an NFS client's caches, a simulator with a virtual clock.
Paths are absolute strings, errors are `OSError` with the errno of the call.
"""

from __future__ import annotations

import os
import time
from collections.abc import Iterable, Sequence
from types import TracebackType
from typing import Protocol, Self

Buffer = bytes | bytearray | memoryview
"""Bytes to write, or room to read into (numpy arrays by their `.data`)."""

IOV_MAX = os.sysconf("SC_IOV_MAX")
"""The most buffers that one `writev` takes (POSIX; 1024 on Linux)."""


class Reader(Protocol):
    """A published file, opened for reading. The size is that at opening: published files never change."""

    size: int

    def readinto(self, buffer: Buffer, offset: int) -> int:
        """Read at `offset` bytes until `buffer` is full or the file ends; return the number of bytes."""

    def __enter__(self) -> Self:
        """Return itself."""

    def __exit__(
        self, kind: type[BaseException] | None, value: BaseException | None, trace: TracebackType | None
    ) -> None:
        """Close the descriptor."""


class Files(Protocol):
    """What the store asks of a file system."""

    def listdir(self, path: str) -> list[str]:
        """Names in a directory, asked of the server each time (opening a directory revalidates it on NFS)."""

    def create(self, path: str, chunks: Sequence[Buffer]) -> None:
        """Create a new file, write all chunks, close it; errors of the write-back appear at the latest on close."""

    def open(self, path: str) -> Reader:
        """Open an existing file afresh (close-to-open consistency: the server is asked)."""

    def append(self, path: str, data: bytes) -> None:
        """Append to a file that has one writer only, and close it; create it if it is not there."""

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

    def sleep(self, seconds: float) -> None:
        """Let that much time pass."""


class OsReader:
    """`Reader` over a file descriptor of its own."""

    def __init__(self, path: str) -> None:
        self._descriptor = os.open(path, os.O_RDONLY | os.O_CLOEXEC)
        self.size = os.fstat(self._descriptor).st_size

    def readinto(self, buffer: Buffer, offset: int) -> int:
        """See `Reader.readinto`."""
        view = memoryview(buffer).cast("B")
        done = 0
        while done < len(view):
            count = os.preadv(self._descriptor, [view[done:]], offset + done)
            if count == 0:
                break
            done += count
        return done

    def __enter__(self) -> Self:
        return self

    def __exit__(
        self, kind: type[BaseException] | None, value: BaseException | None, trace: TracebackType | None
    ) -> None:
        os.close(self._descriptor)


class OsFiles:
    """`Files` as the operating system has them: a local directory, or a mounted one."""

    def listdir(self, path: str) -> list[str]:
        """See `Files.listdir`."""
        return os.listdir(path)

    def create(self, path: str, chunks: Sequence[Buffer]) -> None:
        """See `Files.create`."""
        descriptor = os.open(path, os.O_WRONLY | os.O_CREAT | os.O_EXCL | os.O_CLOEXEC, 0o644)
        try:
            _write_all(descriptor, chunks)
        except BaseException:
            os.close(descriptor)
            raise
        os.close(descriptor)

    def open(self, path: str) -> Reader:
        """See `Files.open`."""
        return OsReader(path)

    def append(self, path: str, data: bytes) -> None:
        """See `Files.append`."""
        descriptor = os.open(path, os.O_WRONLY | os.O_CREAT | os.O_APPEND | os.O_CLOEXEC, 0o644)
        try:
            _write_all(descriptor, [data])
        finally:
            os.close(descriptor)

    def link(self, source: str, target: str) -> None:
        """See `Files.link`."""
        os.link(source, target)

    def rename(self, source: str, target: str) -> None:
        """See `Files.rename`."""
        os.rename(source, target)

    def unlink(self, path: str) -> None:
        """See `Files.unlink`."""
        os.unlink(path)

    def mkdir(self, path: str) -> None:
        """See `Files.mkdir`."""
        os.mkdir(path)

    def rmdir(self, path: str) -> None:
        """See `Files.rmdir`."""
        os.rmdir(path)


class SystemClock:
    """`Clock` of this machine."""

    def monotonic(self) -> float:
        """See `Clock.monotonic`."""
        return time.monotonic()

    def sleep(self, seconds: float) -> None:
        """See `Clock.sleep`."""
        time.sleep(seconds)


def free_bytes(path: str) -> int:
    """Room that is left for this user on the file system that a path is on."""
    status = os.statvfs(path)
    return status.f_bavail * status.f_frsize


def _write_all(descriptor: int, chunks: Iterable[Buffer]) -> None:
    views = [view for chunk in chunks if len(view := memoryview(chunk).cast("B"))]
    while views:
        written = os.writev(descriptor, views[:IOV_MAX])
        while views and written >= len(views[0]):
            written -= len(views.pop(0))
        if written:
            views[0] = views[0][written:]
