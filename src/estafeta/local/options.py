"""The settings of a local service that a user may choose."""

import hashlib
import json
from collections.abc import Mapping
from dataclasses import asdict, dataclass, field
from pathlib import Path
from typing import Any, Self

_PATHS = ("template", "root", "task_root", "python")


@dataclass(frozen=True, slots=True)
class Options:
    """Settings of a service; the defaults suit a run on one machine.

    Attributes:
        template: CloudFormation template with the functions.
        root: Local folder that stands for the shared file system.
        task_root: Folder that is first on the functions' `sys.path`; None for an empty one.
        python: Interpreter of the functions, with AWS's runtime client; None for the service's own.
        parameters: Values that replace defaults of the template's parameters.
        region: Region that functions see, and part of every signature.
        account_limit: Most invocations at a time over all functions.
        retry_delay_scale: Factor on Lambda's delays of one minute and more before a retry.
        faults: Fault injection, as `Faults.parse` reads it.
        idle_timeout_s: Seconds without a call or an event after which the service ends by itself.
        environment_idle_s: Seconds without an event after which an execution environment ends.
        init_limit_s: Seconds that an init phase may take; 10 on Lambda.
    """

    template: Path
    root: Path
    task_root: Path | None = None
    python: Path | None = None
    parameters: Mapping[str, str] = field(default_factory=dict)
    region: str = "us-east-1"
    account_limit: int = 1000
    retry_delay_scale: float = 1 / 60
    faults: str = ""
    idle_timeout_s: float = 600.0
    environment_idle_s: float = 300.0
    init_limit_s: float = 10.0

    def to_json(self) -> str:
        """The options as text, for the command line of a background service."""
        data: dict[str, Any] = asdict(self)
        for name in _PATHS:
            data[name] = None if data[name] is None else str(Path(data[name]).absolute())
        return json.dumps(data, sort_keys=True)

    @classmethod
    def from_json(cls, text: str) -> Self:
        """Inverse of `to_json`."""
        data: dict[str, Any] = json.loads(text)
        for name in _PATHS:
            data[name] = None if data[name] is None else Path(data[name])
        return cls(**data)

    def digest(self) -> str:
        """Fingerprint of all that a running service cannot change: options, template, and Estafeta's own source."""
        total = hashlib.sha256(self.to_json().encode())
        package = Path(__file__).parents[1]
        for path in (self.template, *sorted(package.rglob("*.py"))):
            total.update(str(path).encode())
            total.update(path.read_bytes() if path.exists() else b"")
        return total.hexdigest()
