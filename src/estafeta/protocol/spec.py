"""The documents at the doors of a run: its spec, its plan, its end, and the events of the functions.

Validated by pydantic when they come in; frozen afterwards. Every document carries a format with a version.
"""

from functools import cached_property
from typing import Annotated, Any, Literal

from pydantic import BaseModel, ConfigDict, Field

from estafeta.cost.cost import Basis, Kept
from estafeta.job.optim import Optimizer, from_dict
from estafeta.job.recipe import Recipe
from estafeta.job.stopping import EarlyStopping, EpochRecord
from estafeta.protocol.layout import Phase, Round

Role = Literal["worker", "merge", "control"]
Topology = Literal["merge", "sharded", "replicated"]
"""Topology of a run: a merge function combines the contributions, or each worker a slice, or each worker everything."""
Choice = Literal["auto", "merge", "sharded", "replicated"]
"""Topology that a user asks for; with `auto` the sizes of model and world choose one of the last two."""
Which = Literal["best", "final"]
State = Literal["preparing", "running", "stopping", "done", "stopped", "failed"]
MB_PER_VCPU = 1769
"""Memory at which a function has one vCPU (AWS Lambda Developer Guide, "Configure Lambda function memory")."""
LOG_GROUPS = "/aws/lambda/"
"""Beginning of the names of log groups; the function's name follows (AWS Lambda Developer Guide, "CloudWatch Logs")."""
MOST_WORKERS = 9999
"""Most ranks: a rank has four digits in the names of files."""
MemoryMb = Annotated[int, Field(ge=128, le=10240)]
TimeoutS = Annotated[int, Field(ge=1, le=900)]
"""Settings that Lambda allows for a function (AWS Lambda Developer Guide, "Lambda quotas")."""


class Document(BaseModel):
    """Base: frozen, and refuses unknown fields."""

    model_config = ConfigDict(frozen=True, extra="forbid", ser_json_inf_nan="constants")

    def to_json(self) -> bytes:
        """Return the document as UTF-8 text, one line."""
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
    """The limits that stop a run before its last epoch, as far as they are set; it can be resumed.

    Attributes:
        max_cost_usd: Dollars that the run may cost, from its beginning on.
        max_hours: Hours since it was started, or resumed.
        max_rounds: Train rounds from its beginning on.
        since: Seconds since 1970 when it was started or resumed.
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
    """The beginning of a forked run: a version of another run, and that run's token."""

    run: str
    token: str
    version: int = Field(ge=0)


class RunSpec(Document, Recipe):
    """Everything that a run was started with. The bits of its result are a function of this and the user's code.

    The numbers of the training are the fields of `Recipe`.

    Attributes:
        job: Place of the job: `module:attribute` in the run's code folder.
        arguments: Keyword arguments for the job's callables, by field name (`model`, `dataset`, `valid_dataset`).
        topology: Topology that the user asked for; the plan has the one that the run got.
        rounds_per_invocation: Most rounds of a resident worker before it hands over; None: it does so when its time is
            short.
        limits: Limits that stop the run before its last epoch, until it is resumed.
        basis: Facts that its price depends on.
        quorum: Number of contributions with which a round may close when the others are late; None: those of all.
        origin: Version that it was forked from; None: it begins with a new model.
        chaos: Faults that the local service injects into what the run invokes, as `--chaos` takes them.
        options: Values that `-o` or `options=` was given, as text by name. The other fields have them applied.
        command: Words that followed `estafeta train` and that no other field says: job file, place, template. Empty if
            a Python program started the run.
    """

    format: Literal["estafeta-run/2"] = "estafeta-run/2"
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
    optimizer: dict[str, Any]
    early_stopping: EarlyStopping
    limits: Limits = Limits()
    basis: Basis = Basis()
    functions: dict[Role, FunctionSettings]
    origin: Origin | None = None
    chaos: str = ""
    options: dict[str, str] = {}
    command: tuple[str, ...] = ()

    @cached_property
    def update_rule(self) -> Optimizer:
        """The optimiser that `optimizer` describes."""
        return from_dict(self.optimizer)

    @property
    def closes_early(self) -> bool:
        """Whether a round may close without some ranks."""
        return self.quorum is not None and self.quorum < self.workers


class Slot(Document):
    """One named tensor: its first element in the flat vector of its kind, its shape and dtype."""

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
    """The facts about the model and the data that preparing a run found.

    Attributes:
        data: Tokens of the stored data sets; a data set that was imported since has another.
        sums: Names of what every rank sums over its rows: `loss`, then the metrics in the job's order.
        parameters: Trained parameters, in the order of the flat vector (that of `named_parameters()`).
        buffers: Buffers that belong to the state dict.
        frozen: Parameters that do not require a gradient.
        state_dict: The model's state dict in its order: (key, kind, name of the slot). Tied tensors share a slot.
    """

    format: Literal["estafeta-plan/2"] = "estafeta-plan/2"
    token: str
    topology: Topology = "merge"
    train_rows: int
    valid_rows: int
    steps_per_epoch: int
    total_steps: int
    data: tuple[str, ...] = ()
    sums: tuple[str, ...]
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
    """The reason why a run failed, and the place to look."""

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
        topology: Topology of the run; None while it is not decided.
        version: Steps done.
        epoch: Epochs done.
        epochs: Records of the epochs that were asked for.
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
    """The event that a worker is invoked with.

    Attributes:
        task: `prepare` builds the run's plan; `train` and `valid` are a rank's share of one round; `reside` is a rank's
            life for as many rounds as fit; `probe` belongs to no run: it says whether PyTorch is there.
        version: Version of the round.
        rank: Number of the rank.
        leg: Number of the rank's invocation. It begins at 0 in each round; of residents, in the run.
        generation: Generation of a resident leg: 0, or higher if it replaces a lost one.
        sent_at: Seconds since 1970 when it was sent; from it the leg learns how long starting takes.
        lead_s: Seconds that starting took the leg before.
        share_s: Seconds that its last share of a round took; it gives the other ranks that time, too.
        expires_at: Seconds since 1970 from which on the leg before is surely dead.
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
    """The event that the merge function is invoked with: a hint that the run has something to merge or to finish."""

    run: str
    round: str = ""
    generation: int = 0
