"""A place to run, as the client sees it: functions to invoke, settings to change, logs to read.

`LambdaBackend` stands for AWS and for the local service alike: the same boto3 calls, another endpoint.
"""

import fcntl
import os
import time
from collections.abc import Iterator, Mapping
from contextlib import AbstractContextManager, contextmanager
from pathlib import Path
from typing import Any, Protocol

from estafeta import errors
from estafeta.aws.bucket import Bucket
from estafeta.aws.lambda_api import LambdaInvoker, reaching
from estafeta.client.logbook import Entry, entries, faults_of, usage_of
from estafeta.cost.cost import Basis, Usage
from estafeta.cost.prices import DEFAULT_REGION
from estafeta.errors import Command, EnvironmentProblem, EstafetaError, FunctionError
from estafeta.job.job import On
from estafeta.protocol.invocation import Invoker
from estafeta.protocol.spec import FunctionSettings, Role
from estafeta.protocol.verbs import ControlEvent

ROLES: tuple[Role, ...] = ("worker", "merge", "control")
THROUGHPUT_VARIABLE = "ESTAFETA_EFS_THROUGHPUT"
"""Name of the variable in which the template tells the throughput mode of its file system."""
LOG_LAG_S = {"local": 2.0, "aws": 15.0}
"""Seconds that the client waits for a missing REPORT line before it sums a run up without it."""
LOG_PAUSE_S = {"local": 0.1, "aws": 0.75}
"""Seconds between two looks for a missing REPORT line."""
SERVICE_GONE = (
    "the local service was stopped or killed: the next command starts it, "
    f"{Command('estafeta', 'resume', 'RUN')} goes on with a run"
)
"""Hint of the error for a local service that does not answer."""
UPDATE_WAIT = {"Delay": 1, "MaxAttempts": 300}
"""Seconds between two looks whether a change of a function is done, and their greatest number. In a VPC a change "can
take a minute" (Lambda API reference, "UpdateFunctionConfiguration")."""
Settings = Mapping[Role, Mapping[str, int]]
Functions = dict[Role, FunctionSettings]


class Backend(Protocol):
    """A place to run.

    Attributes:
        on: Its name: `local`, `inline`, `aws`.
        functions: The functions as they are deployed.
        basis: What prices depend on.
        bucket: Bucket for files that no payload can hold; None where the store is on this machine, and needs none.
    """

    on: On
    functions: Functions
    basis: Basis
    bucket: Bucket | None

    def call(self, verb: ControlEvent) -> Any:
        """Have `control` carry out a verb; return its answer, or raise the error that it answered with."""

    def with_settings(self, settings: Settings, variables: Mapping[str, str] | None = None) -> Functions:
        """The functions with some settings changed, for one run; worker and merge get the `variables` in addition."""

    def advance(self, seconds: float) -> None:
        """Let about that many seconds pass for the run."""

    def log(self, run: str, functions: Functions, since_s: float) -> list[Entry]:
        """The run's invocations, as the logs have them."""

    def usage(self, run: str, functions: Functions, since_s: float, *, ended: bool) -> Usage:
        """Sum of the run's invocations; of a run that has ended, with the last of them."""

    def faults(self, run: str, functions: Functions, since_s: float) -> dict[str, int]:
        """Number of faults of each kind that the service has injected into the run."""


