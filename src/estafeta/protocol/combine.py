"""Combining contributions: sums in rank order, one division, one optimiser step. numpy only.

The order of the additions is that of the ranks, whoever computes them and in whatever pieces, so the bits of the result
are a function of the contributions alone.
"""

from __future__ import annotations

import numpy as np

from estafeta.errors import Diverged
from estafeta.job.schedules import Progress
from estafeta.protocol.clipping import clip_factor, global_norm
from estafeta.protocol.contribution import BUFFER, GRADIENT, Tally, tally_of
from estafeta.protocol.layout import Round, RunLayout
from estafeta.protocol.spec import Plan, RunSpec
from estafeta.protocol.totals import Totals
from estafeta.protocol.weights import Weights
from estafeta.store.files import Reader
from estafeta.store.store import Store
from estafeta.store.tensorfile import Array, TensorFile, scratch_buffer
from estafeta.store.vectors import is_finite


class GradientSum:
    """Adds up the ranks' contributions to a round, in rank order.

    Args:
        size: Number of parameters.

    Attributes:
        gradient: float32[P], the sum.
        totals: All else.
    """

    def __init__(self, size: int) -> None:
        self.gradient: Array = np.zeros(size, np.float32)
        self.totals = Totals()
        self._scratch = scratch_buffer()
        self._begun = False

    def add(self, store: Store, path: str) -> None:
        """Add one contribution, streamed.

        Raises:
            Gone: It has been swept.
            Corrupt: Its bytes are not those that were published.
        """
        added = 0  # elements, kept over a reading that has to begin anew
        buffers: dict[str, Array] = {}

        def read(reader: Reader) -> tuple[Tally, bool]:
            nonlocal added
            file = TensorFile(reader)
            for first, piece in file.stream(GRADIENT, self._scratch) if GRADIENT in file.entries else ():
                if first >= added:
                    span = self.gradient[first : first + len(piece)]
                    if self._begun:
                        span += piece
                    else:  # the first one is taken as it is: zero plus a negative zero would be another zero
                        span[:] = piece
                    added = first + len(piece)
            buffers.update({n.removeprefix(BUFFER): file.read(n) for n in file.entries if n.startswith(BUFFER)})
            return tally_of(file), GRADIENT in file.entries

        tally, has_gradient = store.reading(path, read)
        self._begun |= has_gradient
        self.totals.add(tally.rows, tally.sums, buffers, spent_usd=tally.spent_usd, missed=tally.missed)


def combine(store: Store, layout: RunLayout, spec: RunSpec, plan: Plan, round_: Round, weights: Weights) -> None:
    """Make the next version out of `weights`, in place, from the contributions of all ranks.

    Raises:
        Gone: A contribution has been swept: the run has moved on.
        Corrupt: A contribution's bytes are not those that were published.
        Diverged: The new parameters are not finite; `weights` must not be used any more.
    """
    added = GradientSum(plan.size)
    for rank in range(spec.workers):
        added.add(store, layout.contribution(round_, rank))
    gradient, totals = added.gradient, added.totals
    gradient /= np.float32(totals.rows)
    optimizer = spec.update_rule
    scale = 1.0 if optimizer.clip_norm is None else clip_factor(global_norm(gradient), optimizer.clip_norm)
    lr = optimizer.lr_at(Progress(round_.version, plan.total_steps, plan.steps_per_epoch))
    optimizer.update(weights.parameters, gradient, weights.state, step=round_.version, lr=lr, scale=scale)
    check_parameters(weights.parameters, round_.version, lr)
    weights.advance(totals, plan)


def check_parameters(parameters: Array, version: int, lr: float) -> None:
    """Make sure that a step has not led astray.

    Args:
        parameters: float32, after the step from `version` on.
        version: Steps done before it.
        lr: Its learning rate.

    Raises:
        Diverged: They are not finite.
    """
    if not is_finite(parameters):
        raise Diverged(
            f"step {version + 1} made parameters that are not finite (learning rate {lr:.3g})",
            hint="lower the learning rate (-o optimizer.lr=…), or clip the gradient (-o optimizer.clip_norm=1)",
        )


def valid_totals(store: Store, layout: RunLayout, spec: RunSpec, round_: Round) -> Totals:
    """Sums over the validation split, from the contributions of all ranks; raises as `GradientSum.add` does."""
    added = GradientSum(0)
    for rank in range(spec.workers):
        added.add(store, layout.contribution(round_, rank))
    return added.totals
