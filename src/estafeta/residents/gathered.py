"""The contributions of all ranks to a round, open for reading, and their sum."""

from __future__ import annotations

import errno
from collections.abc import Callable, Sequence
from typing import Self

import numpy as np

from estafeta.errors import Corrupt, Gone
from estafeta.protocol.slices import Slice
from estafeta.protocol.totals import Totals
from estafeta.residents.message import Head
from estafeta.store.files import Reader
from estafeta.store.tensorfile import Array
from estafeta.store.vectors import digest


def gone_if_stale(error: OSError, rank: int, version: int) -> None:
    """See whether an open message could not be read because it was retired.

    Raises:
        Gone: That is so.
    """
    if error.errno == errno.ESTALE:
        raise Gone(f"a message of rank {rank} for version {version} has been retired") from error


class Source:
    """One rank's vector.

    Args:
        head: The head of its message.
        memory: The vector, if it has been read along with the head; otherwise it is read as it is wanted.
        reader: The message's file.
        vector_at: Where the vector begins in it, in bytes.
        unfit: Makes the error for a file that is not as its head says: damaged, or retired meanwhile.
    """

    def __init__(
        self, head: Head, memory: Array | None, reader: Reader, vector_at: int, unfit: Callable[[str], Corrupt | Gone]
    ) -> None:
        self.head = head
        self._reader, self._vector_at, self._memory, self._unfit = reader, vector_at, memory, unfit
        self._seen = 0

    def read(self, first: int, scratch: Array) -> Array:
        """A chunk from `first` on, as long as `scratch`, which it may be read into.

        Raises:
            Gone: It has been retired, and is stale.
        """
        if self._memory is not None:
            values = self._memory[first : first + scratch.size]
        else:
            try:
                self._reader.readinto(scratch.data, self._vector_at + 4 * first)
            except OSError as error:
                gone_if_stale(error, self.head.rank, self.head.version)
                raise
            values = scratch
        self._seen ^= digest(values)
        return values

    def check(self, index: int) -> None:
        """Compare what has been read with the digest of a slice, and begin anew.

        Raises:
            Corrupt: It is not as it was published.
            Gone: It has been retired, and the file perhaps filled again: this reader was left behind.
        """
        seen, self._seen = self._seen, 0
        if seen != self.head.digests[index]:
            head = self.head
            raise self._unfit(f"slice {index} of rank {head.rank}, version {head.version}, is not as it was published")

    def close(self) -> None:
        """Close the file."""
        self._reader.close()


class Gathered:
    """The contributions of all ranks to a round. Get them from `Exchange.gather`, and close them.

    Args:
        sources: By rank.
        names: Names of the sums.
        slices: How the vector is cut.
        scratch: float32[n], room for a chunk.

    Attributes:
        totals: Rows, sums and buffers of all ranks.
        wishes: What any of the ranks that were in time would like to happen.
        common: What all of them would.
    """

    def __init__(
        self, sources: Sequence[Source], names: Sequence[str], slices: Sequence[Slice], scratch: Array
    ) -> None:
        self.totals = Totals()
        self.wishes, self.common = 0, ~0
        for source in sources:
            head = source.head
            sums = dict(zip(names, head.sums, strict=True))
            self.totals.add(head.rows, sums, head.buffers, spent_usd=head.spent_usd, missed=head.is_stand_in)
            if not head.is_stand_in:  # who was late is not asked
                self.wishes |= head.wishes
                self.common &= head.wishes
        self._all = sources
        self._sources = [source for source in sources if source.head.rows]
        self._slices, self._scratch = slices, scratch

    def add_up(self, index: int, first: int, out: Array) -> None:
        """Sum a chunk of a slice over the ranks, in rank order. A slice is to be gone through from its beginning.

        Args:
            index: Which slice.
            first: The chunk's first element.
            out: float32[n], n up to the length of the scratch, all within the slice; gets the sums.

        Raises:
            Corrupt, Gone: With the last chunk of a slice, as `Source.check`.
        """
        scratch = self._scratch[: out.size]
        begun = self._sources[0].read(first, out)
        for source in self._sources[1:]:
            begun = np.add(begun, source.read(first, scratch), out=out)
        if begun is not out:
            out[:] = begun
        if first + out.size == self._slices[index].last:
            for source in self._sources:
                source.check(index)

    def close(self) -> None:
        """Close the files."""
        for source in self._all:
            source.close()

    def __enter__(self) -> Self:
        return self

    def __exit__(self, *_: object) -> None:
        self.close()
