"""The plan of a deployment: it asks AWS, and changes nothing there."""

import sys
from collections.abc import Callable, Iterator, Mapping
from dataclasses import dataclass, field
from pathlib import Path

from estafeta.aws.account import STACK, Account
from estafeta.aws.bucket import CODE, Bucket
from estafeta.aws.library import LibraryManifest, manifest_key
from estafeta.client.connect import TEMPLATE
from estafeta.deploy.change_sets import REMAINS, Change, ChangeSet, Stacks
from estafeta.deploy.code_zip import CodePackage, build_code
from estafeta.deploy.library_build import Library, stored
from estafeta.deploy.names import bucket_name, bucket_stack, file_systems
from estafeta.deploy.wheels import PYTHONS, TORCH_BACKEND, Architecture, Target
from estafeta.errors import Command, UsageError
from estafeta.local.template.language import Template
from estafeta.local.template.reader import open_template

BUCKET_TEMPLATE = TEMPLATE.with_name("bucket.yaml")
OURS = ("Bucket", "CodeKey", "Library", "ImageUri", "PythonVersion", "Architecture", "ExistingFileSystem")
"""Parameters of the template that Estafeta sets; the others are the user's."""


THROUGHPUT_MODES = ("bursting", "elastic")
"""Throughput modes that the template knows."""


@dataclass(frozen=True)
class Wishes:
    """The user's wishes. A wish that is None keeps the deployed value, or the default.

    Attributes:
        image: URI of a container image instead of packages.
        architecture: Processor.
        python: Version of Python.
        requirements: Lines of a requirements file, for the jobs' packages beside PyTorch.
        parameters: Values for the template's own parameters.
        torch_backend: Index of PyTorch, as for `unpack`.
    """

    stack: str = STACK
    image: str | None = None
    architecture: Architecture | None = None
    python: str | None = None
    requirements: tuple[str, ...] | None = None
    parameters: Mapping[str, str] = field(default_factory=dict)
    torch_backend: str | None = None


@dataclass(frozen=True)
class Plan:
    """The plan of a deployment.

    Attributes:
        account: Number of the AWS account.
        target: Python and processor.
        code: The code package; None for an image.
        library: The library; None for an image.
        library_stored: Whether the bucket has the library.
        remains: State of the stack that a failed attempt has left, and that is removed first.
        bucket_changes: Changes of the bucket's stack.
        changes: Changes of the stack; None if it does not exist yet.
        parameters: Values for the template; None keeps the stack's value.
        before: Parameters that the stack has now; empty if there is none.
        additions: Resources of a new stack.
    """

    wishes: Wishes
    account: str
    bucket: str
    target: Target
    code: CodePackage | None
    library: Library | None
    library_stored: bool
    remains: str | None
    bucket_changes: ChangeSet | None
    changes: ChangeSet | None
    parameters: dict[str, str | None]
    before: dict[str, str]
    additions: tuple[Change, ...]

    @property
    def creates(self) -> bool:
        """Whether there is no such stack yet."""
        return self.changes is None

    @property
    def file_system(self) -> str | None:
        """Id of the file system of an earlier stack that this one takes over."""
        return self.parameters.get("ExistingFileSystem") or None

    @property
    def all_changes(self) -> tuple[Change, ...]:
        """Changes of both stacks."""
        sets = (self.bucket_changes, self.changes)
        return (
            tuple(change for proposed in sets if proposed is not None for change in proposed.changes) + self.additions
        )


def make_plan(
    account: Account,
    stacks: Stacks,
    wishes: Wishes,
    folder: Path,
    step: Callable[[str], None],
    template: Path = TEMPLATE,
) -> Plan:
    """Work out the plan of a deployment.

    Args:
        account: Account and Region.
        stacks: Its stacks.
        wishes: The user's wishes.
        folder: Folder for the code package; it has to stay until the plan is carried out.
        step: Function that is called with the name of each long step.
        template: The stack's template.

    Raises:
        UsageError: The wishes contradict each other.
        EnvironmentProblem: The account cannot be reached, or somebody is changing the stack.
    """
    stack, number = wishes.stack, account.number()
    state = stacks.state(stack)
    remains = state if state in REMAINS else None
    before = stacks.parameters(stack) if state and not remains else {}
    _check(wishes, before)
    target = _target(wishes, before)
    bucket = Bucket(bucket_name(stack, number, account.region), account.client("s3"))
    has_bucket = (bucket_state := stacks.state(bucket_stack(stack))) is not None and bucket_state not in REMAINS
    given = {
        **wishes.parameters,
        "Bucket": bucket.name,
        "PythonVersion": target.python,
        "Architecture": target.architecture,
    }
    code = library = None
    if wishes.image:
        given["ImageUri"] = wishes.image
    else:
        step(f"packing the functions' code for {target.architecture}, Python {target.python}")
        code = build_code(folder, target)
        library = _library(wishes, target, _deployed(before, bucket) if has_bucket else None)
        given |= {"CodeKey": code_key(code), "Library": library.digest}
    kept = before.get("ExistingFileSystem", "") if before else _left_behind(account, stack)
    given["ExistingFileSystem"] = kept
    if kept:
        given["ThroughputMode"] = _throughput_mode(account, wishes, kept)
    checked = open_template(template, account.region, given, stack)  # it refuses names that the template lacks
    parameters = {**{name: None for name in before if name in checked.parameters}, **given}
    bucket_changes = changes = None
    if has_bucket:
        bucket_changes = propose_bucket(stacks, stack, bucket.name, creates=False)
    if before:
        changes = stacks.propose(stack, template.read_text(encoding="utf-8"), parameters, creates=False)
    is_stored = library is not None and has_bucket and stored(library, bucket) is not None
    additions = () if before else tuple(_additions(checked))
    return Plan(
        wishes,
        number,
        bucket.name,
        target,
        code,
        library,
        is_stored,
        remains,
        bucket_changes,
        changes,
        parameters,
        before,
        additions,
    )


