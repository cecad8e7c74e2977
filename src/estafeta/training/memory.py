"""What a worker has to hold in memory, added up before the data are opened; what cannot fit is refused.

Knows sizes alone. The activations of a model cannot be known beforehand: half of what is left is theirs.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass

from estafeta.data.manifest import Manifest
from estafeta.errors import UsageError
from estafeta.protocol.clipping import BLOCK
from estafeta.protocol.partition import choose, cut
from estafeta.protocol.spec import RunSpec, Topology

MIB = 1 << 20

INDEX_BYTES = 8
"""A row number is int64."""

RUNTIME_BYTES = 320 * MIB
"""Python, PyTorch, scikit-learn and the runtime client of a worker (`benchmarks/bench_data.py` prints it)."""


@dataclass(frozen=True)
class MemoryPlan:
    """What goes into a worker's memory, in bytes.

    Attributes:
        size: What the function has.
        model: Parameters and buffers.
        gradient: Twice what is trained: as PyTorch sums it, and as one vector to be published.
        optimizer: The optimiser's state, as far as the topology has the worker hold it.
        windows: The window that is read and the one after it, and the order of their rows, of each stored data set.
        batch: A micro-batch, and a copy of it.
    """

    size: int
    model: int
    gradient: int
    optimizer: int
    windows: int
    batch: int

    @property
    def room(self) -> int:
        """What blocks may take."""
        left = self.size - RUNTIME_BYTES - self.model - self.gradient - self.optimizer - self.batch
        return max(self.windows, left // 2)

    def check(self, window_mb: int) -> None:
        """Refuse what does not fit.

        Raises:
            UsageError: The parts are more than the whole; the message has all numbers.
        """
        parts = {
            "Python and PyTorch": RUNTIME_BYTES,
            "the model": self.model,
            "its gradient, twice": self.gradient,
            "the optimiser": self.optimizer,
            "two windows of data": self.windows,
            "a micro-batch": self.batch,
        }
        needed = sum(parts.values())
        if needed <= self.size:
            return
        listing = ", ".join(f"{what} {_mb(size)}" for what, size in parts.items() if size)
        enough = -(-needed * 5 // 4 // MIB)  # a quarter for the activations
        raise UsageError(
            f"a worker needs {_mb(needed)} MB and has {_mb(self.size)}: {listing}",
            hint=f"-o worker.memory_mb={enough}, or {self._less(window_mb)}",
        )

    def _less(self, window_mb: int) -> str:
        """How less is needed, by what takes most of it."""
        if max(self.windows, self.batch) < self.optimizer + self.gradient:
            return "more --workers with --topology sharded" if self.optimizer else "a smaller model"
        if self.windows >= self.batch and window_mb > 1:
            return f"-o window_mb={max(1, window_mb // 4)}"
        return "-o micro_batch_size=…"


def plan_memory(spec: RunSpec, model: int, trained: int, manifests: Sequence[Manifest], *, dense: bool) -> MemoryPlan:
    """Add up what a worker of a run needs.

    Args:
        spec: Gives memory size, micro-batch, window and optimiser.
        model: Bytes of the model.
        trained: Bytes of what is trained of it.
        manifests: The stored data sets; what a job makes itself is in memory already, or read row by row.
        dense: Whether sparse rows become dense tensors.
    """
    return MemoryPlan(
        size=spec.functions["worker"].memory_mb * MIB,
        model=model,
        gradient=2 * trained,
        optimizer=_held(choose(spec.topology, trained // 4, spec.workers), trained // 4, spec.workers)
        * len(spec.update_rule.state_slots),
        windows=sum(_windows(manifest, spec.window_mb * MIB) for manifest in manifests),
        batch=2 * spec.micro_batch_size * max((_row_bytes(m, dense) for m in manifests), default=0),
    )


def _held(topology: Topology, parameters: int, workers: int) -> int:
    """Bytes of each state vector that a worker holds: a slice, and another while it takes lost steps anew."""
    if topology == "merge":
        return 0
    if topology == "replicated":
        return 4 * parameters
    return 4 * min(parameters, 2 * max(map(len, cut(parameters, workers, BLOCK))))


def _windows(manifest: Manifest, window_bytes: int) -> int:
    """Two windows; of what is shuffled, the order of the rows in both, and as much while it is made."""
    most = max(window_bytes, *(extent.bytes for extent in manifest.blocks))
    share = min(1.0, 2 * most / manifest.bytes)
    return int(share * (manifest.bytes + 2 * manifest.rows * INDEX_BYTES))


def _row_bytes(manifest: Manifest, dense: bool) -> int:
    as_stored = -(-manifest.bytes // manifest.rows)
    return as_stored + sum(kind.row_bytes for kind in manifest.inputs if kind.sparse and dense)


def _mb(size: int) -> str:
    return f"{-(-size // MIB):,}"
