"""Mean, deviation and range of columns, and the frequency of classes: in one pass, block by block.

Sums are in float64, and blocks end at fixed row numbers, so the result depends on the rows alone.
"""

import numpy as np

from estafeta.data.manifest import Column
from estafeta.store.tensorfile import Array

STRIP = 1 << 15
"""Number of numbers in one pass: as float64 they fit a processor's cache."""
MOST_CLASSES = 1000
"""Number of values from which a target no longer counts as classes."""


class Moments:
    """The moments of each column of a table.

    Args:
        columns: Names of the columns.
    """

    def __init__(self, columns: tuple[str, ...]) -> None:
        self._columns = columns
        self._rows = 0
        self._count, self._mean, self._square = (np.zeros(len(columns)) for _ in range(3))
        self._least, self._greatest = (np.full(len(columns), sign * np.inf) for sign in (1, -1))

    def add(self, rows: Array) -> None:
        """Take in float32[n, columns]; NaN is no value."""
        step = max(1, STRIP // max(1, len(self._columns)))
        for first in range(0, len(rows), step):
            self._add(rows[first : first + step].astype(np.float64))
        self._rows += len(rows)

    def _add(self, rows: Array) -> None:
        self._least = np.fmin(self._least, np.fmin.reduce(rows, 0))
        self._greatest = np.fmax(self._greatest, np.fmax.reduce(rows, 0))
        count = np.full(len(self._columns), float(len(rows)))
        there = ~np.isnan(rows)
        if not there.all():
            count = there.sum(0).astype(np.float64)
            rows = np.where(there, rows, 0.0)
        mean = rows.sum(0) / np.maximum(count, 1)
        rows -= mean
        rows *= rows
        square = rows.sum(0) if there.all() else np.where(there, rows, 0.0).sum(0)
        # Chan, Golub, LeVeque 1979: the moments of two samples together.
        total = self._count + count
        shift = mean - self._mean
        self._square += square + shift**2 * self._count * count / np.maximum(total, 1)
        self._mean += shift * count / np.maximum(total, 1)
        self._count = total

    def columns(self) -> tuple[Column, ...]:
        """The statistics; zeros for a column without any value."""
        deviation = np.sqrt(self._square / np.maximum(self._count, 1))
        seen = self._count > 0
        return tuple(
            Column(
                name=name,
                missing=self._rows - int(self._count[i]),
                mean=float(self._mean[i]),
                deviation=float(deviation[i]),
                least=float(self._least[i]) if seen[i] else 0.0,
                greatest=float(self._greatest[i]) if seen[i] else 0.0,
            )
            for i, name in enumerate(self._columns)
        )


class Classes:
    """The frequency of each value of a whole-number target."""

    def __init__(self) -> None:
        self._counts: dict[int, int] | None = {}

    def add(self, target: Array) -> None:
        """Take in a target of any kind."""
        if self._counts is None or target.dtype.kind == "f" or target.ndim > 1:
            self._counts = None
            return
        for value, count in zip(*np.unique(target, return_counts=True), strict=True):
            self._counts[int(value)] = self._counts.get(int(value), 0) + int(count)
        if len(self._counts) > MOST_CLASSES:
            self._counts = None

    def counts(self, texts: tuple[str, ...] = ()) -> dict[str, int]:
        """Frequency by value, or by the text for which the value is the code."""
        counts = sorted((self._counts or {}).items())
        return {texts[value] if texts else str(value): count for value, count in counts}
