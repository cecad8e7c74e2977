"""What a resident rank holds of the current version, and how it gets to the next one.

In `sharded` the rank updates its own slice of the parameters, and it alone keeps that slice of the optimiser's state.
It fetches the other slices. In `replicated` there is one slice, the whole vector, and every rank updates it for itself.
The next version is a function of this one and of the contributions. Its bits are those that the merge would make.

A replica knows vectors, the exchange and the optimiser. It knows neither torch nor time.
"""

from estafeta.protocol.clipping import BLOCK
from estafeta.protocol.partition import Slice
from estafeta.protocol.spec import Plan, RunSpec
from estafeta.protocol.step import Step
from estafeta.protocol.weights import Weights
from estafeta.residents.exchange import Exchange
from estafeta.residents.gathered import Gathered


class Replica:
    """One rank's copy of a run.

    It updates the parameters of `weights` (float32[P]) in place; their state is of the own slice.
    """

    def __init__(self, spec: RunSpec, plan: Plan, rank: int, weights: Weights) -> None:
        self.weights = weights
        self._plan, self._step = plan, Step(spec, plan)
        self._index = rank if plan.topology == "sharded" else 0

    @property
    def own(self) -> Slice:
        """The slice that this rank updates."""
        return self._step.slices[self._index]

    def advance(self, gathered: Gathered, exchange: Exchange) -> None:
        """Take the step of a train round.

        Raises:
            Diverged: The new parameters are not finite.
            Corrupt, Gone: As `Exchange.gather`.
        """
        weights, step = self.weights, self._step
        step.take(weights, gathered, self._index, self._scale(gathered, exchange) if step.clips else 1.0)
        if len(step.slices) > 1:
            exchange.publish_slice(weights.version + 1, weights.parameters)
            exchange.fetch_slices(weights.version + 1, weights.parameters)
        weights.advance(gathered.totals, self._plan)

    def _scale(self, gathered: Gathered, exchange: Exchange) -> float:
        """Return the factor that keeps the mean gradient within the norm; in `sharded` this takes one more hop."""
        squares = self._step.squares(gathered, self._index)
        if len(self._step.slices) > 1:
            lengths = [-(-len(part) // BLOCK) for part in self._step.slices]
            squares = exchange.share_norms(self.weights.version, squares, lengths)
        return self._step.scale(squares)
