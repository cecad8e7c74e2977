"""Which topology a run has, if it is left to Estafeta.

The choice is made once, when a run is prepared, and stands in the plan: so it is the same on all ranks.
"""

from __future__ import annotations

from estafeta.protocol.spec import Choice, Topology

REPLICATED_UP_TO = 1 << 20
"""Bytes of parameters up to which replicated is at least as fast as sharded, for more than two workers."""


def choose(asked: Choice, parameters: int, workers: int) -> Topology:
    """The topology for a model of so many parameters (float32).

    Replicated takes one hop, and every rank reads all contributions; sharded takes two, and each reads two vectors,
    however many ranks there are. With two workers both read the same, so one hop is better at any size.
    """
    if asked != "auto":
        return asked
    return "replicated" if workers <= 2 or 4 * parameters <= REPLICATED_UP_TO else "sharded"
