"""The meter of a process's file operations, and the bytes that EFS would meter for them.

A network client sends a request for each of these calls. EFS meters each request with a least size, so many small ones
cost more than their bytes. The client keeps written bytes and sends them together when the file is closed. A file that
stays open here, for other content, would be closed on EFS to be published. Sources of the rules: Amazon EFS User Guide,
"Metering" and "Performance"; re:Post, "estimate Elastic Throughput mode costs". This module assumes the rest: a
transfer has at most 1 MiB, opening and creating are two requests each (the second one closes), a failed call is none.
"""

from __future__ import annotations

from collections import Counter
from collections.abc import Mapping
from dataclasses import dataclass, field

KIB = 1024
REQUEST_BYTES = 1 << 20
"""Bytes of the longest transfer in one request: `rsize` and `wsize` of an EFS mount."""
LEAST_BYTES = 4 * KIB
"""Least size of a request under Bursting throughput, and of one without data in all modes."""
LEAST_ELASTIC_BYTES = 32 * KIB
"""Least size of a request with data under Elastic throughput."""
ASKING = {"list": 1, "open": 2}
"""Number of requests of a call that only asks for names and attributes; EFS meters them as reads."""
CHANGING = {"create": 2, "append": 2, "link": 1, "rename": 1, "unlink": 1, "mkdir": 1, "rmdir": 1}
"""Number of requests of a call that changes a directory; EFS meters them as writes."""


FILE_BYTES = 2 * KIB
"""Metered bytes of each file and folder beside its data, for its inode (User Guide, "How Amazon EFS reports file system
and object sizes", https://docs.aws.amazon.com/efs/latest/ug/metered-sizes.html)."""
STEP_BYTES = 4 * KIB
"""Step in which EFS meters stored data; a file has at least one."""
SETTLE_AFTER = 4096
"""Number of reads in the list before the meter adds them up."""


@dataclass(frozen=True)
class Traffic:
    """File operations, of one invocation or of several.

    Attributes:
        calls: Number of successful calls by kind: those of `ASKING` and `CHANGING`, `read` and `write`.
        read_bytes: Bytes of data read.
        write_bytes: Bytes of data written.
        elastic_read_bytes: Bytes read, as Elastic throughput meters them.
        elastic_write_bytes: Bytes written, as Elastic throughput meters them.
        burst_read_bytes: Bytes read, as Bursting throughput meters them; three of them use up one byte of credit.
        burst_write_bytes: Bytes written, as Bursting throughput meters them; each uses up one byte of credit.
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
    """The traffic that EFS would meter.

    Args:
        calls: Number of calls without data, by kind.
        reads: Number of reads by length in bytes.
        writes: Number of writes by length in bytes.
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
    """Bytes that EFS meters for a stored file of that size."""
    return FILE_BYTES + STEP_BYTES * max(1, -(-size // STEP_BYTES))


class Meter:
    """The record of `OsFiles`'s calls. It costs some ten nanoseconds a call; the sums come later.

    Attributes:
        calls: Number of calls without data, by kind; those of `open` come from `opened`.
        opened: Length of each file that was opened for reading.
        reads: Length of each read.
        writes: Length of each file that was written and closed or published.

    Other threads read rows ahead. So readers only append to lists, which is safe; one thread alone counts the rest.
    """

    def __init__(self) -> None:
        self.calls = dict.fromkeys((*ASKING, *CHANGING), 0)
        self.opened: list[int] = []
        self.reads: list[int] = []
        self.writes: list[int] = []
        self._reads, self._writes = Counter[int](), Counter[int]()
        self._unsent: dict[str, int] = {}

    def wrote(self, path: str, size: int) -> None:
        """Count a piece of a file."""
        self._unsent[path] = self._unsent.get(path, 0) + size

    def sent(self, path: str) -> None:
        """Count a closed or published file: its bytes go to the server, unless they went before."""
        if path in self._unsent:
            self.writes.append(self._unsent.pop(path))

    def settle(self) -> None:
        """Add up the lists, so that they do not grow for ever. Only the one counting thread may call it."""
        self.calls["open"] += len(_taken(self.opened))
        self._reads.update(_taken(self.reads))
        self._writes.update(_taken(self.writes))

    def reset(self) -> None:
        """Forget all counts."""
        self.settle()
        self.calls = dict.fromkeys(self.calls, 0)
        self._reads.clear()
        self._writes.clear()

    def traffic(self) -> Traffic:
        """The traffic since the last reset."""
        self.settle()
        return traffic_of(self.calls, self._reads, self._writes)


def _taken(sizes: list[int]) -> list[int]:
    """Take all items off a list to which other threads may append meanwhile."""
    taken = sizes[:]
    del sizes[: len(taken)]
    return taken


def _metered(sizes: Mapping[int, int], least: int) -> int:
    """Metered bytes of transfers: whole requests, and the rest in steps of 1 KiB from the least size on."""
    total = 0
    for size, count in sizes.items():
        whole, rest = divmod(size, REQUEST_BYTES)
        total += count * (whole * REQUEST_BYTES + (max(least, -(-rest // KIB) * KIB) if rest else 0))
    return total
