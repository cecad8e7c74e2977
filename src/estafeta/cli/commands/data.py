"""`estafeta data`: data sets in the store of this machine, or of a stack on AWS."""

from __future__ import annotations

import sys
import time
from collections.abc import Iterator
from functools import partial
from typing import TYPE_CHECKING, Any

import click

from estafeta.cli.find_run import attach
from estafeta.cli.options import Manners, Place, json_output, on_store, quiet, verbose
from estafeta.errors import UsageError

if TYPE_CHECKING:
    from estafeta.cli.console import Console
    from estafeta.client.backend import Backend
    from estafeta.data.importing.importer import Progress
    from estafeta.data.manifest import Manifest
    from estafeta.store.store import Store

REDRAW_S = 0.1
"""Least time between two looks of the live line."""


@click.group(epilog="Example: estafeta data import census people.csv --label income")
def data() -> None:
    """Import data sets into the store, and manage them.

    A job names one: dataset="census". Workers read it block by block, so it may be larger than their memory.
    """


@data.command("import", epilog="Example: estafeta data import census people.csv --label income --standardize")
@click.argument("name", metavar="NAME")
@click.argument("places", metavar="SOURCE...", nargs=-1, required=True)
@click.option("--label", metavar="COLUMN", help="The column, or the array, to predict.")
@click.option("--ignore", metavar="COLUMN", multiple=True, help="A column to leave out; may be repeated.")
@click.option("--category", metavar="COLUMN", multiple=True, help="A column to take as text; may be repeated.")
@click.option(
    "--target",
    type=click.Choice(["auto", "class", "number"]),
    default="auto",
    show_default=True,
    help="What the label is; auto takes whole numbers and text for classes.",
)
@click.option(
    "--missing",
    type=click.Choice(["error", "mean", "drop"]),
    default="error",
    show_default=True,
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
@click.option(
    "--seed",
    type=click.IntRange(min=0),
    default=0,
    show_default=True,
    help="Seed by which the rows held out are chosen.",
)
@click.option(
    "--limit", type=click.IntRange(min=1), metavar="ROWS", help="Import at most this many rows, the first ones."
)
@click.option(
    "--format",
    "format_",
    type=click.Choice(["csv", "tsv", "parquet", "numpy", "svmlight", "factory"]),
    help="Format of the source; by default told from its name.",
)
@click.option("--delimiter", metavar="CHARACTER", help="What separates the values of a row of text.")
@click.option("--zero-based", is_flag=True, help="Columns of svmlight files are numbered from 0.")
@on_store
@json_output
@quiet
@verbose
@click.pass_obj
def import_(
    manners: Manners, /, name: str, places: tuple[str, ...], label: str | None, on: Place, **options: Any
) -> int:
    """Import files under a name.

    SOURCE is CSV or TSV with a header, Parquet (files or a folder), .npy or .npz, svmlight, or MODULE:FACTORY,
    which makes a map-style PyTorch data set. It is read as a stream: it may be larger than memory. With --on aws it
    is imported on this machine, then sent.
    """
    from estafeta.cli.words import dataset as words
    from estafeta.client.send_dataset import datasets, send
    from estafeta.data.importing.importer import Wishes, import_dataset
    from estafeta.data.importing.sources import Reading, open_source
    from estafeta.data.importing.tabular import Choice

    console, store = manners.console(), _store()
    there = attach(on) if on.name == "aws" else None
    if there and name in datasets(there):
        raise UsageError(
            f"there is a data set named {name!r} on AWS already",
            hint=f"choose another name, or remove it: estafeta data rm {name}",
        )
    choice = Choice(label, options["ignore"], options["target"], options["category"])
    reading = Reading(options["format_"], choice, options["delimiter"], options["zero_based"])
    wishes = Wishes(
        options["missing"], options["standardize"], options["validation"], options["seed"], options["limit"]
    )
    try:
        source = open_source(places, reading)
        manifest = import_dataset(store, name, source, places, wishes, _Line(console, name).show)
        if there:
            send(name, there, store, partial(console.portion, unit="bytes"))
    finally:
        console.still()
    if manners.json:
        console.json(words.facts(manifest))
        return 0
    console.results(words.identity(manifest) + words.schema(manifest))
    if manifest.dropped:
        console.talk([("note", f"{manifest.dropped:,} rows with missing values are left out")])
    console.talk([("next", f'estafeta data show {name}   a job takes it as dataset="{name}"')])
    return 0


@data.command("ls", epilog="Example: estafeta data ls")
@on_store
@json_output
@verbose
@click.pass_obj
def list_(manners: Manners, on: Place) -> int:
    """List the data sets."""
    if on.name == "aws":
        return _list_there(manners, on)
    from estafeta.cli.words import dataset as words
    from estafeta.client.units import ago, size
    from estafeta.data.catalog import names, read_manifest, unfinished

    console, store, now = manners.console(), _store(), time.time()
    found, begun = [read_manifest(store, name) for name in names(store)], unfinished(store)
    if manners.json:
        console.json({"datasets": [words.facts(manifest) for manifest in found], "unfinished": begun})
        return 0
    if found:
        console.table(
            ("name", "rows", "size", "blocks", "imported"),
            [(m.name, f"{m.rows:,}", size(m.bytes), str(len(m.blocks)), ago(now - m.created_at)) for m in found],
        )
    elif not begun:
        console.talk([("data", "none yet"), ("next", "estafeta data import NAME SOURCE")])
    for name in begun:
        console.talk([("note", f"an import of {name} goes on, or was killed; its files: estafeta data rm {name}")])
    return 0


@data.command(epilog="Example: estafeta data show census --rows 3")
@click.argument("name", metavar="NAME")
@click.option("--rows", type=click.IntRange(0, 10_000), default=5, show_default=True, help="Rows of the preview.")
@on_store
@json_output
@verbose
@click.pass_obj
def show(manners: Manners, name: str, rows: int, on: Place) -> int:
    """Show what a data set holds, and its first rows."""
    from estafeta.cli.words import dataset as words
    from estafeta.data.manifest import Manifest
    from estafeta.functions.verbs.datasets import describe
    from estafeta.protocol.verbs import DescribeVerb

    console, verb = manners.console(), DescribeVerb(verb="describe", dataset=name, rows=rows)
    answer = attach(on).call(verb.model_dump()) if on.name == "aws" else describe(verb, _store())
    manifest, names, cells = Manifest.model_validate(answer["manifest"]), answer["columns"], answer["rows"]
    if manners.json:
        console.json({**words.facts(manifest), "preview": {"columns": names, "rows": cells}})
        return 0
    console.results([*words.identity(manifest), ("source", ", ".join(manifest.source))])
    console.results(words.schema(manifest))
    if columns := words.columns(manifest):
        console.table(("column", "missing", "mean", "deviation", "least", "greatest"), columns)
    if rows:
        console.table(names, cells)
    return 0


@data.command(epilog="Example: estafeta data verify census")
@click.argument("name", metavar="NAME")
@on_store
@json_output
@quiet
@verbose
@click.pass_obj
def verify(manners: Manners, name: str, on: Place) -> int:
    """Read a data set, and compare it with its digests.

    With --on aws it is read there.
    """
    from estafeta.client.units import count

    console = manners.console()
    manifest, checking = _verifying_there(name, attach(on)) if on.name == "aws" else _verifying_here(name)
    blocks = len(manifest.blocks)
    try:
        for checked in checking:
            console.portion("verifying", checked, blocks, "blocks")
    finally:
        console.still()
    if manners.json:
        console.json({"name": name, "blocks": blocks, "rows": manifest.rows, "whole": True})
    else:
        console.results([("whole", f"{name}   {count(manifest.rows, 'row')} in {count(blocks, 'block')}")])
    return 0


@data.command("rm", epilog="Example: estafeta data rm census")
@click.argument("wanted", metavar="NAME...", nargs=-1, required=True)
@on_store
@click.option("--yes", is_flag=True, help="Do not ask.")
@json_output
@verbose
@click.pass_obj
def remove(manners: Manners, wanted: tuple[str, ...], on: Place, yes: bool) -> int:
    """Remove data sets from the store, or what imports that were killed have left.

    Runs that read them fail; what was trained stays.
    """
    from estafeta.data.catalog import read_manifest, unfinished
    from estafeta.data.catalog import remove as remove_dataset

    store = _store()
    there = attach(on) if on.name == "aws" else None
    begun = unfinished(store)
    found = [name if there or name in begun else read_manifest(store, name).name for name in dict.fromkeys(wanted)]
    if not yes:
        if not sys.stdin.isatty():
            raise UsageError("there is no terminal on which to confirm that data sets are removed", hint="add --yes")
        click.confirm(f"Remove {', '.join(found)} from the store?", abort=True, err=True)
    for name in found:
        if there:
            there.call({"verb": "remove", "dataset": name})
        else:
            remove_dataset(store, name)
    if manners.json:
        manners.console().json({"removed": found})
    else:
        manners.console().results([("removed", name) for name in found])
    return 0


def _list_there(manners: Manners, on: Place) -> int:
    """List the data sets of a stack."""
    from estafeta.client.send_dataset import datasets
    from estafeta.client.units import ago, size

    console, backend, now = manners.console(), attach(on), time.time()
    found = list(datasets(backend).values())
    if manners.json:
        console.json({"datasets": found})
    elif not found:
        console.talk([("data", "none yet"), ("next", "estafeta data import NAME SOURCE")])
    else:
        console.table(
            ("name", "rows", "size", "blocks", "imported"),
            [
                (d["name"], f"{d['rows']:,}", size(d["bytes"]), str(d["blocks"]), ago(now - d["created_at"]))
                for d in found
            ],
        )
    return 0


def _verifying_here(name: str) -> tuple[Manifest, Iterator[int]]:
    """A data set's manifest; and how many blocks have been found whole, while they are."""
    from estafeta.data.catalog import read_manifest, verify

    store = _store()
    manifest = read_manifest(store, name)
    return manifest, (number + 1 for number in verify(store, manifest))


def _verifying_there(name: str, backend: Backend) -> tuple[Manifest, Iterator[int]]:
    """The same of a stack, where `control` reads it, leg after leg."""
    from estafeta.data.manifest import Manifest

    manifest = Manifest.model_validate(backend.call({"verb": "describe", "dataset": name})["manifest"])

    def legs() -> Iterator[int]:
        checked = 0
        while checked < len(manifest.blocks):
            verb = {"verb": "verify", "dataset": name, "token": manifest.token, "first": checked}
            checked = backend.call(verb)["checked"]
            yield checked

    return manifest, legs()


class _Line:
    """The live line of an import."""

    def __init__(self, console: Console, name: str) -> None:
        self._console, self._name, self._drawn = console, name, 0.0

    def show(self, progress: Progress) -> None:
        """Draw it, if it has not just been drawn."""
        if (now := time.monotonic()) - self._drawn >= REDRAW_S:
            self._drawn = now
            rows = f"{progress.rows:,} rows"
            of_bytes = f"bytes, {rows}" if progress.size else rows  # what code makes has no bytes to count
            self._console.portion(f"importing {self._name}", progress.position, progress.size, of_bytes)


def _store() -> Store:
    from estafeta.client.backend import home
    from estafeta.store.store import Store

    root = home() / "store"
    root.mkdir(parents=True, exist_ok=True)
    return Store(root)
