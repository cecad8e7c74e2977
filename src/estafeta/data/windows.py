"""The rows of a stored data set in each micro-batch: pure functions of the manifest, the spec and the counters.

    an epoch permutes the blocks → each rank gets a contiguous part of the rows of that sequence
    → a rank cuts its part into windows, as many blocks as the window's bytes hold → the rows of a window are shuffled
    → a step takes the next of them

So a worker needs the blocks of one window at a time, and reads each block once in an epoch (the one at a border twice).
Global batches are as large as those of `sampler.py`, but their rows depend on the number of workers. Invariant: in an
epoch every row falls to one rank and one step, except for the rows of a last batch that is left out.
"""

from bisect import bisect_right
from collections.abc import Callable
from dataclasses import dataclass, field
from functools import cached_property, lru_cache, partial
from itertools import accumulate

import numpy as np

from estafeta.data.sampler import Rows, generator, held_out

PARTS = 8
"""Number of parts that a deal remembers; each is as long as the list of blocks."""
SHUFFLED = 2
"""Number of windows whose order is remembered; each takes eight bytes a row."""
_NOTHING: Rows = np.empty(0, np.int64)


@dataclass(frozen=True, eq=False)
class BlockRows:
    """The rows of one phase, block by block.

    Attributes:
        starts: int64[blocks + 1], number of each block's first row, and of the row after the last one.
        sizes: Bytes of each block.
        held: True for the held-out rows, False for the others, None for all rows.
        fraction: Fraction of the rows that is held out.
        seed: Seed for the choice of held-out rows.
    """

    starts: Rows
    sizes: tuple[int, ...]
    held: bool | None = None
    fraction: float = 0.0
    seed: int = 0

    def __len__(self) -> int:
        return self._total

    @cached_property
    def _total(self) -> int:
        return int(self.counts.sum())

    @cached_property
    def counts(self) -> Rows:
        """int64[blocks]: number of rows in each block."""
        return np.array([len(self.of_block(block)) for block in range(len(self.sizes))], np.int64)

    def of_block(self, block: int) -> Rows:
        """Numbers of the rows in a block."""
        first, last = int(self.starts[block]), int(self.starts[block + 1])
        if self.held is None:
            return np.arange(first, last)
        return first + np.flatnonzero(held_out(first, last, self.fraction, self.seed) == self.held)


class RowSequence:
    """The rows of some blocks, one block after the other.

    Args:
        rows: All rows of the phase.
        order: int64[n], the blocks.

    Attributes:
        ends: int64[n], position after the last row of each block.
    """

    def __init__(self, rows: BlockRows, order: Rows) -> None:
        self._rows, self._order = rows, order
        self.ends: Rows = np.cumsum(rows.counts[order])

    def blocks(self, first: int, last: int) -> Rows:
        """Blocks of the positions `first` to `last` - 1."""
        if first >= last:
            return self._order[:0]
        left, right = np.searchsorted(self.ends, [first, last - 1], side="right")
        return self._order[left : right + 1]

    def rows(self, first: int, last: int) -> Rows:
        """Numbers of the rows at these positions."""
        blocks = self.blocks(first, last)
        if not len(blocks):
            return _NOTHING
        found = np.concatenate([self._rows.of_block(int(block)) for block in blocks])
        start = int(self.ends[np.searchsorted(self.ends, first, side="right")]) - int(self._rows.counts[blocks[0]])
        return found[first - start : last - start]


@dataclass(frozen=True, eq=False)
class EpochPart:
    """A rank's part of an epoch: its windows, and the order of the rows in each."""

    sequence: RowSequence
    windows: tuple[tuple[int, int], ...]
    key: tuple[int, ...]

    @cached_property
    def ends(self) -> tuple[int, ...]:
        """Positions in the part after the last row of each window."""
        return tuple(accumulate(last - first for first, last in self.windows))

    def window_at(self, position: int) -> int:
        """Number of the window with a position of the part."""
        return bisect_right(self.ends, position)

    def blocks(self, window: int) -> Rows:
        """The blocks of a window; none if there is no such window."""
        return self.sequence.blocks(*self.windows[window]) if window < len(self.windows) else _NOTHING

    def rows(self, first: int, last: int) -> Rows:
        """Numbers of the rows at these positions of the part, in shuffled order."""
        pieces = []
        while first < last:
            window = self.window_at(first)
            end = self.ends[window]
            start = end - (self.windows[window][1] - self.windows[window][0])
            pieces.append(_shuffled(self, window)[first - start : min(last, end) - start])
            first = min(last, end)
        return pieces[0] if len(pieces) == 1 else np.concatenate(pieces) if pieces else _NOTHING


@lru_cache(maxsize=SHUFFLED)
def _shuffled(part: EpochPart, window: int) -> Rows:
    rows = part.sequence.rows(*part.windows[window])
    return rows[generator("window", *part.key, window).permutation(len(rows))]


