"""The documents at the doors of a run: its spec, its plan, its end, and the events of the functions.

Validated by pydantic when they come in; frozen afterwards. Every document carries a format with a version.
"""

from __future__ import annotations

from functools import cached_property
from typing import Annotated, Any, Literal

from pydantic import BaseModel, ConfigDict, Field

from estafeta.cost.cost import Basis, Kept
from estafeta.job.optim import Optimizer, from_dict
from estafeta.job.stopping import EarlyStopping, EpochRecord
from estafeta.protocol.layout import Phase, Round

Role = Literal["worker", "merge", "control"]
Topology = Literal["merge", "sharded", "replicated"]
"""Who combines the contributions: a merge function; each worker a slice; each worker everything for itself."""

Choice = Literal["auto", "merge", "sharded", "replicated"]
"""What can be asked for: a topology, or that one of the last two be chosen by the sizes of model and world."""
Which = Literal["best", "final"]
State = Literal["preparing", "running", "stopping", "done", "stopped", "failed"]

MB_PER_VCPU = 1769
"""Memory at which a function has one vCPU (AWS Lambda Developer Guide, "Configure Lambda function memory")."""

LOG_GROUPS = "/aws/lambda/"
"""Beginning of the names of log groups; the function's name follows (AWS Lambda Developer Guide, "CloudWatch Logs")."""

MOST_WORKERS = 9999
"""A rank has four digits in the names of files."""

MemoryMb = Annotated[int, Field(ge=128, le=10240)]
TimeoutS = Annotated[int, Field(ge=1, le=900)]
"""What Lambda allows for a function (AWS Lambda Developer Guide, "Lambda quotas")."""


class Document(BaseModel):
    """Base: frozen, and nothing unknown is let in."""

    model_config = ConfigDict(frozen=True, extra="forbid", ser_json_inf_nan="constants")

    def to_json(self) -> bytes:
        """As UTF-8 text, one line."""
        return self.model_dump_json().encode() + b"\n"


