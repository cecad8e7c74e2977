"""Files behind a method: each call goes through it, and it may watch, fail or repeat the call."""

from __future__ import annotations

from collections.abc import Callable, Sequence
from typing import TypeVar

from estafeta.store.files import Buffer, Files, Reader, Watch, Writer

T = TypeVar("T")


class Interposed:
    """`Files` in front of other files; by itself it adds nothing.

    Args:
        files: Files that carry the calls out.
    """

    def __init__(self, files: Files) -> None:
        self._files = files

    def around(self, call: str, path: str, carry_out: Callable[[], T]) -> T:
        """Do a call, named as in `Files`, on `path` (of two paths, the one that appears or goes)."""
        return carry_out()

    def listdir(self, path: str) -> list[str]:
        """See `Files.listdir`."""
        return self.around("listdir", path, lambda: self._files.listdir(path))

    def create(self, path: str, chunks: Sequence[Buffer]) -> None:
        """See `Files.create`."""
        self.around("create", path, lambda: self._files.create(path, chunks))

    def write(self, path: str) -> Writer:
        """See `Files.write`."""
        return InterposedWriter(self, path, self.around("write", path, lambda: self._files.write(path)))

    def watch(self, paths: Sequence[str]) -> Watch | None:
        """See `Files.watch`. Tests assume that other machines use the directories, so they must be listed."""
        return None

    def open(self, path: str) -> Reader:
        """See `Files.open`."""
        return self.around("open", path, lambda: self._files.open(path))

    def append(self, path: str, data: bytes) -> None:
        """See `Files.append`."""
        self.around("append", path, lambda: self._files.append(path, data))

    def link(self, source: str, target: str) -> None:
        """See `Files.link`."""
        self.around("link", target, lambda: self._files.link(source, target))

    def rename(self, source: str, target: str) -> None:
        """See `Files.rename`."""
        self.around("rename", target, lambda: self._files.rename(source, target))

    def unlink(self, path: str) -> None:
        """See `Files.unlink`."""
        self.around("unlink", path, lambda: self._files.unlink(path))

    def mkdir(self, path: str) -> None:
        """See `Files.mkdir`."""
        self.around("mkdir", path, lambda: self._files.mkdir(path))

    def rmdir(self, path: str) -> None:
        """See `Files.rmdir`."""
        self.around("rmdir", path, lambda: self._files.rmdir(path))


class InterposedWriter:
    """`Writer` whose calls go through the same method as those of the files it comes from."""

    def __init__(self, files: Interposed, path: str, writer: Writer) -> None:
        self._files = files
        self._path = path
        self._writer = writer

    def write(self, chunks: Sequence[Buffer], offset: int) -> None:
        """See `Writer.write`."""
        self._files.around("append", self._path, lambda: self._writer.write(chunks, offset))

    def close(self) -> None:
        """See `Writer.close`."""
        self._writer.close()
