"""Combining contributions: sums in rank order, one division, one optimiser step. numpy only.

The order of the additions is that of the ranks, whoever computes them and in whatever pieces, so the bits of the result
are a function of the contributions alone.
"""

from __future__ import annotations

from collections.abc import Mapping

import numpy as np

from estafeta.clipping import clip_factor, global_norm
from estafeta.contribution import BUFFER, GRADIENT, Tally, tally_of
from estafeta.errors import EstafetaError
from estafeta.files import Reader
from estafeta.layout import Round, RunLayout
from estafeta.schedules import Progress
from estafeta.spec import Plan, RunSpec
from estafeta.store import Store
from estafeta.tensorfile import Array, TensorFile, scratch_buffer
from estafeta.weights import Weights


class Diverged(EstafetaError):
    """The optimiser's step gave parameters that are not finite."""


class GradientSum:
    """Adds up the ranks' contributions to a train round, in rank order.

    Args:
        size: Number of parameters.

    Attributes:
        gradient: float32[P], the sum.
        rows: Rows that were summed over.
        sums: Loss and metrics, summed over these rows.
    """

    def __init__(self, size: int) -> None:
        self.gradient: Array = np.zeros(size, np.float32)
        self.rows = 0
        self.sums: dict[str, float] = {}
        self._scratch = scratch_buffer()
        self._buffers: dict[str, Array] = {}

    def add(self, store: Store, path: str) -> None:
        """Add one contribution, streamed.

        Raises:
            Gone: It has been swept.
            Corrupt: Its bytes are not those that were published.
        """
        added = 0  # elements, kept over a reading that has to begin anew
        buffers: dict[str, Array] = {}

        def read(reader: Reader) -> Tally:
            nonlocal added
            file = TensorFile(reader)
            for first, piece in file.stream(GRADIENT, self._scratch) if GRADIENT in file.entries else ():
                if first >= added:
                    self.gradient[first : first + len(piece)] += piece
                    added = first + len(piece)
            buffers.update({n.removeprefix(BUFFER): file.read(n) for n in file.entries if n.startswith(BUFFER)})
            return tally_of(file)

        tally = store.reading(path, read)
        self.rows += tally.rows
        for name, value in tally.sums.items():
            self.sums[name] = self.sums.get(name, 0.0) + value
        for name, array in buffers.items():
            if array.dtype.kind == "f":
                self._buffers[name] = self._buffers.get(name, 0.0) + array.astype(np.float64) * tally.rows
            else:
                self._buffers[name] = np.maximum(self._buffers.get(name, array), array)

    def mean_buffers(self, like: Mapping[str, Array]) -> dict[str, Array]:
        """The buffers' mean, weighted by rows (counters: the largest), in the dtypes of `like`."""
        return {
            name: np.asarray(total / self.rows if total.dtype.kind == "f" else total, like[name].dtype)
            for name, total in self._buffers.items()
        }


def combine(store: Store, layout: RunLayout, spec: RunSpec, plan: Plan, round_: Round, weights: Weights) -> None:
    """Make the next version out of `weights`, in place, from the contributions of all ranks.

    Raises:
        Gone: A contribution has been swept: the run has moved on.
        Corrupt: A contribution's bytes are not those that were published.
        Diverged: The new parameters are not finite; `weights` must not be used any more.
    """
    total = GradientSum(plan.size)
    for rank in range(spec.workers):
        total.add(store, layout.contribution(round_, rank))
    gradient = total.gradient
    gradient /= np.float32(total.rows)
    optimizer = spec.update_rule
    norm = global_norm(gradient)
    progress = Progress(round_.version, plan.total_steps, plan.steps_per_epoch)
    lr = optimizer.lr_at(progress)
    scale = clip_factor(norm, optimizer.clip_norm)
    optimizer.update(weights.parameters, gradient, weights.state, step=round_.version, lr=lr, scale=scale)
    if not np.isfinite([weights.parameters.min(), weights.parameters.max()]).all():  # NaN is both; needs no memory
        raise Diverged(
            f"step {round_.version + 1} made parameters that are not finite (gradient norm {norm:.3g}, lr {lr:.3g})",
            hint="lower the learning rate (-o optimizer.lr=…), or clip the gradient (-o optimizer.clip_norm=1)",
        )
    begins = round_.version % plan.steps_per_epoch == 0
    weights.rows = total.rows + (0 if begins else weights.rows)
    weights.sums = {name: value + (0.0 if begins else weights.sums[name]) for name, value in total.sums.items()}
    if weights.buffers:
        weights.buffers = total.mean_buffers(weights.buffers)
    weights.version = round_.version + 1


def valid_metrics(store: Store, layout: RunLayout, spec: RunSpec, round_: Round) -> dict[str, float]:
    """Metrics on the validation split, from the contributions of all ranks; raises as `GradientSum.add` does."""
    total = GradientSum(0)
    for rank in range(spec.workers):
        total.add(store, layout.contribution(round_, rank))
    return means("valid", total.rows, total.sums)


def means(phase: str, rows: int, sums: Mapping[str, float]) -> dict[str, float]:
    """Sums over rows as metrics of a phase: `train_loss` and so on."""
    return {f"{phase}_{name}": value / rows for name, value in sums.items()}