class FunctionSettings(Document):
    """A Lambda function as a run uses it."""

    name: str
    qualifier: str | None = None
    memory_mb: MemoryMb
    timeout_s: TimeoutS

    @property
    def log_group(self) -> str:
        """Name of the function's log group."""
        return f"{LOG_GROUPS}{self.name}"

    @property
    def threads(self) -> int:
        """Threads to compute with: one for each full vCPU, at least one."""
        return max(1, self.memory_mb // MB_PER_VCPU)


class Limits(Document):
    """What ends a run before its last epoch, as far as it is set: it stops then, and can be resumed.

    Attributes:
        max_cost_usd: Dollars that the run may cost, from its beginning on.
        max_hours: Hours since it was started, or resumed.
        max_rounds: Train rounds from its beginning on.
        since: When it was started or resumed, in seconds since 1970.
    """

    format: Literal["estafeta-limits/1"] = "estafeta-limits/1"
    token: str = ""
    max_cost_usd: float | None = Field(default=None, gt=0)
    max_hours: float | None = Field(default=None, gt=0)
    max_rounds: int | None = Field(default=None, ge=1)
    since: float = 0.0

    def of_run(self) -> dict[str, float]:
        """The limits that are set, by name."""
        return self.model_dump(exclude={"format", "token", "since"}, exclude_none=True)


class Origin(Document):
    """Where a forked run begins: a version of another run, and that run's token."""

    run: str
    token: str
    version: int = Field(ge=0)


class RunSpec(Document):
    """Everything that a run was started with. The bits of its result are a function of this and the user's code.

    Attributes:
        job: Where the job is: `module:attribute` in the run's code folder.
        arguments: Keyword arguments for the job's callables, by field name (`model`, `dataset`, `valid_dataset`).
        batch_size: Rows in a global batch, over all workers.
        micro_batch_size: Most rows in one forward and backward pass.
        topology: What was asked for; the plan has what became of it.
        rounds_per_invocation: After how many rounds a resident worker hands over at the latest; None: when its time is
            short.
        limits: What ends it before its last epoch, until it is resumed.
        basis: What its price depends on.
        quorum: With how many contributions a round may close when the others are late; None: with those of all.
        window_mb: MiB of blocks of a stored data set that are shuffled together.
        origin: What it was forked from; None: it begins with a new model.
        chaos: Faults that the local service injects into what the run invokes, as `--chaos` takes them.
    """

    format: Literal["estafeta-run/1"] = "estafeta-run/1"
    token: str
    run: str
    created_at: float
    estafeta: str
    job: str
    arguments: dict[str, dict[str, Any]] = {}
    workers: int = Field(ge=1, le=MOST_WORKERS)
    topology: Choice = "merge"
    rounds_per_invocation: int | None = Field(default=None, ge=1)
    quorum: int | None = Field(default=None, ge=1)
    seed: int = Field(ge=0)
    batch_size: int = Field(ge=1)
    micro_batch_size: int = Field(ge=1)
    drop_last: bool
    epochs: int = Field(ge=1)
    validation: float = Field(ge=0, lt=1)
    window_mb: int = Field(default=128, ge=1)
    optimizer: dict[str, Any]
    early_stopping: EarlyStopping
    limits: Limits = Limits()
    basis: Basis = Basis()
    functions: dict[Role, FunctionSettings]
    origin: Origin | None = None
    chaos: str = ""

    @cached_property
    def update_rule(self) -> Optimizer:
        """The optimiser that `optimizer` describes."""
        return from_dict(self.optimizer)

    @property
    def closes_early(self) -> bool:
        """Whether a round may close without some ranks."""
        return self.quorum is not None and self.quorum < self.workers


class Slot(Document):
    """One named tensor: where it begins in the flat vector of its kind (elements), its shape and dtype."""

    name: str
    shape: tuple[int, ...]
    dtype: str = "F32"
    offset: int = 0

    @property
    def size(self) -> int:
        """Number of elements."""
        count = 1
        for length in self.shape:
            count *= length
        return count


class Plan(Document):
    """What preparing a run found out about the model and the data.

    Attributes:
        topology: Who combines the contributions.
        data: Tokens of the stored data sets; a data set that was imported since has another.
        parameters: Trained parameters, in the order of the flat vector (that of `named_parameters()`).
        buffers: Buffers that belong to the state dict.
        frozen: Parameters that do not require a gradient.
        state_dict: The model's state dict in its order: (key, kind, name of the slot). Tied tensors share a slot.
    """

    format: Literal["estafeta-plan/1"] = "estafeta-plan/1"
    token: str
    topology: Topology = "merge"
    train_rows: int
    valid_rows: int
    steps_per_epoch: int
    total_steps: int
    data: tuple[str, ...] = ()
    parameters: tuple[Slot, ...]
    buffers: tuple[Slot, ...]
    frozen: tuple[Slot, ...]
    state_dict: tuple[tuple[str, Literal["parameter", "buffer", "frozen"], str], ...]

    @property
    def size(self) -> int:
        """Number of trained parameters (float32)."""
        return sum(slot.size for slot in self.parameters)

    @property
    def is_resident(self) -> bool:
        """Whether workers stay for many rounds, and combine by themselves."""
        return self.topology != "merge"

    def rows_of(self, phase: Phase) -> int:
        """Rows in a phase."""
        return self.train_rows if phase == "train" else self.valid_rows


class Failure(Document):
    """Why a run failed, and where to look."""

    reason: str
    message: str
    hint: str = ""
    exit_code: int = 1
    function: str = ""
    rank: int | None = None
    round: str | None = None
    request_id: str = ""
    log_group: str = ""
    log_stream: str = ""
    traceback: str = ""


class Outcome(Document):
    """The end of a run: `done.json`, `stopped.json` or `failed.json`.

    Attributes:
        limited: Whether a limit of its own has stopped it.
    """

    format: Literal["estafeta-outcome/1"] = "estafeta-outcome/1"
    token: str
    state: Literal["done", "stopped", "failed"]
    version: int | None = None
    best_version: int | None = None
    weights_sha256: str | None = None
    why: str = ""
    limited: bool = False
    failure: Failure | None = None
    ended_at: float


class Status(Document):
    """A run as `control` describes it.

    Attributes:
        topology: Who combines the contributions; None while it is not decided.
        version: Steps done.
        epoch: Epochs done.
        epochs: Records of the epochs that were asked for.
        limits: The limits that hold now.
        spent_usd: Dollars that it had cost at the end of the newest epoch, as its functions know it.
        kept: What lies on the file system for it, if the client has asked for that.
    """

    spec: RunSpec
    state: State
    outcome: Outcome | None
    topology: Topology | None
    version: int
    total_steps: int | None
    steps_per_epoch: int | None
    train_rows: int | None
    valid_rows: int | None
    parameters: int | None
    epoch: int
    epochs: tuple[EpochRecord, ...]
    limits: Limits = Limits()
    spent_usd: float = 0.0
    kept: Kept | None = None


class WorkerEvent(Document):
    """What a worker is invoked with.

    Attributes:
        task: `prepare` builds the run's plan; `train` and `valid` are a rank's share of one round; `reside` is a rank's
            life for as many rounds as fit; `probe` belongs to no run: it says whether PyTorch is there.
        version: Of the round.
        rank: Which rank.
        leg: Which of the rank's successive invocations; counted anew in each round, but for residents.
        generation: Of a resident leg that is in place of a lost one.
        sent_at: When it was sent, in seconds since 1970: how long starting takes is learnt from it.
        lead_s: How long starting took the leg before.
        share_s: How long its last share of a round took: others are given that time, too.
        expires_at: When the leg before is dead for sure, in seconds since 1970.
    """

    run: str
    task: Literal["prepare", "train", "valid", "reside", "probe"]
    version: int = 0
    rank: int = 0
    leg: int = 0
    generation: int = 0
    sent_at: float = 0.0
    lead_s: float = 0.0
    share_s: float = 0.0
    expires_at: float = 0.0

    @property
    def round(self) -> Round:
        """The round to work for."""
        phase: Phase = "valid" if self.task == "valid" else "train"
        return Round(self.version, phase)


class MergeEvent(Document):
    """What the merge function is invoked with: a hint that the run has something to merge or to finish."""

    run: str
    round: str = ""
    generation: int = 0
