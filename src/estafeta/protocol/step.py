"""The step of a train round: sum in rank order, divide, clip, update. numpy only.

The sums come chunk by chunk from any source. In `merge` the source is `Streamed`, and the slice has all parameters. A
resident rank takes `Gathered` and its own slice. All operations are elementwise and in the order of the ranks. So the
bits of the next version are a function of the contributions alone, whatever slices and chunks they are taken in.
"""

from collections.abc import Iterable
from typing import Protocol

import numpy as np

from estafeta.errors import Diverged, NotFinite
from estafeta.job.schedules import Progress
from estafeta.protocol.clipping import block_sums, clip_factor, norm_from
from estafeta.protocol.message import CHUNK
from estafeta.protocol.partition import Slice, slices_of
from estafeta.protocol.spec import Plan, RunSpec
from estafeta.protocol.totals import Totals
from estafeta.protocol.weights import Weights
from estafeta.store.tensorfile import Array
from estafeta.store.vectors import is_finite

DIVERGING = "try a smaller learning rate, and look for missing or huge numbers in the data"
"""Hint for numbers that are not finite."""


class Gradients(Protocol):
    """The contributions of all ranks to a train round.

    Attributes:
        totals: Rows, sums and buffers of all ranks.
    """

    totals: Totals

    def add_up(self, index: int, first: int, out: Array) -> None:
        """Put the sums of a chunk of a slice, from element `first` on, into `out` (float32[n], all in the slice).

        A caller goes through a slice from its beginning.
        """


class Step:
    """Takes the steps of a run, slice by slice.

    Args:
        chunk: Elements that are worked on at a time, whole blocks of `clipping.BLOCK`. It does not show in the bits.

    Attributes:
        slices: How the run's parameters are cut.
    """

    def __init__(self, spec: RunSpec, plan: Plan, chunk: int = CHUNK) -> None:
        self.slices = slices_of(spec, plan)
        self._optimizer, self._plan = spec.update_rule, plan
        self._room: Array = np.empty((2, chunk), np.float32)

    @property
    def clips(self) -> bool:
        """Whether the mean gradient is clipped: then `take` needs the factor of `scale`."""
        return self._optimizer.clip_norm is not None

    def squares(self, gradients: Gradients, index: int) -> Array:
        """Return the sum of squares of each block of a slice of the mean gradient, float64.

        Raises:
            Corrupt, Gone: As the source.
        """
        sums: list[Array] = [np.empty(0)]
        rows = np.float32(gradients.totals.rows)
        with np.errstate(all="ignore"):
            for first, out in _chunks(self.slices[index], self._room[0]):
                gradients.add_up(index, first, out)
                out /= rows
                sums.append(block_sums(out))
        return np.concatenate(sums)

    def scale(self, squares: Array) -> float:
        """Return the factor that keeps the mean gradient within the norm, from the `squares` of all slices."""
        return clip_factor(norm_from(squares), self._optimizer.clip_norm)

    def take(self, weights: Weights, gradients: Gradients, index: int, scale: float = 1.0) -> None:
        """Update one slice of the parameters, in place; the state in `weights` is of that slice.

        The mean gradient is multiplied by `scale` first.

        Raises:
            Diverged: The new parameters are not finite; `weights` must not be used any more.
            Corrupt, Gone: As the source.
        """
        optimizer, part, rows = self._optimizer, self.slices[index], np.float32(gradients.totals.rows)
        at = Progress(weights.version, self._plan.total_steps, self._plan.steps_per_epoch)
        lr = optimizer.lr_at(at)
        with np.errstate(all="ignore"):  # as in PyTorch; the check below finds what is not finite
            for first, gradient in _chunks(part, self._room[0]):
                gradients.add_up(index, first, gradient)
                gradient /= rows
                within = slice(first - part.first, first - part.first + gradient.size)
                parameters = weights.parameters[first : first + gradient.size]
                state = {name: vector[within] for name, vector in weights.state.items()}
                optimizer.update_chunk(
                    parameters, gradient, state, self._room[1], step=weights.version, lr=lr, scale=scale
                )
                check_parameters(parameters, weights.version, lr)


def add_in_order(pieces: Iterable[Array], out: Array) -> None:
    """Sum pieces (float32[n], at least one) into `out`, one after the other; the first, and no other, may be `out`.

    The first is taken as it is: zero plus a negative zero would be another zero.
    """
    rest = iter(pieces)
    total = next(rest)
    for piece in rest:
        total = np.add(total, piece, out=out)
    if total is not out:
        out[:] = total


def check_gradient(values: Array) -> None:
    """Refuse a gradient that cannot be used.

    Raises:
        NotFinite: It has an element that is NaN or infinite.
    """
    if not is_finite(values):
        raise NotFinite("The gradient has elements that are not finite", hint=DIVERGING)


def check_parameters(parameters: Array, version: int, lr: float) -> None:
    """Refuse parameters (float32) that the step from `version` on, with the learning rate `lr`, has led astray.

    Raises:
        Diverged: They are not finite.
    """
    if not is_finite(parameters):
        raise Diverged(
            f"Step {version + 1} made parameters that are not finite (learning rate {lr:.3g})",
            hint="lower the learning rate (-o optimizer.lr=…), or clip the gradient (-o optimizer.clip_norm=1)",
        )


def _chunks(part: Slice, scratch: Array) -> list[tuple[int, Array]]:
    """Return the first element of each chunk of a slice, and room for the chunk."""
    size = scratch.size
    return [(first, scratch[: min(size, part.last - first)]) for first in range(part.first, part.last, size)]
