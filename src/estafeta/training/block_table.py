"""Rows of a stored data set by number, as batches of tensors; blocks are read whole, and kept while there is room.

The room is divided into slots of one block each, so a batch is one selection from memory, wherever its rows come from.
Threads read the next blocks ahead. Losing a block costs time, never bits: the content of a slot depends on the file and
the manifest alone.

Only the thread that asks for batches decides on the content of slots; the others fill the slots that it gives them.
"""

import warnings
from collections.abc import Iterable
from concurrent.futures import Future, ThreadPoolExecutor
from typing import Any

import numpy as np
import torch

from estafeta.data.blocks import Csr, RowArray, read_rows, stack
from estafeta.data.manifest import Kind, Manifest
from estafeta.data.sampler import Rows
from estafeta.errors import Gone, UsageError
from estafeta.protocol.layout import DatasetLayout
from estafeta.store.files import Reader
from estafeta.store.store import Store
from estafeta.store.tensorfile import DTYPES, Array

NOWHERE = -(1 << 62)
"""Shift of a block that is not in memory: the places of its rows are out of bounds."""
LOADERS = 2
"""Number of threads that read ahead: while one waits for the store, the other checks digests."""


class BlockTable:
    """Rows of a stored data set.

    Args:
        store: Store of the data set.
        manifest: Its manifest.
        budget_bytes: Bytes for blocks. There is room for at least one, and for no more than the data set has.
        dense: Whether sparse rows become dense tensors.
    """

    def __init__(self, store: Store, manifest: Manifest, budget_bytes: int, *, dense: bool = False) -> None:
        self._store, self._manifest = store, manifest
        self._layout = DatasetLayout(manifest.name)
        largest = max(extent.bytes for extent in manifest.blocks)
        self.slots = min(len(manifest.blocks), max(1, budget_bytes // largest))
        self._shelves = [
            _Sparse(kind, self.slots, manifest.block_rows, dense) if kind.sparse else _Dense(kind, self.slots, manifest)
            for kind in manifest.kinds
        ]
        # Arrays by number of the block:
        self._slot_of: Rows = np.full(len(manifest.blocks), -1, np.int64)  # -1: it has none
        self._shift: Rows = np.full(len(manifest.blocks), NOWHERE)  # from a row of a read block to its place
        self._used: Rows = np.zeros(len(manifest.blocks), np.int64)  # the larger, the later
        self._uses = 0
        self._loading: dict[int, Future[None]] = {}  # blocks with a slot that may not be filled yet
        self._expected: Rows | None = None
        # If all blocks fit, each has the slot of its number; when all have been read, the place of a row is its number.
        self._all_fit = self.slots == len(manifest.blocks)
        self._complete = False
        self._free = list(range(self.slots))
        self._threads = ThreadPoolExecutor(LOADERS, "estafeta-blocks")

    def __len__(self) -> int:
        return self._manifest.rows

    def batch(self, rows: Rows) -> tuple[torch.Tensor, ...]:
        """The given rows, in the given order.

        Args:
            rows: int64[n], row numbers.

        Returns:
            (inputs …, target), each with n rows.

        Raises:
            UsageError: The data set has been removed.
            Corrupt: A block is damaged.
        """
        if self._complete:
            whole: list[Any] = [shelf.take(rows) for shelf in self._shelves]
            return tuple(shelf.tensor(part) for shelf, part in zip(self._shelves, whole, strict=True))
        blocks = rows // self._manifest.block_rows
        try:
            taken = self._take(rows, blocks)  # without a check: a window serves many batches
        except IndexError:
            taken = self._bring_and_take(rows, blocks)
        return tuple(shelf.tensor(part) for shelf, part in zip(self._shelves, taken, strict=True))

    def expect(self, blocks: Rows) -> None:
        """Begin to read the next blocks, as many as there is room for; the same array again changes nothing."""
        if blocks is self._expected:
            return
        self._expected = blocks
        self._begin(blocks[: self.slots])

    def _take(self, rows: Rows, blocks: Rows) -> list[Any]:
        """Rows of blocks that are in memory.

        Raises:
            IndexError: A block is not.
        """
        self._touch(blocks)
        places = rows + self._shift[blocks]
        return [shelf.take(places) for shelf in self._shelves]

    def _bring_and_take(self, rows: Rows, blocks: Rows) -> list[Any]:
        """Any rows. If their blocks do not fit together, the table takes turns, then puts the rows in order."""
        needed = np.unique(blocks)
        if len(needed) <= self.slots:
            self._bring(needed)
            return self._take(rows, blocks)
        order = np.argsort(blocks, kind="stable")
        turns = [needed[first : first + self.slots] for first in range(0, len(needed), self.slots)]
        cuts = [np.searchsorted(blocks[order], turn[0]) for turn in turns[1:]]
        pieces = []
        for index, turn in zip(np.split(order, cuts), turns, strict=True):
            self._bring(turn)
            pieces.append(self._take(rows[index], blocks[index]))
        inverse = np.argsort(order, kind="stable")
        return [
            shelf.join(list(parts), inverse)
            for shelf, parts in zip(self._shelves, zip(*pieces, strict=True), strict=True)
        ]

    def _bring(self, needed: Rows) -> None:
        """Wait until all of these blocks are in their slots."""
        self._begin(needed)
        for block in needed.tolist():
            if future := self._loading.get(block):
                try:
                    future.result()
                except BaseException:
                    self._drop(block)
                    raise
                del self._loading[block]
                self._shift[block] = (self._slot_of[block] - block) * self._manifest.block_rows
        self._complete = self._all_fit and not self._shift.any()

    def _begin(self, wanted: Rows) -> None:
        """Begin to read those of these blocks that have no slot; none of these blocks loses its slot."""
        new = list(dict.fromkeys(wanted[self._slot_of[wanted] < 0].tolist()))
        if not self._all_fit and len(new) > len(self._free):
            droppable = self._slot_of >= 0
            droppable[wanted] = False
            others = np.flatnonzero(droppable)
            for block in others[np.argsort(self._used[others])][: len(new) - len(self._free)].tolist():
                self._drop(block)
        for block in new:
            slot = block if self._all_fit else self._free.pop()
            self._slot_of[block] = slot
            self._touch(block)
            self._loading[block] = self._threads.submit(self._read, block, slot)

    def _touch(self, blocks: Rows | int) -> None:
        self._uses += 1
        self._used[blocks] = self._uses

    def _drop(self, block: int) -> None:
        future = self._loading.pop(block, None)
        if future and not future.cancel():
            future.exception()  # wait: no thread may write into the slot when it is given away
        self._free.append(int(self._slot_of[block]))
        self._slot_of[block], self._shift[block] = -1, NOWHERE

    def _read(self, block: int, slot: int) -> None:
        """Fill a slot; runs in a thread of its own."""
        rows = self._manifest.blocks[block].rows
        room = [shelf.room(slot, rows) for shelf in self._shelves if isinstance(shelf, _Dense)]

        def read(reader: Reader) -> list[RowArray]:
            return read_rows(reader, self._manifest, block, room)

        try:
            parts = self._store.reading(self._layout.block(self._manifest.attempt, block), read)
        except Gone as error:
            raise UsageError(
                f"The data set {self._manifest.name!r} was removed while it was read",
                hint="import it again, and start a new run",
            ) from error
        for shelf, part in zip(self._shelves, parts, strict=True):
            shelf.put(slot, part)


class _Dense:
    """The slots of a dense kind: one tensor."""

    def __init__(self, kind: Kind, slots: int, manifest: Manifest) -> None:
        self._block_rows = manifest.block_rows
        self._array: Array = np.empty((slots * self._block_rows, *kind.shape), DTYPES[kind.dtype])
        self._treatment = _Treatment(kind, manifest)

    def room(self, slot: int, rows: int) -> Array:
        """Memory for the rows of a block."""
        first = slot * self._block_rows
        return self._array[first : first + rows]

    def put(self, slot: int, part: Any) -> None:
        """Apply missing-value and scaling rules to the rows that were just read."""
        self._treatment.apply(part)

    def take(self, places: Rows) -> torch.Tensor:
        return torch.from_numpy(self._array.take(places, 0))  # a tenth faster than index_select on one thread

    def join(self, pieces: list[torch.Tensor], inverse: Rows) -> torch.Tensor:
        return torch.cat(pieces).index_select(0, torch.from_numpy(inverse))

    def tensor(self, taken: torch.Tensor) -> torch.Tensor:
        return taken


class _Sparse:
    """The slots of a sparse kind: the rows of a block in each."""

    def __init__(self, kind: Kind, slots: int, block_rows: int, dense: bool) -> None:
        self._kind, self._block_rows, self._dense = kind, block_rows, dense
        self._slots: list[Csr | None] = [None] * slots

    def put(self, slot: int, part: Any) -> None:
        self._slots[slot] = part

    def take(self, places: Rows) -> Csr:
        slots, offsets = np.divmod(places, self._block_rows)
        order = np.argsort(slots, kind="stable")
        pieces = []
        for slot in np.unique(slots):
            part = self._slots[slot]
            assert part is not None
            pieces.append(part.take(offsets[order][slots[order] == slot]))
        return self.join(pieces, np.argsort(order, kind="stable"))

    def join(self, pieces: Iterable[Csr], inverse: Rows) -> Csr:
        return stack(pieces).take(inverse)

    def tensor(self, taken: Csr) -> torch.Tensor:
        shape = (len(taken), *self._kind.shape)
        if not self._dense:
            return _csr_tensor(taken, shape)
        array = np.zeros(shape, np.float32)
        array[np.repeat(np.arange(len(taken)), np.diff(taken.starts)), taken.columns] = taken.values
        return torch.from_numpy(array)


class _Treatment:
    """The missing-value and scaling rules: the mean for missing numbers, mean 0 and deviation 1."""

    def __init__(self, kind: Kind, manifest: Manifest) -> None:
        table = kind.dtype == "F32" and kind in manifest.inputs and bool(kind.columns)
        self._fill, self._standardize = table and manifest.fill_missing, table and manifest.standardize
        self._mean = np.array([column.mean for column in kind.columns])
        deviation = np.array([column.deviation for column in kind.columns])
        self._deviation = np.where(deviation > 0, deviation, 1.0)

    def apply(self, rows: Array) -> None:
        """Change float32[n, columns] in place; computed in float64."""
        if not self._fill and not self._standardize:
            return
        numbers = rows.astype(np.float64)
        if self._fill:
            np.copyto(numbers, self._mean, where=np.isnan(rows))
        if self._standardize:
            numbers -= self._mean
            numbers /= self._deviation
        rows[...] = numbers


def _csr_tensor(rows: Csr, shape: tuple[int, ...]) -> torch.Tensor:
    with warnings.catch_warnings():
        warnings.filterwarnings("ignore", "Sparse CSR tensor support is in beta")
        return torch.sparse_csr_tensor(
            torch.from_numpy(rows.starts),
            torch.from_numpy(rows.columns.astype(np.int64)),
            torch.from_numpy(rows.values),
            shape,
            check_invariants=False,
        )
