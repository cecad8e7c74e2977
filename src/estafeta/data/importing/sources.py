"""The reader for each source: it turns the user's arguments into an open `Source`.

Each reader needs its own libraries, so `open_source` imports only the one it needs.
"""

import importlib.util
from collections.abc import Sequence
from dataclasses import dataclass, field
from pathlib import Path
from typing import Literal

from estafeta.data.importing.chunk import Source
from estafeta.data.importing.tabular import Choice
from estafeta.errors import EnvironmentProblem, UsageError

Format = Literal["csv", "tsv", "parquet", "numpy", "svmlight", "factory"]

SUFFIXES: dict[str, Format] = {
    ".csv": "csv",
    ".tsv": "tsv",
    ".tab": "tsv",
    ".parquet": "parquet",
    ".pq": "parquet",
    ".npy": "numpy",
    ".npz": "numpy",
    ".svm": "svmlight",
    ".libsvm": "svmlight",
    ".svmlight": "svmlight",
}

LIBRARIES: dict[Format, tuple[str, str]] = {
    "csv": ("pyarrow", "data"),
    "tsv": ("pyarrow", "data"),
    "parquet": ("pyarrow", "data"),
    "svmlight": ("sklearn", "sklearn"),
}
"""Library that reads a format, and the extra that installs it."""


@dataclass(frozen=True)
class Reading:
    """The user's options for reading a source.

    Attributes:
        format: Its format; by default the one that its name says.
        choice: Use of the columns. In NumPy's files the label is the name of an array.
        delimiter: Character between the values of a row of text; by default that of the format.
        zero_based: Whether the columns of sparse text are numbered from 0.
    """

    format: Format | None = None
    choice: Choice = field(default_factory=Choice)
    delimiter: str | None = None
    zero_based: bool = False


def open_source(places: Sequence[str], reading: Reading) -> Source:
    """Open files, a directory of Parquet files, or `module:factory`.

    Raises:
        UsageError: There is no such file, the files have several formats, or a file does not fit its format.
        EnvironmentProblem: The library that reads the format is not installed.
    """
    format_ = reading.format or _format_of(places)
    if format_ in LIBRARIES and importlib.util.find_spec(LIBRARIES[format_][0]) is None:
        library, extra = LIBRARIES[format_]
        raise EnvironmentProblem(
            f"{library}, which reads {format_}, is not installed", hint=f"pip install 'estafeta[{extra}]'"
        )
    match format_:
        case "factory":
            from estafeta.data.importing.factory import open_factory

            if len(places) > 1:
                raise UsageError(f"{len(places)} factories cannot make one data set", hint="give one MODULE:FACTORY")
            return open_factory(places[0])
        case "csv" | "tsv":
            from estafeta.data.importing.delimited import Delimited

            delimiter = _delimiter(reading.delimiter or ("\t" if format_ == "tsv" else ","))
            return Delimited(_files(places), reading.choice, delimiter)
        case "parquet":
            from estafeta.data.importing.parquet import Parquet

            return Parquet(_files(places, "*.parquet"), reading.choice)
        case "numpy":
            from estafeta.data.importing.arrays import open_arrays

            return open_arrays(_files(places), reading.choice.label)
        case "svmlight":
            from estafeta.data.importing.svmlight import SvmLight

            return SvmLight(_files(places), zero_based=reading.zero_based, target=reading.choice.target)


def _delimiter(text: str) -> str:
    delimiter = "\t" if text == r"\t" else text
    if len(delimiter.encode()) != 1 or delimiter in "\r\n":
        raise UsageError(f"{text!r} cannot be a delimiter", hint=r"--delimiter takes one character, as in ';' '|' '\t'")
    return delimiter


def _format_of(places: Sequence[str]) -> Format:
    formats = {place: _format(place) for place in places}
    first = formats[places[0]]
    if other := next((place for place, format_ in formats.items() if format_ != first), None):
        raise UsageError(f"{places[0]} is {first}, {other} is {formats[other]}", hint="import files of one format")
    return first


def _format(place: str) -> Format:
    path = Path(place)
    if path.is_dir():
        return "parquet"
    if not path.exists() and ":" in place:
        return "factory"
    packed = path.suffix == ".gz"
    suffix = path.with_suffix("").suffix if packed else path.suffix
    if suffix.lower() not in SUFFIXES or (packed and SUFFIXES[suffix.lower()] not in ("csv", "tsv")):
        what = f"The format of {place} is not clear from its name" if path.exists() else f"There is no file {place}"
        raise UsageError(what, hint=f"--format, or a name that ends with {', '.join(SUFFIXES)}")
    return SUFFIXES[suffix.lower()]


def _files(places: Sequence[str], pattern: str = "") -> list[Path]:
    """The files of the given places; those of a directory in the order of their names."""
    files: list[Path] = []
    for path in map(Path, places):
        if path.is_dir() and pattern:
            found = sorted(path.rglob(pattern))
            if not found:
                raise UsageError(f"{path} has no {pattern} in it", hint="name a folder of Parquet files, or files")
            files += found
        elif path.is_file():
            if not path.stat().st_size:
                raise UsageError(f"{path} is empty", hint="it has no rows")
            files.append(path)
        else:
            raise UsageError(f"There is no file {path}", hint="check the path")
    return files
