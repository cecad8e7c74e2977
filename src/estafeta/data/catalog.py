"""The data sets of a store: which there are, what is in one, whether it is whole, how it goes.

Knows names and blocks; not how rows are imported, nor how they become batches.
Invariant: what has a manifest is complete, and what has none is not there.
"""

from __future__ import annotations

import difflib
from collections.abc import Callable, Iterator
from functools import partial

import numpy as np
from pydantic import ValidationError

from estafeta.data.blocks import Part, read_rows
from estafeta.data.manifest import Manifest
from estafeta.errors import Command, Corrupt, Gone, UsageError
from estafeta.job.dataset_name import DATASET_NAME
from estafeta.protocol.layout import DATASETS, MANIFEST, DatasetLayout
from estafeta.protocol.listing import attempt_of
from estafeta.store.files import Reader
from estafeta.store.store import Store
from estafeta.store.tensorfile import DTYPES


def check_name(name: str) -> None:
    """Refuse what cannot be the name of a data set.

    Raises:
        UsageError: It has other characters than those of a folder's name.
    """
    if not DATASET_NAME.fullmatch(name):
        raise UsageError(
            f"{name!r} cannot be the name of a data set",
            hint="use a to z, 0 to 9, and after the first character '.', '_', '-'",
        )


def names(store: Store) -> list[str]:
    """The data sets that there are."""
    folders = sorted(filter(DATASET_NAME.fullmatch, store.list(DATASETS)))
    return [name for name in folders if MANIFEST in store.list(DatasetLayout(name).root)]


def unfinished(store: Store) -> list[str]:
    """Names that an import has begun to write under: it goes on, or was killed."""
    folders = sorted(filter(DATASET_NAME.fullmatch, store.list(DATASETS)))
    return [name for name in folders if MANIFEST not in store.list(DatasetLayout(name).root)]


def read_manifest(store: Store, name: str) -> Manifest:
    """What is in a data set.

    Raises:
        UsageError: There is none of that name; the hint lists those that there are.
        Corrupt: Its manifest cannot be read.
    """
    check_name(name)
    layout = DatasetLayout(name)
    try:
        content = store.read(layout.manifest)
    except Gone:
        raise _unknown(store, name) from None
    try:
        return Manifest.model_validate_json(content)
    except ValidationError as error:
        raise Corrupt(f"the manifest of data set {name!r} cannot be read: {error}", hint=_again(name)) from error


def read_block(store: Store, manifest: Manifest, number: int) -> list[Part]:
    """All parts of the rows of one block, checked against their digests, as they were stored."""
    path = DatasetLayout(manifest.name).block(manifest.attempt, number)
    return store.reading(path, partial(_parts, manifest=manifest, number=number))


def check_block(reader: Reader, manifest: Manifest, number: int) -> None:
    """Compare the file of one block with its digests and with the manifest.

    Raises:
        Corrupt: It is damaged, or another's.
    """
    for kind, part in zip(manifest.kinds, _parts(reader, manifest, number), strict=True):
        if len(part) != (expected := manifest.blocks[number].rows):
            what = f"block {number} of data set {manifest.name!r}"
            raise Corrupt(
                f"{what} has {len(part)} rows of {kind.name}, expected {expected}",
                hint=_again(manifest.name),
            )


def verify(store: Store, manifest: Manifest, first: int = 0) -> Iterator[int]:
    """Read every block from the `first` on; yields its number when it has been found whole.

    Raises:
        Corrupt: A block is missing, damaged, or another's.
    """
    layout = DatasetLayout(manifest.name)
    for number in range(first, len(manifest.blocks)):
        try:
            path = layout.block(manifest.attempt, number)
            store.reading(path, partial(check_block, manifest=manifest, number=number))
        except Gone as error:
            raise Corrupt(
                f"block {number} of data set {manifest.name!r} is missing", hint=_again(manifest.name)
            ) from error
        yield number


def remove(store: Store, name: str) -> None:
    """Remove a data set: the manifest first, so that what is left after a crash is not a data set."""
    layout = DatasetLayout(name)
    store.sweep(layout.root, [MANIFEST])
    store.remove_tree(layout.root)


def sweep_blocks(store: Store, name: str, wanted: Callable[[str], bool]) -> None:
    """Remove the blocks of some attempts at importing: those that are `wanted` away."""
    folder = DatasetLayout(name).root
    found = [(file, attempt_of(file)) for file in store.list(folder)]
    store.sweep(folder, [file for file, attempt in found if attempt and wanted(attempt)])


def _parts(reader: Reader, manifest: Manifest, number: int) -> list[Part]:
    rows = manifest.blocks[number].rows
    room = [np.empty((rows, *kind.shape), DTYPES[kind.dtype]) for kind in manifest.kinds if not kind.sparse]
    return read_rows(reader, manifest, number, room)


def _again(name: str) -> str:
    return f"remove it, and import it again: {Command('estafeta', 'data', 'rm', name)}"


def _unknown(store: Store, name: str) -> UsageError:
    if name in unfinished(store):
        return UsageError(
            f"there is no data set named {name!r} in the store; an import of it goes on, or was killed",
            hint=f"import it again, or remove what it has left: {Command('estafeta', 'data', 'rm', name)}",
        )
    there = names(store)
    if not there:
        return UsageError(
            f"there is no data set named {name!r} in the store, which has none",
            hint=f"import it: {Command('estafeta', 'data', 'import', name, 'SOURCE')}",
        )
    close = difflib.get_close_matches(name, there, 1)
    guess = f"did you mean {close[0]}? " if close else ""
    return UsageError(f"there is no data set named {name!r} in the store", hint=f"{guess}there is: {', '.join(there)}")
