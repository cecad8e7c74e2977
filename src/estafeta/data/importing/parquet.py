"""Parquet files as record batches: one, several, or all of a directory."""

from collections.abc import Iterator
from pathlib import Path

import pyarrow as pa
from pyarrow import parquet

from estafeta.data.importing.chunk import Chunk
from estafeta.data.importing.tabular import Choice, Encoded, Encoder
from estafeta.errors import UsageError

ROWS = 1 << 14
"""Number of rows in a record batch."""


class Parquet(Encoded):
    """`Source` over Parquet files with the same columns.

    Args:
        files: The files.
        choice: Use of the columns.

    Raises:
        UsageError: A file is not a complete Parquet file, or its columns do not fit the choice.
    """

    def __init__(self, files: list[Path], choice: Choice) -> None:
        self.size = sum(file.stat().st_size for file in files)
        self.position = 0
        self._files = files
        with _open(files[0]) as first:
            self._schema = first.schema_arrow
        self._encoder = Encoder(self._schema, choice, str(files[0]))
        self._columns = [self._encoder.label, *self._encoder.numbers, *self._encoder.texts]

    def chunks(self) -> Iterator[Chunk]:
        """See `Source.chunks`."""
        for file in self._files:
            first, size = 1, file.stat().st_size
            before = self.position
            with _open(file) as table:
                if not table.schema_arrow.equals(self._schema, check_metadata=False):
                    raise UsageError(f"{file} has other columns than {self._files[0]}", hint="import files of one kind")
                try:
                    for batch in table.iter_batches(ROWS, columns=self._columns):
                        yield self._encoder.chunk(batch, str(file), first)
                        first += batch.num_rows
                        self.position = before + size * (first - 1) // table.metadata.num_rows
                except (pa.ArrowException, OSError) as error:
                    raise UsageError(f"{file} is damaged: {error}", hint="make or fetch it again") from error
            self.position = before + size


def _open(file: Path) -> parquet.ParquetFile:
    try:
        return parquet.ParquetFile(file)
    except (pa.ArrowException, OSError) as error:
        if isinstance(error, FileNotFoundError):
            raise
        raise UsageError(f"{file} is not a complete Parquet file: {error}", hint="make or fetch it again") from error
