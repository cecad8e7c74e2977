"""Tensor files: the safetensors format, written and read in place, with a digest for each tensor.

https://github.com/huggingface/safetensors describes the format: 8 bytes with the length of a JSON header, the header,
then the tensors' bytes without holes. Any safetensors reader opens such a file. This module differs from the library in
three ways that the exchange needs. It reads into existing buffers; the library allocates, at up to ten times the cost.
It reads parts of a tensor. It checks a CRC-32 of each tensor from the header's metadata.

It knows files and numpy arrays, and must not know models or runs.
"""

import json
import math
from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass
from typing import Any

import numpy as np
import numpy.typing as npt

from estafeta.errors import Corrupt, UsageError
from estafeta.store.files import Buffer, Reader

try:
    from isal.isal_zlib import crc32  # ten times as fast as zlib's: the digest limits the speed of reading rows
except ImportError:  # there is no wheel for this platform
    from zlib import crc32

Array = npt.NDArray[Any]

DTYPES: Mapping[str, np.dtype[Any]] = {
    "F64": np.dtype("<f8"),
    "F32": np.dtype("<f4"),
    "F16": np.dtype("<f2"),
    "I64": np.dtype("<i8"),
    "I32": np.dtype("<i4"),
    "I16": np.dtype("<i2"),
    "I8": np.dtype("i1"),
    "U64": np.dtype("<u8"),
    "U32": np.dtype("<u4"),
    "U16": np.dtype("<u2"),
    "U8": np.dtype("u1"),
    "BOOL": np.dtype("?"),
}
"""Numpy dtypes by their names in the safetensors format."""

CODES = {dtype: code for code, dtype in DTYPES.items()}
ALIGNMENT = 64
"""Bytes of a cache line: padding makes the data begin at a multiple of this."""
DIGEST = "crc32:"
"""Prefix of the metadata keys that hold the tensors' digests."""
CHUNK_BYTES = 1 << 20
"""Bytes that `stream` reads at once: the read size of an EFS mount."""


@dataclass(frozen=True)
class Entry:
    """Dtype, shape and place of one tensor: first byte in the file, number of bytes."""

    dtype: np.dtype[Any]
    shape: tuple[int, ...]
    offset: int
    length: int


def encode(tensors: Mapping[str, Array], metadata: Mapping[str, str]) -> list[Buffer]:
    """Content of a tensor file, ready for publication: the header, then each tensor's own memory (not copied).

    Args:
        tensors: C-contiguous arrays by name, laid out in this order.
        metadata: Strings for the header.

    Raises:
        UsageError: An array's dtype has no name in the format.
    """
    header: dict[str, Any] = {}
    digests: dict[str, str] = {}
    chunks: list[Buffer] = []
    position = 0
    for name, array in tensors.items():
        if array.dtype not in CODES:
            raise UsageError(
                f"Tensor {name!r} has dtype {array.dtype}, which a tensor file cannot hold",
                hint=f"convert it to one of {', '.join(str(d) for d in CODES)}",
            )
        data = _bytes_of(array)
        header[name] = {
            "dtype": CODES[array.dtype],
            "shape": list(array.shape),
            "data_offsets": [position, position + len(data)],
        }
        digests[DIGEST + name] = f"{crc32(data):08x}"
        chunks.append(data)
        position += len(data)
    text = json.dumps({"__metadata__": {**metadata, **digests}, **header}, separators=(",", ":")).encode()
    text += b" " * (-(8 + len(text)) % ALIGNMENT)
    return [len(text).to_bytes(8, "little") + text, *chunks]


