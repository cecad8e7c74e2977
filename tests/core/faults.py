"""Faults of a function between two calls to the file system: it is killed, the disk is full, it is held up."""

from __future__ import annotations

import errno
import os
import random
from collections.abc import Callable, Sequence
from typing import TypeVar

from conformance.interposed import Interposed
from estafeta.store.files import Buffer, Files, OsFiles, Writer
from estafeta.store.store import TEMPORARY

from .events import Event

T = TypeVar("T")


class Killed(BaseException):
    """The process is no more. Nothing in the package can catch it, as nothing can catch SIGKILL."""


class Mortal(Interposed):
    """Files of a process that is killed after so many calls, and does nothing from then on.

    A process that dies while it creates a file has written half of it.

    Attributes:
        calls: Calls since the process was started.
    """

    def __init__(self, files: Files | None = None) -> None:
        super().__init__(files or OsFiles())
        self.start(None)

    def start(self, dies_after: int | None) -> None:
        """Begin a new process, with so many calls to live; None: no end."""
        self.calls = 0
        self._dies_after = dies_after

    def around(self, call: str, path: str, carry_out: Callable[[], T]) -> T:
        """Do a call of the living, and die if it was the last."""
        if self._dies_after is not None and self.calls >= self._dies_after:
            raise Killed
        result = carry_out()
        self.calls += 1
        if self.calls == self._dies_after:
            raise Killed
        return result

    def create(self, path: str, chunks: Sequence[Buffer]) -> None:
        """Create a file, or half of it if this is the last call."""
        if self._dies_after is not None and self.calls == self._dies_after - 1:
            chunks = half_of(chunks)
        super().create(path, chunks)


class Disk(Interposed):
    """A disk with an end: from its n-th new file on, nothing can be written but what fits the space that is freed.

    Attributes:
        files: New files so far.
        refusals: Number of writes that the disk refused.
    """

    def __init__(self, full_from: int | None = None) -> None:
        super().__init__(OsFiles())
        self.files = self.refusals = 0
        self._full_from = full_from
        self._freed = 0

    def fill(self, after: int = 0) -> None:
        """Leave room for so many new files."""
        self._full_from = self.files + after + 1
        self._freed = 0

    def extend(self) -> None:
        """Give the disk all the space that anybody will want."""
        self._full_from = None

    def create(self, path: str, chunks: Sequence[Buffer]) -> None:
        """Create a file; when the disk is full, leave half of it behind and raise ENOSPC."""
        self.files += 1
        size = sum(len(memoryview(chunk).cast("B")) for chunk in chunks)
        if not self._is_full:
            super().create(path, chunks)
        elif size <= self._freed:
            super().create(path, chunks)
            self._freed -= size
        else:
            self.refusals += 1
            super().create(path, half_of(chunks))
            raise OSError(errno.ENOSPC, os.strerror(errno.ENOSPC), path)

    def write(self, path: str) -> Writer:
        """Begin a file; when the disk is full, there is no room for it."""
        self.files += 1
        self._refuse_if_full(path)
        return super().write(path)

    def around(self, call: str, path: str, carry_out: Callable[[], T]) -> T:
        """Do a call; what goes into a file that was begun before the disk was full does not fit any more either."""
        if call == "append":
            self._refuse_if_full(path)
        return super().around(call, path, carry_out)

    def _refuse_if_full(self, path: str) -> None:
        if self._is_full:
            self.refusals += 1
            raise OSError(errno.ENOSPC, os.strerror(errno.ENOSPC), path)

    def unlink(self, path: str) -> None:
        """Remove a name. The space of a published file is free again; that of half a temporary one never counted."""
        if self._is_full and TEMPORARY not in path:
            with self._files.open(path) as reader:
                self._freed += reader.size
        super().unlink(path)

    @property
    def _is_full(self) -> bool:
        return self._full_from is not None and self.files >= self._full_from


class HeldUp(Interposed):
    """Files of a process that stands still before one of its calls, while the world goes on.

    Args:
        meanwhile: Function that the wrapper calls then.
        files: Files that carry the calls out.
    """

    def __init__(self, meanwhile: Callable[[], object], files: Files | None = None) -> None:
        super().__init__(files or OsFiles())
        self._meanwhile = meanwhile
        self._calls_left: int | None = None

    def start(self, calls: int | None) -> None:
        """Begin a process that stands still after so many calls; None: never."""
        self._calls_left = calls

    def around(self, call: str, path: str, carry_out: Callable[[], T]) -> T:
        """Do a call, perhaps much later than its maker thinks."""
        if self._calls_left == 0:
            self._calls_left = None
            self._meanwhile()
        if self._calls_left is not None:
            self._calls_left -= 1
        return carry_out()


def half_of(chunks: Sequence[Buffer]) -> list[bytes]:
    """The first half of a file's content."""
    content = b"".join(bytes(chunk) for chunk in chunks)
    return [content[: len(content) // 2]]


def one_in_four(seed: int) -> Callable[[Event], int | None]:
    """One in four first attempts at workers' events dies, after some calls; see `Stage.dies_after`."""
    numbers = random.Random(seed)

    def dies_after(event: Event) -> int | None:
        dies = event.role == "worker" and event.attempt == 1 and numbers.random() < 0.25
        return numbers.randrange(120) if dies else None

    return dies_after
