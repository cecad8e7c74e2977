"""Files with something in between: each call goes through one method that may watch, fail or repeat it."""

from __future__ import annotations

from collections.abc import Callable, Sequence
from typing import TypeVar

from estafeta.files import Buffer, Files, Reader

T = TypeVar("T")


class Interposed:
    """`Files` in front of other files. As it stands, it adds nothing.

    Args:
        files: What carries the calls out.
    """

    def __init__(self, files: Files) -> None:
        self._files = files

    def around(self, call: str, path: str, carry_out: Callable[[], T]) -> T:
        """Do a call, named as in `Files`, on `path` (the one that comes to be or goes, where there are two)."""
        return carry_out()

    def listdir(self, path: str) -> list[str]:
        """See `Files.listdir`."""
        return self.around("listdir", path, lambda: self._files.listdir(path))

    def create(self, path: str, chunks: Sequence[Buffer]) -> None:
        """See `Files.create`."""
        self.around("create", path, lambda: self._files.create(path, chunks))

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
