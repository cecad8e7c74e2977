"""Sparse text, as libsvm and SVMlight have it: `label column:value column:value …`, parsed by scikit-learn in pieces.

Rows stay sparse. The reader knows the number of columns only at the end, so the manifest has it, not a block.
"""

import io
from collections.abc import Iterator
from pathlib import Path

import numpy as np
from sklearn.datasets import load_svmlight_file

from estafeta.data.blocks import Csr
from estafeta.data.importing.chunk import Chunk
from estafeta.data.importing.tabular import Target
from estafeta.data.manifest import TARGET, Kind
from estafeta.errors import UsageError
from estafeta.store.tensorfile import Array

CHUNK_BYTES = 4 << 20
"""Bytes of text that are parsed at once."""
MOST_COLUMNS = 2**31 - 2
"""Largest number of a column: it must fit int32."""


_HINT = "label column:value column:value …, columns ascending"


class SvmLight:
    """`Source` over svmlight files.

    Args:
        files: The files.
        zero_based: Whether the first column has number 0; otherwise it has 1.
        target: Whether the label is a class or a number; `auto` takes the first label for a class if it is whole.

    Raises:
        UsageError: The first row does not have this format.
    """

    def __init__(self, files: list[Path], *, zero_based: bool = False, target: Target = "auto") -> None:
        self.size = sum(file.stat().st_size for file in files)
        self.position = 0
        self.categories: dict[str, tuple[str, ...]] = {}
        self._files, self._base = files, 0 if zero_based else 1
        self._columns = 0
        self._whole = target == "class" or (target == "auto" and _is_whole(_first_label(files[0])))

    @property
    def inputs(self) -> tuple[Kind, ...]:
        """See `Source.inputs`."""
        return (Kind(name="input", dtype="F32", shape=(self._columns,), sparse=True),)

    @property
    def target(self) -> Kind:
        """See `Source.target`."""
        return Kind(name=TARGET, dtype="I64" if self._whole else "F32")

    def chunks(self) -> Iterator[Chunk]:
        """See `Source.chunks`."""
        for path in self._files:
            line = row = 1
            with open(path, "rb") as file:
                while lines := file.readlines(CHUNK_BYTES):
                    rows, labels = _parse(lines, str(path), line)
                    self.position += sum(map(len, lines))
                    if len(rows):
                        yield Chunk(
                            {"input": self._shifted(rows, path), TARGET: self._labels(labels, path)}, str(path), row
                        )
                    line, row = line + len(lines), row + len(rows)

    def _shifted(self, rows: Csr, path: Path) -> Csr:
        columns = rows.columns - np.int32(self._base)
        if len(columns):
            if columns.min() < 0:
                raise UsageError(
                    f"{path} has a column 0, so the numbers of its columns do not begin with 1", hint="--zero-based"
                )
            self._columns = max(self._columns, int(columns.max()) + 1)
        return Csr(rows.starts, columns, rows.values)

    def _labels(self, labels: Array, path: Path) -> Array:
        if not self._whole:
            return labels.astype(np.float32)
        if not _is_whole(labels):
            wrong = labels[labels != np.round(labels)][0]
            raise UsageError(f"{path} has the label {wrong:g}, and whole numbers before it", hint="--target number")
        return labels.astype(np.int64)


def _first_label(path: Path) -> Array:
    """The label of a file's first row, after comments and empty lines; empty if the file has no row."""
    with open(path, "rb") as file:
        for number, line in enumerate(file):
            _, labels = _parse([line], str(path), number + 1)
            if len(labels):
                return labels
    return np.empty(0)


def _parse(lines: list[bytes], where: str, first: int) -> tuple[Csr, Array]:
    """The rows of some lines.

    Raises:
        UsageError: A line does not have the format; the message names it.
    """
    try:
        return _load(lines)
    except (ValueError, OverflowError) as error:
        for number, line in enumerate(lines):
            try:
                _load([line])
            except (ValueError, OverflowError) as wrong:
                text = line.decode(errors="replace").strip()[:60]
                raise UsageError(
                    f"{where}, line {first + number}: {text!r} is no row of svmlight's format ({wrong})", hint=_HINT
                ) from error
        last = first + len(lines) - 1
        raise UsageError(f"{where}, lines {first} to {last} cannot be read: {error}", hint=_HINT) from error


def _load(lines: list[bytes]) -> tuple[Csr, Array]:
    if not any(map(_holds_a_row, lines)):
        return Csr(np.zeros(1, np.int64), np.empty(0, np.int32), np.empty(0, np.float32)), np.empty(0)
    matrix, labels = load_svmlight_file(
        io.BytesIO(b"".join(lines)), n_features=MOST_COLUMNS, dtype=np.float32, zero_based=True
    )
    return Csr(matrix.indptr.astype(np.int64), matrix.indices.astype(np.int32), matrix.data), labels


def _holds_a_row(line: bytes) -> bool:
    return bool(line.partition(b"#")[0].strip())


def _is_whole(labels: Array) -> bool:
    return bool((labels == np.round(labels)).all())
