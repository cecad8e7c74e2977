"""The settings of one function: a record, as read from the template or changed through the API.

It knows neither YAML nor HTTP. Invariant: `reader.py` and `api/config.py` make only records that are complete and
within Lambda's ranges; everything else may rely on it.
"""

from dataclasses import asdict, dataclass, field
from typing import Any, Literal, Self

RecursiveLoop = Literal["Allow", "Terminate"]
MB_PER_VCPU = 1769  # Lambda Developer Guide, "Lambda quotas": one vCPU at 1,769 MB

# Lambda Developer Guide, "Lambda quotas"; inclusive ranges.
MEMORY_MB = (128, 10_240)
TIMEOUT_S = (1, 900)
EPHEMERAL_MB = (512, 10_240)
RETRIES = (0, 2)
EVENT_AGE_S = (60, 21_600)
LOG_DAYS = (1, 3653)


@dataclass(frozen=True, slots=True)
class AsyncConfig:
    """Rules for asynchronous events of one function version: retries, and a destination for failed events.

    Attributes:
        retries: Number of retries after a function error or a timeout.
        max_event_age_s: Seconds after which the queue gives an event up.
        on_failure: Name of the function that receives the record of a failed event.
    """

    retries: int = 2
    max_event_age_s: int = 21_600
    on_failure: str | None = None


@dataclass(frozen=True, slots=True)
class FunctionConfig:
    """One function, as Lambda would run it.

    Attributes:
        name: Physical name.
        handler: `module.function`, imported inside the execution environment.
        runtime: Name such as `python3.13`; the function sees it, but the local interpreter runs it.
        architecture: `arm64` or `x86_64`; the function sees it, but the local processor runs it.
        memory_mb: Limit of resident memory; it sets the number of threads, too.
        timeout_s: Limit of one invocation.
        environment: The function's own environment variables.
        ephemeral_mb: Size of `/tmp`; the function sees it, the service does not enforce it.
        local_mount_path: Path at which the function sees the shared file system, or None.
        reserved_concurrency: Most invocations at a time, or None for the account's limit alone.
        recursive_loop: Whether a chain of more than 16 calls may go on.
        log_days: Days that the group keeps its lines, or None for ever.
        role: ARN that the API shows.
        preload: Modules that the warm parent of this function's environments has imported.
        asynchronous: Rules for asynchronous events of `$LATEST`.
    """

    name: str
    handler: str
    runtime: str
    architecture: str
    memory_mb: int
    timeout_s: int
    environment: dict[str, str]
    ephemeral_mb: int
    local_mount_path: str | None
    reserved_concurrency: int | None
    recursive_loop: RecursiveLoop
    log_group: str
    log_days: int | None = None
    role: str = ""
    preload: tuple[str, ...] = ()
    asynchronous: AsyncConfig = field(default_factory=AsyncConfig)

    @property
    def threads(self) -> int:
        """Number of whole vCPUs for this memory size, at least one."""
        return max(1, self.memory_mb // MB_PER_VCPU)

    def to_json(self) -> dict[str, Any]:
        """Plain data for `json.dump`."""
        return asdict(self)

    @classmethod
    def from_json(cls, data: dict[str, Any]) -> Self:
        """Inverse of `to_json`."""
        return cls(**{**data, "preload": tuple(data["preload"]), "asynchronous": AsyncConfig(**data["asynchronous"])})
