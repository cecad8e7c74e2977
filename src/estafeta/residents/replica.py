"""What a resident rank holds of the current version, and how it gets to the next one.

Sharded: the rank updates its own slice of the parameters, with the slice of the optimiser's state that it alone keeps,
and fetches the other slices. Replicated: there is one slice, the whole vector, and every rank updates it for itself.
Either way the next version is a function of this one and of what was gathered, with the bits of the merge: the same
sums in rank order, the same division, the same elementwise step, in chunks that do not show in the result.

It knows vectors, the exchange and the optimiser; neither torch nor time.
"""

from __future__ import annotations

from collections.abc import Sequence

import numpy as np

from estafeta.job.schedules import Progress
from estafeta.protocol.clipping import BLOCK, block_sums, clip_factor, norm_from
from estafeta.protocol.combine import check_parameters
from estafeta.protocol.slices import GRAIN, Slice, cut
from estafeta.protocol.spec import Plan, RunSpec
from estafeta.protocol.weights import Weights
from estafeta.residents.exchange import Exchange
from estafeta.residents.gathered import Gathered
from estafeta.residents.outgoing import CHUNK
from estafeta.store.tensorfile import Array


def slices_of(spec: RunSpec, plan: Plan) -> tuple[Slice, ...]:
    """How the parameters of a run are cut: a slice for each rank, or one slice that is everybody's."""
    if plan.topology != "sharded":
        return (Slice(0, plan.size),)
    # With clipping, sums of squares are taken over blocks, of which each must lie within one slice.
    return cut(plan.size, spec.workers, GRAIN if spec.update_rule.clip_norm is None else BLOCK)


class Replica:
    """One rank's copy of a run.

    Args:
        spec: The run's spec.
        plan: The run's plan.
        rank: This rank.
        weights: The version to begin with. Its parameters (float32[P]) are updated in place; its state is of the own
            slice.
    """

    def __init__(self, spec: RunSpec, plan: Plan, rank: int, weights: Weights) -> None:
        self.weights = weights
        self._spec, self._plan = spec, plan
        self._slices = slices_of(spec, plan)
        self._index = rank if plan.topology == "sharded" else 0
        self._room: Array = np.empty((2, CHUNK), np.float32)

    @property
    def own(self) -> Slice:
        """The slice that this rank updates."""
        return self._slices[self._index]

    def advance(self, gathered: Gathered, exchange: Exchange) -> None:
        """Take the step of a train round.

        Raises:
            Diverged: The new parameters are not finite.
            Corrupt, Gone: As `Exchange.gather`.
        """
        weights = self.weights
        scale = self._scale(gathered, exchange)
        step_slice(self._spec, self._plan, weights, gathered, self._index, self.own, self._room, scale)
        if len(self._slices) > 1:
            exchange.publish_slice(weights.version + 1, weights.parameters)
            exchange.fetch_slices(weights.version + 1, weights.parameters)
        weights.advance(gathered.totals, self._plan)

    def _scale(self, gathered: Gathered, exchange: Exchange) -> float:
        """By what the mean gradient is multiplied to keep within the norm; one more hop where it is sharded."""
        clip_norm = self._spec.update_rule.clip_norm
        if clip_norm is None:
            return 1.0
        squares = squares_of(gathered, self._index, self.own, self._room)
        if len(self._slices) > 1:
            lengths = [-(-len(part) // BLOCK) for part in self._slices]
            squares = exchange.share_norms(self.weights.version, squares, lengths)
        return clip_factor(norm_from(squares), clip_norm)


def squares_of(gathered: Gathered, index: int, part: Slice, room: Array) -> Array:
    """Sums of squares of the blocks of a slice of the mean gradient, float64."""
    sums: list[Array] = [np.empty(0)]
    rows = np.float32(gathered.totals.rows)
    for first, out in _chunks(part, room[0]):  # a chunk is some whole blocks
        gathered.add_up(index, first, out)
        out /= rows
        sums.append(block_sums(out))
    return np.concatenate(sums)


def step_slice(
    spec: RunSpec, plan: Plan, weights: Weights, gathered: Gathered, index: int, part: Slice, room: Array, scale: float
) -> None:
    """Update one slice of the parameters, in place.

    Args:
        spec: The run's spec.
        plan: The run's plan.
        weights: The version; its state is of that slice.
        gathered: The round's contributions.
        index: Which slice.
        part: Its elements.
        room: float32[2, CHUNK], overwritten.
        scale: What the mean gradient is multiplied by.

    Raises:
        Diverged: The new parameters are not finite.
        Corrupt, Gone: As `Gathered.add_up`.
    """
    optimizer, rows = spec.update_rule, np.float32(gathered.totals.rows)
    lr = optimizer.lr_at(Progress(weights.version, plan.total_steps, plan.steps_per_epoch))
    with np.errstate(all="ignore"):  # as in PyTorch; what is not finite is found below
        for first, gradient in _chunks(part, room[0]):
            gathered.add_up(index, first, gradient)
            gradient /= rows
            within = slice(first - part.first, first - part.first + gradient.size)
            parameters = weights.parameters[first : first + gradient.size]
            state = {name: vector[within] for name, vector in weights.state.items()}
            optimizer.update_chunk(parameters, gradient, state, room[1], step=weights.version, lr=lr, scale=scale)
            check_parameters(parameters, weights.version, lr)


def _chunks(part: Slice, scratch: Array) -> Sequence[tuple[int, Array]]:
    """The chunks of a slice: the first element of each, and room for it."""
    return [(first, scratch[: min(CHUNK, part.last - first)]) for first in range(part.first, part.last, CHUNK)]
