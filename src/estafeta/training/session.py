"""What a worker keeps warm between invocations: the run's job, model and data. Losing it costs time, never bits."""

from dataclasses import dataclass, field

from estafeta.errors import UsageError
from estafeta.job.user_code import load_job
from estafeta.protocol.invocation import Invocation
from estafeta.protocol.run_folder import RunFolder
from estafeta.protocol.spec import RunSpec
from estafeta.protocol.weights import read_weights
from estafeta.store.tensorfile import Array, TensorFile
from estafeta.training.batches import Data
from estafeta.training.learner import Learner, seed_generators
from estafeta.training.table import Batch


@dataclass
class Session:
    """One run in a warm environment.

    Attributes:
        version: The weights version in the model; None if there is none, or one that the store does not have.
        transfer_s: Seconds of the longest transfer so far.
        buffers: The version's buffers; those in the model change while it works.
        prefetched: A micro-batch that the worker has read ahead: its key, and its rows.
    """

    data: Data
    learner: Learner
    version: int | None = None
    transfer_s: float = 0.0
    buffers: dict[str, Array] = field(default_factory=dict)
    prefetched: tuple[tuple[object, ...], Batch] = ((), ())

    def load(self, folder: RunFolder, version: int) -> None:
        """Put a weights version into the model; the session reads its parameters only if they are not there already.

        Raises:
            Gone: The merge has swept the version: the run has moved on.
        """
        if self.version != version:
            self.version = None
            self.buffers = read_weights(folder, version, self.learner.parameters).buffers
            self.version = version
        for name, array in self.learner.buffers.items():
            array[...] = self.buffers[name]


def open_session(folder: RunFolder, invocation: Invocation) -> Session:
    """Return the run's session: the warm one, or a new one that replaces it.

    Raises:
        UserCodeError: The job's code raised.
        UsageError: The job cannot be trained.
    """
    store, layout, spec = folder.store, folder.layout, folder.spec
    memory = invocation.warm.of(spec.token)
    if isinstance(memory.session, Session):
        return memory.session
    seed_generators(spec.seed)
    job = load_job(f"{store.root}/{layout.code}", spec.job)
    learner = Learner(job, spec)
    if learner.frozen and store.exists(layout.frozen):
        _load_frozen(folder, learner)
    session = Session(Data.open(job, spec, store, learner.bytes, learner.parameters.nbytes), learner)
    memory.session = session
    return session


def check_rows(data: Data, spec: RunSpec, steps: int) -> None:
    """Refuse data that a run cannot train on.

    Raises:
        UsageError: There are too few rows for the workers, or for a single batch.
    """
    rows = len(data.rows["train"])
    if rows < spec.workers:
        held_out = f" ({len(data.rows['valid'])} are held out for validation)" if len(data.rows["valid"]) else ""
        raise UsageError(
            f"the data set has {rows} training rows{held_out}, fewer than the {spec.workers} workers",
            hint=f"use --workers {max(1, rows)} or fewer, or more data",
        )
    if steps == 0:
        raise UsageError(
            f"{rows} training rows make no full batch of {spec.batch_size}, and drop_last is set",
            hint=f"-o batch_size={rows} or fewer, or -o drop_last=false",
        )


def _load_frozen(folder: RunFolder, learner: Learner) -> None:
    def use(reader: object) -> None:
        file = TensorFile(reader)  # type: ignore[arg-type]
        for name, array in learner.frozen.items():
            file.read_into(name, array)

    folder.store.reading(folder.layout.frozen, use)