@dataclass(frozen=True)
class RankRows:
    """The rows of a rank's share, micro-batch by micro-batch, made on demand.

    Attributes:
        rows: Function that gives the rows at positions `first` to `last` - 1.
        first: Position of the share's first row.
        last: Position after its last one.
        size: Most rows in a micro-batch; all have nearly the same number.
        ahead: Function that gives the blocks needed from a position on, soonest first.
    """

    rows: Callable[[int, int], Rows]
    first: int
    last: int
    size: int
    ahead: Callable[[int], Rows]

    def __len__(self) -> int:
        return -(-(self.last - self.first) // self.size)

    def __getitem__(self, part: int) -> Rows:
        if not 0 <= part < len(self):
            raise IndexError(part)
        return self.rows(self._start(part), self._start(part + 1))

    def blocks(self, part: int) -> Rows:
        """Blocks that a micro-batch and the next ones need, soonest first."""
        return self.ahead(self._start(part))

    def _start(self, part: int) -> int:
        return self.first + (self.last - self.first) * part // len(self)


@dataclass
class Deal:
    """The deal of a stored data set's rows to ranks and steps.

    Attributes:
        workers: World size.
        batch_size: Rows in a global batch; the last one of an epoch may be shorter.
        steps: Steps per epoch; rows that do not fit them are left out.
        micro_batch_size: Most rows in a micro-batch.
        window_bytes: Most bytes of the blocks of a window; a window has at least one block.
    """

    rows: BlockRows
    workers: int
    batch_size: int
    steps: int
    micro_batch_size: int
    window_bytes: int
    seed: int
    _parts: dict[tuple[int, int], EpochPart] = field(default_factory=dict, repr=False)
    _at_hand: tuple[tuple[int, int, int], Rows] = field(default=((-1, -1, -1), _NOTHING), repr=False)

    def train(self, step: int, rank: int) -> RankRows:
        """A rank's share of a step; steps count from the beginning of the run."""
        epoch, index = divmod(step, self.steps)
        part = self._part(epoch, rank)
        first = index * self._share(0, rank)  # all steps before this one are as large as the first
        last = first + self._share(index, rank)
        return RankRows(part.rows, first, last, self.micro_batch_size, partial(self._ahead, epoch, rank))

    def valid(self, rank: int) -> RankRows:
        """A rank's share of a valid round: its part of the rows in their order."""
        sequence = RowSequence(self.rows, np.arange(len(self.rows.sizes)))
        first, last = (len(self.rows) * r // self.workers for r in (rank, rank + 1))
        return RankRows(sequence.rows, first, last, self.micro_batch_size, lambda start: sequence.blocks(start, last))

    def _ahead(self, epoch: int, rank: int, position: int) -> Rows:
        """Blocks of the window at a position of a rank's part, and of the next one.

        The array is the same object as long as the two windows are the same.
        """
        part = self._part(epoch, rank)
        window = part.window_at(position)
        if self._at_hand[0] != (epoch, rank, window):
            following = part if window + 1 < len(part.windows) else self._part(epoch + 1, rank)
            blocks = np.concatenate([part.blocks(window), following.blocks(window + 1 if following is part else 0)])
            self._at_hand = (epoch, rank, window), blocks
        return self._at_hand[1]

    def _share(self, index: int, rank: int) -> int:
        """Rows of a rank in the step with that index in its epoch."""
        rows = min(self.batch_size, len(self.rows) - index * self.batch_size)
        return rows * (rank + 1) // self.workers - rows * rank // self.workers

    def _bound(self, rank: int) -> int:
        """Position of a rank's first row in the sequence of an epoch: after all rows of the ranks before it."""
        full = min(self.steps, len(self.rows) // self.batch_size)
        short = len(self.rows) - full * self.batch_size if full < self.steps else 0
        return full * (self.batch_size * rank // self.workers) + short * rank // self.workers

    def _part(self, epoch: int, rank: int) -> EpochPart:
        """A rank's part of an epoch. The deal keeps some: an environment may work for several ranks."""
        if (epoch, rank) not in self._parts:
            if len(self._parts) >= PARTS:
                del self._parts[min(self._parts)]
            order = generator("blocks", self.seed, epoch).permutation(len(self.rows.sizes))
            order = order[self.rows.counts[order] > 0]
            sequence = RowSequence(self.rows, order)
            windows = self._windows(sequence, order, self._bound(rank), self._bound(rank + 1))
            self._parts[epoch, rank] = EpochPart(sequence, windows, (self.seed, epoch, rank))
        return self._parts[epoch, rank]

    def _windows(self, sequence: RowSequence, order: Rows, first: int, last: int) -> tuple[tuple[int, int], ...]:
        """Cut positions `first` to `last` - 1 between blocks."""
        windows: list[tuple[int, int]] = []
        begin, size = first, 0
        start, stop = np.searchsorted(sequence.ends, [first, max(first, last - 1)], side="right")
        for index in range(int(start), int(stop) + 1) if first < last else ():
            bytes_ = self.rows.sizes[order[index]]
            before = int(sequence.ends[index - 1]) if index else 0
            if size and size + bytes_ > self.window_bytes:
                windows.append((begin, before))
                begin, size = before, 0
            size += bytes_
        return (*windows, (begin, last)) if begin < last else tuple(windows)
