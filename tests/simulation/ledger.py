"""The promises that a run's folder keeps at every moment, checked at each name that appears or goes.

* A published name is never given to something else, but for the watchdog's note; if it comes back after it was removed,
  it has the content that it had, but for tokens, times, and what a rank wishes.
* Nothing is removed that a later step could need (I4): contributions only when a version that includes them is
  published with its optimiser state, versions only when there is a newer one.
"""

from __future__ import annotations

import hashlib
import json
from collections.abc import Callable, Collection

from conformance.nfs_server import File, Folder, NfsServer
from estafeta.protocol.layout import RunLayout
from estafeta.protocol.listing import epochs_in, round_of, version_of, versions_in
from estafeta.protocol.message import FIXED_BYTES
from estafeta.protocol.snapshot import OUTCOMES


class Violation(AssertionError):
    """Something that must not be, whatever happens."""


class Ledger:
    """Watches one run's folder on the server.

    Args:
        server: Has it.
        root: Path of the store on the server.
        layout: The run's paths.
        workers: World size.
        has_stand_ins: A late rank may publish what a stand-in was published for, when that has been swept.

    Attributes:
        published: Number of names that have appeared.
        on_vector: Called with the file of each published message or tensor file.
    """

    def __init__(
        self, server: NfsServer, root: str, layout: RunLayout, workers: int, *, has_stand_ins: bool = False
    ) -> None:
        self.published = 0
        self.on_vector: Callable[[File], object] = lambda file: None
        self._server, self._root, self._layout, self._workers = server, root, layout, workers
        self._has_stand_ins = has_stand_ins
        self._contents: dict[str, str] = {}

    def before(self, call: str, path: str) -> None:
        """Look at a call that is about to be carried out.

        Raises:
            Violation: It must not be.
        """
        name = path.rpartition("/")[2]
        if name.startswith(".") or call not in ("unlink", "rename"):
            return
        if call == "rename" and isinstance(self._node(path), File) and not path.endswith(self._layout.watch):
            raise Violation(f"{path} is published, and something else is put in its place")
        path = path.removeprefix(f"{self._root}/")
        if call == "unlink" and path.startswith(f"{self._layout.root}/") and not self.has_ended():
            self._check_removal(path, name)

    def appeared(self, path: str) -> None:
        """A name has been given to a file.

        Raises:
            Violation: It had other content before.
        """
        node = self._node(path)
        if path.rpartition("/")[2].startswith(".") or not isinstance(node, File):
            return
        self.published += 1
        path = path.removeprefix(f"{self._root}/{self._layout.root}/")
        content = _essence(path, bytes(node.content))
        if content is None or (self._has_stand_ins and path.startswith(("contributions/", "exchange/"))):
            return
        if not path.endswith(".json"):
            self.on_vector(node)
        digest = hashlib.sha256(content).hexdigest()
        if self._contents.setdefault(path, digest) != digest:
            raise Violation(f"{path} is published a second time, with other content")

    def has_ended(self) -> bool:
        """Whether the run has an outcome, or has decided on one."""
        names = self._names(self._layout.root)
        return not names.isdisjoint(("ending.json", *(f"{state}.json" for state in OUTCOMES)))

    def _check_removal(self, path: str, name: str) -> None:
        directory = path.rpartition("/")[0]
        versions = versions_in(self._names(self._layout.weights), self._workers)
        newest = max(versions, default=-1)
        if directory == self._layout.weights:
            version = version_of(name)
            needed = version is not None and newest <= version
        elif directory == self._layout.contributions:
            round_ = round_of(name)
            assert round_ is not None
            epochs = len(epochs_in(self._names(self._layout.epochs)))
            needed = newest <= round_.version if round_.phase == "train" else epochs == 0
        elif "/exchange/" in path and name.startswith("gradient-"):
            needed = newest <= int(name.removeprefix("gradient-"))
        else:
            return
        if needed:
            raise Violation(f"{path} is removed, and may be needed: the newest saved version is {newest}")

    def _names(self, directory: str) -> Collection[str]:
        node = self._node(f"{self._root}/{directory}")
        return node.entries.keys() if isinstance(node, Folder) else frozenset()

    def _node(self, path: str) -> File | Folder | None:
        node: File | Folder | None = self._server.root
        for name in path.strip("/").split("/"):
            node = node.entries.get(name) if isinstance(node, Folder) else None
        return node


def _essence(path: str, content: bytes) -> bytes | None:
    """The content that does not depend on the publisher or the time; None if nothing of it is a function of the run."""
    folder, _, name = path.partition("/")
    if folder in ("exchange", "contributions"):
        head = bytearray(content[:FIXED_BYTES])
        for first, last in (12, 14), (48, FIXED_BYTES):  # wishes; the time of a round, CRC, cost, token
            head[first:last] = bytes(last - first)
        return bytes(head) + content[FIXED_BYTES:]
    if folder == "weights":
        length = int.from_bytes(content[:8], "little")
        header = json.loads(content[8 : 8 + length])
        for key in ("token", "spent"):
            header["__metadata__"].pop(key, None)
        return json.dumps(header).encode() + content[8 + length :]
    if folder == "epochs" or name == "plan.json":
        facts = json.loads(content)
        own = ("token", "ended_at", "spent_usd")
        return json.dumps({key: value for key, value in facts.items() if key not in own}).encode()
    return None
