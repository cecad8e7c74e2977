"""A block: consecutive rows of a data set in one tensor file, every part of a row in an array of its own.

A dense part is one tensor; a sparse one is three, as in CSR: where each row begins (int64[n + 1]), the column of each
number (int32), the numbers. Nothing in here knows what the rows mean, or where the file lies.
"""

from __future__ import annotations

from collections.abc import Iterable, Mapping
from dataclasses import dataclass
from typing import Self

import numpy as np

from estafeta.errors import Corrupt
from estafeta.files import Buffer, Reader
from estafeta.manifest import Kind, Manifest
from estafeta.tensorfile import Array, TensorFile, encode

FORMAT = "estafeta-block/1"


@dataclass(frozen=True)
class Csr:
    """Sparse rows.

    Attributes:
        starts: int64[n + 1], where each row begins in the other two.
        columns: int32, ascending in a row.
        values: The numbers that are not zero.
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


Part = Array | Csr
"""One part of some rows."""


def encode_block(parts: Mapping[str, Part], number: int, attempt: str) -> list[Buffer]:
    """Content of a block's file, ready to be published."""
    tensors: dict[str, Array] = {}
    for name, part in parts.items():
        if isinstance(part, Csr):
            tensors |= {f"{name}.starts": part.starts, f"{name}.columns": part.columns, f"{name}.values": part.values}
        else:
            tensors[name] = part
    return encode(tensors, {"format": FORMAT, "token": attempt, "block": str(number)})


def open_block(reader: Reader, manifest: Manifest, number: int) -> TensorFile:
    """The tensor file of a block, read to memory in one call: each call may be a round trip.

    Raises:
        Corrupt: It is not the block that the manifest means.
    """
    file = TensorFile(_InMemory(reader))
    if (file.metadata.get("token"), file.metadata.get("block")) != (manifest.attempt, str(number)):
        raise Corrupt(f"the file of block {number} of data set {manifest.name!r} is not that block")
    if reader.size != (expected := manifest.blocks[number].bytes):
        raise Corrupt(f"block {number} of data set {manifest.name!r} has {reader.size} bytes, expected {expected}")
    return file


class _InMemory:
    """`Reader` over what another one has read."""

    def __init__(self, reader: Reader) -> None:
        self._content = np.empty(reader.size, np.uint8)
        self.size = reader.readinto(self._content.data, 0)

    def readinto(self, buffer: Buffer, offset: int) -> int:
        """See `Reader.readinto`."""
        out = np.frombuffer(buffer, np.uint8)
        found = self._content[offset : min(offset + len(out), self.size)]
        out[: len(found)] = found
        return len(found)

    def close(self) -> None:
        """There is nothing to close."""

    def __enter__(self) -> Self:
        return self

    def __exit__(self, *raised: object) -> None:
        self.close()


def read_part(file: TensorFile, kind: Kind) -> Part:
    """One part of a block's rows, in memory of its own.

    Raises:
        Corrupt: The bytes are not those that were published.
    """
    if kind.sparse:
        return Csr(*(file.read(f"{kind.name}.{array}") for array in ("starts", "columns", "values")))
    return file.read(kind.name)
