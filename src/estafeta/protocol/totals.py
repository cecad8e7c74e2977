"""What the contributions of all ranks to a round add up to, beside the gradient: rows, sums, buffers, dollars.

Every function adds them in rank order, beginning at zero, in float64.
"""

from collections.abc import Mapping, Sequence

import numpy as np

from estafeta.protocol.message import Head
from estafeta.store.tensorfile import Array


class Totals:
    """Adds up in rank order.

    Args:
        names: Names of the sums: loss, and the metrics in the job's order.

    Attributes:
        rows: Rows that the sums cover.
        sums: Loss and metrics, summed over these rows.
        spent_usd: Dollars that the ranks have cost, as their contributions say.
        missed: Ranks that have missed the round: a stand-in has their name.
    """

    def __init__(self, names: Sequence[str]) -> None:
        self.rows = 0
        self.spent_usd = 0.0
        self.sums = dict.fromkeys(names, 0.0)
        self.missed: list[int] = []
        self._buffers: dict[str, Array] = {}

    def add(self, head: Head) -> None:
        """Add the contribution of the next rank."""
        if head.is_stand_in:
            self.missed.append(head.rank)
        self.rows += head.rows
        self.spent_usd += head.spent_usd
        for name, value in zip(self.sums, head.sums, strict=True):
            self.sums[name] += value
        for name, array in head.buffers.items() if head.rows else ():
            if array.dtype.kind == "f":
                self._buffers[name] = self._buffers.get(name, 0.0) + array.astype(np.float64) * head.rows
            else:
                self._buffers[name] = np.maximum(self._buffers.get(name, array), array)

    def buffers(self, like: Mapping[str, Array]) -> dict[str, Array]:
        """Return the mean of each buffer, weighted by rows, in the dtypes of `like`; of counters, the largest."""
        return {
            name: np.asarray(total / self.rows if total.dtype.kind == "f" else total, like[name].dtype)
            for name, total in self._buffers.items()
        }


def means(phase: str, rows: int, sums: Mapping[str, float]) -> dict[str, float]:
    """Return sums over rows as metrics of a phase: `train_loss` and so on."""
    return {f"{phase}_{name}": value / rows for name, value in sums.items()}
