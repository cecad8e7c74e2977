"""The chunk that a reader yields: some rows, and the gaps in them."""

from __future__ import annotations

from collections.abc import Iterator, Mapping
from dataclasses import dataclass, field
from typing import Any, Protocol

import numpy as np
import numpy.typing as npt

from estafeta.data.blocks import RowArray
from estafeta.data.manifest import Kind
from estafeta.errors import UsageError

Mask = npt.NDArray[np.bool_]
MOST = np.iinfo(np.int64).max
"""The largest whole number that blocks can hold."""


@dataclass(frozen=True)
class Chunk:
    """Consecutive rows of a source.

    Attributes:
        parts: Rows by name of the kind; missing numbers are NaN.
        where: File, or its substitute, with the rows.
        first: Number of the first row in that file, counted from 1.
        gaps: Mask by column, of the rows without a text.
        unlabelled: Mask of the rows without a target.
    """

    parts: Mapping[str, RowArray]
    where: str
    first: int
    gaps: Mapping[str, Mask] = field(default_factory=dict)
    unlabelled: Mask | None = None

    def __len__(self) -> int:
        return len(next(iter(self.parts.values())))

    def take(self, keep: Mask | slice) -> Chunk:
        """Some of the rows, without the masks: the caller has dealt with their gaps."""
        rows = np.arange(len(self))[keep]
        parts = {n: p[keep] if isinstance(p, np.ndarray) else p.take(rows) for n, p in self.parts.items()}
        return Chunk(parts, self.where, self.first)

    def head(self, rows: int) -> Chunk:
        """The first rows, with their masks."""
        gaps = {name: mask[:rows] for name, mask in self.gaps.items()}
        unlabelled = self.unlabelled[:rows] if self.unlabelled is not None else None
        return Chunk(self.take(slice(rows)).parts, self.where, self.first, gaps, unlabelled)


class Source(Protocol):
    """A source of rows.

    Attributes:
        size: Bytes to read, about.
        position: Bytes read so far.
        inputs: Kinds of the inputs; complete after the last chunk.
        target: Kind of the target.
        categories: Texts by column that have codes so far.
    """

    size: int

    @property
    def position(self) -> int: ...  # noqa: D102

    @property
    def inputs(self) -> tuple[Kind, ...]: ...  # noqa: D102

    @property
    def target(self) -> Kind: ...  # noqa: D102

    @property
    def categories(self) -> dict[str, tuple[str, ...]]: ...  # noqa: D102

    def chunks(self) -> Iterator[Chunk]:
        """All rows, in order.

        Raises:
            UsageError: The source cannot be read as the format that it is said to have.
        """


def plain(array: npt.NDArray[Any]) -> npt.NDArray[Any] | None:
    """An array in a dtype that blocks have: float32, uint8, bool or int64; None if it holds no numbers.

    Raises:
        UsageError: A number does not fit int64.
    """
    match array.dtype.kind:
        case "f":
            return np.ascontiguousarray(array, "<f4")
        case "b":
            return np.ascontiguousarray(array)
        case "i" | "u":
            if array.dtype.itemsize == 8 and array.dtype.kind == "u" and array.size and array.max() > MOST:
                raise UsageError(
                    f"{array.max()} does not fit int64, the type of stored whole numbers",
                    hint="store them as floating-point numbers, or number the classes from 0",
                )
            return np.ascontiguousarray(array, "u1" if array.dtype == np.uint8 else "<i8")
    return None
