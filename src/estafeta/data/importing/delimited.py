"""CSV and TSV files as record batches, through Arrow's streaming reader; compressed with gzip, too.

The first megabyte of the first file decides the types of the columns. Arrow says what is wrong with a file, but not in
which line. So this module reads a refused file again with Python's own reader, up to the wrong line.
"""

import contextlib
import csv
import gzip
import io
import zlib
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import pyarrow as pa
from pyarrow import csv as arrow

from estafeta.data.importing.chunk import Chunk
from estafeta.data.importing.tabular import Choice, Encoded, Encoder
from estafeta.errors import UsageError

BLOCK_BYTES = 1 << 20
"""Bytes of text that Arrow parses at once."""
NULLS = ["", "NA", "N/A", "NaN", "nan", "null", "NULL", "?"]
"""Texts that stand for a missing value."""


class Delimited(Encoded):
    """`Source` over text files with a header.

    Args:
        files: The files, all with the same header.
        choice: Use of the columns.
        delimiter: One ASCII character between the values of a row.

    Raises:
        UsageError: The first file is empty, or its columns do not fit the choice.
    """

    def __init__(self, files: list[Path], choice: Choice, delimiter: str = ",") -> None:
        self.size = sum(file.stat().st_size for file in files)
        self._files, self._delimiter = files, delimiter
        self._before = 0
        self._raw: io.FileIO | None = None
        self._types: dict[str, pa.DataType] = {}
        with self._open(files[0], {}) as reader:
            self._encoder = Encoder(reader.schema, choice, str(files[0]))
            self._types = {field.name: self._type(field) for field in reader.schema}

    @property
    def position(self) -> int:
        """See `Source.position`."""
        return self._before + (self._raw.tell() if self._raw and not self._raw.closed else 0)

    def chunks(self) -> Iterator[Chunk]:
        """See `Source.chunks`."""
        for file in self._files:
            first = 1
            with self._open(file, self._types) as reader:
                if tuple(reader.schema.names) != self._encoder.names:
                    raise UsageError(f"{file} has other columns than {self._files[0]}", hint="import files of one kind")
                for batch in reader:
                    yield self._encoder.chunk(batch, str(file), first)
                    first += batch.num_rows
            self._before += file.stat().st_size

    @contextlib.contextmanager
    def _open(self, file: Path, types: dict[str, pa.DataType]) -> Iterator[Any]:
        """Arrow's reader of a file. Arrow's errors, here or during reading, become explained ones."""
        convert = arrow.ConvertOptions(
            column_types=types, null_values=NULLS, strings_can_be_null=True, quoted_strings_can_be_null=True
        )
        with io.FileIO(file) as self._raw:
            stream = pa.PythonFile(self._raw, mode="r")
            try:
                with arrow.open_csv(
                    pa.CompressedInputStream(stream, "gzip") if file.suffix == ".gz" else stream,
                    read_options=arrow.ReadOptions(block_size=BLOCK_BYTES),
                    parse_options=arrow.ParseOptions(delimiter=self._delimiter, newlines_in_values=True),
                    convert_options=convert,
                ) as reader:
                    yield reader
            except (pa.ArrowInvalid, OSError) as error:
                if isinstance(error, OSError) and file.suffix != ".gz":
                    raise  # the disk has failed; only for an incomplete compressed file does Arrow raise it, too
                raise self._explain(file, error) from error

    def _type(self, field: pa.Field) -> pa.DataType:
        """Type that Arrow parses a column as: the type in which it is stored, where possible."""
        if field.name in self._encoder.categories:
            return pa.dictionary(pa.int32(), pa.string())
        if field.name == self._encoder.label and self._encoder.label_kind == "class":
            return field.type
        numbers = field.name in self._encoder.numbers or field.name == self._encoder.label
        return pa.float32() if numbers and not pa.types.is_boolean(field.type) else field.type

    def _explain(self, file: Path, error: pa.ArrowInvalid | OSError) -> UsageError:
        """The error of a file, with its line, as far as that can be found out."""
        try:
            with _text(file) as text:
                rows = csv.reader(text, delimiter=self._delimiter)
                header = next(rows, None)
                if not header:
                    return UsageError(f"{file} is empty", hint="a header and rows are needed")
                before = rows.line_num
                for row in rows:
                    if wrong := self._wrong(row, header):
                        return UsageError(f"{file}, line {rows.line_num}, {wrong}", hint=_HINT)
                if rows.line_num == before:
                    return UsageError(f"{file} has no rows", hint="a header and rows are needed")
        except (gzip.BadGzipFile, zlib.error, EOFError) as other:
            return UsageError(f"{file} is not a complete gzip file: {other}", hint="make or fetch it again")
        except (OSError, UnicodeDecodeError, csv.Error) as other:
            return UsageError(f"{file} cannot be read: {other}", hint="it must be text in UTF-8")
        return UsageError(f"{file} cannot be read: {error}", hint=_OTHER_FORMAT)

    def _wrong(self, row: list[str], header: list[str]) -> str:
        """The error of a row; empty if it has none."""
        if row and len(row) != len(header):
            column = header[len(row)] if len(row) < len(header) else f"{len(header) + 1}"
            what = "is missing" if len(row) < len(header) else f"is one too many: {row[len(header)]!r}"
            return f"column {column}: the value {what}; the header has {len(header)} columns, the row {len(row)}"
        for name, value in zip(header, row, strict=False):
            type_ = self._types.get(name)
            if type_ and (pa.types.is_floating(type_) or pa.types.is_integer(type_)) and not _fits(value, type_):
                whole = "a whole number" if pa.types.is_integer(type_) else "a number"
                return f"column {name}: {value!r} is not {whole}, unlike the values before it"
        return ""


_OTHER_FORMAT = "is it the right format? --format, --delimiter"
_HINT = "correct or remove the row; --ignore COLUMN leaves a column out, --target number reads the label as a number"


def _fits(value: str, type_: pa.DataType) -> bool:
    if value in NULLS:
        return True
    try:
        int(value) if pa.types.is_integer(type_) else float(value)
    except ValueError:
        return False
    return True


def _text(file: Path) -> io.TextIOBase:
    if file.suffix == ".gz":
        return gzip.open(file, "rt", encoding="utf-8-sig", newline="")
    return open(file, encoding="utf-8-sig", newline="")
