"""The writer of blocks: it gathers chunks until a block is full, publishes it, and begins the next.

Invariant: the writer holds one block, and publishes under names that no other attempt uses.
"""

from collections.abc import Callable, Mapping

import numpy as np

from estafeta.data.blocks import Csr, RowArray, encode_block, stack
from estafeta.data.importing.chunk import Chunk
from estafeta.data.manifest import Extent
from estafeta.protocol.layout import DatasetLayout
from estafeta.store.files import Buffer
from estafeta.store.store import Store
from estafeta.store.tensorfile import Array

BLOCK_BYTES = 4 << 20
"""Size of a block (`docs/decisions/0010-blocks-of-data-sets.md`)."""
Observe = Callable[[Mapping[str, RowArray], int], None]
"""Function that sees the rows of each block before publication, and the number of the first."""


class BlockWriter:
    """The writer of one import attempt's blocks.

    Args:
        store: Store that gets the blocks.
        layout: Names of the data set's files; the folder exists.
        attempt: Id of the import attempt.
        observe: Function that is called with each block.
        block_bytes: Bytes of rows in a block, about; a block has at least one row.

    Attributes:
        extents: Extents of the published blocks.
        rows: Number of rows that have come in.
    """

    def __init__(
        self, store: Store, layout: DatasetLayout, attempt: str, observe: Observe, block_bytes: int = BLOCK_BYTES
    ) -> None:
        self._store, self._layout, self._attempt = store, layout, attempt
        self._observe, self._block_bytes = observe, block_bytes
        self.extents: list[Extent] = []
        self.rows = 0
        self._room = 0
        self._filled = 0
        self._dense: dict[str, Array] = {}
        self._sparse: dict[str, list[Csr]] = {}

    def add(self, chunk: Chunk) -> None:
        """Take in rows, and publish a block whenever one is full."""
        if not self._room and len(chunk):
            self._make_room(chunk)
        done = 0
        while done < len(chunk):
            count = min(len(chunk) - done, self._room - self._filled)
            self._put(chunk, done, count)
            done += count
            if self._filled == self._room:
                self._flush()
        self.rows += len(chunk)

    def finish(self) -> None:
        """Publish the last, partly filled block."""
        if self._filled:
            self._flush()

    def _make_room(self, chunk: Chunk) -> None:
        """Allocate a block. The first chunk decides the number of rows of all blocks but the last one."""
        size = sum(_bytes(part) for part in chunk.parts.values())
        self._room = max(1, self._block_bytes * len(chunk) // max(1, size))
        for name, part in chunk.parts.items():
            if isinstance(part, Csr):
                self._sparse[name] = []
            else:
                self._dense[name] = np.empty((self._room, *part.shape[1:]), part.dtype)

    def _put(self, chunk: Chunk, first: int, count: int) -> None:
        for name, part in chunk.parts.items():
            if isinstance(part, Csr):
                whole = count == len(part)
                self._sparse[name].append(part if whole else part.take(np.arange(first, first + count)))
            else:
                self._dense[name][self._filled : self._filled + count] = part[first : first + count]
        self._filled += count

    def _flush(self) -> None:
        parts: dict[str, RowArray] = {name: array[: self._filled] for name, array in self._dense.items()}
        parts |= {name: stack(pieces) for name, pieces in self._sparse.items()}
        self._observe(parts, sum(extent.rows for extent in self.extents))
        number = len(self.extents)
        content = encode_block(parts, number, self._attempt)
        self._store.publish(self._layout.block(self._attempt, number), content, self._attempt)
        self.extents.append(Extent(rows=self._filled, bytes=_length(content)))
        self._filled = 0
        self._sparse = {name: [] for name in self._sparse}


def _bytes(part: RowArray) -> int:
    return (
        part.nbytes if isinstance(part, np.ndarray) else part.starts.nbytes + part.columns.nbytes + part.values.nbytes
    )


def _length(content: list[Buffer]) -> int:
    return sum(len(memoryview(buffer).cast("B")) for buffer in content)
