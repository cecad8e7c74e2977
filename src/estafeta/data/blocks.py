"""A block: consecutive rows of a data set in one tensor file, with one array for each kind.

A dense array is one tensor. A sparse one is three, as in CSR: the start of each row (int64[n + 1]), the column of each
number (int32), the numbers. This module must not know what the rows mean, or where the file lies.
"""

from __future__ import annotations

from collections.abc import Iterable, Mapping, Sequence
from dataclasses import dataclass
from typing import Self

import numpy as np

from estafeta.data.manifest import Manifest
from estafeta.errors import Command, Corrupt
from estafeta.store.files import Buffer, Reader
from estafeta.store.tensorfile import Array, TensorFile, encode

FORMAT = "estafeta-block/1"


@dataclass(frozen=True)
class Csr:
    """Sparse rows.

    Attributes:
        starts: int64[n + 1], start of each row in the other two.
        columns: int32, ascending in a row.
    """

    starts: Array
    columns: Array
    values: Array

    def __len__(self) -> int:
        return len(self.starts) - 1

    def take(self, rows: Array) -> Csr:
        """The given rows, in the given order."""
        first, lengths = self.starts[rows], self.starts[rows + 1] - self.starts[rows]
        starts = np.zeros(len(rows) + 1, np.int64)
        np.cumsum(lengths, out=starts[1:])
        index = np.arange(starts[-1]) + np.repeat(first - starts[:-1], lengths)
        return Csr(starts, self.columns[index], self.values[index])


def stack(parts: Iterable[Csr]) -> Csr:
    """The rows of all parts, one after the other."""
    nothing = Csr(np.zeros(1, np.int64), np.empty(0, np.int32), np.empty(0, np.float32))
    parts = list(parts) or [nothing]
    offsets = np.cumsum([0, *(part.starts[-1] for part in parts)])
    starts = [part.starts[:-1] + offset for part, offset in zip(parts, offsets, strict=False)]
    return Csr(
        np.concatenate([*starts, offsets[-1:]]).astype(np.int64),
        np.concatenate([part.columns for part in parts]),
        np.concatenate([part.values for part in parts]),
    )


RowArray = Array | Csr
"""Rows of one kind, dense or sparse."""


def encode_block(parts: Mapping[str, RowArray], number: int, attempt: str) -> list[Buffer]:
    """Content of a block's file, ready for publication."""
    tensors: dict[str, Array] = {}
    for name, part in parts.items():
        if isinstance(part, Csr):
            tensors |= {f"{name}.starts": part.starts, f"{name}.columns": part.columns, f"{name}.values": part.values}
        else:
            tensors[name] = part
    return encode(tensors, {"format": FORMAT, "token": attempt, "block": str(number)})


def read_rows(reader: Reader, manifest: Manifest, number: int, room: Sequence[Array]) -> list[RowArray]:
    """The rows of a block, checked against their digests. One call reads the file, since each may be a round trip.

    Args:
        reader: The block's file.
        manifest: Manifest of the data set.
        number: Number of the block.
        room: Array for each dense kind: C-contiguous, [rows, *shape], in its dtype.

    Returns:
        Rows of each kind: the dense ones in `room`, the sparse ones in memory of their own.

    Raises:
        Corrupt: The file is not the block that the manifest means, or its bytes are not the published ones.
    """
    try:
        expected = manifest.blocks[number].bytes
        if reader.size != expected:
            raise Corrupt(f"its file has {reader.size} bytes, expected {expected}")
        read = _read_mixed if any(kind.sparse for kind in manifest.kinds) else _read_dense
        return read(reader, manifest, number, room)
    except (Corrupt, KeyError) as error:
        hint = f"remove it, and import it again: {Command('estafeta', 'data', 'rm', manifest.name)}"
        raise Corrupt(f"Block {number} of data set {manifest.name!r} is damaged: {error}", hint=hint) from error


def _read_dense(reader: Reader, manifest: Manifest, number: int, room: Sequence[Array]) -> list[RowArray]:
    """Read dense rows. The manifest tells the length of all tensors, hence of the header: no byte is moved twice."""
    head = bytearray(max(0, reader.size - sum(part.nbytes for part in room)))
    reader.scatter([head, *(part.data for part in room)], 0)
    file, offset = _opened(_Beginning(head, reader.size), manifest, number), len(head)
    for kind, part in zip(manifest.kinds, room, strict=True):
        file.check(kind.name, part, offset)
        offset += part.nbytes
    return list(room)


def _read_mixed(reader: Reader, manifest: Manifest, number: int, room: Sequence[Array]) -> list[RowArray]:
    content = bytearray(reader.size)
    reader.readinto(content, 0)
    file, left = _opened(_Beginning(content, reader.size), manifest, number), iter(room)
    parts: list[RowArray] = []
    for kind in manifest.kinds:
        if kind.sparse:
            parts.append(Csr(*(file.read(f"{kind.name}.{array}") for array in ("starts", "columns", "values"))))
        else:
            parts.append(part := next(left))
            file.read_into(kind.name, part)
    return parts


def _opened(reader: Reader, manifest: Manifest, number: int) -> TensorFile:
    file = TensorFile(reader)
    if (file.metadata.get("token"), file.metadata.get("block")) != (manifest.attempt, str(number)):
        raise Corrupt("its file is not that of this block")
    return file


class _Beginning:
    """`Reader` over the first bytes of a file, which are in memory already."""

    def __init__(self, content: bytearray, size: int) -> None:
        self._content, self.size = memoryview(content), size

    def readinto(self, buffer: Buffer, offset: int) -> int:
        """See `Reader.readinto`."""
        return self.scatter([buffer], offset)

    def scatter(self, buffers: Sequence[Buffer], offset: int) -> int:
        """See `Reader.scatter`."""
        first = offset
        for buffer in buffers:
            out = memoryview(buffer).cast("B")
            found = self._content[offset : offset + len(out)]
            out[: len(found)] = found
            offset += len(found)
        return offset - first

    def close(self) -> None:
        """Do nothing: there is no file to close."""

    def __enter__(self) -> Self:
        return self

    def __exit__(self, *raised: object) -> None:
        self.close()
