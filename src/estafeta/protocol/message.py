"""The packed message: what a rank publishes for a round, and all that resident ranks publish for each other.

A message is a head of fixed form, then a vector. A round of a small model takes some ten microseconds, and a JSON
header would be its longest part. So the head is packed binary, little endian. All messages of one form in a run have
heads of one length:

    0    magic, format version, kind, wishes, whether it is a stand-in, version, rank, micro-batches, rows, element
         count, round time, digest of the head, dollars spent
    64   token: the writer's, zero padded
    128  digests   uint32[slices]   of each slice of the vector
         sums      float64[sums]    loss and metrics, summed over the rows
         buffers   the model's buffers, one after the other
         zeros up to a multiple of 64 bytes
         vector    float32[count]

A digest is the exclusive or of the 32-bit words. It does not depend on the order in which a rank writes or reads a
vector, and it costs a tenth of a CRC. A digest tells a page that is missing, of another round, or of another file. It
gives no protection against an attacker. The head has a CRC-32.
"""

import struct
import zlib
from collections.abc import Iterator, Mapping, Sequence
from enum import IntEnum, IntFlag
from typing import Any, NamedTuple

import numpy as np

from estafeta.errors import Corrupt
from estafeta.protocol.layout import Phase
from estafeta.protocol.spec import Plan, Slot
from estafeta.store.files import Buffer, Reader
from estafeta.store.tensorfile import DTYPES, Array
from estafeta.store.vectors import digest

FORMAT = 2
MAGIC = b"estafeta"
TOKEN_BYTES = 64
FIXED_BYTES = 128
CHUNK = 262_144
"""Elements that a rank digests, writes or reads at a time, 1 MB: memory gives them once, and then the cache does."""
SMALL = 16_384
"""Elements up to which a rank reads or writes a vector along with the head, in one call."""
ALIGNMENT = 64
"""Bytes of a cache line; the vector begins at a multiple of it."""
ABSENT = "."
"""Name of the flags that only an unfinished gradient has. No buffer of a PyTorch module can have this name."""
_FIXED = struct.Struct("<8sHHHHQIIQQdIf64s")
_ROWS, _COUNT, _ROUND_S, _CRC = 8, 9, 10, 11  # places of these fields
_CRC_AT = 56


class Kind(IntEnum):
    """What a message is."""

    GRADIENT = 1  # of a train round: the sum of the rows' gradients
    SCORES = 2  # of a valid round: sums alone
    SLICE = 3  # of the parameters of a version
    NORMS = 4  # sums of squares of a slice of the mean gradient


class Wish(IntFlag):
    """What a rank would have all ranks do after the round. No computation depends on it."""

    NONE = 0
    CHECKPOINT = 1
    READY = 2  # its successor is ready to take over
    LEAVE = 4  # it cannot stay for another round
    STOP = 8  # the user has asked the run to stop
    LIMIT = 16  # a limit of the run is reached


