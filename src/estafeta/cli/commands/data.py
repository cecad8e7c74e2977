"""`estafeta data`: data sets in the store of this machine, or of a stack on AWS."""

from __future__ import annotations

import time
from collections.abc import Iterable
from typing import TYPE_CHECKING, Any

import click

from estafeta.cli.options import Manners, ask, choice, on_store, speaks, yes
from estafeta.cli.place import Place
from estafeta.errors import Command

if TYPE_CHECKING:
    from estafeta.cli.console import Console

REDRAW_S = 0.1
"""Least seconds between two drawings of the live line of an import."""


@click.group(epilog="Example: estafeta data import census people.csv --label income")
def data() -> None:
    """Import data sets into the store, and manage them.

    A job names one: dataset="census". Workers read it block by block, so it may be larger than their memory.
    """


@data.command("import", epilog="Example: estafeta data import census people.csv --label income --standardize")
@click.argument("name", metavar="NAME")
@click.argument("sources", metavar="SOURCE...", nargs=-1, required=True)
@click.option("--label", metavar="COLUMN", help="The column, or the array, to predict.")
@click.option("--ignore", metavar="COLUMN", multiple=True, help="A column to leave out; may be repeated.")
@click.option("--category", metavar="COLUMN", multiple=True, help="A column to take as text; may be repeated.")
@choice("--target", "auto", "class", "number", help="What the label is; auto takes whole numbers and text for classes.")
@click.option(
    "--missing",
    type=click.Choice(["error", "mean", "drop"]),
    default="error",
    help="What to do about missing values: refuse them, fill in the column's mean, or drop their rows.",
)
@click.option(
    "--standardize", is_flag=True, help="Scale columns of numbers to mean 0 and deviation 1 when they are read."
)
@click.option(
    "--validation",
    type=click.FloatRange(min=0, max=1, max_open=True),
    metavar="FRACTION",
    help="Fraction of the rows to hold out; by default the job decides.",
)
@click.option("--seed", type=click.IntRange(min=0), default=0, help="Seed by which the rows held out are chosen.")
@click.option(
    "--limit", type=click.IntRange(min=1), metavar="ROWS", help="Import at most this many rows, the first ones."
)
@click.option(
    "--format",
    type=click.Choice(["csv", "tsv", "parquet", "numpy", "svmlight", "factory"]),
    help="Format of the source; by default told from its name.",
)
@click.option("--delimiter", metavar="CHARACTER", help="What separates the values of a row of text.")
@click.option("--zero-based", is_flag=True, help="Columns of svmlight files are numbered from 0.")
@on_store
@speaks("json", "quiet")
def import_(manners: Manners, /, name: str, sources: tuple[str, ...], on: Place, **options: Any) -> None:
    """Import files under a name.

    SOURCE is CSV or TSV with a header, Parquet (files or a folder), .npy or .npz, svmlight, or MODULE:FACTORY,
    which makes a map-style PyTorch data set. It is read as a stream: it may be larger than memory. With --on aws it
    is imported on this machine, then sent.
    """
    from estafeta.cli.words import dataset as words
    from estafeta.client import datasets

    console = manners.console()
    try:
        options |= {"on": on.name, **on.choices}
        found = datasets.import_files(name, *sources, **options, progress=_Line(console).show)
    finally:
        console.still()
    if manners.json:
        console.json(found.model_dump(mode="json"))
        return
    console.results(words.identity(found) + words.schema(found))
    if found.dropped:
        console.note(f"{found.dropped:,} rows with missing values are left out")
    shown = Command("estafeta", "data", "show", name)
    console.talk([("next", f'{shown}   a job takes it as dataset="{name}"')])


@data.command("ls", epilog="Example: estafeta data ls")
@on_store
@speaks("json")
def list_(manners: Manners, on: Place) -> None:
    """List the data sets."""
    from estafeta.client import datasets
    from estafeta.client.units import ago, size

    console, now = manners.console(), time.time()
    found = datasets.list_all(on=on.name, **on.choices)
    if manners.json:
        console.json(found.model_dump(mode="json", exclude={"more"}))
        return
    if found.datasets:
        console.table(
            ("name", "rows", "size", "blocks", "imported"),
            [(d.name, f"{d.rows:,}", size(d.bytes), str(d.blocks), ago(now - d.created_at)) for d in found.datasets],
        )
    elif not found.unfinished:
        console.talk([("data", "none yet"), ("next", f"{Command('estafeta', 'data', 'import', 'NAME', 'SOURCE')}")])
    for name in found.unfinished:
        left = Command("estafeta", "data", "rm", name)
        console.note(f"an import of {name} goes on, or was killed; its files: {left}")


@data.command(epilog="Example: estafeta data show census --rows 3")
@click.argument("name", metavar="NAME")
@click.option("--rows", type=click.IntRange(0, 10_000), default=5, help="Rows of the preview.")
@on_store
@speaks("json")
def show(manners: Manners, name: str, rows: int, on: Place) -> None:
    """Show what a data set holds, and its first rows."""
    from estafeta.cli.words import dataset as words
    from estafeta.client import datasets

    console, found = manners.console(), datasets.show(name, rows, on=on.name, **on.choices)
    dataset = found.dataset
    if manners.json:
        preview = {"columns": found.columns, "rows": found.rows}
        console.json({**dataset.model_dump(mode="json"), "preview": preview})
        return
    console.results([*words.identity(dataset), ("source", ", ".join(dataset.source))])
    console.results(words.schema(dataset))
    if columns := words.columns(dataset):
        console.table(("column", "missing", "mean", "deviation", "least", "greatest"), columns)
    if rows:
        console.table(found.columns, found.rows)


@data.command(epilog="Example: estafeta data verify census")
@click.argument("name", metavar="NAME")
@on_store
@speaks("json", "quiet")
def verify(manners: Manners, name: str, on: Place) -> None:
    """Read a data set, and compare it with its digests.

    With --on aws it is read there.
    """
    from estafeta.client import datasets
    from estafeta.client.units import count

    console = manners.console()
    try:
        found = datasets.verify(name, on=on.name, **on.choices, progress=console.portion)
    finally:
        console.still()
    facts = {"name": name, "blocks": found.blocks, "rows": found.rows, "whole": True}
    console.answer(facts, [("whole", f"{name}   {count(found.rows, 'row')} in {count(found.blocks, 'block')}")])


@data.command("rm", epilog="Example: estafeta data rm census")
@click.argument("wanted", metavar="NAME...", nargs=-1, required=True)
@on_store
@yes
@speaks("json")
def remove(manners: Manners, wanted: tuple[str, ...], on: Place, yes: bool) -> None:
    """Remove data sets from the store, or what imports that were killed have left.

    Runs that read them fail; what was trained stays.
    """
    from estafeta.client import datasets

    removed: list[str] = []

    def confirm(names: Iterable[str]) -> None:
        removed.extend(names)
        if not yes:
            ask(f"Remove {', '.join(removed)} from the store?")

    datasets.remove(*wanted, on=on.name, **on.choices, confirm=confirm)
    manners.console().answer({"removed": removed}, [("removed", name) for name in removed])


class _Line:
    """The live line of an import, which is not drawn more often than one can see."""

    def __init__(self, console: Console) -> None:
        self._console, self._drawn = console, 0.0

    def show(self, what: str, done: int, total: int, unit: str) -> None:
        """Draw it, unless it has just been drawn."""
        if (now := time.monotonic()) - self._drawn >= REDRAW_S:
            self._drawn = now
            self._console.portion(what, done, total, unit)
