"""How the flat vector of the parameters is cut among the ranks, and which topology cuts it.

Preparing makes the choice once, and the plan holds it. So all ranks cut the vector alike.
"""

from dataclasses import dataclass
from itertools import pairwise

from estafeta.protocol.clipping import BLOCK
from estafeta.protocol.spec import Choice, Plan, RunSpec, Topology

GRAIN = 1024
"""Elements in one page of 4 kB. A slice begins at a multiple of it, so no two ranks write to one cache line or page."""
REPLICATED_UP_TO = 1 << 20
"""Bytes of parameters up to which `replicated` is at least as fast as `sharded`, with more than two workers."""


@dataclass(frozen=True)
class Slice:
    """Elements `first` to `last` (exclusive) of the flat vector."""

    first: int
    last: int

    def __len__(self) -> int:
        return self.last - self.first


def choose(asked: Choice, parameters: int, workers: int) -> Topology:
    """Return the topology for a model of so many trained parameters (float32).

    In `replicated` a round takes one hop, and every rank reads all contributions. In `sharded` it takes two, and each
    rank reads two vectors, however many ranks there are. With two workers a rank reads the same in both, so one hop is
    better at any size.
    """
    if asked != "auto":
        return asked
    return "replicated" if workers <= 2 or 4 * parameters <= REPLICATED_UP_TO else "sharded"


def slices_of(spec: RunSpec, plan: Plan) -> tuple[Slice, ...]:
    """Return the slices of a run: in `sharded` one for each rank, otherwise one slice with all parameters."""
    if plan.topology != "sharded":
        return (Slice(0, plan.size),)
    # Clipping sums squares over blocks, and each block must lie within one slice.
    return cut(plan.size, spec.workers, GRAIN if spec.update_rule.clip_norm is None else BLOCK)


def cut(size: int, parts: int, grain: int = GRAIN) -> tuple[Slice, ...]:
    """Cut a vector of `size` elements into slices of nearly equal length, each beginning at a multiple of `grain`.

    If the vector is short, the last slices are empty.
    """
    grains = -(-size // grain)
    # Rounding up gives the first ranks what there is: of 3 grains for 8 ranks, ranks 0, 1 and 2 get one each.
    bounds = [
        min(-(-grains * part // parts) * grain, size) if grains >= parts else min(part * grain, size)
        for part in range(parts + 1)
    ]
    return tuple(Slice(first, last) for first, last in pairwise(bounds))
