"""Starting a run: from a job and a few choices to a handle."""

import secrets
import time
from collections.abc import Callable, Mapping, Sequence
from importlib.metadata import version
from typing import Any

from pydantic import ValidationError

from estafeta.aws.account import STACK
from estafeta.client.backend import Backend, home
from estafeta.client.connect import connect
from estafeta.client.options import as_text, check_quorum, override
from estafeta.client.run import Run, new_name
from estafeta.client.send_dataset import Show, in_silence, send_missing
from estafeta.client.send_source import check_size, send_source, start_verb
from estafeta.client.source import find_job
from estafeta.errors import UsageError
from estafeta.job.checks import usage_error
from estafeta.job.job import Job, On
from estafeta.job.optim import to_dict
from estafeta.job.recipe import numbers_of
from estafeta.job.user_code import is_importing
from estafeta.local.faults import FAULTS, FAULTS_NAME, Faults
from estafeta.protocol.limits import limits_after
from estafeta.protocol.spec import MOST_WORKERS, Choice, Limits, RunSpec
from estafeta.store.store import Store


def train(
    job: Job,
    *,
    workers: int = 2,
    on: On = "local",
    topology: Choice = "auto",
    options: Mapping[str, Any] | None = None,
    max_cost: float | None = None,
    max_hours: float | None = None,
    max_rounds: int | None = None,
    chaos: str = "",
    wait: bool = True,
    stack: str = STACK,
    region: str | None = None,
    profile: str | None = None,
) -> Run:
    """Train a job, and return the run's handle.

    Args:
        job: The job; assigned at the top level of a module or in a notebook cell, so that it can be imported.
        workers: Number of worker functions that share each batch.
        on: `local`: on this machine, under Lambda's rules; `inline`: in this process, for the debugger;
            `aws`: on AWS Lambda.
        topology: `merge`: a merge function combines the gradients; `sharded`: each worker combines a slice of them;
            `replicated`: each worker combines all of them; `auto`: one of the last two. An inline run has one process,
            so it merges; the bits are the same.
        options: Overrides by name, as `-o` takes them: `{"epochs": 5, "optimizer.lr": 0.01, "worker.timeout_s": 60}`.
        max_cost: Stop when the run has cost so many dollars, or locally when it would have on AWS.
        max_hours: Stop after so many hours.
        max_rounds: Stop after so many train rounds.
        chaos: Faults for the local service to inject into this run, such as `"duplicate=0.1,kill=0.05,seed=3"`:
            probabilities of `duplicate`, `drop` and `delay` for each event, of `kill` for each invocation, of `slow`
            for each execution environment. The bits stay the same.
        wait: Wait for the end; otherwise return at once. An inline run always waits.
        stack: Name of the deployed stack, for `aws`.
        region: Region of the stack, for `aws`; by default the one that every AWS tool would take.
        profile: Profile of the AWS configuration files, for `aws`; likewise.

    Raises:
        UsageError: A choice does not fit the job.
        RunFailed: The run failed.
        EnvironmentProblem: There is nowhere to run.
    """
    if is_importing():
        raise UsageError(
            "The job's module trains while a function imports it", hint='put the call under: if __name__ == "__main__":'
        )
    check_chaos(chaos, on)
    limits = {"max_cost_usd": max_cost, "max_hours": max_hours, "max_rounds": max_rounds}
    there = connect(on, stack=stack, region=region, profile=profile)
    run = start(
        *find_job(job), backend=there, workers=workers, topology=topology, options=options, chaos=chaos, limits=limits
    )
    return run.wait() if wait or on == "inline" else run


def start(
    job: Job, place: str, code: dict[str, str], *, backend: Backend, show: Show = in_silence, **choices: Any
) -> Run:
    """Start a run of a job that has been found, with the choices that `spec_for` takes.

    The client first sends the data sets of this machine that the run needs, and the source if there is a bucket. `show`
    is told how much of it is sent.
    """

    def send(job: Job) -> None:
        check_size(code, backend.bucket)
        send_missing(job, backend, Store(home() / "store"), show)
        if backend.bucket:
            size = sum(len(text.encode()) for text in code.values())
            for done in send_source(code, backend.bucket):
                show("sending the source", done, size)

    spec, job = spec_for(job, place, backend=backend, first=send, **choices)
    backend.call(start_verb(spec, code, backend.bucket))
    return Run(spec.run, backend, job.model)


def spec_for(
    job: Job,
    place: str,
    *,
    backend: Backend,
    workers: int,
    topology: Choice = "auto",
    options: Mapping[str, Any] | None = None,
    chaos: str = "",
    limits: Mapping[str, float | None] | None = None,
    command: Sequence[str] = (),
    first: Callable[[Job], object] = lambda _: None,
) -> tuple[RunSpec, Job]:
    """Return the spec of a run, and the job as the options have changed it; raises as `train`.

    `limits` has those fields of `Limits` that are set, and `command` the words of the command line that the spec keeps.
    `first` is called with that job when the choices have been checked, before the run's time begins and versions of
    functions are published for it.
    """
    check_chaos(chaos, backend.on)
    if not 1 <= workers <= MOST_WORKERS:
        raise UsageError(f"{workers} workers cannot train", hint=f"--workers takes 1 to {MOST_WORKERS}")
    job, changes = override(job, options or {})
    check_quorum(changes.limits.get("quorum"), workers)
    first(job)
    now, name = time.time(), new_name(place)
    fields: dict[str, Any] = dict(
        token=secrets.token_hex(16),
        run=name,
        created_at=now,
        estafeta=version("estafeta"),
        job=place,
        arguments=changes.arguments,
        workers=workers,
        topology="merge" if backend.on == "inline" else topology,
        **changes.limits,
        optimizer=to_dict(job.optimizer),
        early_stopping=job.stopping,
        limits=limits_after(Limits(), limits or {}, "", now),
        basis=backend.basis,
        functions=backend.with_settings(changes.settings, {FAULTS: chaos, FAULTS_NAME: name} if chaos else None),
        chaos=chaos,
        options=as_text(options or {}),
        command=tuple(command),
        **numbers_of(job) | ({"validation": 0.0} if job.valid_dataset else {}),
    )
    try:
        return RunSpec(**fields), job
    except ValidationError as error:
        raise usage_error(error, RunSpec) from None


def check_chaos(chaos: str, on: str) -> None:
    """Raise `UsageError` for faults that cannot be read, or for a place other than the local service."""
    if chaos and on != "local":
        raise UsageError("Only the local service injects faults", hint="leave out --chaos, or run it --on local")
    Faults.parse(chaos)