class Head(NamedTuple):  # a tuple takes a fifth of the time of a frozen dataclass, and each round makes one a rank
    """The head of a message that a rank has read.

    Attributes:
        kind: What the message is.
        version: The weights version that its round starts from, or that it is part of.
        rank: Whose message it is.
        rows: Rows that its sums cover.
        wishes: What the rank would like to happen.
        round_s: Seconds that its rounds take, by the median; 0 if the rank does not know yet.
        spent_usd: Dollars that the rank has cost since it said so last; single precision.
        digests: The digest of each slice of the vector.
        sums: Loss and metrics, summed over the rows.
        is_stand_in: Whether another rank has published it because this one was late. The round is closed without it.
        parts: Micro-batches that its sums cover. With an unfinished share the rank's next leg goes on here.
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
    parts: int = 0

    def check(self, kind: Kind, version: int, rank: int) -> None:
        """Compare the head with what the reader has asked for.

        Raises:
            Corrupt: It is the head of another message.
        """
        if (self.kind, self.version, self.rank) != (kind, version, rank):
            raise Corrupt(f"it is of kind {self.kind}, rank {self.rank}, version {self.version}")

    def check_slice(self, index: int, found: int) -> None:
        """Compare the digest of a slice, as it was read, with the one that was published.

        Raises:
            Corrupt: The digests differ.
        """
        if self.digests[index] != found:
            raise Corrupt(f"slice {index} of rank {self.rank}, version {self.version}, is not as it was published")


class Form:
    """The form of all messages of one kind in a run: so many digests (`slices`), sums, and elements of the vector.

    Attributes:
        vector_at: First byte of the vector, which is the length of the head.
        total_bytes: Length of a message.
    """

    def __init__(self, slices: int, sums: int = 0, buffers: Sequence[Slot] = (), count: int = 0) -> None:
        self._count = count
        # A float64 begins at a multiple of 8, so an odd number of digests leaves a gap.
        gap = "4x" * (slices % 2)
        self._small = struct.Struct(f"<{slices}I{gap}{sums}d")
        self._slices, self._sums = slices, sums
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
        """Return room for a head."""
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
        parts: int = 0,
        rows: int = 0,
        wishes: int = Wish.NONE,
        round_s: float = 0.0,
        spent_usd: float = 0.0,
        digests: Sequence[int] = (),
        sums: Sequence[float] = (),
        buffers: Mapping[str, Array] | None = None,
        empty: bool = False,
    ) -> None:
        """Write a head. The arguments are as in `Head`, and `empty` says that there is no vector."""
        count = 0 if empty else self._count
        fields = (wishes, is_stand_in, version, rank, parts, rows, count, round_s, 0, spent_usd, token.encode())
        _FIXED.pack_into(head, 0, MAGIC, FORMAT, kind, *fields)
        digests = digests or (0,) * self._slices
        self._small.pack_into(head, FIXED_BYTES, *digests, *sums)
        for name, array in (buffers or {}).items():
            where, dtype, _ = self._buffers[name]
            head[where] = np.ascontiguousarray(array, dtype).tobytes()
        head[_CRC_AT : _CRC_AT + 4] = zlib.crc32(head).to_bytes(4, "little")

    def content(self, kind: Kind, vector: Array | None, **head: Any) -> list[Buffer]:
        """Return a whole message of one slice, ready to be published; the vector's memory is not copied.

        The vector is float32[count], contiguous, or None; `head` is the rest of the head, as in `pack`.
        """
        packed = self.head()
        digests = () if vector is None else (digest(vector),)
        self.pack(packed, kind, digests=digests, empty=vector is None, **head)
        return [packed] if vector is None else [packed, vector.view(np.uint8).data]

    def stand_in(self, version: int, rank: int, token: str) -> list[Buffer]:
        """Return what another publishes under the name of a late rank, to close a train round without it."""
        sums = (0.0,) * self._sums
        return self.content(Kind.GRADIENT, None, version=version, rank=rank, token=token, sums=sums, is_stand_in=True)

    def read(self, reader: Reader) -> tuple[Head, Array | None]:
        """Read a head, and the vector along with it if that is small.

        Returns:
            The head; and the vector, float32, or None if it is not small. The vector is empty if there are no rows.

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

    def stream(self, reader: Reader, head: Head, vector: Array | None, scratch: Array) -> Iterator[tuple[int, Array]]:
        """Read the vector of a message of one slice chunk by chunk; `head` and `vector` are what `read` has returned.

        A chunk lies in `scratch`, float32[n], n > 0, and is valid until the next one.

        Yields:
            The first element of each chunk, and the chunk, float32.

        Raises:
            Corrupt: After the last chunk, if the bytes are not those that were published.
        """
        seen = 0
        for first in range(0, self._count if head.rows else 0, scratch.size):
            if vector is None:
                chunk = scratch[: min(scratch.size, self._count - first)]
                reader.readinto(chunk.data, self.vector_at + 4 * first)
            else:
                chunk = vector[first : first + scratch.size]
            seen ^= digest(chunk)
            yield first, chunk
        if head.rows and self._count:
            head.check_slice(0, seen)

    def _unpack(self, head: bytearray) -> tuple[Head, int]:
        fields = _FIXED.unpack_from(head)
        rows, count = fields[_ROWS], fields[_COUNT]
        head[_CRC_AT : _CRC_AT + 4] = bytes(4)
        fits = fields[:2] == (MAGIC, FORMAT) and (count == self._count or count == rows == 0)
        if not fits or zlib.crc32(head) != fields[_CRC]:
            raise Corrupt(f"a message has a head that does not fit: {bytes(head[:FIXED_BYTES])!r}")
        small = self._small.unpack_from(head, FIXED_BYTES)
        buffers = {
            name: np.frombuffer(bytes(head[where]), dtype).reshape(shape)
            for name, (where, dtype, shape) in self._buffers.items()
        }
        return _head_of(fields, small[: self._slices], small[self._slices :], buffers), count


def kind_of(phase: Phase) -> Kind:
    """Return the kind of a contribution to a round of a phase."""
    return Kind.GRADIENT if phase == "train" else Kind.SCORES


def form_of(plan: Plan, phase: Phase, *, unfinished: bool = False) -> Form:
    """Return the form of what a rank publishes in one slice: a share of a round, complete or `unfinished`.

    An unfinished gradient also has a flag for each parameter tensor, `ABSENT`: whether the tensor has had no gradient
    yet.
    """
    if phase == "valid":
        return Form(0, len(plan.sums))
    flags = (Slot(name=ABSENT, shape=(len(plan.parameters),), dtype="BOOL"),) if unfinished else ()
    return Form(1, len(plan.sums), (*plan.buffers, *flags), plan.size)


def glance(reader: Reader, slices: int = 0) -> Head:
    """Read what a head says before its sums and buffers, whose numbers need not be known, and the digests of `slices`.

    Raises:
        Corrupt: The file is no message, or its head is damaged.
    """
    fields = _fixed(reader)
    if not fields:
        raise Corrupt("a file that should be a message is none")
    count = fields[_COUNT]
    head = bytearray(max(FIXED_BYTES + 4 * slices, reader.size - 4 * count))
    length = reader.readinto(head, 0)
    head[_CRC_AT : _CRC_AT + 4] = bytes(4)
    if length < len(head) or zlib.crc32(head) != fields[_CRC]:
        raise Corrupt(f"the head of a message of {count} elements does not fit its digest")
    return _head_of(fields, struct.unpack_from(f"<{slices}I", head, FIXED_BYTES), (), {})


def round_time_of(reader: Reader) -> float:
    """Return the seconds that rounds take the writer of a message, as it says; 0 if it says nothing."""
    fields = _fixed(reader)
    return float(fields[_ROUND_S]) if fields else 0.0


def _fixed(reader: Reader) -> tuple[Any, ...]:
    """Return the fields of fixed length at the beginning of a message; empty if the file is no message."""
    fixed = bytearray(FIXED_BYTES)
    if reader.readinto(fixed, 0) < FIXED_BYTES or not fixed.startswith(MAGIC):
        return ()
    return _FIXED.unpack(fixed)


def _head_of(
    fields: tuple[Any, ...], digests: tuple[int, ...], sums: tuple[float, ...], buffers: Mapping[str, Array]
) -> Head:
    _, _, kind, wishes, absent, version, rank, parts, rows, _, round_s, _, spent_usd, token = fields
    word, late = token.rstrip(b"\0").decode(), bool(absent)
    return Head(kind, version, rank, rows, wishes, round_s, spent_usd, word, digests, sums, buffers, late, parts)
