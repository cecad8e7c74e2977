"""What the ranks' contributions to a round add up to, beside the gradient: rows, sums, buffers.

Sums are added in rank order, beginning at zero, in float64, whoever adds them.
"""

from __future__ import annotations

from collections.abc import Mapping

import numpy as np

from estafeta.store.tensorfile import Array


class Totals:
    """Adds up in rank order.

    Attributes:
        rows: Rows that were summed over.
        sums: Loss and metrics, summed over these rows.
        spent_usd: What the contributions say they have cost.
        missed: Ranks that have missed the round: a stand-in was added in their place.
    """

    def __init__(self) -> None:
        self.rows = 0
        self.spent_usd = 0.0
        self.sums: dict[str, float] = {}
        self.missed: list[int] = []
        self._ranks = 0
        self._buffers: dict[str, Array] = {}

    def add(
        self,
        rows: int,
        sums: Mapping[str, float],
        buffers: Mapping[str, Array],
        *,
        spent_usd: float = 0.0,
        missed: bool = False,
    ) -> None:
        """Add the next rank's."""
        if missed:
            self.missed.append(self._ranks)
        self._ranks += 1
        self.rows += rows
        self.spent_usd += spent_usd
        for name, value in sums.items():
            self.sums[name] = self.sums.get(name, 0.0) + float(value)
        for name, array in buffers.items() if rows else ():
            if array.dtype.kind == "f":
                self._buffers[name] = self._buffers.get(name, 0.0) + array.astype(np.float64) * rows
            else:
                self._buffers[name] = np.maximum(self._buffers.get(name, array), array)

    def buffers(self, like: Mapping[str, Array]) -> dict[str, Array]:
        """The buffers' mean, weighted by rows (counters: the largest), in the dtypes of `like`."""
        return {
            name: np.asarray(total / self.rows if total.dtype.kind == "f" else total, like[name].dtype)
            for name, total in self._buffers.items()
        }


def means(phase: str, rows: int, sums: Mapping[str, float]) -> dict[str, float]:
    """Sums over rows as metrics of a phase: `train_loss` and so on."""
    return {f"{phase}_{name}": value / rows for name, value in sums.items()}
