"""The manifest of a data set: the document that an import publishes last, and that makes its blocks a data set.

Invariant: a manifest has everything that reading depends on: rows and size of each block, and how its numbers become
those of a batch. So the rows of each batch follow from the manifest and the spec alone.
"""

from functools import cached_property
from typing import Literal

import numpy as np
import numpy.typing as npt
from pydantic import Field, field_validator

from estafeta.protocol.spec import Document
from estafeta.store.tensorfile import DTYPES

Missing = Literal["error", "mean", "drop"]
TARGET = "target"
"""Name of the field that a model learns."""


class Column(Document):
    """One column of a table, with its statistics over the training rows; missing numbers do not count.

    Attributes:
        missing: Number of rows without a value; reading replaces them with the mean.
        deviation: Standard deviation, over n.
    """

    name: str
    missing: int = 0
    mean: float = 0.0
    deviation: float = 0.0
    least: float = 0.0
    greatest: float = 0.0


class Kind(Document):
    """One part of a row: an input, or the target.

    Attributes:
        name: Name of its tensors in the blocks.
        dtype: Code of the safetensors format.
        shape: Shape of one row.
        sparse: Whether rows are stored as CSR; the shape then has the number of columns.
        columns: Its columns, if they have names.
    """

    name: str
    dtype: str
    shape: tuple[int, ...] = ()
    sparse: bool = False
    columns: tuple[Column, ...] = ()

    @property
    def row_bytes(self) -> int:
        """Size of a dense row."""
        return int(np.prod(self.shape, dtype=np.int64)) * DTYPES[self.dtype].itemsize


class Extent(Document):
    """The extent of one block: its number of rows, and the bytes of its file."""

    rows: int = Field(ge=1)
    bytes: int = Field(ge=1)


class Manifest(Document):
    """A data set. Its token identifies it: after a removal, other data may have the same name.

    Attributes:
        attempt: Id of the import attempt; the names of its blocks have it.
        fill_missing: Whether reading replaces missing numbers, which the blocks have as NaN, with the column's mean.
        standardize: Whether reading subtracts the mean and divides by the standard deviation.
        validation: Fraction of the rows that is held out; None leaves that to the job.
        seed: Seed for the choice of held-out rows.
        categories: Texts by column; the place of a text is its code.
        labels: Number of rows of each class, if there are classes and not too many.
        dropped: Number of rows that the import left out for missing values.
        blocks: Extents of the blocks. All but the last have as many rows, so a division finds the block of a row.
    """

    format: Literal["estafeta-dataset/1"] = "estafeta-dataset/1"
    token: str
    name: str
    created_at: float
    estafeta: str
    source: tuple[str, ...]
    attempt: str
    inputs: tuple[Kind, ...] = Field(min_length=1)
    target: Kind
    fill_missing: bool = False
    standardize: bool = False
    validation: float | None = Field(default=None, ge=0, lt=1)
    seed: int = 0
    categories: dict[str, tuple[str, ...]] = Field(default_factory=dict)
    labels: dict[str, int] = Field(default_factory=dict)
    dropped: int = 0
    blocks: tuple[Extent, ...] = Field(min_length=1)

    @field_validator("blocks")
    @classmethod
    def _are_even(cls, blocks: tuple[Extent, ...]) -> tuple[Extent, ...]:
        rows = blocks[0].rows
        if any(block.rows != rows for block in blocks[:-1]) or blocks[-1].rows > rows:
            raise ValueError("the blocks have different numbers of rows")
        return blocks

    @property
    def block_rows(self) -> int:
        """Number of rows in each block but the last."""
        return self.blocks[0].rows

    @property
    def kinds(self) -> tuple[Kind, ...]:
        """Inputs and target, in the order of a batch."""
        return (*self.inputs, self.target)

    @property
    def rows(self) -> int:
        """Number of rows."""
        return int(self.starts[-1])

    @property
    def bytes(self) -> int:
        """Size of all blocks."""
        return sum(block.bytes for block in self.blocks)

    @cached_property
    def starts(self) -> npt.NDArray[np.int64]:
        """int64[blocks + 1]: number of the first row of each block, and of the row after the last one."""
        return np.cumsum([0, *(block.rows for block in self.blocks)], dtype=np.int64)
