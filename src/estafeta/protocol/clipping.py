"""The norm by which a gradient is clipped, with the same bits however the gradient is cut.

The module sums the squares of a flat float32 gradient, or of any slice of it that begins at a multiple of `BLOCK`. It
turns the sums of all slices into the factor that shortens the gradient. Every function that sums squares takes the same
elements in the same order. The module knows neither torch nor files, workers or optimisers.
"""

import math
from typing import Final

import numpy as np
import numpy.typing as npt

BLOCK: Final = 65_536
"""Elements whose squares are summed together for the norm. It is part of the result: another value gives other bits."""


def block_sums(grad: npt.NDArray[np.float32]) -> npt.NDArray[np.float64]:
    """Return the sum of squares of each block of `BLOCK` elements of float32[n]: float64 of shape (ceil(n / BLOCK),).

    Squares are exact in float64. The function adds them in a binary tree, halves onto halves; `numpy.sum` has another
    order in each release. So the results of slices cut at multiples of `BLOCK`, put one after the other, are those of
    the whole vector, on any processor.
    """
    sums = np.empty(-(-grad.size // BLOCK))
    squares = np.empty(BLOCK)
    for index in range(sums.size):
        block = grad[index * BLOCK : (index + 1) * BLOCK]
        width = 1 << (block.size - 1).bit_length()  # the next power of two: zeros behind the last element add nothing
        squares[: block.size] = block
        squares[block.size : width] = 0.0
        squares[:width] *= squares[:width]
        while width > 1:
            width //= 2
            squares[:width] += squares[width : 2 * width]
        sums[index] = squares[0]
    return sums


def norm_from(sums: npt.NDArray[np.float64]) -> float:
    """Return the Euclidean norm of the vector that has these `block_sums`; their sum is rounded once."""
    return math.sqrt(math.fsum(sums))


def clip_factor(norm: float, clip_norm: float | None) -> float:
    """Return the factor that makes a gradient no longer than `clip_norm`; 1.0 if it is not, or without a limit.

    As in `torch.nn.utils.clip_grad_norm_`, 1e-6 is added to the norm, and a norm of NaN gives NaN.
    """
    if clip_norm is None:
        return 1.0
    factor = clip_norm / (norm + 1e-6)
    return 1.0 if factor > 1.0 else factor
