"""One history: a world lives from the start of its run until nothing of it is left, and is judged."""

from __future__ import annotations

from dataclasses import dataclass
from functools import cache
from pathlib import Path

from conformance.clock import VirtualClock
from conformance.nfs_client import NfsClientFiles
from conformance.nfs_server import NfsServer
from core.driver import Relay, Result
from estafeta.errors import Corrupt, EstafetaError
from estafeta.protocol.spec import RunSpec
from estafeta.store.store import Store

from .cloud import ROOT, Cloud
from .journal import Journal
from .ledger import Violation
from .stand_ins import MISHAPS
from .world import World


@dataclass(frozen=True)
class History:
    """The result of a world.

    Attributes:
        world: The world.
        journal: The events.
        violation: Broken promise, or None.
        virtual_s: Virtual seconds that it lasted.
        turns: Calls to the store, and other moments at which others could go on.
        failures: Number of times that the run failed, and was resumed.
    """

    world: World
    journal: Journal
    violation: BaseException | None
    virtual_s: float
    turns: int
    failures: int

    def tell(self, whole: bool = False) -> str:
        """The history as text, the verdict at its end."""
        return f"{self.world}\n\n{self.journal.tell(whole)}\n\n{self.violation or 'as it should be'}"


def live(world: World) -> History:
    """Let a world live. Within `stand_ins.stand_ins`."""
    MISHAPS.begin(None)
    undisturbed(world)  # before anything else: it draws words, too, the first time
    MISHAPS.begin(world.mishap)
    cloud, violation = Cloud(world), None
    try:
        cloud.live()
        judge(cloud)
        cloud.clean()
        if left := cloud.store.list(cloud.layout.root.rpartition("/")[0]):
            raise Violation(f"cleaning has left {sorted(left)}")
    except (AssertionError, EstafetaError) as error:
        violation = error
        cloud.kill_all()
    return History(world, cloud.journal, violation, cloud.now, cloud.turns, len(cloud.failures))


def judge(cloud: Cloud) -> None:
    """Compare how a run has ended with a run to which nothing happens.

    Raises:
        Violation: It is not the same, and is not a run of damaged files that says so.
    """
    if cloud.world.damaged is not None and cloud.failures:
        return
    if (
        cloud.world.quorum is not None
    ):  # a late rank is not in it; its exports must be what the outcome says all the same
        assert cloud.outcome().state == "done"
        cloud.assert_whole()
        cloud.assert_exports_agree()
        return
    try:
        result, expected = cloud.result(), undisturbed(cloud.world)
    except Corrupt:
        if cloud.world.damaged is None:
            raise
        return  # nobody but the client has read it, who notices
    for name, value in vars(expected).items():
        if getattr(result, name) != value:
            raise Violation(f"{name} is {getattr(result, name)}, and of an undisturbed run it is {value}")
    cloud.assert_exports_agree()


def undisturbed(world: World) -> Result:
    """The result of the same run without any fault: the merge, event by event, on one machine."""
    return _undisturbed(world.shape, world.workers)


@cache
def _undisturbed(shape: int, workers: int) -> Result:
    spec: RunSpec = World(0, shape, workers=workers, compute_s=0.0).spec
    server, clock = NfsServer(), VirtualClock()
    server.make(server.root, ROOT.strip("/"))
    files = NfsClientFiles(server, clock)
    return Relay(Path(ROOT), spec, {}, files=files, store=Store(ROOT, files, clock)).run()
