"""What a process asks of its file system, counted where it happens, and what EFS would meter for it.

A network client sends a request for each of these calls, and EFS meters each request with a least size, so that many
small ones cost more than their bytes say. Only what is written to a file it keeps, and sends together when the file is
closed; a file that stays open here, for other content, would be closed there to be published. Sources of the rules:
Amazon EFS User Guide, "Metering" and "Performance"; re:Post, "estimate Elastic Throughput mode costs". What AWS does
not say is assumed: transfers are cut at 1 MiB, opening and creating are two requests each (the second one closes), a
call that failed is none.
"""

from __future__ import annotations

from collections import Counter
from collections.abc import Mapping
from dataclasses import dataclass, field

KIB = 1024
REQUEST_BYTES = 1 << 20
"""Longest transfer of one request: `rsize` and `wsize` of an EFS mount."""

LEAST_BYTES = 4 * KIB
"""Least size of a request, as it uses up burst credits; of one without data, in all modes."""

LEAST_ELASTIC_BYTES = 32 * KIB
"""Least size of a request with data under Elastic throughput."""

ASKING = {"list": 1, "open": 2}
"""Requests of a call that only asks for names and attributes; they are metered as reads."""

CHANGING = {"create": 2, "append": 2, "link": 1, "rename": 1, "unlink": 1, "mkdir": 1, "rmdir": 1}
"""Requests of a call that changes a directory; they are metered as writes."""


FILE_BYTES = 2 * KIB
"""Of each file and folder that is kept, beside its data: its inode (User Guide, "How Amazon EFS reports file system and
object sizes", https://docs.aws.amazon.com/efs/latest/ug/metered-sizes.html)."""

STEP_BYTES = 4 * KIB
"""Data that is kept is metered in steps of this size, one at least."""

SETTLE_AFTER = 4096
"""How many reads are kept apart at most."""


@dataclass(frozen=True)
class Traffic:
    """File operations, of one invocation or of several.

    Attributes:
        calls: How many of each kind succeeded: those of `ASKING` and `CHANGING`, `read` and `write`.
        read_bytes: Bytes of data.
        write_bytes: Bytes of data.
        elastic_read_bytes: As Elastic throughput meters them.
        elastic_write_bytes: The same, written.
        burst_read_bytes: As Bursting throughput meters them; three of them use up one byte of credit.
        burst_write_bytes: The same, written; each uses up one byte of credit.
    """

    calls: Mapping[str, int] = field(default_factory=dict)
    read_bytes: int = 0
    write_bytes: int = 0
    elastic_read_bytes: int = 0
    elastic_write_bytes: int = 0
    burst_read_bytes: int = 0
    burst_write_bytes: int = 0

    def __add__(self, other: Traffic) -> Traffic:
        return Traffic(
            {kind: self.calls.get(kind, 0) + other.calls.get(kind, 0) for kind in {**self.calls, **other.calls}},
            self.read_bytes + other.read_bytes,
            self.write_bytes + other.write_bytes,
            self.elastic_read_bytes + other.elastic_read_bytes,
            self.elastic_write_bytes + other.elastic_write_bytes,
            self.burst_read_bytes + other.burst_read_bytes,
            self.burst_write_bytes + other.burst_write_bytes,
        )

    @property
    def burst_credit_bytes(self) -> int:
        """Bytes of throughput credit that it uses up on a bursting file system."""
        return self.burst_write_bytes + self.burst_read_bytes // 3


def traffic_of(calls: Mapping[str, int], reads: Mapping[int, int], writes: Mapping[int, int]) -> Traffic:
    """What EFS would meter.

    Args:
        calls: By kind, how many without data.
        reads: By length in bytes, how many reads.
        writes: By length in bytes, how many writes.
    """
    asked = LEAST_BYTES * sum(calls.get(kind, 0) * requests for kind, requests in ASKING.items())
    changed = LEAST_BYTES * sum(calls.get(kind, 0) * requests for kind, requests in CHANGING.items())
    counts = {**calls, "read": sum(reads.values()), "write": sum(writes.values())}
    return Traffic(
        {kind: count for kind, count in counts.items() if count},
        sum(size * count for size, count in reads.items()),
        sum(size * count for size, count in writes.items()),
        asked + _metered(reads, LEAST_ELASTIC_BYTES),
        changed + _metered(writes, LEAST_ELASTIC_BYTES),
        asked + _metered(reads, LEAST_BYTES),
        changed + _metered(writes, LEAST_BYTES),
    )


def kept_bytes(size: int) -> int:
    """What EFS meters for a file of that size that it keeps."""
    return FILE_BYTES + STEP_BYTES * max(1, -(-size // STEP_BYTES))


class Meter:
    """Where `OsFiles` writes down what it does. That costs some ten nanoseconds a call; adding up is left for later.

    Attributes:
        calls: By kind, how many without data; but for `open`.
        opened: Of each file that was opened to be read, its length.
        reads: Of each read, its length.
        writes: Of each file that was written and closed or published, its length.

    Rows are read ahead by a thread of their own. So what reading does is appended to lists, which is safe; all else is
    counted by one thread alone.
    """

    def __init__(self) -> None:
        self.calls = dict.fromkeys((*ASKING, *CHANGING), 0)
        self.opened: list[int] = []
        self.reads: list[int] = []
        self.writes: list[int] = []
        self._reads, self._writes = Counter[int](), Counter[int]()
        self._unsent: dict[str, int] = {}

    def wrote(self, path: str, size: int) -> None:
        """Take note of a piece of a file."""
        self._unsent[path] = self._unsent.get(path, 0) + size

    def sent(self, path: str) -> None:
        """A file is closed or published: what was written to it goes to the server, if it has not gone before."""
        if path in self._unsent:
            self.writes.append(self._unsent.pop(path))

    def settle(self) -> None:
        """Add up what has been appended, so that the lists do not grow for ever. Called by the one thread."""
        self.calls["open"] += len(_taken(self.opened))
        self._reads.update(_taken(self.reads))
        self._writes.update(_taken(self.writes))

    def reset(self) -> None:
        """Begin with nothing."""
        self.settle()
        self.calls = dict.fromkeys(self.calls, 0)
        self._reads.clear()
        self._writes.clear()

    def traffic(self) -> Traffic:
        """What has been counted since the last reset."""
        self.settle()
        return traffic_of(self.calls, self._reads, self._writes)


def _taken(sizes: list[int]) -> list[int]:
    """The beginning of a list that others may append to meanwhile, taken off."""
    taken = sizes[:]
    del sizes[: len(taken)]
    return taken


def _metered(sizes: Mapping[int, int], least: int) -> int:
    """Metered bytes of transfers: whole requests, and what is left in steps of 1 KiB from the least size on."""
    total = 0
    for size, count in sizes.items():
        whole, rest = divmod(size, REQUEST_BYTES)
        total += count * (whole * REQUEST_BYTES + (max(least, -(-rest // KIB) * KIB) if rest else 0))
    return total
