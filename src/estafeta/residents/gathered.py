"""The contributions of all resident ranks to a round, open for reading, and their sum."""

import errno
from collections.abc import Callable, Sequence
from typing import Self

from estafeta.errors import Corrupt, Gone
from estafeta.protocol.message import Head
from estafeta.protocol.partition import Slice
from estafeta.protocol.step import add_in_order
from estafeta.protocol.totals import Totals
from estafeta.store.files import Reader
from estafeta.store.tensorfile import Array
from estafeta.store.vectors import digest


def gone_if_stale(error: OSError, rank: int, version: int) -> None:
    """Look whether an open message could not be read because its writer has retired it.

    Raises:
        Gone: The writer has.
    """
    if error.errno == errno.ESTALE:
        raise Gone(f"A message of rank {rank} for version {version} has been retired") from error


class Source:
    """The vector of one rank, which begins at byte `vector_at` of the message's file.

    Args:
        memory: The vector, if the reader has read it along with the head; None: it is read chunk by chunk.
        unfit: Makes the error for a file that is not as its head says: damaged, or retired meanwhile.
    """

    def __init__(
        self, head: Head, memory: Array | None, reader: Reader, vector_at: int, unfit: Callable[[str], Corrupt | Gone]
    ) -> None:
        self.head = head
        self._reader, self._vector_at, self._memory, self._unfit = reader, vector_at, memory, unfit
        self._seen = 0

    def read(self, first: int, scratch: Array) -> Array:
        """Return the chunk that begins at element `first` and is as long as `scratch`, its possible place.

        Raises:
            Gone: The writer has retired the message, and the file is stale.
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
        """Compare the chunks that were read with the digest of a slice, and begin anew.

        Raises:
            Corrupt: The slice is not as it was published.
            Gone: The writer has retired the message, and perhaps filled the file again: this reader was left behind.
        """
        seen, self._seen = self._seen, 0
        try:
            self.head.check_slice(index, seen)
        except Corrupt as error:
            raise self._unfit(str(error)) from error

    def close(self) -> None:
        """Close the file."""
        self._reader.close()


class Gathered:
    """The contributions of all ranks to a round; it is a source for `step.Step`.

    `Exchange.gather` opens them, and its caller closes them. The scratch is float32[n], room for a chunk.

    Attributes:
        wishes: What any rank that was in time would like to happen.
        common: What all of them would.
    """

    def __init__(
        self, sources: Sequence[Source], names: Sequence[str], slices: Sequence[Slice], scratch: Array
    ) -> None:
        self.totals = Totals(names)
        self.wishes, self.common = 0, ~0
        for source in sources:
            self.totals.add(source.head)
            if not source.head.is_stand_in:  # a rank that was late is not asked
                self.wishes |= source.head.wishes
                self.common &= source.head.wishes
        self._all = sources
        self._sources = [source for source in sources if source.head.rows]
        self._slices, self._scratch = slices, scratch

    def add_up(self, index: int, first: int, out: Array) -> None:
        """Sum a chunk of a slice over the ranks, in rank order, as `step.Gradients` says.

        The chunk, `out`, is no longer than the scratch.

        Raises:
            Corrupt, Gone: With the last chunk of a slice, as `Source.check`.
        """
        scratch = self._scratch[: out.size]
        add_in_order((source.read(first, scratch if at else out) for at, source in enumerate(self._sources)), out)
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
