"""Data sets of a place from Python: `estafeta.datasets`. The command line `estafeta data` calls the same functions.

    from estafeta import datasets

    datasets.import_files("census", "people.csv", label="income")
    datasets.show("census", rows=3).rows
    datasets.list(on="aws")

Importing reads files where they are, so it happens in this process; on AWS the result is then sent. All else is asked
of `control`: of the stack's, or of one in this process, since the store of this machine needs no service.
"""

from __future__ import annotations

from collections.abc import Callable, Iterable, Sequence
from typing import TYPE_CHECKING, Literal, Unpack

from estafeta.client.backend import Backend, home
from estafeta.client.connect import OnAws, connect
from estafeta.client.send_dataset import listing, send
from estafeta.errors import Command, UsageError
from estafeta.functions.verbs.datasets import Dataset, Description, Listing
from estafeta.job.job import On
from estafeta.protocol.verbs import DescribeVerb, RemoveVerb, VerifyVerb
from estafeta.store.store import Store

if TYPE_CHECKING:
    from estafeta.data.importing.importer import Progress

__all__ = ["Dataset", "Description", "Listing", "import_files", "list", "remove", "show", "verify"]
Shows = Callable[[str, int, int, str], object]
"""Told what goes on, how much is done, of how much (0: not known), and in which unit."""


def import_files(
    name: str,
    *sources: str,
    label: str | None = None,
    ignore: Sequence[str] = (),
    category: Sequence[str] = (),
    target: Literal["auto", "class", "number"] = "auto",
    missing: Literal["error", "mean", "drop"] = "error",
    standardize: bool = False,
    validation: float | None = None,
    seed: int = 0,
    limit: int | None = None,
    format: Literal["csv", "tsv", "parquet", "numpy", "svmlight", "factory"] | None = None,  # noqa: A002
    delimiter: str | None = None,
    zero_based: bool = False,
    on: On = "local",
    progress: Shows = lambda *_: None,
    **aws: Unpack[OnAws],
) -> Dataset:
    """Import files under a name; a job takes them as `dataset="NAME"`.

    Rows are read as a stream, so the files may be larger than memory.

    Args:
        name: Name of the new data set.
        sources: CSV or TSV with a header, Parquet (files or a folder), `.npy` or `.npz`, svmlight, or `MODULE:FACTORY`,
            which makes a map-style PyTorch data set.
        label: Column, or array, to predict.
        ignore: Columns to leave out.
        category: Columns to take as text.
        target: Kind of the label; `auto` takes whole numbers and text for classes.
        missing: Treatment of missing values: refuse them, fill in the column's mean, or drop their rows.
        standardize: Scale columns of numbers to mean 0 and deviation 1 when they are read.
        validation: Fraction of the rows to hold out; None: the job decides.
        seed: Seed by which the rows held out are chosen.
        limit: Most rows to import, the first ones.
        format: Format of the sources; None: told from their names.
        delimiter: Character between the values of a row of text.
        zero_based: Columns of svmlight files are numbered from 0.
        on: Place of the store: `local` for this machine, `aws` for a stack.
        progress: Told how far the import is.
        **aws: Stack, its Region, and the profile, as in `estafeta.train`.

    Raises:
        UsageError: The name is taken, or the sources cannot be read.
        EnvironmentProblem: The disk has no room, or the stack cannot be reached.
    """
    from estafeta.data.importing.importer import Wishes, import_dataset
    from estafeta.data.importing.sources import Reading, open_source
    from estafeta.data.importing.tabular import Choice

    there = connect(on, **aws) if on == "aws" else None
    if there and any(found.name == name for found in listing(there).datasets):
        raise UsageError(
            f"There is a data set named {name!r} on AWS already",
            hint=f"choose another name, or remove it: {Command('estafeta', 'data', 'rm', name)}",
        )

    def tell(so_far: Progress) -> None:
        rows = f"{so_far.rows:,} rows"
        unit = f"bytes, {rows}" if so_far.size else rows  # a factory's rows have no bytes to count
        progress(f"importing {name}", so_far.position, so_far.size, unit)

    choice = Choice(label, tuple(ignore), target, tuple(category))
    source = open_source(sources, Reading(format, choice, delimiter, zero_based))
    wishes = Wishes(missing, standardize, validation, seed, limit)
    root = home() / "store"
    root.mkdir(parents=True, exist_ok=True)
    store = Store(root)
    manifest = import_dataset(store, name, source, sources, wishes, tell)
    if there:
        send(name, there, store, lambda what, done, total: progress(what, done, total, "bytes"))
    return Dataset.of(manifest)


def list(*, on: On = "local", **aws: Unpack[OnAws]) -> tuple[Dataset, ...]:  # noqa: A001
    """Data sets of a place, in the order of their names; the arguments are as in `import_files`.

    It raises `Corrupt` if a manifest cannot be read.
    """
    return listing(_place(on, aws)).datasets


def list_all(*, on: On = "local", **aws: Unpack[OnAws]) -> Listing:
    """As `list`, with the names that an import has begun to write under, and has not finished."""
    return listing(_place(on, aws))


def show(name: str, rows: int = 5, *, on: On = "local", **aws: Unpack[OnAws]) -> Description:
    """What a data set holds, and its first rows, at most 10,000; other arguments are as in `import_files`.

    It raises `UsageError` if there is no such data set, with a hint that lists all, and `Corrupt` for a damaged block.
    """
    return _describe(name, rows, _place(on, aws))


def verify(name: str, *, on: On = "local", progress: Shows = lambda *_: None, **aws: Unpack[OnAws]) -> Dataset:
    """Read a data set where it is, compare it with its digests, and return it; arguments are as in `import_files`.

    It raises `UsageError` if there is no such data set, and `Corrupt` if a block is missing or damaged.
    """
    place = _place(on, aws)
    dataset, checked = _describe(name, None, place).dataset, 0
    while checked < dataset.blocks:
        checked = place.call(VerifyVerb(dataset=name, token=dataset.token, first=checked))["checked"]
        progress("verifying", checked, dataset.blocks, "blocks")
    return dataset


def remove(
    *names: str, on: On = "local", confirm: Callable[[Iterable[str]], object] = lambda _: None, **aws: Unpack[OnAws]
) -> None:
    """Remove data sets, or the files of imports that were killed. Runs that read them fail; trained weights stay.

    `confirm` is called with the names before anything is removed; it raises to prevent that. Other arguments are as in
    `import_files`. If one of the names is unknown, `UsageError` is raised and nothing is removed.
    """
    place = _place(on, aws)
    wanted = dict.fromkeys(names)
    begun = listing(place).unfinished
    for name in wanted:
        if name not in begun:
            _describe(name, None, place)
    confirm(wanted)
    for name in wanted:
        place.call(RemoveVerb(dataset=name))


def _describe(name: str, rows: int | None, place: Backend) -> Description:
    return Description.model_validate(place.call(DescribeVerb(dataset=name, rows=rows)))


def _place(on: On, aws: OnAws) -> Backend:
    return connect("inline" if on == "local" else on, **aws)
