"""Arrivals: the wait for files of other writers, and their opening.

There are two ways, and the promise of the file system decides (`Files.watch`):

* A file system of this machine alone: a rank tries to open the files, for a moment in a loop, then at each new name
  that the kernel reports. A round of a small model is over within that moment.
* A shared file system: a rank lists the directories, then opens the listed files. Each look is a round trip, on EFS a
  billed one. So the first look comes when earlier waits say that the files are there; the next ones come ever later.

This module knows paths and time; it must not know what the files are for.
"""

import errno
import os
from collections import deque
from collections.abc import Callable, Mapping, Sequence
from statistics import median

from estafeta import waiting
from estafeta.errors import Gone
from estafeta.store.files import Reader
from estafeta.store.store import Backoff, Store

Late = Callable[[Mapping[str, Reader]], float]
"""Function that is called with the files found so far, after each look that was not enough. It may publish the missing
ones. It returns the seconds until its next call at the latest, 0 for a look at once."""


class Arrivals:
    """The wait for files in some directories.

    Args:
        store: The store.
        directories: Directories of the files.
        alarm: Function that is called now and then while nothing comes, with the missing paths. It raises to give up.
        writers: Number of processes that take turns in writing and waiting.

    Attributes:
        looks: Number of listings so far.
    """

    def __init__(
        self, store: Store, directories: Sequence[str], alarm: Callable[[Sequence[str]], None], writers: int
    ) -> None:
        self.looks = 0
        self._store = store
        self._alarm = alarm
        self._watch = store.files.watch([store.absolute(directory) for directory in directories])
        self._spin_s = waiting.SPIN_S if writers <= len(os.sched_getaffinity(0)) else 0.0
        self._expected_s = 0.0
        self._waits_s: deque[float] = deque(maxlen=waiting.RECENT_WAITS)

    @property
    def is_local(self) -> bool:
        """Whether all writers are on this machine."""
        return self._watch is not None

    def collect(self, paths: Sequence[str], late: Late | None = None, expected_s: float | None = None) -> list[Reader]:
        """Wait until all files are there, and return them open, in the order of their paths.

        Args:
            paths: The files.
            late: Function that is called while files are missing, if any.
            expected_s: Seconds after which a first look is worth a round trip; None leaves it to the earlier waits.

        Raises:
            BaseException: `alarm` or `late` raised it.
        """
        found: dict[str, Reader] = {}
        try:
            if self._watch is not None:
                self._by_name(paths, found, late)
            else:
                self._by_listing(paths, found, late, expected_s)
        except BaseException:
            for reader in found.values():
                reader.close()
            raise
        return [found[path] for path in paths]

    def open(self, paths: Sequence[str]) -> list[Reader]:
        """Open files that have been listed, in the order of their paths.

        Raises:
            Gone: One of them has been removed.
        """
        found: dict[str, Reader] = {}
        for path in paths:
            if not self._try(path, found):
                for reader in found.values():
                    reader.close()
                raise Gone(f"{path} is not in the store (any more)")
        return list(found.values())

    def close(self) -> None:
        """Stop watching."""
        if self._watch is not None:
            self._watch.close()

    def _by_name(self, paths: Sequence[str], found: dict[str, Reader], late: Late | None) -> None:
        assert self._watch is not None
        clock, pending = self._store.clock, list(paths)
        pending = [path for path in pending if not self._try(path, found)]
        if not pending:
            return
        began = clock.monotonic()
        alarm_at = began + waiting.FIRST_ALARM * waiting.ALARM_S
        while pending:
            now = clock.monotonic()
            until = alarm_at if late is None else min(alarm_at, now + late(found))
            if until <= now < alarm_at:
                pass
            elif now - began < self._spin_s:
                pass  # not sched_yield: with other work on the machine it gives the processor away for milliseconds
            elif now >= alarm_at:
                self._alarm(pending)
                alarm_at = now + waiting.ALARM_S
            else:
                self._watch.wait(until - now)
            pending = [path for path in pending if not self._try(path, found)]

    def _by_listing(
        self, paths: Sequence[str], found: dict[str, Reader], late: Late | None, given_s: float | None
    ) -> None:
        began = self._store.clock.monotonic()
        expected_s = self._expected_s if given_s is None else given_s
        if expected_s > waiting.FIRST_ALARM * waiting.ALARM_S:
            self._alarm(())  # before the first look nobody knows what is missing
        self._pause(expected_s, ())
        pause, looks = max(Backoff.first_s, expected_s * waiting.SECOND_LOOK), 0
        pending = list(paths)
        while True:
            for directory in dict.fromkeys(path.rpartition("/")[0] for path in pending):
                self.looks += 1
                names = self._store.list(directory)
                for path in pending:
                    parent, _, name = path.rpartition("/")
                    if parent == directory and name in names:
                        self._try(path, found)
            looks += 1
            if len(found) == len(paths):
                break
            pending = [path for path in paths if path not in found]
            self._alarm(pending)
            self._pause(pause if late is None else min(pause, late(found)), pending)
            pause = min(pause * Backoff.factor, waiting.ALARM_S)
        if given_s is None:
            self._learn(self._store.clock.monotonic() - began, looks)

    def _learn(self, waited_s: float, looks: int) -> None:
        """Expect the next files after the median of the last waits: a single long one tells little."""
        self._waits_s.append(waited_s * waiting.EAGERNESS if looks == 1 else waited_s)
        self._expected_s = median(self._waits_s)

    def _pause(self, seconds: float, pending: Sequence[str]) -> None:
        """Sleep, but not through an alarm."""
        while seconds > 0:
            part = min(seconds, waiting.ALARM_S)
            self._store.clock.sleep(part)
            seconds -= part
            if seconds > 0:
                self._alarm(pending)

    def _try(self, path: str, found: dict[str, Reader]) -> bool:
        try:
            found[path] = self._store.files.open(self._store.absolute(path))
        except OSError as error:
            # The file is not there yet, or gone again. In the latter case `alarm` tells the rank that it is outdated.
            if error.errno not in (errno.ENOENT, errno.ESTALE):
                raise
            return False
        return True


def is_local(store: Store, directory: str) -> bool:
    """Whether all users of a directory are on this machine, as far as the type of its file system tells."""
    watch = store.files.watch([store.absolute(directory)])
    if watch is not None:
        watch.close()
    return watch is not None
