"""Checks of a stack on AWS: the account, the deployed resources, and facts that only functions can find out.

The same checks run against the local service and a server that imitates the rest of AWS. Their results there tell
nothing about EFS or Lambda's network; `docs/aws.md` says which line answers which open question.
"""

import secrets
import time
from collections.abc import Mapping
from functools import cached_property
from typing import Any, Literal

from estafeta.aws.account import STACK, Account, deployment, describe_stack
from estafeta.aws.bucket import EXPORTS
from estafeta.aws.lambda_api import reaching
from estafeta.client.backend import Backend
from estafeta.client.connect import on_stack
from estafeta.deploy.doctor.check import Check
from estafeta.errors import Ailment, Command
from estafeta.protocol.verbs import DatasetsVerb, ProbeVerb, RunsVerb

BESIDE_WORKERS = 2
"""Number of invocations beside the workers: the merge, and `control`."""
LEAST_WORKERS = 2
LONGEST_TURN_S = 5.0
"""Seconds for two exchanges of a small file between functions; a name that is not seen at once may stay unseen for a
minute."""
LEAST_BYTES_PER_S = 1e6
"""Bytes per second at least; a new bursting file system has 1 MiB/s when its credits are used up."""
WHOLE = ("CREATE_COMPLETE", "UPDATE_COMPLETE", "UPDATE_ROLLBACK_COMPLETE", "IMPORT_COMPLETE")


def checks(stack: str = STACK, region: str | None = None, profile: str | None = None) -> list[Check]:
    """All checks of a stack, in order."""
    patient = _Patient(stack, region, profile)
    inside = ("credentials", "stack", "functions", "control")
    return [
        Check("credentials", patient.credentials),
        Check("stack", patient.deployed, needs=("credentials",)),
        Check("functions", patient.functions, needs=("stack",)),
        Check("concurrency", patient.concurrency, needs=("stack",)),
        Check("bucket", patient.bucket, needs=("stack",)),
        Check("control", patient.control, needs=("functions",)),
        Check("mount", patient.mount, needs=inside),
        Check("second function", patient.second_function, needs=inside),
        Check("visibility", patient.visibility, needs=(*inside, "second function")),
        Check("throughput", patient.throughput, needs=(*inside, "second function")),
        Check("worker", patient.worker, needs=inside),
    ]


def judge_visibility(median: float, longest: float) -> str:
    """Judge the seconds of an exchange of small files.

    Raises:
        Ailment: The longest exchange took too long.
    """
    detail = f"a file and the answer to it: {_ms(median)} by the median, {_ms(longest)} at most"
    if longest > LONGEST_TURN_S:
        raise Ailment(detail, hint="look at the mount's options (above) and at BurstCreditBalance of the file system")
    return detail


def judge_throughput(write: float, read: float) -> str:
    """Judge the bytes per second of two functions.

    Raises:
        Ailment: The functions are too slow.
    """
    detail = f"one function writes {write / 1e6:,.1f} MB/s, another reads {read / 1e6:,.1f} MB/s"
    if min(write, read) < LEAST_BYTES_PER_S:
        raise Ailment(detail, hint="BurstCreditBalance may be used up: wait, or deploy with elastic throughput")
    return detail


def judge_concurrency(limit: int, free: int, reserved: int | None) -> str:
    """Judge an account's limit of concurrent invocations, its unreserved part, and the worker's reservation.

    Raises:
        Ailment: The limit is too low for two workers.
    """
    workers = max(0, free - BESIDE_WORKERS) if reserved is None else reserved
    detail = f"{limit} invocations at a time in this account, {free} not reserved: up to {workers} workers"
    if reserved is not None:
        detail += ", as MaxWorkers says"
    if workers < LEAST_WORKERS:
        raise Ailment(
            detail,
            hint="ask for more in Service Quotas: Lambda, Concurrent executions"
            if reserved is None
            else f"raise the limit, or lift it: {Command('estafeta', 'deploy', '-p', 'MaxWorkers=')}",
        )
    return detail


