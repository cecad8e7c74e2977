"""An import from beginning to end: afterwards the data set is complete, or nothing of it is there.

    blocks under names of this attempt → manifest, published once: now the data set exists → blocks of others removed

The attempt that publishes the manifest has the name. Blocks of killed attempts lie in the folder unseen, until an
import succeeds. Then no other attempt can succeed, so the importer removes all blocks but its own.
"""

import errno
import secrets
import time
from collections.abc import Callable, Iterator, Mapping
from dataclasses import dataclass
from importlib.metadata import version

import numpy as np

from estafeta.data.blocks import RowArray
from estafeta.data.catalog import check_name, names, read_manifest, remove, sweep_blocks
from estafeta.data.importing.chunk import Chunk, Source
from estafeta.data.importing.missing import clean
from estafeta.data.importing.statistics import Classes, Moments
from estafeta.data.importing.writer import BLOCK_BYTES, BlockWriter
from estafeta.data.manifest import TARGET, Kind, Manifest, Missing
from estafeta.data.sampler import held_out
from estafeta.errors import Command, EnvironmentProblem, UsageError
from estafeta.job.dataset_name import BUNDLED
from estafeta.protocol.layout import DatasetLayout
from estafeta.store.files import free_bytes
from estafeta.store.store import Store, new_token


@dataclass(frozen=True)
class Wishes:
    """The user's wishes for an import.

    Attributes:
        missing: Treatment of missing values.
        standardize: Whether reading brings columns to mean 0 and deviation 1.
        validation: Fraction to hold out; None leaves that to the job.
        seed: Seed for the choice of held-out rows.
        limit: Most rows to import.
        block_bytes: Size of a block, about.
    """

    missing: Missing = "error"
    standardize: bool = False
    validation: float | None = None
    seed: int = 0
    limit: int | None = None
    block_bytes: int = BLOCK_BYTES


@dataclass(frozen=True)
class Progress:
    """The progress of an import: bytes read and to read, rows written."""

    position: int
    size: int
    rows: int


def import_dataset(
    store: Store,
    name: str,
    source: Source,
    origin: tuple[str, ...],
    wishes: Wishes = Wishes(),
    progress: Callable[[Progress], None] = lambda _: None,
) -> Manifest:
    """Bring a source into the store.

    Args:
        store: Store that gets the data set.
        name: Name of the data set.
        source: The rows.
        origin: Files or code of the rows, for the manifest.
        wishes: The user's wishes.
        progress: Function that is called after each chunk.

    Raises:
        UsageError: The name is taken or invalid, or the source is not as it should be.
        EnvironmentProblem: The disk has no room for the data set.
    """
    layout, attempt = DatasetLayout(name), secrets.token_hex(8)
    _check(store, name, source)
    store.make_directories(layout.root)
    try:
        manifest = _write(store, layout, attempt, source, origin, wishes, progress)
        if not store.publish(layout.manifest, [manifest.to_json()], manifest.token):
            raise _taken(name)
    except BaseException as error:  # an interruption, too, leaves nothing behind
        _undo(store, name, attempt)
        if isinstance(error, OSError):
            raise _explained(error, store, name) from error
        raise
    sweep_blocks(store, name, attempt.__ne__)
    store.sweep_temporary(layout.root)
    return manifest


def _explained(error: OSError, store: Store, name: str) -> Exception:
    if error.errno in (errno.ENOSPC, errno.EDQUOT):
        return EnvironmentProblem(
            f"The disk is full: {store.root} has no room for data set {name!r}",
            hint=f"make room ({Command('estafeta', 'data', 'ls', '--on', 'local')}), or import less: --limit",
        )
    # The attempt that publishes the manifest removes the files of all others.
    return _taken(name) if name in names(store) else error


def _undo(store: Store, name: str, attempt: str) -> None:
    """Remove the files of an attempt; those of others stay."""
    if name in names(store) and read_manifest(store, name).attempt == attempt:
        remove(store, name)
    else:
        sweep_blocks(store, name, attempt.__eq__)
        store.remove_if_empty(DatasetLayout(name).root)


