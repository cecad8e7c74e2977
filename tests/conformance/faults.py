"""Accidents between the store and a file system: lost replies, a full disk, stale handles."""

from __future__ import annotations

import errno
from collections.abc import Callable, Sequence
from types import TracebackType
from typing import Self, TypeVar

from estafeta.store.files import Buffer, Files, Reader

from .interposed import Interposed
from .nfs_server import refusal

T = TypeVar("T")

RESENT = frozenset({"link", "rename", "unlink", "mkdir", "rmdir"})
"""Calls that the server refuses the second time. An exclusive create is none: NFSv4.1 gives it a verifier."""


class LostReplies(Interposed):
    """A server that fails over after it has carried out a request and before it has answered.

    The client sends the request again by itself. The new server remembers nothing of the first, and refuses it: EEXIST
    for `link` and `mkdir`, ENOENT for `rename`, `unlink` and `rmdir`. When a real server was killed, it refused 1 of 33
    to 2 of 9 of the calls in flight so.

    Args:
        files: Files that carry the calls out.
        loses: Told the name of each call that can be affected, says whether its reply is lost.
    """

    def __init__(self, files: Files, loses: Callable[[str], bool]) -> None:
        super().__init__(files)
        self._loses = loses

    def around(self, call: str, path: str, carry_out: Callable[[], T]) -> T:
        """Do the call, and once more if the first reply is lost."""
        if call in RESENT and self._loses(call):
            carry_out()
        return carry_out()


class FullDisk(Interposed):
    """A disk, or a quota, that is used up when half of a new file has been written."""

    def create(self, path: str, chunks: Sequence[Buffer]) -> None:
        """Leave half of the file behind and raise ENOSPC."""
        content = b"".join(bytes(chunk) for chunk in chunks)
        self._files.create(path, [content[: len(content) // 2]])
        raise refusal(errno.ENOSPC, path)


class Failing(Interposed):
    """Files on which one kind of call fails every time and does nothing."""

    def __init__(self, files: Files, call: str, code: int) -> None:
        super().__init__(files)
        self._call = call
        self._code = code

    def around(self, call: str, path: str, carry_out: Callable[[], T]) -> T:
        """Fail if it is that call."""
        if call == self._call:
            raise refusal(self._code, path)
        return carry_out()


class Interrupted(Interposed):
    """Files that run an action just before each call of one kind."""

    def __init__(self, files: Files, call: str, happens: Callable[[], object]) -> None:
        super().__init__(files)
        self._call = call
        self._happens = happens

    def around(self, call: str, path: str, carry_out: Callable[[], T]) -> T:
        """Run the action if it is that call."""
        if call == self._call:
            self._happens()
        return carry_out()


class StaleReads(Interposed):
    """Files of a server that has lost the first so many opened ones when they are read.

    Attributes:
        opened: Number of times that a file was opened.
    """

    def __init__(self, files: Files, times: int) -> None:
        super().__init__(files)
        self._times = times
        self.opened = 0

    def open(self, path: str) -> Reader:
        """Open a file, as one that was lost if it is among the first."""
        self.opened += 1
        reader = self._files.open(path)
        return StaleReader(reader) if self.opened <= self._times else reader


class StaleReader:
    """A reader whose file the server has forgotten."""

    def __init__(self, reader: Reader) -> None:
        self.size = reader.size
        self._reader = reader

    def readinto(self, buffer: Buffer, offset: int) -> int:
        """Raise ESTALE."""
        raise refusal(errno.ESTALE, "")

    def scatter(self, buffers: Sequence[Buffer], offset: int) -> int:
        """Raise ESTALE."""
        raise refusal(errno.ESTALE, "")

    def close(self) -> None:
        """Close the file."""
        self._reader.close()

    def __enter__(self) -> Self:
        self._reader.__enter__()
        return self

    def __exit__(
        self, kind: type[BaseException] | None, value: BaseException | None, trace: TracebackType | None
    ) -> None:
        self._reader.__exit__(kind, value, trace)
