"""`estafeta destroy`: take away what `deploy` has made, in the other order, then look whether anything is left.

    stack deleted (its file system stays, unless its own `DataPolicy` says otherwise)
    → bucket emptied, its stack deleted → file systems removed, if that is wanted → leftovers listed

Every step may be repeated, and none needs the one before to have been complete.
"""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass
from typing import Any

from estafeta.aws.bucket import Bucket
from estafeta.aws.lambda_api import reaching
from estafeta.aws.session import Session, describe_stack
from estafeta.deploy.change_sets import Stacks
from estafeta.deploy.deploy import Reporter
from estafeta.deploy.names import bucket_name, bucket_stack, file_systems
from estafeta.errors import Command
from estafeta.protocol.spec import LOG_GROUPS, Role
from estafeta.store.files import Clock, SystemClock

ROLES: tuple[Role, ...] = ("worker", "merge", "control")


@dataclass(frozen=True)
class Standing:
    """What there is of a stack.

    Attributes:
        stack: Its name.
        state: State of the stack; None if there is none.
        bucket: Name of the bucket; None if there is none.
        objects: Objects in the bucket.
        bytes: Of them.
        file_systems: By id, the bytes on each.
        deletes_data: Whether the stack takes its file system with it.
    """

    stack: str
    state: str | None
    bucket: str | None
    objects: int
    bytes: int
    file_systems: Mapping[str, int]
    deletes_data: bool

    @property
    def is_gone(self) -> bool:
        """Whether there is nothing to take away, file systems apart."""
        return self.state is None and self.bucket is None


@dataclass(frozen=True)
class Leftover:
    """Something that a stack has left behind: what it is, its name, and the command that removes it."""

    kind: str
    name: str
    command: Command


class Destroyer:
    """Takes one stack away.

    Args:
        session: Account and Region.
        stack: Name.
        reporter: Is told how it goes on.
        clock: For pauses.
    """

    def __init__(self, session: Session, stack: str, reporter: Reporter, clock: Clock | None = None) -> None:
        self._session, self._stack, self._reporter = session, stack, reporter
        self._client = session.client("cloudformation")
        self._stacks = Stacks(self._client, clock or SystemClock(), reporter.event)
        self._bucket = Bucket(bucket_name(stack, session.account(), session.region), session.client("s3"))

    def look(self) -> Standing:
        """What there is.

        Raises:
            EnvironmentProblem: The account cannot be reached, or the stack is being changed.
        """
        has_bucket = self._stacks.state(bucket_stack(self._stack)) is not None
        parameters = self._stacks.parameters(self._stack)
        objects = list(self._bucket.objects()) if has_bucket and self._bucket.exists() else []
        return Standing(
            stack=self._stack,
            state=self._stacks.state(self._stack),
            bucket=self._bucket.name if has_bucket else None,
            objects=len(objects),
            bytes=sum(found.size for found in objects),
            file_systems={
                str(system["FileSystemId"]): int(system["SizeInBytes"]["Value"])
                for system in file_systems(self._session, self._stack)
            },
            deletes_data=parameters.get("DataPolicy") == "Delete" and not parameters.get("ExistingFileSystem"),
        )

    def carry_out(self, standing: Standing, *, delete_data: bool) -> None:
        """Take it away.

        Args:
            standing: What there is.
            delete_data: File systems too, with all runs and data sets on them.

        Raises:
            EnvironmentProblem: Something could not be removed; the rest has not been tried then. Repeat it.
        """
        if standing.state is not None:
            self._reporter.step(f"deleting the stack {self._stack}; its network interfaces may take 40 minutes to go")
        self._stacks.delete(self._stack)
        if self._bucket.exists():
            self._reporter.step(f"emptying the bucket {self._bucket.name}")
            self._bucket.remove("")
        self._stacks.delete(bucket_stack(self._stack))
        if delete_data:
            for system in file_systems(self._session, self._stack):
                self._reporter.step(f"deleting the file system {system['FileSystemId']}")
                with reaching("EFS"):
                    self._session.client("efs").delete_file_system(FileSystemId=system["FileSystemId"])

    def leftovers(self) -> list[Leftover]:
        """What is still there, file systems apart."""
        return [*self._left_stacks(), *self._left_interfaces(), *self._left_logs(), *self._left_bucket()]

    def kept(self) -> list[str]:
        """Ids of the file systems that stay."""
        return [str(system["FileSystemId"]) for system in file_systems(self._session, self._stack)]

    def _left_stacks(self) -> list[Leftover]:
        found = [name for name in (self._stack, bucket_stack(self._stack)) if describe_stack(self._client, name)]
        return [
            Leftover("stack", name, Command("aws", "cloudformation", "delete-stack", "--stack-name", name))
            for name in found
        ]

    def _left_interfaces(self) -> list[Leftover]:
        """Lambda names an interface for the function that it was first made for."""
        wanted = [{"Name": "description", "Values": [f"AWS Lambda VPC ENI-{self._stack}-{role}-*" for role in ROLES]}]
        with reaching("EC2"):
            pages = self._session.client("ec2").get_paginator("describe_network_interfaces").paginate(Filters=wanted)
            found = [interface["NetworkInterfaceId"] for page in pages for interface in page["NetworkInterfaces"]]
        command = ("aws", "ec2", "delete-network-interface", "--network-interface-id")
        return [Leftover("network interface", name, Command(*command, name)) for name in found]

    def _left_logs(self) -> list[Leftover]:
        """A function that writes its last lines after its log group was deleted makes a new one."""
        ours = {f"{LOG_GROUPS}{self._stack}-{role}" for role in ROLES}
        with reaching("CloudWatch Logs"):
            pages: Any = self._session.client("logs").get_paginator("describe_log_groups")
            found = [
                group["logGroupName"]
                for page in pages.paginate(logGroupNamePrefix=f"{LOG_GROUPS}{self._stack}-")
                for group in page["logGroups"]
            ]
        command = ("aws", "logs", "delete-log-group", "--log-group-name")
        return [Leftover("log group", name, Command(*command, name)) for name in found if name in ours]

    def _left_bucket(self) -> list[Leftover]:
        if not self._bucket.exists():
            return []
        count, name = sum(1 for _ in self._bucket.objects()), self._bucket.name
        return [
            Leftover("bucket", f"{name} with {count} objects", Command("aws", "s3", "rb", "--force", f"s3://{name}"))
        ]
