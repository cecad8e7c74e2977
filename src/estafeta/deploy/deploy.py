"""`estafeta deploy`, from top to bottom: look, ask, bring everything there, change the stack, install the library.

    prepare    code package made, stack looked up, change worked out (`plan.py`)
    carry_out  remains of a failed attempt removed → bucket → code and library sent
               → stack changed; `control` unpacks the library, if possible before the functions that need it exist

Every step may be repeated: packages and libraries have their digests as names, a stack without changes stays as it is,
and an installation continues from its last part. After an interruption, the user deploys once more.
"""

import tempfile
from pathlib import Path
from typing import Protocol

from estafeta.aws.account import Account, Deployment, deployment
from estafeta.aws.bucket import Bucket
from estafeta.aws.library import LibraryManifest, Progress
from estafeta.client.connect import TEMPLATE, on_stack
from estafeta.deploy.change_sets import Event, Stacks
from estafeta.deploy.library_build import Library, fetch, send
from estafeta.deploy.names import bucket_stack
from estafeta.deploy.plan import Plan, Wishes, code_key, make_plan, propose_bucket
from estafeta.protocol.verbs import InstallVerb
from estafeta.store.files import Clock, SystemClock


class Reporter(Protocol):
    """The receiver of a deployment's progress."""

    def step(self, what: str) -> None:
        """A step begins."""

    def portion(self, what: str, done: int, total: int, unit: str) -> None:
        """A part of the step is done."""

    def event(self, event: Event) -> None:
        """A resource of a stack has a new state."""


class Deployer:
    """The deployment of one stack.

    Args:
        account: Account and Region.
        wishes: The user's wishes.
        reporter: Receiver of the progress.
        clock: Clock for pauses.
        template: The stack's template.
    """

    def __init__(
        self,
        account: Account,
        wishes: Wishes,
        reporter: Reporter,
        clock: Clock | None = None,
        template: Path = TEMPLATE,
    ) -> None:
        self._account, self._wishes, self._reporter = account, wishes, reporter
        self._clock = clock or SystemClock()
        self._template = template
        self._stacks = Stacks(account.client("cloudformation"), self._clock, reporter.event)

    def prepare(self, folder: Path) -> Plan:
        """Work out the plan; arguments and errors are those of `plan.make_plan`."""
        return make_plan(self._account, self._stacks, self._wishes, folder, self._reporter.step, self._template)

    def discard(self, plan: Plan) -> None:
        """Withdraw the plan's proposals."""
        for proposed in (plan.bucket_changes, plan.changes):
            if proposed is not None and proposed.changes:
                self._stacks.discard(proposed)

    def carry_out(self, plan: Plan) -> Deployment:
        """Carry out a plan.

        Raises:
            EnvironmentProblem: A stack could not be changed; the message says its state, the hint the next step.
        """
        stack = plan.wishes.stack
        if plan.remains:
            self._reporter.step(f"removing the remains of a failed attempt ({plan.remains})")
            self._stacks.delete(stack)
        bucket = self._bring_bucket(plan)
        if plan.code is not None and bucket.size(code_key(plan.code)) != plan.code.zipped_bytes:
            self._reporter.step("sending the code package")
            bucket.upload(code_key(plan.code), plan.code.path)
        if plan.library is not None and not plan.library_stored:
            self._bring_library(plan.library, bucket)
        # The functions that are deployed now unpack the library before the new functions need it.
        early = plan.before and plan.library is not None and plan.before.get("Library") not in ("", plan.library.digest)
        if early and plan.library is not None:
            self._install(plan.library.digest, bucket)
        changes = plan.changes
        if changes is None:
            self._reporter.step(f"making the stack {stack}")
            changes = self._stacks.propose(
                stack, self._template.read_text(encoding="utf-8"), plan.parameters, creates=True
            )
        elif changes.changes:
            self._reporter.step(f"changing the stack {stack}")
        self._stacks.carry_out(changes)
        if plan.library is not None:
            self._install(plan.library.digest, bucket)
        return deployment(self._account, stack)

    def _bring_bucket(self, plan: Plan) -> Bucket:
        changes = plan.bucket_changes
        if changes is None:
            self._reporter.step(f"making the bucket {plan.bucket}")
            self._stacks.delete(bucket_stack(plan.wishes.stack))  # its creation may have failed before
            changes = propose_bucket(self._stacks, plan.wishes.stack, plan.bucket, creates=True)
        self._stacks.carry_out(changes)
        return Bucket(plan.bucket, self._account.client("s3"))

    def _bring_library(self, library: Library, bucket: Bucket) -> None:
        self._reporter.step(f"fetching {', '.join(library.requirements)} for {library.target.architecture}")
        with tempfile.TemporaryDirectory(prefix="estafeta-") as scratch:
            folder = Path(scratch, "library")
            packages = fetch(library, folder)
            manifest = send(library, packages, folder, bucket, self._sent)
        self._reporter.step(f"the library has {manifest.size >> 20} MB unpacked: {packed_list(manifest)}")

    def _sent(self, done: int, total: int) -> None:
        self._reporter.portion("sending the library", done, total, "parts")

    def _install(self, digest: str, bucket: Bucket) -> None:
        """Have `control` unpack the library, one call after the other, until it is ready."""
        backend = on_stack(self._account, self._wishes.stack)
        verb = InstallVerb(bucket=bucket.name, library=digest)
        while True:
            progress = Progress.model_validate(backend.call(verb))
            self._reporter.portion("installing the library", progress.done, progress.parts, "parts")
            if progress.ready:
                return


def packed_list(manifest: LibraryManifest) -> str:
    """The packages of a library, in one line."""
    return ", ".join(f"{name} {version}" for name, version in sorted(manifest.packages.items()))
