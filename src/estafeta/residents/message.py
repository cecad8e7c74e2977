"""What resident ranks publish for each other, as bytes: a head of fixed form, then a vector.

A round of a small model is over in some ten microseconds, in which a JSON header would be the longest part. So the head
is packed binary, little endian, and its length is the same all through a run:

    0    magic, format version, kind, wishes, version, rank, whether it is a stand-in, rows, element count, round time,
         digest of the head, dollars spent
    64   token: the writer's, zero padded
    128  digests   uint32[slices]   of each slice of the vector
         sums      float64[sums]    loss and metrics, summed over the rows
         buffers   the model's buffers, one after the other
         zeros up to a multiple of 64 bytes
         vector    float32[count]

A digest is the exclusive or of the 32-bit words: it does not depend on the order in which a vector is written or read,
and costs a tenth of a CRC. It tells a page that is missing, of another round, or of another file; it is no protection
against an attacker. The head has a CRC-32.
"""

from __future__ import annotations

import struct
import zlib
from collections.abc import Mapping, Sequence
from enum import IntEnum, IntFlag
from typing import NamedTuple

import numpy as np

from estafeta.errors import Corrupt
from estafeta.protocol.spec import Slot
from estafeta.store.files import Reader
from estafeta.store.tensorfile import DTYPES, Array

FORMAT = 1
MAGIC = b"estafeta"
TOKEN_BYTES = 64
FIXED_BYTES = 128
SMALL = 16_384
"""Elements up to which a vector is read along with the head, and written along with it, in one call."""

ALIGNMENT = 64
"""The vector begins at a multiple of this (a cache line)."""

_FIXED = struct.Struct("<8sHHIQIIQQdIf64s")
_CRC_AT = 56


class Kind(IntEnum):
    """What a message is."""

    GRADIENT = 1  # of a train round: the sum of the rows' gradients
    SCORES = 2  # of a valid round: sums alone
    SLICE = 3  # of the parameters of a version
    NORMS = 4  # sums of squares of a slice of the mean gradient


class Wish(IntFlag):
    """What a rank would have all ranks do after the round. Nothing that is computed depends on it."""

    NONE = 0
    CHECKPOINT = 1
    READY = 2  # its successor is ready to take over
    LEAVE = 4  # it cannot stay for another round
    STOP = 8  # the run has been asked to stop
    LIMIT = 16  # a limit of the run is reached


class Head(NamedTuple):  # a tuple is made in a fifth of the time of a frozen dataclass, and each round makes one a rank
    """The head of a message that has been read.

    Attributes:
        kind: What it is.
        version: The weights version that its round starts from, or that it is part of.
        rank: Whose it is.
        rows: Rows that were summed over.
        wishes: What the rank would like to happen.
        round_s: How long its rounds take, by the median; 0 if it does not know yet.
        spent_usd: What the rank has cost since it said so last; single precision.
        token: Of its writer.
        digests: Of each slice of the vector.
        sums: Loss and metrics, summed over the rows.
        buffers: By name.
        is_stand_in: Somebody else has published it, because the rank was late: the round is closed without it.
    """

    kind: int
    version: int
    rank: int
    rows: int
    wishes: int
    round_s: float
    spent_usd: float
    token: str
    digests: tuple[int, ...]
    sums: tuple[float, ...]
    buffers: Mapping[str, Array]
    is_stand_in: bool = False


