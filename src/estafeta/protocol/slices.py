"""How the flat vector is cut among the ranks."""

from __future__ import annotations

from dataclasses import dataclass
from itertools import pairwise

GRAIN = 1024
"""Slices begin at multiples of so many elements, a page of 4 kB: no two ranks write into one cache line or page."""


@dataclass(frozen=True)
class Slice:
    """Elements `first` to `last` (exclusive) of the flat vector."""

    first: int
    last: int

    def __len__(self) -> int:
        return self.last - self.first


def cut(size: int, parts: int, grain: int = GRAIN) -> tuple[Slice, ...]:
    """Cut a vector into slices of nearly equal length; if it is short, the last ones are empty.

    Args:
        size: Elements.
        parts: Slices.
        grain: Each slice begins at a multiple of this.
    """
    grains = -(-size // grain)
    # Rounded up, so that the first parts get what there is: 3 grains for 8 ranks are the affair of ranks 0, 1 and 2.
    bounds = [
        min(-(-grains * part // parts) * grain, size) if grains >= parts else min(part * grain, size)
        for part in range(parts + 1)
    ]
    return tuple(Slice(first, last) for first, last in pairwise(bounds))
