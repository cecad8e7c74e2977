"""`estafeta deploy`, from top to bottom: look, ask, bring everything there, change the stack, install the library.

    prepare    code package made, stack looked up, change worked out (`plan.py`)
    carry_out  remains of a failed attempt removed → bucket → code and library sent
               → stack changed; the library unpacked by `control`, where that can be before the functions that need it

Every step may be repeated: packages and libraries are named by their digests, a stack without changes is left alone,
and an installation goes on where it was. Whoever is interrupted deploys once more.
"""

from __future__ import annotations

import tempfile
from pathlib import Path
from typing import Protocol

from estafeta.aws.bucket import Bucket
from estafeta.aws.library import LibraryManifest, Progress
from estafeta.aws.session import Deployment, Session, deployment
from estafeta.client.connect import TEMPLATE, on_stack
from estafeta.deploy.change_sets import Event, Stacks
from estafeta.deploy.library_build import Library, fetch, send
from estafeta.deploy.names import bucket_stack
from estafeta.deploy.plan import Plan, Wishes, code_key, make_plan, propose_bucket
from estafeta.protocol.verbs import InstallVerb
from estafeta.store.files import Clock, SystemClock


class Reporter(Protocol):
    """Is told how a deployment goes on."""

    def step(self, what: str) -> None:
        """Something begins."""

    def portion(self, what: str, done: int, total: int, unit: str) -> None:
        """So much of it is done."""

    def event(self, event: Event) -> None:
        """Something has happened to a resource of a stack."""


class Deployer:
    """Deploys one stack.

    Args:
        session: Account and Region.
        wishes: What is to be deployed.
        reporter: Is told how it goes on.
        clock: For pauses.
        template: The stack's template.
    """

    def __init__(
        self,
        session: Session,
        wishes: Wishes,
        reporter: Reporter,
        clock: Clock | None = None,
        template: Path = TEMPLATE,
    ) -> None:
        self._session, self._wishes, self._reporter = session, wishes, reporter
        self._clock = clock or SystemClock()
        self._template = template
        self._stacks = Stacks(session.client("cloudformation"), self._clock, reporter.event)

    def prepare(self, folder: Path) -> Plan:
        """Find out what is to be done; as `plan.make_plan`."""
        return make_plan(self._session, self._stacks, self._wishes, folder, self._reporter.step, self._template)

    def discard(self, plan: Plan) -> None:
        """Withdraw what was proposed."""
        for proposed in (plan.bucket_changes, plan.changes):
            if proposed is not None and proposed.changes:
                self._stacks.discard(proposed)

    def carry_out(self, plan: Plan) -> Deployment:
        """Do what was planned.

        Raises:
            EnvironmentProblem: A stack could not be changed; it says in which state it is, and what to do.
        """
        stack = plan.wishes.stack
        if plan.remains:
            self._reporter.step(f"removing what a failed attempt has left ({plan.remains})")
            self._stacks.delete(stack)
        bucket = self._bring_bucket(plan)
        if plan.code is not None and bucket.size(code_key(plan.code)) != plan.code.zipped_bytes:
            self._reporter.step("sending the code package")
            bucket.upload(code_key(plan.code), plan.code.path)
        if plan.library is not None and not plan.library_stored:
            self._bring_library(plan.library, bucket)
        # The functions that are deployed unpack the library before those come that need it.
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
        return deployment(self._session, stack)

    def _bring_bucket(self, plan: Plan) -> Bucket:
        changes = plan.bucket_changes
        if changes is None:
            self._reporter.step(f"making the bucket {plan.bucket}")
            self._stacks.delete(bucket_stack(plan.wishes.stack))  # if its creation has failed before
            changes = propose_bucket(self._stacks, plan.wishes.stack, plan.bucket, creates=True)
        self._stacks.carry_out(changes)
        return Bucket(plan.bucket, self._session.client("s3"))

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
        backend = on_stack(self._session, self._wishes.stack)
        verb = InstallVerb(bucket=bucket.name, library=digest)
        while True:
            progress = Progress.model_validate(backend.call(verb))
            self._reporter.portion("installing the library", progress.done, progress.parts, "parts")
            if progress.ready:
                return


def packed_list(manifest: LibraryManifest) -> str:
    """The packages of a library, in one line."""
    return ", ".join(f"{name} {version}" for name, version in sorted(manifest.packages.items()))
