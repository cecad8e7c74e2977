"""Cheap facts about flat float32 vectors, for the hot path."""

from __future__ import annotations

import math
from typing import Any

import numpy as np
import numpy.typing as npt

Vector = npt.NDArray[Any]


def is_finite(values: Vector) -> bool:
    """Whether all elements are finite.

    A sum of squares is finite only if all it is made of is: one pass, no memory, and BLAS takes less than half the time
    that `add.reduce` would. If it is not finite, that may be its own overflow.

    Args:
        values: float32, flat.
    """
    with np.errstate(all="ignore"):
        return math.isfinite(np.dot(values, values)) or bool(np.isfinite(values).all())


def digest(values: Vector) -> int:
    """The exclusive or of the 32-bit words of a vector. Those of its parts, combined likewise, make that of the whole.

    Args:
        values: float32, contiguous.
    """
    return int(np.bitwise_xor.reduce(values.view(np.uint32))) if values.size else 0
