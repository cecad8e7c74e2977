"""The data sets of a store: list, read, verify and remove them.

It knows names and blocks; not how rows are imported, nor how they become batches. Invariant: a data set with a manifest
is complete, and one without does not exist.
"""

import difflib
from collections.abc import Callable, Iterator
from functools import partial

import numpy as np
from pydantic import ValidationError

from estafeta.data.blocks import RowArray, read_rows
from estafeta.data.manifest import Manifest
from estafeta.errors import Command, Corrupt, Gone, UsageError
from estafeta.job.dataset_name import DATASET_NAME
from estafeta.protocol.layout import DATASETS, MANIFEST, DatasetLayout
from estafeta.protocol.listing import attempt_of
from estafeta.store.files import Reader
from estafeta.store.store import Store
from estafeta.store.tensorfile import DTYPES


def check_name(name: str) -> None:
    """Refuse a text that cannot be the name of a data set.

    Raises:
        UsageError: The text has characters that such a name cannot have.
    """
    if not DATASET_NAME.fullmatch(name):
        raise UsageError(
            f"{name!r} cannot be the name of a data set",
            hint="use a to z, 0 to 9, and after the first character '.', '_', '-'",
        )


def names(store: Store) -> list[str]:
    """Names of the data sets in the store."""
    folders = sorted(filter(DATASET_NAME.fullmatch, store.list(DATASETS)))
    return [name for name in folders if MANIFEST in store.list(DatasetLayout(name).root)]


def unfinished(store: Store) -> list[str]:
    """Names under which an import has begun to write; it is still running, or was killed."""
    folders = sorted(filter(DATASET_NAME.fullmatch, store.list(DATASETS)))
    return [name for name in folders if MANIFEST not in store.list(DatasetLayout(name).root)]


def read_manifest(store: Store, name: str) -> Manifest:
    """The manifest of a data set.

    Raises:
        UsageError: There is none of that name; the hint lists the names in the store.
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
        raise Corrupt(f"The manifest of data set {name!r} cannot be read: {error}", hint=_again(name)) from error


def read_block(store: Store, manifest: Manifest, number: int) -> list[RowArray]:
    """All parts of the rows of one block, checked against their digests, as they were stored."""
    path = DatasetLayout(manifest.name).block(manifest.attempt, number)
    return store.reading(path, partial(_parts, manifest=manifest, number=number))


def check_block(reader: Reader, manifest: Manifest, number: int) -> None:
    """Compare the file of one block with its digests and with the manifest.

    Raises:
        Corrupt: The file is damaged, or belongs to another block.
    """
    for kind, part in zip(manifest.kinds, _parts(reader, manifest, number), strict=True):
        if len(part) != (expected := manifest.blocks[number].rows):
            what = f"Block {number} of data set {manifest.name!r}"
            raise Corrupt(
                f"{what} has {len(part)} rows of {kind.name}, expected {expected}", hint=_again(manifest.name)
            )


def verify(store: Store, manifest: Manifest, first: int = 0) -> Iterator[int]:
    """Read every block from the `first` on, and yield the number of each whole one.

    Raises:
        Corrupt: A block is missing or damaged, or its file belongs to another.
    """
    layout = DatasetLayout(manifest.name)
    for number in range(first, len(manifest.blocks)):
        try:
            path = layout.block(manifest.attempt, number)
            store.reading(path, partial(check_block, manifest=manifest, number=number))
        except Gone as error:
            raise Corrupt(
                f"Block {number} of data set {manifest.name!r} is missing", hint=_again(manifest.name)
            ) from error
        yield number


def remove(store: Store, name: str) -> None:
    """Remove a data set: the manifest first, so that a crash leaves no damaged data set behind."""
    layout = DatasetLayout(name)
    store.sweep(layout.root, [MANIFEST])
    store.remove_tree(layout.root)


def sweep_blocks(store: Store, name: str, wanted: Callable[[str], bool]) -> None:
    """Remove the blocks of those import attempts for which `wanted` returns True."""
    folder = DatasetLayout(name).root
    found = [(file, attempt_of(file)) for file in store.list(folder)]
    store.sweep(folder, [file for file, attempt in found if attempt and wanted(attempt)])


def _parts(reader: Reader, manifest: Manifest, number: int) -> list[RowArray]:
    rows = manifest.blocks[number].rows
    room = [np.empty((rows, *kind.shape), DTYPES[kind.dtype]) for kind in manifest.kinds if not kind.sparse]
    return read_rows(reader, manifest, number, room)


def _again(name: str) -> str:
    return f"remove it, and import it again: {Command('estafeta', 'data', 'rm', name)}"


def _unknown(store: Store, name: str) -> UsageError:
    if name in unfinished(store):
        return UsageError(
            f"There is no data set named {name!r} in the store; an import of it is still running, or was killed",
            hint=f"import it again, or remove the remains: {Command('estafeta', 'data', 'rm', name)}",
        )
    there = names(store)
    if not there:
        return UsageError(
            f"There is no data set named {name!r} in the store, which is empty",
            hint=f"import it: {Command('estafeta', 'data', 'import', name, 'SOURCE')}",
        )
    close = difflib.get_close_matches(name, there, 1)
    guess = f"did you mean {close[0]}? " if close else ""
    return UsageError(f"There is no data set named {name!r} in the store", hint=f"{guess}there is: {', '.join(there)}")
