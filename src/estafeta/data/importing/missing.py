"""Missing values: refused, dropped with their row, or kept for reading, which replaces them with the mean.

Invariant: every row that passes has a target and no infinite number; it has NaN only where reading replaces it.
"""

import numpy as np

from estafeta.data.blocks import Csr
from estafeta.data.importing.chunk import Chunk, Mask
from estafeta.data.manifest import TARGET, Kind, Missing
from estafeta.errors import UsageError

WAYS_OUT = (
    "--missing drop leaves such rows out, --missing mean takes the column's mean, --ignore COLUMN leaves a column out"
)


def clean(chunk: Chunk, missing: Missing, inputs: tuple[Kind, ...]) -> Chunk:
    """Refuse or drop the rows that cannot be used.

    Args:
        chunk: Rows as they were read.
        missing: Treatment of missing values.
        inputs: Kinds of the inputs.

    Raises:
        UsageError: A required value is missing, or a number is infinite; the message names file, row and column.
    """
    bad = np.zeros(len(chunk), bool)
    for name, mask in _findings(chunk, missing, inputs):
        if missing != "drop":
            raise _refusal(chunk, name, int(np.flatnonzero(mask)[0]))
        bad |= mask
    return chunk.take(~bad) if bad.any() else chunk


def _findings(chunk: Chunk, missing: Missing, inputs: tuple[Kind, ...]) -> list[tuple[str, Mask]]:
    """Columns, each with a mask of the rows in which it cannot be used."""
    found: list[tuple[str, Mask]] = []
    target = chunk.parts[TARGET]
    unlabelled = chunk.unlabelled if chunk.unlabelled is not None else np.zeros(len(chunk), bool)
    if isinstance(target, np.ndarray) and target.dtype.kind == "f":
        unlabelled = unlabelled | ~np.isfinite(target).reshape(len(chunk), -1).all(1)
    found.append(("the label", unlabelled))
    if missing != "mean":
        found += [(f"column {name!r}", mask) for name, mask in chunk.gaps.items()]
    for kind in inputs:
        found += _numbers(chunk, kind, missing)
    return [(name, mask) for name, mask in found if mask.any()]


def _numbers(chunk: Chunk, kind: Kind, missing: Missing) -> list[tuple[str, Mask]]:
    part = chunk.parts[kind.name]
    if isinstance(part, Csr):
        rows = np.repeat(np.arange(len(part)), np.diff(part.starts))
        mask = np.zeros(len(part), bool)
        mask[rows[~np.isfinite(part.values)]] = True
        return [(kind.name, mask)]
    if part.dtype.kind != "f" or np.isfinite(part).all():
        return []
    wrong = np.isinf(part) if missing == "mean" and kind.columns else ~np.isfinite(part)
    if kind.columns:
        return [(f"column {column.name!r}", np.asarray(wrong[:, i])) for i, column in enumerate(kind.columns)]
    return [(kind.name, np.asarray(wrong.reshape(len(part), -1).any(1)))]


def _refusal(chunk: Chunk, name: str, row: int) -> UsageError:
    return UsageError(
        f"{chunk.where}, row {chunk.first + row}: {name} has no value, or one that is not finite",
        hint="--missing drop leaves such rows out" if name == "the label" else WAYS_OUT,
    )