class LambdaBackend:
    """`Backend` over the Lambda and CloudWatch Logs APIs, which `functions` and `logs` are clients of.

    `functions` never repeats a call by itself (`lambda_api.make_client`). `settings` is a client that reads and changes
    settings, and may repeat these calls; by default `functions` does that. If a function does not exist or cannot be
    reached, `EnvironmentProblem` is raised.
    """

    def __init__(
        self,
        on: On,
        names: Mapping[Role, str],
        functions: Any,
        logs: Any,
        bucket: Bucket | None = None,
        settings: Any = None,
    ) -> None:
        self.on = on
        self.bucket = bucket
        self._settings = settings or functions
        self._logs = logs
        self.basis = Basis()
        self.functions: Functions = {role: self._deployed(names[role]) for role in ROLES}
        self._control: Invoker = LambdaInvoker(self.functions, functions)

    def call(self, verb: ControlEvent) -> Any:
        """See `Backend.call`."""
        name = self.functions["control"].name
        try:
            with self._reaching(f"The function {name}"):
                return unwrap(self._control.call("control", verb.model_dump(mode="json")))
        except FunctionError as error:
            raise EnvironmentProblem(f"The function {name} failed: {error}", hint=error.hint) from error

    def with_settings(self, settings: Settings, variables: Mapping[str, str] | None = None) -> Functions:
        """See `Backend.with_settings`: the client publishes a version of the function with the settings.

        The run names that version when it invokes, and the client gives `$LATEST` its own settings back. Meanwhile
        `$LATEST` has those of the run, so the clients of this machine take turns.
        """
        with _taking_turns():
            functions = {role: self._deployed(self.functions[role].name) for role in ROLES}
            for role in ROLES:
                wanted = functions[role].model_copy(update=dict(settings.get(role, {})))
                added = dict(variables or {}) if role != "control" else {}
                if added or wanted != functions[role]:
                    with self._reaching(f"The function {wanted.name}"):
                        functions[role] = self._publish_version(functions[role], wanted, added)
        return functions

    def advance(self, seconds: float) -> None:
        """See `Backend.advance`: the run goes on by itself."""
        time.sleep(seconds)

    def log(self, run: str, functions: Functions, since_s: float) -> list[Entry]:
        """See `Backend.log`."""
        with self._reaching("The functions' logs"):
            return entries(self._logs, functions, run, since_s)

    def usage(self, run: str, functions: Functions, since_s: float, *, ended: bool) -> Usage:
        """See `Backend.usage`."""
        deadline = time.monotonic() + (LOG_LAG_S[self.on] if ended else 0.0)
        while True:
            found = self.log(run, functions, since_s)
            if all(entry.report for entry in found) or time.monotonic() >= deadline:
                return usage_of(found, None if ended else functions, time.time())
            time.sleep(LOG_PAUSE_S[self.on])

    def faults(self, run: str, functions: Functions, since_s: float) -> dict[str, int]:
        """See `Backend.faults`."""
        with self._reaching("The functions' logs"):
            return faults_of(self._logs, functions, run, since_s)

    def _reaching(self, what: str) -> AbstractContextManager[None]:
        return reaching(what, SERVICE_GONE) if self.on == "local" else reaching(what)

    def _deployed(self, name: str) -> FunctionSettings:
        with self._reaching(f"The function {name}"):
            answer = self._settings.get_function_configuration(FunctionName=name)
        self.basis = basis_of(answer, self._settings.meta.region_name if self.on == "aws" else DEFAULT_REGION)
        return FunctionSettings(name=name, memory_mb=answer["MemorySize"], timeout_s=answer["Timeout"])

    def _publish_version(
        self, deployed: FunctionSettings, wanted: FunctionSettings, added: dict[str, str]
    ) -> FunctionSettings:
        name = deployed.name
        before = self._variables(name) if added else None
        try:
            self._configure(wanted, None if before is None else {**before, **added})
            published = self._settings.publish_version(FunctionName=name)
        finally:
            self._configure(deployed, before)
        if (published["MemorySize"], published["Timeout"]) != (wanted.memory_mb, wanted.timeout_s):
            raise EnvironmentProblem(f"Another client was changing {name} at the time", hint="start the run again")
        version = published["Version"]
        waiter = self._settings.get_waiter("published_version_active")
        waiter.wait(FunctionName=name, Qualifier=version, WaiterConfig=UPDATE_WAIT)
        self._copy_retries(name, version)
        return wanted.model_copy(update={"qualifier": version})

    def _variables(self, name: str) -> dict[str, str]:
        found = self._settings.get_function_configuration(FunctionName=name)
        return dict(found.get("Environment", {}).get("Variables", {}))

    def _configure(self, function: FunctionSettings, variables: dict[str, str] | None) -> None:
        """Change `$LATEST`; without `variables` it keeps those that it has.

        While a change goes on, Lambda refuses the next one, so the client waits for it first: another machine may have
        begun it, or this client may have been interrupted in it.
        """
        environment = {} if variables is None else {"Environment": {"Variables": variables}}
        waiter = self._settings.get_waiter("function_updated")
        waiter.wait(FunctionName=function.name, WaiterConfig=UPDATE_WAIT)
        self._settings.update_function_configuration(
            FunctionName=function.name, MemorySize=function.memory_mb, Timeout=function.timeout_s, **environment
        )
        waiter.wait(FunctionName=function.name, WaiterConfig=UPDATE_WAIT)

    def _copy_retries(self, name: str, version: str) -> None:
        """Give a new version the retry settings and the failure destination of its function: it has none of its own."""
        try:
            config = self._settings.get_function_event_invoke_config(FunctionName=name)
        except self._settings.exceptions.ResourceNotFoundException:
            return  # then Lambda's defaults hold for both
        known = ("MaximumRetryAttempts", "MaximumEventAgeInSeconds", "DestinationConfig")
        self._settings.put_function_event_invoke_config(
            FunctionName=name, Qualifier=version, **{key: config[key] for key in known if key in config}
        )


def basis_of(configuration: Mapping[str, Any], region: str) -> Basis:
    """Basis of the prices, from a function's answer of GetFunctionConfiguration; `region` is that of the prices."""
    variables = configuration.get("Environment", {}).get("Variables", {})
    return Basis(
        region=region,
        architecture=configuration.get("Architectures", ["x86_64"])[0],
        throughput=variables.get(THROUGHPUT_VARIABLE, "bursting"),
    )


def home() -> Path:
    """Folder in which the local service keeps its files and runs: `$ESTAFETA_HOME`, or `~/.estafeta`."""
    return Path(os.environ.get("ESTAFETA_HOME") or "~/.estafeta").expanduser().absolute()


@contextmanager
def _taking_turns() -> Iterator[None]:
    """Keep other clients of this machine from changing functions; the kernel ends that if this process dies."""
    home().mkdir(parents=True, exist_ok=True)
    with open(home() / "settings.lock", "w", encoding="ascii") as file:
        fcntl.flock(file, fcntl.LOCK_EX)
        yield


def unwrap(answer: Any) -> Any:
    """The answer of `control`; an error that it answered with is raised, with its class, hint and exit code."""
    if not isinstance(answer, dict) or "error" not in answer:
        return answer
    record = answer["error"]
    kind = getattr(errors, record["kind"], None)
    if not (isinstance(kind, type) and issubclass(kind, EstafetaError)):
        kind = EstafetaError
    raise kind(record["message"], hint=record["hint"], exit_code=record["exit_code"])
