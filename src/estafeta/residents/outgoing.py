"""A contribution that is being written, while the backward pass produces it."""

from __future__ import annotations

from collections.abc import Sequence

import numpy as np

from estafeta.protocol.slices import Slice
from estafeta.residents.message import SMALL
from estafeta.store.drafts import Draft
from estafeta.store.tensorfile import Array
from estafeta.store.vectors import digest

CHUNK = 262_144
"""Elements that are digested and written at a time, 1 MB: they are read from memory once, and from the cache then."""


class Outgoing:
    """A vector that is put into a draft piece by piece. Get one from `Exchange.outgoing`.

    Args:
        draft: The file.
        vector_at: Where the vector begins in it, in bytes.
        slices: How the vector is cut.
    """

    def __init__(self, draft: Draft, vector_at: int, slices: Sequence[Slice]) -> None:
        self.draft = draft
        self._vector_at, self._slices = vector_at, slices
        self._digests: dict[int, list[int]] = {}
        size = slices[-1].last
        self._memory: Array | None = np.empty(size, np.float32) if size <= SMALL else None

    def put(self, number: int, first: int, values: Array) -> None:
        """Write a part of the vector. All parts are to be written; one may be written again.

        Args:
            number: Which part, to know it again.
            first: Its first element.
            values: float32[n], contiguous.

        Raises:
            OSError: It could not be written.
        """
        digests = self._digests[number] = [0] * len(self._slices)
        for index, part in enumerate(self._slices):
            for begin in range(max(first, part.first), min(first + values.size, part.last), CHUNK):
                piece = values[begin - first : min(begin + CHUNK, part.last) - first]
                digests[index] ^= digest(piece)
                if self._memory is None:
                    self.draft.write([piece.data], self._vector_at + 4 * begin)
                else:
                    self._memory[begin : begin + piece.size] = piece

    def digests(self) -> list[int]:
        """Of each slice."""
        digests = [0] * len(self._slices)
        for parts in self._digests.values():
            for index, value in enumerate(parts):
                digests[index] ^= value
        return digests

    def close(self, head: bytearray) -> None:
        """Write the head, and what has not been written yet.

        Raises:
            OSError: It could not be written.
        """
        self.draft.write([head] if self._memory is None else [head, self._memory.data], 0)