class _Patient:
    """A stack under examination; the checks share its clients and findings."""

    def __init__(self, stack: str, region: str | None, profile: str | None) -> None:
        self._stack, self._region, self._profile = stack, region, profile
        self._met: dict[str, Any] = {}

    @cached_property
    def _account(self) -> Account:
        return Account(self._region, self._profile)

    @cached_property
    def _backend(self) -> Backend:
        return on_stack(self._account, self._stack)

    @cached_property
    def _lambda(self) -> Any:
        return self._account.client("lambda")  # these calls read: they may be repeated

    def credentials(self) -> str:
        return f"account {self._account.number()} in {self._account.region}"

    def deployed(self) -> str:
        found = describe_stack(self._account.client("cloudformation"), self._stack)
        cure = str(Command("estafeta", "deploy", "--stack", self._stack, "--region", self._account.region))
        if found is None:
            raise Ailment(f"There is no stack {self._stack!r} in {self._account.region}", hint=cure)
        if found["StackStatus"] not in WHOLE:
            raise Ailment(f"The stack {self._stack!r} is in the state {found['StackStatus']}", hint=cure)
        outputs = deployment(self._account, self._stack)
        return f"{self._stack}, {found['StackStatus']}, file system {outputs.file_system}, bucket {outputs.bucket}"

    def functions(self) -> str:
        """Make sure that functions are active, have no failed change, and may invoke each other in a loop."""
        described = []
        for name in deployment(self._account, self._stack).functions.values():
            with reaching(f"the function {name}"):
                found = self._lambda.get_function_configuration(FunctionName=name)
                loop = self._lambda.get_function_recursion_config(FunctionName=name)["RecursiveLoop"]
            if found["State"] != "Active" or found["LastUpdateStatus"] != "Successful":
                why = found.get("StateReason") or found.get("LastUpdateStatusReason") or "AWS gives no reason"
                raise Ailment(
                    f"{name} is {found['State']}, its last change {found['LastUpdateStatus']}: {why}",
                    hint="wait some minutes; after 14 idle days a function has to be woken by a call",
                )
            if loop != "Allow":
                allow = ("aws", "lambda", "put-function-recursion-config", "--function-name", name)
                raise Ailment(
                    f"{name} has RecursiveLoop: {loop}, so that a run ends after 16 rounds",
                    hint=f"{Command(*allow, '--recursive-loop', 'Allow')}, or deploy again",
                )
            described.append(f"{name} {found['MemorySize']} MB, {found['Timeout']} s, {found['Architectures'][0]}")
        return "; ".join(described)

    def concurrency(self) -> str:
        worker = deployment(self._account, self._stack).functions["worker"]
        with reaching("Lambda"):
            limits = self._lambda.get_account_settings()["AccountLimit"]
            reserved = self._lambda.get_function_concurrency(FunctionName=worker).get("ReservedConcurrentExecutions")
        return judge_concurrency(limits["ConcurrentExecutions"], limits["UnreservedConcurrentExecutions"], reserved)

    def bucket(self) -> str:
        """Use the bucket as the client does: store, read, list and remove an object."""
        bucket, key = self._backend.bucket, f"{EXPORTS}doctor/{secrets.token_hex(8)}"
        assert bucket is not None
        bucket.upload(key, b"doctor")
        try:
            content = bucket.read(key)
        finally:
            bucket.remove(key)
        if content != b"doctor":
            raise Ailment(f"{bucket.name} gave back {content!r}", hint="look for another program that writes to it")
        return f"{bucket.name} takes a file, gives it back and removes it"

    def control(self) -> str:
        began = time.monotonic()
        runs = self._backend.call(RunsVerb())["runs"]
        first = time.monotonic()
        self._backend.call(DatasetsVerb())
        again = time.monotonic()
        return f"{len(runs)} runs; the first call took {_ms(first - began)}, the next {_ms(again - first)}"

    def mount(self) -> str:
        found = self._probe("mount")
        return f"{found['type']} on {found['place']}: {found['options']}"

    def second_function(self) -> str:
        self._met = dict(self._probe("meet"))
        return f"a function has invoked another one, which was there after {_ms(self._met['start_s'])}"

    def visibility(self) -> str:
        return judge_visibility(**self._met["turn_s"])

    def throughput(self) -> str:
        return judge_throughput(self._met["write_bytes_per_s"], self._met["read_bytes_per_s"])

    def worker(self) -> str:
        began = time.monotonic()
        found = self._probe("worker")
        start = "cold" if found["cold"] else "warm"
        return (
            f"PyTorch {found['torch']} on {found['threads']} threads; {start}: the call took "
            f"{_ms(time.monotonic() - began)}, the import {_ms(found['import_s'])} of it"
        )

    def _probe(self, what: Literal["mount", "meet", "worker"]) -> Mapping[str, Any]:
        verb = ProbeVerb(what=what, functions=self._backend.functions, token=secrets.token_hex(8))
        found: Mapping[str, Any] = self._backend.call(verb)
        return found


def _ms(seconds: float) -> str:
    return f"{seconds * 1000:,.0f} ms"
