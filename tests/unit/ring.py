"""Resident ranks in one process, over one store: what the tests of the exchange, of replicas and of saving share.

Contributions are made up, so no model and no torch is needed. Ranks go one after the other where nothing waits, and as
threads where they wait for each other; who waits in vain gives up instead of hanging.
"""

from __future__ import annotations

import os
from collections.abc import Callable, Sequence
from concurrent.futures import ThreadPoolExecutor
from dataclasses import dataclass, field
from typing import Any, TypeVar

import numpy as np

from conformance.interposed import Interposed
from core.specs import spec_of
from estafeta.protocol.layout import Round, RunLayout
from estafeta.protocol.partition import Slice
from estafeta.protocol.spec import Plan, RunSpec, Slot
from estafeta.residents.exchange import Exchange, Gathered, Outgoing
from estafeta.store.files import Files, OsFiles
from estafeta.store.store import TEMPORARY, Store
from estafeta.store.tensorfile import Array

T = TypeVar("T")

PATIENCE = 120
"""Alarms after which somebody who waits gives up: a minute where the kernel reports names."""


class WaitedInVain(Exception):
    """What was waited for did not come."""


def shared() -> Files:
    """Files of this machine, used as if others used them, too: nothing is reported, nothing filled twice."""
    return Interposed(OsFiles())


def patience(calls: int) -> Callable[[object], None]:
    """An alarm that gives up after so many calls."""
    left = iter(range(calls))

    def alarm(_missing: object) -> None:
        if next(left, None) is None:
            raise WaitedInVain

    return alarm


@dataclass
class Contribution:
    """What a rank has to say about a round.

    Attributes:
        gradient: float32[P], or None without rows.
    """

    gradient: Array | None
    rows: int = 1
    sums: tuple[float, ...] = (0.0,)
    buffers: dict[str, Array] = field(default_factory=dict)


class Member(Exchange):
    """An exchange that is closed at the end of the test, if it has not been: inotify instances are few."""

    is_open = True

    def close(self) -> None:
        """Close it, if it is open."""
        if self.is_open:
            self.is_open = False
            super().close()


_members: list[Member] = []


def close_all() -> None:
    """Close what a test has left open."""
    while _members:
        _members.pop().close()


class Ring:
    """A run of resident ranks.

    Args:
        root: Directory of the store.
        workers: World size.
        size: Elements of the vector.
        slices: How it is cut; one slice by default.
        sums: Names of the sums.
        buffers: The model's buffers.
        files: Makes the file-system calls of each rank; those of the operating system by default.
    """

    def __init__(
        self,
        root: str | os.PathLike[str],
        *,
        workers: int,
        size: int,
        slices: Sequence[Slice] = (),
        sums: Sequence[str] = ("loss",),
        buffers: Sequence[Slot] = (),
        files: Callable[[], Files] = OsFiles,
    ) -> None:
        self.layout = RunLayout("r")
        self.store = Store(root)
        self.workers, self.size, self.slices = workers, size, tuple(slices) or (Slice(0, size),)
        self._sums, self._buffers, self._files = sums, buffers, files
        for directory in self.layout.directories(workers):
            self.store.make_directories(directory)

    def join(
        self, rank: int, token: str | None = None, patient: int = PATIENCE, files: Files | None = None
    ) -> Exchange:
        """A leg of a rank; without patience it gives up as soon as anything is not there."""
        member = Member(
            Store(self.store.root, files or self._files()),
            self.layout,
            rank=rank,
            workers=self.workers,
            size=self.size,
            slices=self.slices,
            sums=self._sums,
            buffers=self._buffers,
            token=token or f"token-of-{rank}",
            alarm=patience(patient),
        )
        _members.append(member)
        return member

    def join_all(self, patient: int = PATIENCE) -> list[Exchange]:
        """The first leg of each rank."""
        return [self.join(rank, patient=patient) for rank in range(self.workers)]

    def names(self, rank: int) -> set[str]:
        """What is published in a rank's outbox."""
        return set(self.store.list(self.layout.outbox(rank)))

    def private_names(self) -> list[str]:
        """Names that are not published, in all outboxes."""
        outboxes = [self.store.absolute(self.layout.outbox(rank)) for rank in range(self.workers)]
        return [name for outbox in outboxes for name in os.listdir(outbox) if name.startswith(TEMPORARY)]

    def damage(self, path: str, at: int) -> None:
        """Flip a bit of a published file."""
        with open(self.store.absolute(path), "r+b") as file:
            file.seek(at, os.SEEK_SET if at >= 0 else os.SEEK_END)
            byte = file.read(1)
            file.seek(-1, os.SEEK_CUR)
            file.write(bytes([byte[0] ^ 1]))


def contribute(exchange: Exchange, round_: Round, said: Contribution, cuts: Sequence[int] = (), **head: Any) -> bool:
    """Publish a contribution, the vector in parts, the last part first."""
    outgoing: Outgoing | None = None
    if said.gradient is not None:
        outgoing = exchange.outgoing()
        bounds = [0, *sorted(cuts), said.gradient.size]
        for number in reversed(range(len(bounds) - 1)):
            outgoing.put(number, bounds[number], said.gradient[bounds[number] : bounds[number + 1]])
    return exchange.contribute(
        round_, outgoing, rows=said.rows, sums=said.sums, buffers=said.buffers if said.rows else None, **head
    )


def add_up_all(gathered: Gathered, slices: Sequence[Slice], chunk: int = 1 << 16) -> Array:
    """The sum over the ranks, slice by slice, in chunks of a length."""
    total = np.full(slices[-1].last, np.nan, np.float32)
    for index, part in enumerate(slices):
        for first in range(part.first, part.last, chunk):
            gathered.add_up(index, first, total[first : min(first + chunk, part.last)])
    return total


def normal(seed: int, size: int) -> Array:
    """Numbers of very different magnitudes, so that the order of additions shows."""
    numbers = np.random.default_rng(seed)
    vector: Array = (numbers.standard_normal(size) * 10.0 ** numbers.integers(-4, 4, size)).astype(np.float32)
    return vector


def at_once(*codes: Callable[[], T]) -> list[T]:
    """Run all codes at the same time, and return what each returned."""
    with ThreadPoolExecutor(len(codes)) as pool:
        return [future.result() for future in [pool.submit(code) for code in codes]]


def plan_of(spec: RunSpec, size: int, *, steps: int = 4, buffers: Sequence[Slot] = ()) -> Plan:
    """The plan of a run whose parameters are one vector; its topology is the one that was asked for."""
    assert spec.topology != "auto"
    return Plan(
        token="t",
        topology=spec.topology,
        train_rows=40,
        valid_rows=0,
        steps_per_epoch=steps,
        total_steps=steps * spec.epochs,
        sums=("loss",),
        parameters=(Slot(name="w", shape=(size,)),),
        buffers=tuple(buffers),
        frozen=(),
        state_dict=(),
    )


def resident_spec(topology: str, workers: int, optimizer: dict[str, Any]) -> RunSpec:
    """A run of residents."""
    return spec_of("plain", topology=topology, workers=workers, optimizer=optimizer)
