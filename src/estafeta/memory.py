"""What a worker has to hold in memory, added up before the data are opened; what cannot fit is refused.

Knows sizes alone. The activations of a model cannot be known beforehand: half of what is left is theirs.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass

from estafeta.errors import UsageError
from estafeta.manifest import Manifest
from estafeta.spec import RunSpec

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
        gradient: As large as what is trained.
        optimizer: The optimiser's state.
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
            "Python and PyTorch": RUNTIME_BYTES, "the model": self.model, "its gradient": self.gradient,
            "the optimiser": self.optimizer, "two windows of data": self.windows, "a micro-batch": self.batch,
        }  # fmt: skip
        needed = sum(parts.values())
        if needed <= self.size:
            return
        listing = ", ".join(f"{what} {_mb(size)}" for what, size in parts.items())
        enough = -(-needed * 5 // 4 // MIB)  # a quarter for the activations
        smaller = f", or -o window_mb={window_mb // 4}" if window_mb >= 4 else ""
        raise UsageError(
            f"a worker needs {_mb(needed)} MB and has {_mb(self.size)}: {listing}",
            hint=f"-o worker.memory_mb={enough}{smaller or ', or -o micro_batch_size=…'}",
        )


def plan_memory(spec: RunSpec, model: int, trained: int, manifests: Sequence[Manifest], *, dense: bool) -> MemoryPlan:
    """Add up what a worker of a run needs.

    Args:
        spec: Gives memory size, micro-batch, window and optimiser.
        model: Bytes of the model.
        trained: Bytes of what is trained of it.
        manifests: The stored data sets.
        dense: Whether sparse rows become dense tensors.
    """
    return MemoryPlan(
        size=spec.functions["worker"].memory_mb * MIB,
        model=model,
        gradient=trained,
        optimizer=trained * len(spec.update_rule.initial_state(1)),
        windows=sum(_windows(manifest, spec.window_mb * MIB) for manifest in manifests),
        batch=2 * spec.micro_batch_size * max(_row_bytes(m, dense) for m in manifests),
    )


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
