"""A replaced leg must stop: it publishes nothing when a newer generation has had its place for long."""

from __future__ import annotations

from core.stage import Actor
from estafeta.protocol.listing import contributions_in, residents_in

from .ledger import Violation

LONG_S = 20.0
"""It looks whether it has been replaced before each contribution, if the last look is some seconds ago."""


class Fence:
    """Watches the claims of legs, and who contributes."""

    def __init__(self) -> None:
        self._held: dict[Actor, tuple[int, int, int]] = {}
        self._newest: dict[tuple[int, int], tuple[int, float]] = {}

    def claimed(self, actor: Actor, name: str, now: float) -> None:
        """A name has been given to a file; it may be the claim of a leg."""
        for rank, (leg, generation) in residents_in([name]).items():
            self._held[actor] = rank, leg, generation
            self._newest[rank, leg] = generation, now

    def check(self, actor: Actor, name: str, now: float) -> None:
        """A name is about to be given to a file.

        Raises:
            Violation: It is a contribution, and its writer was replaced long ago.
        """
        if actor in self._held and contributions_in([name]):
            rank, leg, generation = self._held[actor]
            newest, since = self._newest[rank, leg]
            if newest > generation and now - since > LONG_S:
                raise Violation(
                    f"rank {rank}, leg {leg} contributes in generation {generation}, {now - since:.0f} s after "
                    f"generation {newest} has come in its place"
                )
