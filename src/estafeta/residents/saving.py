"""When resident ranks save the version that they are at, and what they remove then.

A saved version is for those that come later: the next leg, a replacement, the export. They compute what lies between
two saved versions again, from the contributions (`redo.py`). So cost alone decides how often ranks save.
"""

from collections.abc import Collection

from estafeta import waiting
from estafeta.protocol.listing import pieces_in, version_of, versions_in
from estafeta.protocol.message import Wish
from estafeta.protocol.run_folder import RunFolder
from estafeta.protocol.weights import publish_piece, publish_weights
from estafeta.residents.replica import Replica


class Saver:
    """Saves one rank's part of versions, and removes what that makes unnecessary.

    Args:
        saved: The newest saved version.
        recycles: Whether the rank uses files of contributions again that nobody needs any more.

    Attributes:
        redo_from: The newest version that all ranks are known to have saved.
        cost_s: Seconds of the longest saving; None before the first.
    """

    def __init__(self, folder: RunFolder, *, rank: int, token: str, saved: int, recycles: bool) -> None:
        self.redo_from = saved
        self.cost_s: float | None = None
        self._folder, self._plan = folder, folder.plan
        self._store, self._layout = folder.store, folder.layout
        self._rank, self._workers, self._token = rank, folder.spec.workers, token
        self._newest = saved
        most_kept = max(1, waiting.MOST_REDO_BYTES // (4 * self._plan.size))
        self._most_redo = min(waiting.MOST_REDO, most_kept) if recycles else waiting.MOST_REDO

    def wish(self, version: int, round_s: float) -> Wish:
        """Wish to save if that is cheap enough by now; the ranks save when all of them wish it."""
        rounds = version + 1 - self._newest
        due = (
            rounds >= waiting.FIRST_SAVING
            if self.cost_s is None
            else rounds * round_s * waiting.SAVING_FRACTION >= self.cost_s
        )
        return Wish.CHECKPOINT if due or rounds >= self._most_redo else Wish.NONE

    def save(self, replica: Replica) -> None:
        """Publish this rank's part of the replica's version. In `replicated` the ranks take turns with all of it."""
        weights = replica.weights
        if weights.version <= self._newest:
            return
        began = self._store.clock.monotonic()
        if self._plan.topology == "sharded":
            publish_piece(self._folder, weights, replica.own, rank=self._rank, token=self._token)
        elif weights.version % self._workers == self._rank:
            publish_weights(self._folder, weights, self._token)
        self._newest = weights.version
        self.cost_s = max(self.cost_s or 0.0, self._store.clock.monotonic() - began)

    def is_pending(self, version: int) -> bool:
        """Tell whether this rank has saved a version that others may not have saved yet."""
        return self._newest == version > self.redo_from

    def missing(self, version: int, names: Collection[str]) -> list[int]:
        """Return the ranks that have not published their part of a version, by a listing of `weights/`."""
        if version in versions_in(names, self._workers):
            return []
        if self._plan.topology == "sharded":
            return [rank for rank in range(self._workers) if rank not in pieces_in(names, version)]
        return [version % self._workers]

    def sweep(self, version: int, best: int | None) -> None:
        """Remove this rank's part of older versions, when all ranks have begun the round of `version`.

        A rank begins a round after it has saved what was due before it, so by now all have.
        """
        if self._newest <= self.redo_from or version < self._newest:
            return
        self.redo_from = self._newest
        versions = {name: version_of(name) for name in self._store.list(self._layout.weights)}
        old = {name: v for name, v in versions.items() if v is not None and v < self.redo_from and v != best}
        self._store.sweep(self._layout.weights, [name for name, v in old.items() if self._is_own(name, v)])

    def _is_own(self, name: str, version: int) -> bool:
        pieces = pieces_in([name], version)
        return self._rank in pieces if pieces else version % self._workers == self._rank