class Form:
    """The form of all messages of one kind in a run.

    Args:
        slices: Number of digests.
        sums: Number of sums.
        buffers: The model's buffers.
        count: Elements of the vector.

    Attributes:
        vector_at: Where the vector begins, in bytes; the length of the head.
        total_bytes: Length of a message.
    """

    def __init__(self, slices: int, sums: int = 0, buffers: Sequence[Slot] = (), count: int = 0) -> None:
        self._count = count
        # float64 wants a multiple of 8; an odd number of digests leaves a gap.
        gap = "4x" * (slices % 2)
        self._small = struct.Struct(f"<{slices}I{gap}{sums}d")
        self._slices = slices
        self._buffers: dict[str, tuple[slice, np.dtype[np.generic], tuple[int, ...]]] = {}
        end = FIXED_BYTES + self._small.size
        for slot in buffers:
            dtype = DTYPES[slot.dtype]
            begin = -(-end // 8) * 8
            end = begin + slot.size * dtype.itemsize
            self._buffers[slot.name] = slice(begin, end), dtype, slot.shape
        self.vector_at = -(-end // ALIGNMENT) * ALIGNMENT
        self.total_bytes = self.vector_at + 4 * count

    def head(self) -> bytearray:
        """Room for a head."""
        return bytearray(self.vector_at)

    def pack(
        self,
        head: bytearray,
        kind: Kind,
        *,
        version: int,
        rank: int,
        token: str,
        is_stand_in: bool = False,
        rows: int = 0,
        wishes: int = Wish.NONE,
        round_s: float = 0.0,
        spent_usd: float = 0.0,
        digests: Sequence[int] = (),
        sums: Sequence[float] = (),
        buffers: Mapping[str, Array] | None = None,
        empty: bool = False,
    ) -> None:
        """Write a head; the arguments are as in `Head`, and `empty` says that there is no vector."""
        count = 0 if empty else self._count
        fields = (kind, wishes, version, rank, is_stand_in, rows, count, round_s, 0, spent_usd, token.encode())
        _FIXED.pack_into(head, 0, MAGIC, FORMAT, *fields)
        digests = digests or (0,) * self._slices
        self._small.pack_into(head, FIXED_BYTES, *digests, *sums)
        for name, array in (buffers or {}).items():
            where, dtype, _ = self._buffers[name]
            head[where] = np.ascontiguousarray(array, dtype).tobytes()
        head[_CRC_AT : _CRC_AT + 4] = zlib.crc32(head).to_bytes(4, "little")

    def read(self, reader: Reader) -> tuple[Head, Array | None]:
        """Read a head, and the vector along with it if that is small.

        Returns:
            The head; and the vector, float32, or None if it is not small. It is empty if no rows were summed over.

        Raises:
            Corrupt: The file is no message of this form.
        """
        room = bytearray(self.total_bytes if self._count <= SMALL else self.vector_at)
        length = reader.readinto(room, 0)
        head, count = self._unpack(room[: self.vector_at])
        if length != (self.vector_at if count > SMALL else self.vector_at + 4 * count):
            raise Corrupt(f"a message of {count} elements ends after {length} bytes")
        vector = np.frombuffer(room, np.float32, count, self.vector_at) if count <= SMALL else None
        return head, vector

    def _unpack(self, head: bytearray) -> tuple[Head, int]:
        magic, form, kind, wishes, version, rank, absent, rows, count, round_s, crc, spent_usd, token = (
            _FIXED.unpack_from(head)
        )
        head[_CRC_AT : _CRC_AT + 4] = bytes(4)
        fits = (magic, form) == (MAGIC, FORMAT) and (count == self._count or count == rows == 0)
        if not fits or zlib.crc32(head) != crc:
            raise Corrupt(f"a message has a head that does not fit: {bytes(head[:FIXED_BYTES])!r}")
        small = self._small.unpack_from(head, FIXED_BYTES)
        buffers = {
            name: np.frombuffer(bytes(head[where]), dtype).reshape(shape)
            for name, (where, dtype, shape) in self._buffers.items()
        }
        return Head(
            kind,
            version,
            rank,
            rows,
            wishes,
            round_s,
            spent_usd,
            token.rstrip(b"\0").decode(),
            small[: self._slices],
            small[self._slices :],
            buffers,
            bool(absent),
        ), count


def glance(reader: Reader, slices: int) -> Head:
    """Read what a head says before its sums and buffers; how many of these there are need not be known.

    Args:
        reader: The file.
        slices: Number of digests.

    Raises:
        Corrupt: It is no message, or its head is damaged.
    """
    fixed = bytearray(FIXED_BYTES)
    if reader.readinto(fixed, 0) < FIXED_BYTES or not fixed.startswith(MAGIC):
        raise Corrupt("a file that should be a message is none")
    _, _, kind, wishes, version, rank, absent, rows, count, round_s, crc, spent_usd, token = _FIXED.unpack(fixed)
    head = bytearray(max(FIXED_BYTES + 4 * slices, reader.size - 4 * count))
    length = reader.readinto(head, 0)
    head[_CRC_AT : _CRC_AT + 4] = bytes(4)
    if length < len(head) or zlib.crc32(head) != crc:
        raise Corrupt(f"the head of a message of {count} elements does not fit its digest")
    digests = struct.unpack_from(f"<{slices}I", head, FIXED_BYTES)
    return Head(
        kind,
        version,
        rank,
        rows,
        wishes,
        round_s,
        spent_usd,
        token.rstrip(b"\0").decode(),
        digests,
        (),
        {},
        bool(absent),
    )


def round_time_of(reader: Reader) -> float:
    """How long the rounds of a message's writer take, by its own word; 0 if it did not know, or it is no message."""
    fixed = bytearray(FIXED_BYTES)
    if reader.readinto(fixed, 0) < FIXED_BYTES or not fixed.startswith(MAGIC):
        return 0.0
    return float(_FIXED.unpack(fixed)[9])
