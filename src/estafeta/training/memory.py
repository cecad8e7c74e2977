"""Memory of a worker, added up before the data are opened; a run that cannot fit is refused.

The module knows sizes alone, and no torch: `client.plan` predicts with the same sums. Nobody can know the activations
of a model beforehand, so half of the remaining memory is left to them.
"""

from collections.abc import Sequence
from dataclasses import dataclass

from estafeta.data.manifest import Manifest
from estafeta.errors import UsageError
from estafeta.protocol.clipping import BLOCK
from estafeta.protocol.partition import choose, cut
from estafeta.protocol.spec import RunSpec, Topology

MIB = 1 << 20
INDEX_BYTES = 8
"""Bytes of a row number, an int64."""
VECTOR_ITEM = 4
"""Bytes of an element of a vector, a float32."""
RUNTIME_BYTES = 320 * MIB
"""Bytes of Python, PyTorch, scikit-learn and the runtime client of a worker (`benchmarks/bench_data.py` prints it)."""


@dataclass(frozen=True)
class MemoryPlan:
    """The parts of a worker's memory, in bytes.

    Attributes:
        size: Memory that the function has.
        model: Parameters and buffers.
        gradient: Twice the trained parameters: the gradient as PyTorch sums it, and as one vector to be published.
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
    def needed(self) -> int:
        """The sum of the parts."""
        return RUNTIME_BYTES + self.model + self.gradient + self.optimizer + self.windows + self.batch

    @property
    def room(self) -> int:
        """Bytes that blocks may take."""
        return max(self.windows, (self.size - self.needed + self.windows) // 2)

    def check(self, window_mb: int) -> None:
        """Refuse what does not fit.

        Raises:
            UsageError: The parts are more than the whole; the message has all numbers.
        """
        if self.needed <= self.size:
            return
        parts = {
            "Python and PyTorch": RUNTIME_BYTES,
            "the model": self.model,
            "its gradient, twice": self.gradient,
            "the optimiser": self.optimizer,
            "two windows of data": self.windows,
            "a micro-batch": self.batch,
        }
        listing = ", ".join(f"{what} {_mb(size)}" for what, size in parts.items() if size)
        enough = -(-self.needed * 5 // 4 // MIB)  # a quarter for the activations
        raise UsageError(
            f"A worker needs {_mb(self.needed)} MB and has {_mb(self.size)}: {listing}",
            hint=f"-o worker.memory_mb={enough}, or {self._smaller(window_mb)}",
        )

    def _smaller(self, window_mb: int) -> str:
        """Suggest how to need less memory, by the part that takes most of it."""
        if max(self.windows, self.batch) < self.optimizer + self.gradient:
            return "more --workers with --topology sharded" if self.optimizer else "a smaller model"
        if self.windows >= self.batch and window_mb > 1:
            return f"-o window_mb={max(1, window_mb // 4)}"
        return "-o micro_batch_size=…"


def plan_memory(spec: RunSpec, model: int, trained: int, manifests: Sequence[Manifest]) -> MemoryPlan:
    """Add up what a worker of a run needs; the model has so many bytes, and what is trained of it so many.

    The manifests are those of stored data sets. Data that the job makes are in memory already, or are read row by row.
    """
    parameters = trained // VECTOR_ITEM
    topology = choose(spec.topology, parameters, spec.workers)
    gradient, optimizer = vectors(topology, parameters, spec.workers, len(spec.update_rule.state_slots))
    return MemoryPlan(
        size=spec.functions["worker"].memory_mb * MIB,
        model=model,
        gradient=gradient,
        optimizer=optimizer,
        windows=sum(_windows(manifest, spec.window_mb * MIB) for manifest in manifests),
        batch=2 * spec.micro_batch_size * max((_row_bytes(m, spec.dense) for m in manifests), default=0),
    )


def vectors(topology: Topology, parameters: int, workers: int, state_vectors: int) -> tuple[int, int]:
    """Return the bytes of gradient and optimiser state that a worker holds beside its model.

    The optimiser has so many state vectors, each as long as the trained parameters. A sharded worker holds a slice of
    each, and another one while it repeats the steps of a lost rank.
    """
    stepped = {
        "merge": 0,
        "replicated": parameters,
        "sharded": min(parameters, 2 * max(map(len, cut(parameters, workers, BLOCK)))),
    }[topology]
    return 2 * VECTOR_ITEM * parameters, state_vectors * VECTOR_ITEM * stepped


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
