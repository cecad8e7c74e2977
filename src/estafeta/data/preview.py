"""The first rows of a data set as texts, for the end of `estafeta data show`.

Pure: it turns a manifest and the arrays of a block into texts. `control` calls it beside the block, since a row may be
larger than an answer of `control`.
"""

from __future__ import annotations

from collections.abc import Sequence

from estafeta.data.blocks import Csr, RowArray
from estafeta.data.manifest import Manifest

MOST_COLUMNS = 12
"""Number of columns in a preview."""

MOST_NUMBERS = 6
"""Number of numbers that a preview shows of one value."""


def preview(manifest: Manifest, parts: Sequence[RowArray], rows: int) -> tuple[list[str], list[list[str]]]:
    """Names of columns and the first rows of a block, as they were imported."""
    names: list[str] = []
    cells: list[list[str]] = []
    for kind, part in zip(manifest.kinds, parts, strict=True):
        if kind.columns and not isinstance(part, Csr):
            table = part.reshape(len(part), -1)
            for index, column in enumerate(kind.columns):
                texts = manifest.categories.get(column.name)
                values = table[:rows, index].tolist()
                names.append(column.name)
                cells.append([texts[value] if texts else f"{value:.6g}" for value in values])
        else:
            names.append(kind.name)
            cells.append([_value(part, row) for row in range(min(rows, len(part)))])
    if len(names) > MOST_COLUMNS:  # the target, the last one, is always shown
        names[MOST_COLUMNS - 1 : -1], cells[MOST_COLUMNS - 1 : -1] = ["…"], [["…"] * len(cells[0])]
    return names, [list(row) for row in zip(*cells, strict=True)]


def _value(part: RowArray, row: int) -> str:
    if isinstance(part, Csr):
        span = slice(part.starts[row], part.starts[row + 1])
        pairs = [f"{c}:{v:.6g}" for c, v in zip(part.columns[span], part.values[span], strict=True)]
    else:
        pairs = [f"{value:.6g}" for value in part[row].reshape(-1)[: MOST_NUMBERS + 1].tolist()]
    return " ".join(pairs[:MOST_NUMBERS]) + (" …" if len(pairs) > MOST_NUMBERS else "")
