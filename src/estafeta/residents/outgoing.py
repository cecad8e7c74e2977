"""A contribution that a resident rank writes while the backward pass produces it."""

from collections.abc import Sequence

import numpy as np

from estafeta.protocol.message import CHUNK, SMALL
from estafeta.protocol.partition import Slice
from estafeta.protocol.step import check_gradient
from estafeta.store.drafts import Draft
from estafeta.store.tensorfile import Array
from estafeta.store.vectors import digest


class Outgoing:
    """A gradient that the rank puts into a draft piece by piece. `Exchange.outgoing` makes one.

    The vector begins at byte `vector_at` of the draft.
    """

    def __init__(self, draft: Draft, vector_at: int, slices: Sequence[Slice]) -> None:
        self.draft = draft
        self._vector_at, self._slices = vector_at, slices
        self._digests: dict[int, list[int]] = {}
        size = slices[-1].last
        self._memory: Array | None = np.empty(size, np.float32) if size <= SMALL else None

    def put(self, number: int, first: int, values: Array) -> None:
        """Write a part of the gradient, `values` (float32[n], contiguous), which begins at element `first`.

        The caller writes all parts, and may write one again: the same number means the same part.

        Raises:
            NotFinite: An element is NaN or infinite.
            OSError: The part could not be written.
        """
        digests = self._digests[number] = [0] * len(self._slices)
        for index, part in enumerate(self._slices):
            for begin in range(max(first, part.first), min(first + values.size, part.last), CHUNK):
                piece = values[begin - first : min(begin + CHUNK, part.last) - first]
                check_gradient(piece)
                digests[index] ^= digest(piece)
                if self._memory is None:
                    self.draft.write([piece.data], self._vector_at + 4 * begin)
                else:
                    self._memory[begin : begin + piece.size] = piece

    def digests(self) -> list[int]:
        """Return the digest of each slice."""
        digests = [0] * len(self._slices)
        for parts in self._digests.values():
            for index, value in enumerate(parts):
                digests[index] ^= value
        return digests

    def close(self, head: bytearray) -> None:
        """Write the head, and the vector if it is small.

        Raises:
            OSError: They could not be written.
        """
        self.draft.write([head] if self._memory is None else [head, self._memory.data], 0)
