"""The file systems on which the conformance suite runs.

Every test that takes `two_clients` runs on each of them. `plain` is a local directory. `nfs` is two machines that see
one imitated server through their caches. With `--store-root DIR`, `given` is that directory, a real mount for instance.
All share a virtual clock.
"""

from __future__ import annotations

import itertools
import shutil
import tempfile
from collections.abc import Callable, Iterator
from dataclasses import dataclass
from functools import cached_property
from pathlib import Path

import pytest

from estafeta.store.files import Files, OsFiles
from estafeta.store.store import Store

from .clock import VirtualClock
from .nfs_client import NfsClientFiles
from .nfs_server import NfsServer
from .turns import Paced, pause

ROOT = "/efs"
"""Mount point of the imitated server."""


@dataclass(frozen=True)
class Client:
    """One machine: the store's mount point, the machine's calls there, and its clock."""

    root: str
    files: Files
    clock: VirtualClock

    @cached_property
    def store(self) -> Store:
        """The store on this machine."""
        return self.through(self.files)

    def through(self, files: Files) -> Store:
        """The store on this machine with other files, which pass the calls on, with faults."""
        return Store(self.root, files, self.clock)

    def looks_up(self, path: str) -> bool:
        """Whether an `open` of the name succeeds. If not, an NFS client remembers that the name is absent."""
        try:
            with self.files.open(f"{self.root}/{path}"):
                return True
        except FileNotFoundError:
            return False

    def all_names(self, directory: str) -> list[str]:
        """Names in a directory, including unpublished ones."""
        return sorted(self.files.listdir(f"{self.root}/{directory}"))


TwoClients = tuple[Client, Client]


@dataclass(frozen=True)
class Nfs:
    """Two machines and the server between them."""

    server: NfsServer
    clock: VirtualClock
    a: NfsClientFiles
    b: NfsClientFiles

    def clients(self) -> TwoClients:
        """The two, with a store on each."""
        return Client(ROOT, self.a, self.clock), Client(ROOT, self.b, self.clock)


@pytest.fixture
def nfs() -> Nfs:
    server, clock = NfsServer(), VirtualClock()
    server.on_request = pause
    a, b = NfsClientFiles(server, clock), NfsClientFiles(server, clock)
    a.mkdir(ROOT)
    return Nfs(server, clock, a, b)


def pytest_generate_tests(metafunc: pytest.Metafunc) -> None:
    if "two_clients" in metafunc.fixturenames:
        given = ["given"] if metafunc.config.getoption("--store-root") else []
        metafunc.parametrize("two_clients", ["plain", "nfs", *given], indirect=True)


@pytest.fixture
def two_clients(request: pytest.FixtureRequest, tmp_path: Path) -> Iterator[TwoClients]:
    if request.param == "nfs":
        yield request.getfixturevalue("nfs").clients()
        return
    root = tmp_path
    if request.param == "given":
        root = Path(tempfile.mkdtemp(prefix="conformance-", dir=request.config.getoption("--store-root")))
    clock = VirtualClock()
    yield Client(str(root), Paced(OsFiles()), clock), Client(str(root), Paced(OsFiles()), clock)
    if request.param == "given":
        shutil.rmtree(root)


@pytest.fixture
def new_directory(two_clients: TwoClients) -> Callable[[], str]:
    """A function that makes a directory for one example of a property: examples must not share published names."""
    numbers = itertools.count()

    def make() -> str:
        directory = f"example-{next(numbers)}"
        two_clients[0].store.make_directories(directory)
        return directory

    return make
