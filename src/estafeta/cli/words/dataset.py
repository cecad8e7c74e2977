"""A data set put into words: how large it is, what a row holds, which classes there are.

Pure: from a `Dataset` to texts. This module knows nothing of terminals or stores.
"""

from estafeta.cli.words.run import Lines, listed
from estafeta.client.units import count, size
from estafeta.data.manifest import Kind
from estafeta.functions.verbs.datasets import MOST_COLUMNS, Dataset
from estafeta.store.tensorfile import DTYPES

MOST_CLASSES = 10
"""Classes that are listed at most."""


def identity(dataset: Dataset) -> Lines:
    """Name and size."""
    blocks = count(dataset.blocks, "block")
    return [("data", f"{dataset.name}   {count(dataset.rows, 'row')}, {size(dataset.bytes)} in {blocks}")]


def schema(dataset: Dataset) -> Lines:
    """Contents of a row, and its treatment on reading."""
    lines = [*listed("inputs", map(_kind, dataset.inputs)), ("target", _kind(dataset.target))]
    for name, texts in dataset.categories.items():
        shown = ", ".join(map(_shown, texts[:MOST_CLASSES])) + (" …" if len(texts) > MOST_CLASSES else "")
        lines.append(("texts", f"{name}   {len(texts)}: {shown}"))
    if dataset.labels:
        lines.append(("classes", _classes(dataset)))
    if dataset.validation is not None:
        lines.append(("split", f"{dataset.validation:.0%} of the rows held out, seed {dataset.seed}"))
    done = ["missing numbers become the mean"] if dataset.fill_missing else []
    done += ["numbers are brought to mean 0 and deviation 1"] if dataset.standardize else []
    return lines + ([("reading", ", ".join(done))] if done else [])


def columns(dataset: Dataset) -> list[tuple[str, ...]]:
    """A row for each column of numbers, as strings."""
    numbers = [c for kind in dataset.inputs for c in kind.columns if c.name not in dataset.categories]
    return [
        (c.name, str(c.missing), *(f"{number:.6g}" for number in (c.mean, c.deviation, c.least, c.greatest)))
        for c in numbers
    ]


def _shown(text: str) -> str:
    return text if text and text.isprintable() and "," not in text else repr(text)


def _kind(kind: Kind) -> str:
    """Name and type, the shape of a row, and of what has columns with names, these."""
    listed = ", ".join(column.name for column in kind.columns[:MOST_COLUMNS])
    more = " …" if len(kind.columns) > MOST_COLUMNS else ""
    shape = str(list(kind.shape)) if kind.shape else ""
    named = kind.name if kind.shape or not listed else listed
    columns = f": {listed}{more}" if listed and kind.shape else ""
    return f"{named}   {DTYPES[kind.dtype].name}{shape}{', sparse' if kind.sparse else ''}{columns}"


def _classes(dataset: Dataset) -> str:
    common = sorted(dataset.labels.items(), key=lambda item: -item[1])
    listed = [f"{label} {amount / dataset.rows:.1%}" for label, amount in common[:MOST_CLASSES]]
    left = len(common) - len(listed)
    return f"{len(common)}: " + ", ".join(listed) + (f", {left} more" if left else "")
