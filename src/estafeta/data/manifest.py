"""What a data set is: the document that is published last, and makes the blocks before it a data set.

Invariant: everything that reading depends on is in here (how many rows each block has, how large it is, how its
numbers become those of a batch), so that which rows make which batch follows from the manifest and the spec alone.
"""

from __future__ import annotations

from functools import cached_property
from typing import Literal

import numpy as np
import numpy.typing as npt
from pydantic import Field, field_validator

from estafeta.protocol.spec import Document
from estafeta.store.tensorfile import DTYPES

Missing = Literal["error", "mean", "drop"]

TARGET = "target"
"""Name of the field that is learnt."""


class Column(Document):
    """One column of a table, as it was over the training rows.

    Attributes:
        missing: Rows without a value; reading puts the mean in their place.
        mean: Mean of the numbers that are there; so are the others.
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
        name: How its tensors are called in the blocks.
        dtype: Code of the safetensors format.
        shape: Shape of one row.
        sparse: Rows are stored as CSR; the shape then has the number of columns.
        columns: What is known of its columns, or nothing if it has none with names.
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
    """How much is in one block: rows, and bytes of the file."""

    rows: int = Field(ge=1)
    bytes: int = Field(ge=1)


class Manifest(Document):
    """A data set. It is identified by its token: the same name may be given to other data after a removal.

    Attributes:
        attempt: Which files are its blocks.
        fill_missing: Missing numbers are in the blocks as NaN; reading puts the column's mean in their place.
        standardize: Reading takes the mean off and divides by the standard deviation.
        validation: Fraction of the rows that is held out; None leaves that to the job.
        seed: Of the rows that are held out.
        categories: By column, the text that each code stands for.
        labels: How often each class occurs, if there are classes and not too many.
        blocks: All have as many rows, but the last one may have fewer: which block a row is in is a division.
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
            raise ValueError("they have different numbers of rows")
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