class TensorFile:
    """A tensor file that is open for reading.

    Attributes:
        metadata: Strings of its header, without the digests.
        entries: Place of each tensor.
        digests: CRC-32 of each tensor that has one in the header, as hex digits.

    Raises:
        Corrupt: The header cannot be read, or the file is shorter or longer than the header says.
    """

    def __init__(self, reader: Reader) -> None:
        self._reader = reader
        start = bytearray(8)
        if reader.readinto(start, 0) < 8:
            raise Corrupt("A tensor file is shorter than its length field")
        length = int.from_bytes(start, "little")
        if length > reader.size - 8:
            raise Corrupt(f"A tensor file of {reader.size} bytes claims a header of {length} bytes")
        text = bytearray(length)
        reader.readinto(text, 8)
        try:
            header = json.loads(text)
            strings: dict[str, str] = header.pop("__metadata__", {})
            self.metadata = {key: value for key, value in strings.items() if not key.startswith(DIGEST)}
            self.digests = {key.removeprefix(DIGEST): value for key, value in strings.items() if key.startswith(DIGEST)}
            self.entries = {name: _entry(record, 8 + length) for name, record in header.items()}
        except (ValueError, KeyError, TypeError, AttributeError) as error:
            raise Corrupt(f"A tensor file has an unreadable header: {error}") from error
        end = max((entry.offset + entry.length for entry in self.entries.values()), default=8 + length)
        if end != reader.size:
            raise Corrupt(f"A tensor file has {reader.size} bytes where its header says {end}")

    def read(self, name: str) -> Array:
        """One tensor, in memory of its own."""
        entry = self.entries[name]
        array = np.empty(entry.shape, entry.dtype)
        self.read_into(name, array)
        return array

    def read_into(self, name: str, out: Array) -> None:
        """Read one whole tensor into `out`, a C-contiguous array of its dtype and size.

        Raises:
            Corrupt: The bytes are not the published ones.
        """
        entry = self.entries[name]
        if out.dtype != entry.dtype or out.size * out.itemsize != entry.length:
            raise Corrupt(f"Tensor {name!r} is {entry.dtype}{list(entry.shape)}, expected {out.dtype}[{out.size}]")
        view = _bytes_of(out)
        self._reader.readinto(view, entry.offset)
        self._check(name, crc32(view))

    def check(self, name: str, values: Array, offset: int) -> None:
        """Make sure that values which the caller has read from the file are one whole tensor.

        Args:
            name: The tensor.
            values: C-contiguous array.
            offset: Place in the file at which they were read.

        Raises:
            Corrupt: The tensor is another, or elsewhere, or the bytes are not the published ones.
        """
        entry = self.entries[name]
        if (values.dtype, values.shape, offset) != (entry.dtype, entry.shape, entry.offset):
            raise Corrupt(
                f"Tensor {name!r} is {entry.dtype}{list(entry.shape)} at byte {entry.offset}, expected "
                f"{values.dtype}{list(values.shape)} at {offset}"
            )
        self._check(name, crc32(_bytes_of(values)))

    def stream(self, name: str, scratch: Array) -> Iterator[tuple[int, Array]]:
        """One tensor in pieces, through one buffer: yields (index of the first element, the elements).

        Args:
            name: The tensor.
            scratch: 1-d buffer of the tensor's dtype. Each piece is a view of it, valid until the next.

        Raises:
            Corrupt: The bytes were not the published ones; raised at the end.
        """
        entry = self.entries[name]
        total = entry.length // entry.dtype.itemsize
        digest = 0
        for first in range(0, total, len(scratch)):
            piece = scratch[: min(len(scratch), total - first)]
            view = _bytes_of(piece)
            self._reader.readinto(view, entry.offset + first * entry.dtype.itemsize)
            digest = crc32(view, digest)
            yield first, piece
        self._check(name, digest)

    def _check(self, name: str, digest: int) -> None:
        expected = self.digests.get(name)
        if expected is not None and expected != f"{digest:08x}":
            raise Corrupt(f"Tensor {name!r} has digest {digest:08x}, its header says {expected}")


def scratch_buffer(dtype: npt.DTypeLike = np.float32) -> Array:
    """A buffer for `TensorFile.stream`."""
    return np.empty(CHUNK_BYTES // np.dtype(dtype).itemsize, dtype)


def _bytes_of(array: Array) -> memoryview:
    return array.reshape(-1).view(np.uint8).data


def _entry(record: Mapping[str, Any], start: int) -> Entry:
    dtype = DTYPES[record["dtype"]]
    shape: Sequence[int] = record["shape"]
    first, last = record["data_offsets"]
    if first < 0 or last - first != math.prod(shape) * dtype.itemsize:
        raise ValueError(f"bytes {first} to {last} cannot hold {dtype}{list(shape)}")
    return Entry(dtype, tuple(shape), start + first, last - first)
