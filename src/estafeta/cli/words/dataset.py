"""A data set put into words: how large it is, what a row holds, which classes there are.

Pure: from a manifest to texts. Knows nothing of terminals or stores.
"""

from __future__ import annotations

from typing import Any

from estafeta.cli.words.run import Lines
from estafeta.client.units import count, size
from estafeta.data.manifest import Kind, Manifest
from estafeta.data.preview import MOST_COLUMNS
from estafeta.store.tensorfile import DTYPES

MOST_CLASSES = 10
"""Classes that are listed."""


def identity(manifest: Manifest) -> Lines:
    """Which data set it is, and how large."""
    blocks = count(len(manifest.blocks), "block")
    return [("data", f"{manifest.name}   {count(manifest.rows, 'row')}, {size(manifest.bytes)} in {blocks}")]


def schema(manifest: Manifest) -> Lines:
    """What a row holds, and what is done to it on reading."""
    inputs = [(("inputs" if index == 0 else ""), _kind(kind)) for index, kind in enumerate(manifest.inputs)]
    lines = [*inputs, ("target", _kind(manifest.target))]
    for name, texts in manifest.categories.items():
        listed = ", ".join(map(_shown, texts[:MOST_CLASSES])) + (" …" if len(texts) > MOST_CLASSES else "")
        lines.append(("texts", f"{name}   {len(texts)}: {listed}"))
    if manifest.labels:
        lines.append(("classes", _classes(manifest)))
    if manifest.validation is not None:
        lines.append(("split", f"{manifest.validation:.0%} of the rows held out, seed {manifest.seed}"))
    if done := _treatment(manifest):
        lines.append(("reading", ", ".join(done)))
    return lines


def columns(manifest: Manifest) -> list[tuple[str, ...]]:
    """A row for each column of numbers, as strings."""
    numbers = [c for kind in manifest.inputs for c in kind.columns if c.name not in manifest.categories]
    return [
        (c.name, str(c.missing), *(f"{number:.6g}" for number in (c.mean, c.deviation, c.least, c.greatest)))
        for c in numbers
    ]


def facts(manifest: Manifest) -> dict[str, Any]:
    """A data set for a machine."""
    return {
        "name": manifest.name,
        "rows": manifest.rows,
        "bytes": manifest.bytes,
        "blocks": len(manifest.blocks),
        "dropped": manifest.dropped,
        "source": list(manifest.source),
        "created_at": manifest.created_at,
        "inputs": [kind.model_dump(mode="json") for kind in manifest.inputs],
        "target": manifest.target.model_dump(mode="json"),
        "categories": manifest.categories,
        "labels": manifest.labels,
        "validation": manifest.validation,
        "seed": manifest.seed,
        "standardize": manifest.standardize,
        "fill_missing": manifest.fill_missing,
    }


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


def _classes(manifest: Manifest) -> str:
    common = sorted(manifest.labels.items(), key=lambda item: -item[1])
    listed = [f"{label} {amount / manifest.rows:.1%}" for label, amount in common[:MOST_CLASSES]]
    left = len(common) - len(listed)
    return f"{len(common)}: " + ", ".join(listed) + (f", {left} more" if left else "")


def _treatment(manifest: Manifest) -> list[str]:
    return [
        *(["missing numbers become the mean"] if manifest.fill_missing else []),
        *(["numbers are brought to mean 0 and deviation 1"] if manifest.standardize else []),
    ]