def _check(store: Store, name: str, source: Source) -> None:
    check_name(name)
    if name in BUNDLED:
        raise UsageError(f"{name!r} is the name of a data set that comes with scikit-learn", hint="choose another name")
    if store.exists(DatasetLayout(name).manifest):
        raise _taken(name)
    if source.size > (free := free_bytes(store.root)):
        raise EnvironmentProblem(
            f"The source has {source.size / 1e9:,.1f} GB, the disk of {store.root} {free / 1e9:,.1f} GB free",
            hint="make room there, or set ESTAFETA_HOME to a folder on another disk",
        )


def _write(
    store: Store,
    layout: DatasetLayout,
    attempt: str,
    source: Source,
    origin: tuple[str, ...],
    wishes: Wishes,
    progress: Callable[[Progress], None],
) -> Manifest:
    """Publish all blocks; return the manifest that makes them a data set."""
    survey = _Survey(source.inputs, wishes)
    writer = BlockWriter(store, layout, attempt, survey.see, wishes.block_bytes)
    read = 0
    for chunk in _limited(source.chunks(), wishes.limit):
        read += len(chunk)
        writer.add(clean(chunk, wishes.missing, source.inputs))
        progress(Progress(source.position, source.size, writer.rows))
    writer.finish()
    if not writer.rows:
        raise UsageError(
            f"{', '.join(origin)}: no rows are left, of {read}" if read else f"{', '.join(origin)} has no rows",
            hint="--missing mean keeps rows with missing values" if read else "a data set needs rows",
        )
    categories = source.categories
    return Manifest(
        token=new_token(),
        name=layout.name,
        created_at=time.time(),
        estafeta=version("estafeta"),
        source=origin,
        attempt=attempt,
        inputs=tuple(map(survey.described, source.inputs)),
        target=source.target,
        fill_missing=wishes.missing == "mean",
        standardize=wishes.standardize,
        validation=wishes.validation,
        seed=wishes.seed,
        categories=categories,
        labels=survey.classes.counts(categories.get(_label(source), ())),
        dropped=read - writer.rows,
        blocks=tuple(writer.extents),
    )


class _Survey:
    """The statistics of the rows, collected on their way. Moments cover only the training rows."""

    def __init__(self, inputs: tuple[Kind, ...], wishes: Wishes) -> None:
        self._wishes = wishes
        tables = [kind for kind in inputs if kind.columns and kind.dtype == "F32" and not kind.sparse]
        if (wishes.standardize or wishes.missing == "mean") and not tables:
            raise UsageError(
                "There are no columns of numbers to standardize or to take a mean of",
                hint="leave out --standardize and --missing mean",
            )
        self._moments = {kind.name: Moments(tuple(column.name for column in kind.columns)) for kind in tables}
        self.classes = Classes()

    def see(self, parts: Mapping[str, RowArray], first: int) -> None:
        target = parts[TARGET]
        assert isinstance(target, np.ndarray)
        self.classes.add(target)
        trained = ~held_out(first, first + len(target), self._wishes.validation or 0.0, self._wishes.seed)
        for name, moments in self._moments.items():
            rows = parts[name]
            assert isinstance(rows, np.ndarray)
            moments.add(rows if trained.all() else rows[trained])

    def described(self, kind: Kind) -> Kind:
        """A kind with the statistics of its columns."""
        moments = self._moments.get(kind.name)
        return kind.model_copy(update={"columns": moments.columns()}) if moments else kind


def _limited(chunks: Iterator[Chunk], limit: int | None) -> Iterator[Chunk]:
    left = limit
    for chunk in chunks:
        if left is None:
            yield chunk
            continue
        yield chunk if len(chunk) <= left else chunk.head(left)
        left -= min(left, len(chunk))
        if not left:
            return


def _label(source: Source) -> str:
    return source.target.columns[0].name if source.target.columns else TARGET


def _taken(name: str) -> UsageError:
    return UsageError(
        f"There is a data set named {name!r} already",
        hint="choose another name, or remove it: " + str(Command("estafeta", "data", "rm", name, "--on", "local")),
    )