def propose_bucket(stacks: Stacks, stack: str, name: str, *, creates: bool) -> ChangeSet:
    """Propose the stack with the bucket."""
    return stacks.propose(
        bucket_stack(stack), BUCKET_TEMPLATE.read_text(encoding="utf-8"), {"BucketName": name}, creates=creates
    )


def code_key(code: CodePackage) -> str:
    """Key of a code package in the bucket."""
    return f"{CODE}{code.digest[:32]}.zip"


def _check(wishes: Wishes, before: Mapping[str, str]) -> None:
    """Refuse wishes that cannot be carried out."""
    if taken := sorted(set(wishes.parameters) & set(OURS)):
        raise UsageError(
            f"The parameter {taken[0]} is Estafeta's own", hint=f"see {Command('estafeta', 'deploy', '--help')}"
        )
    if before and bool(before.get("ImageUri")) != bool(wishes.image):
        now = "an image" if before.get("ImageUri") else "packages"
        raise UsageError(
            f"The stack {wishes.stack} is made of {now}, and Lambda's functions cannot change between the two",
            hint=f"{Command('estafeta', 'destroy', '--stack', wishes.stack)}, which keeps the data, then deploy",
        )


def _target(wishes: Wishes, before: Mapping[str, str]) -> Target:
    here = f"{sys.version_info.major}.{sys.version_info.minor}"
    python = wishes.python or before.get("PythonVersion") or (here if here in PYTHONS else "3.13")
    architecture = wishes.architecture or before.get("Architecture") or "arm64"
    return Target(python, "x86_64" if architecture == "x86_64" else "arm64")


def _library(wishes: Wishes, target: Target, deployed: LibraryManifest | None) -> Library:
    """The library by the user's wishes, or else as deployed last."""
    requirements, backend = wishes.requirements, wishes.torch_backend
    if requirements is None:
        requirements = deployed.extra if deployed else ()
    if backend is None:
        backend = deployed.torch_backend if deployed else TORCH_BACKEND
    return Library.of(requirements, target, backend)


def _deployed(before: Mapping[str, str], bucket: Bucket) -> LibraryManifest | None:
    """The library that the stack has, if the bucket still has its manifest."""
    digest = before.get("Library")
    if not digest or bucket.size(key := manifest_key(digest)) is None:
        return None
    return LibraryManifest.model_validate_json(bucket.read(key))


def _left_behind(account: Account, stack: str) -> str:
    """Id of the newest file system that a stack of the name has left; empty if there is none."""
    found = [system for system in file_systems(account, stack) if system["NumberOfMountTargets"] == 0]
    return str(found[0]["FileSystemId"]) if found else ""


def _throughput_mode(account: Account, wishes: Wishes, file_system: str) -> str:
    """Throughput mode of a file system that the stack cannot change; prices depend on it."""
    modes = {found["FileSystemId"]: str(found["ThroughputMode"]) for found in file_systems(account, wishes.stack)}
    wish = wishes.parameters.get("ThroughputMode")
    mode = modes.get(file_system, "")
    if wish and mode and wish != mode:
        update = ("--file-system-id", file_system, "--throughput-mode", wish)
        raise UsageError(
            f"The file system {file_system} is from an earlier stack, and keeps its throughput mode, {mode}",
            hint=f"{Command('aws', 'efs', 'update-file-system', *update)}, then deploy",
        )
    return wish or (mode if mode in THROUGHPUT_MODES else "bursting")


def _additions(template: Template) -> Iterator[Change]:
    """Resources of a template under its parameters."""
    for name, resource in template.resources.items():
        condition = resource.get("Condition")
        if condition is None or template.condition(condition, name):
            yield Change("Add", name, resource["Type"])
