"""The kernel's report of new names in a directory, and whether the report is complete.

inotify(7) reports the changes of this machine only. On a network file system other machines change things, too. So the
type of the file system decides who may rely on the report.
"""

import ctypes
import errno
import os
import select
import time
from collections.abc import Sequence
from functools import lru_cache
from pathlib import Path

from estafeta import waiting

LOCAL = frozenset({"ext2", "ext3", "ext4", "xfs", "btrfs", "f2fs", "zfs", "tmpfs", "overlay"})
"""Types of file systems that one machine has for itself; all other types count as shared."""
IN_MOVED_TO, IN_CREATE = 0x80, 0x100  # inotify(7); `link` is reported as a creation
READ_BYTES = 65_536


class Inotify:
    """`Watch` over one inotify instance.

    Args:
        paths: Directories.

    Raises:
        OSError: A directory does not exist, or the user has too many watches (fs.inotify.max_user_instances).
    """

    def __init__(self, paths: Sequence[str]) -> None:
        libc = _libc()
        self._descriptor = _checked(libc.inotify_init1(os.O_NONBLOCK | os.O_CLOEXEC))
        self._poll = select.poll()
        self._poll.register(self._descriptor, select.POLLIN)
        try:
            for path in paths:
                _checked(libc.inotify_add_watch(self._descriptor, os.fsencode(path), IN_MOVED_TO | IN_CREATE))
        except OSError:
            self.close()
            raise

    def wait(self, timeout_s: float) -> None:
        """See `Watch.wait`. The name does not matter: the caller looks for its own."""
        if self._poll.poll(timeout_s * 1000):
            os.read(self._descriptor, READ_BYTES)

    def close(self) -> None:
        """See `Watch.close`."""
        os.close(self._descriptor)


class Polling:
    """`Watch` for a user who has no inotify instance left: it returns soon, and the caller looks again."""

    def wait(self, timeout_s: float) -> None:
        """See `Watch.wait`."""
        time.sleep(min(timeout_s, waiting.POLL_S))

    def close(self) -> None:
        """See `Watch.close`."""


def watch(paths: Sequence[str]) -> Inotify | Polling:
    """Watch directories of this machine: by inotify if there is an instance left, else by polling.

    Raises:
        OSError: A directory does not exist.
    """
    try:
        return Inotify(paths)
    except OSError as error:
        if error.errno not in (errno.EMFILE, errno.ENOSPC):  # too many instances, or watches: inotify_init(2)
            raise
        return Polling()


@lru_cache(maxsize=64)
def filesystem_of(path: str) -> str:
    """Type of a directory's file system, from `/proc/self/mountinfo`; empty if it is not listed there."""
    device = Path(path).stat().st_dev
    wanted = f"{os.major(device)}:{os.minor(device)}"
    with open("/proc/self/mountinfo", encoding="utf-8", errors="replace") as lines:
        for line in lines:
            fields = line.split()
            if fields[2] == wanted:
                return fields[fields.index("-") + 1]
    return ""


@lru_cache(maxsize=1)
def _libc() -> ctypes.CDLL:
    return ctypes.CDLL(None, use_errno=True)


def _checked(result: int) -> int:
    if result < 0:
        number = ctypes.get_errno()
        raise OSError(number, os.strerror(number))
    return result
