"""NumPy's files: an array, or several of one length in an archive; read from front to back, never as a whole.

The reader maps an `.npy` file, which is the user's own and not the store's. It unpacks a member of an `.npz` archive
while it reads.
"""

import zipfile
from collections.abc import Callable, Iterator, Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np

from estafeta.data.importing.chunk import Chunk, plain
from estafeta.data.manifest import TARGET, Kind
from estafeta.errors import UsageError
from estafeta.store.tensorfile import CODES, Array

LABELS = ("y", "target", "targets", "label", "labels")
"""Names of arrays that count as the target if the user names none."""
CHUNK_BYTES = 4 << 20


@dataclass(frozen=True)
class Member:
    """An array that is read from front to back.

    Attributes:
        rows: Number of rows.
        shape: Shape of one row.
        dtype: Dtype of its numbers.
        read: Function that gives the next n rows.
    """

    rows: int
    shape: tuple[int, ...]
    dtype: np.dtype[Any]
    read: Callable[[int], Array]

    @property
    def row_bytes(self) -> int:
        """Bytes of one row."""
        return int(np.prod(self.shape, dtype=np.int64)) * self.dtype.itemsize


class Arrays:
    """`Source` over arrays of one length.

    Args:
        members: The arrays by name, in the order of the inputs.
        where: Their source, for messages.
        label: Name of the target.
        size: Bytes to read.

    Raises:
        UsageError: There is no target or no input, the lengths differ, or an array holds no numbers.
    """

    def __init__(self, members: Mapping[str, Member], where: str, label: str | None, size: int) -> None:
        self.size = size
        self.position = 0
        self.categories: dict[str, tuple[str, ...]] = {}
        self._where = where
        name = _label_of(members, where, label)
        self._members = {**{key: member for key, member in members.items() if key != name}, name: members[name]}
        if len(members) < 2:
            raise UsageError(f"{where} has no array but the target", hint="a model needs inputs")
        lengths = {key: member.rows for key, member in self._members.items()}
        if len(set(lengths.values())) > 1:
            counts = ", ".join(f"{key} {rows}" for key, rows in lengths.items())
            raise UsageError(
                f"The arrays of {where} have different lengths: {counts}", hint="each row needs a value of every array"
            )
        *self._inputs, self.target = (
            _kind(key if key != name else TARGET, member, where) for key, member in self._members.items()
        )

    @property
    def inputs(self) -> tuple[Kind, ...]:
        """See `Source.inputs`."""
        return tuple(self._inputs)

    def chunks(self) -> Iterator[Chunk]:
        """See `Source.chunks`."""
        rows = self._members[next(iter(self._members))].rows
        step = max(1, CHUNK_BYTES // max(1, sum(member.row_bytes for member in self._members.values())))
        for first in range(0, rows, step):
            count = min(step, rows - first)
            names = [*(kind.name for kind in self._inputs), TARGET]
            try:
                parts = {n: plain(m.read(count)) for n, m in zip(names, self._members.values(), strict=True)}
            except (ValueError, EOFError, zipfile.BadZipFile, OSError) as error:
                raise UsageError(f"{self._where} is damaged: {error}", hint="make or fetch it again") from error
            self.position = self.size * (first + count) // rows
            yield Chunk({n: part for n, part in parts.items() if part is not None}, self._where, first + 1)


def open_arrays(files: list[Path], label: str | None) -> Arrays:
    """The arrays of an archive, or of files with one array each.

    Raises:
        UsageError: A file cannot be read, or `Arrays` refuses the arrays.
    """
    where, size = ", ".join(map(str, files)), sum(file.stat().st_size for file in files)
    members: dict[str, Member] = {}
    for file in files:
        try:
            is_archive = file.suffix.lower() == ".npz" or zipfile.is_zipfile(file)
            found = _archived(file) if is_archive else {file.stem: _mapped(file)}
        except (ValueError, EOFError, zipfile.BadZipFile) as error:
            hint = "write it with numpy.save or numpy.savez, without pickled objects"
            raise UsageError(f"{file} is not a complete file of numpy arrays: {error}", hint=hint) from error
        if twice := [name for name in found if name in members]:
            raise UsageError(
                f"{file} has the array {twice[0]!r}, and so has a file before it",
                hint="each name is one input or the target: join the files' rows first",
            )
        members |= found
    return Arrays(members, where, label, size)


def _mapped(file: Path) -> Member:
    return from_array(np.lib.format.open_memmap(file, mode="r"), str(file))


def from_array(array: Any, where: str) -> Member:
    """A member for an array in memory, or a mapped one.

    Raises:
        UsageError: The array is a single number, and so has no rows.
    """
    _check_rows(array.shape, where)
    done = 0

    def read(count: int) -> Array:
        nonlocal done
        rows = np.asarray(array[done : done + count])
        done += count
        return rows

    return Member(len(array), array.shape[1:], array.dtype, read)


def _archived(file: Path) -> dict[str, Member]:
    archive = zipfile.ZipFile(file)
    return {
        Path(name).stem: _unpacked(archive.open(name), f"{file}, array {Path(name).stem!r}")
        for name in archive.namelist()
    }


def _unpacked(stream: Any, where: str) -> Member:
    version = np.lib.format.read_magic(stream)
    headers = {(1, 0): np.lib.format.read_array_header_1_0, (2, 0): np.lib.format.read_array_header_2_0}
    if version not in headers:
        raise ValueError(f"{where} has format {version}")
    shape, fortran, dtype = headers[version](stream)
    if dtype.hasobject:
        raise ValueError(f"{where} holds Python objects")
    if fortran and len(shape) > 1:
        raise UsageError(f"{where} is stored column by column", hint="save numpy.ascontiguousarray(array) instead")
    _check_rows(shape, where)
    row = int(np.prod(shape[1:], dtype=np.int64))

    def read(count: int) -> Array:
        content = stream.read(count * row * dtype.itemsize)
        return np.frombuffer(content, dtype, count * row).reshape(count, *shape[1:])

    return Member(shape[0], tuple(shape[1:]), dtype, read)


def _check_rows(shape: tuple[int, ...], where: str) -> None:
    if not shape:
        raise UsageError(f"{where} is a single number", hint="save arrays with one row for each example")


def _label_of(members: Mapping[str, Member], where: str, label: str | None) -> str:
    found = [name for name in ([label] if label else LABELS) if name in members]
    if not found:
        what = f"no array {label!r}" if label else "no array whose name says that it is the target"
        raise UsageError(f"{where} has {what}", hint=f"--label NAME, one of {', '.join(members)}")
    return found[0]


def _kind(name: str, member: Member, where: str) -> Kind:
    example = plain(np.empty(0, member.dtype))
    if example is None:
        raise UsageError(f"The array {name!r} of {where} is {member.dtype}", hint="an array must hold numbers")
    return Kind(name=name, dtype=CODES[example.dtype], shape=member.shape)
