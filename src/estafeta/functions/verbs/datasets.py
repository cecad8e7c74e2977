"""The verbs about data sets: which there are, what is in one, whether it is whole, and its removal.

A data set may be larger than what can be read within a time limit, so `verify` works in legs: each answer says from
which block on the next leg continues, and `control` remembers nothing between them.
"""

from collections.abc import Sequence
from typing import Any, Self

from estafeta import waiting
from estafeta.data.blocks import Csr, RowArray
from estafeta.data.catalog import names, read_block, read_manifest, unfinished, verify
from estafeta.data.catalog import remove as remove_files
from estafeta.data.manifest import Kind, Manifest
from estafeta.errors import Command, UsageError
from estafeta.functions.verbs.status import ANSWER_BYTES
from estafeta.protocol.deadline import Deadline
from estafeta.protocol.invocation import Invocation
from estafeta.protocol.spec import Document
from estafeta.protocol.verbs import DatasetsVerb, DescribeVerb, RemoveVerb, VerifyVerb
from estafeta.store.store import Store

MOST_COLUMNS = 12
"""Columns of the preview."""
MOST_NUMBERS = 6
"""Numbers of a value that the preview shows."""


class Dataset(Document):
    """A data set as `control` describes it: its manifest, with totals in place of the blocks.

    Attributes:
        token: Random text that tells this data set from others that had its name.
        bytes: Size of all blocks.
        blocks: Number of blocks.
        dropped: Rows that the import has left out, as they had missing values.
        source: Files or the factory that the rows came from.
        created_at: Time of the import, in seconds since 1970.
        inputs: What a row holds, target apart.
        labels: Number of rows by class; empty if there are no classes, or too many.
        validation: Fraction of the rows that is held out; None leaves that to the job.
        fill_missing: Reading puts the column's mean where a number is missing.
    """

    name: str
    token: str
    rows: int
    bytes: int
    blocks: int
    dropped: int
    source: tuple[str, ...]
    created_at: float
    inputs: tuple[Kind, ...]
    target: Kind
    categories: dict[str, tuple[str, ...]]
    labels: dict[str, int]
    validation: float | None
    seed: int
    standardize: bool
    fill_missing: bool

    @classmethod
    def of(cls, manifest: Manifest) -> Self:
        """The data set that a manifest describes."""
        same = {name: getattr(manifest, name) for name in cls.model_fields if name != "blocks"}
        return cls(blocks=len(manifest.blocks), **same)


class Listing(Document):
    """Data sets in the order of their names.

    Attributes:
        unfinished: Names that an import has begun to write under: it goes on, or was killed.
        more: Whether the list was cut before its end.
    """

    datasets: tuple[Dataset, ...]
    unfinished: tuple[str, ...]
    more: bool = False


class Description(Document):
    """A data set and its first rows.

    Attributes:
        columns: Names of the preview's columns; the last one is the target.
        rows: First rows as texts, a cell for each column.
    """

    dataset: Dataset
    columns: tuple[str, ...] = ()
    rows: tuple[tuple[str, ...], ...] = ()


def datasets(verb: DatasetsVerb, store: Store) -> Listing:
    """Data sets whose names come after `verb.after`, as many as an answer holds.

    Raises:
        Corrupt: A manifest cannot be read.
    """
    found: list[Dataset] = []
    begun, size = tuple(unfinished(store)), 0
    for name in (name for name in names(store) if name > verb.after):
        if size > ANSWER_BYTES:
            return Listing(datasets=tuple(found), unfinished=begun, more=True)
        found.append(Dataset.of(read_manifest(store, name)))
        size += len(found[-1].to_json())
    return Listing(datasets=tuple(found), unfinished=begun)


def describe(verb: DescribeVerb, store: Store) -> Description:
    """One data set, with a preview if the verb asks for rows.

    Raises:
        UsageError: No data set has that name.
        Corrupt: Its manifest or its first block cannot be read.
    """
    manifest = read_manifest(store, verb.dataset)
    if verb.rows is None:
        return Description(dataset=Dataset.of(manifest))
    columns, rows = preview(manifest, read_block(store, manifest, 0), verb.rows)
    return Description(dataset=Dataset.of(manifest), columns=tuple(columns), rows=tuple(map(tuple, rows)))


def verify_some(verb: VerifyVerb, invocation: Invocation) -> dict[str, Any]:
    """Compare blocks with their digests: at least one, and as many as the time allows.

    Returns:
        `checked`: number of blocks that have been found whole, counted from the first of all.

    Raises:
        UsageError: No data set has that name, or another one has it now.
        Corrupt: A block is damaged.
    """
    store = invocation.store
    manifest = read_manifest(store, verb.dataset)
    if manifest.token != verb.token:
        raise UsageError(
            f"The data set {verb.dataset!r} has been replaced meanwhile",
            hint=f"{Command('estafeta', 'data', 'verify', verb.dataset)}, once more",
        )
    deadline = Deadline(invocation.remaining_s, now=store.clock.monotonic, longest_s=waiting.LONGEST_ANSWER_S)
    checking, checked = verify(store, manifest, verb.first), verb.first
    while checked < len(manifest.blocks) and (checked == verb.first or not deadline.is_near()):
        with deadline.step():
            checked = next(checking) + 1
    return {"checked": checked}


def remove(verb: RemoveVerb, store: Store) -> dict[str, str]:
    """Remove a data set, or the files of an import that was killed; return its name.

    Raises:
        UsageError: No data set has that name.
    """
    if verb.dataset not in unfinished(store):
        read_manifest(store, verb.dataset)
    remove_files(store, verb.dataset)
    return {"dataset": verb.dataset}


def preview(manifest: Manifest, parts: Sequence[RowArray], rows: int) -> tuple[list[str], list[list[str]]]:
    """First rows of a block as texts, made where the block is: a row may be larger than an answer of `control`.

    The function returns the names of the columns, and the cells of at most `rows` rows as they were imported.
    """
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
