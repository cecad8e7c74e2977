"""`estafeta destroy`: remove everything that `deploy` has made, in the reverse order, then look for leftovers.

    stack deleted (its file system stays, unless its own `DataPolicy` says otherwise)
    → bucket emptied, its stack deleted → file systems removed, if the user wants it → leftovers listed

Every step may be repeated, and none depends on the complete success of the one before.
"""

from collections.abc import Mapping
from dataclasses import dataclass
from typing import Any

from estafeta.aws.account import Account, describe_stack
from estafeta.aws.bucket import Bucket
from estafeta.aws.lambda_api import reaching
from estafeta.deploy.change_sets import Stacks
from estafeta.deploy.deploy import Reporter
from estafeta.deploy.names import bucket_name, bucket_stack, file_systems
from estafeta.errors import Command
from estafeta.protocol.spec import Role
from estafeta.store.files import Clock, SystemClock

ROLES: tuple[Role, ...] = ("worker", "merge", "control")


@dataclass(frozen=True)
class Standing:
    """The existing parts of a stack.

    Attributes:
        state: State of the stack; None if there is none.
        bucket: Name of the bucket; None if there is none.
        objects: Number of objects in the bucket.
        bytes: Bytes of the objects.
        file_systems: Bytes on each file system, by id.
        deletes_data: Whether the file system goes with the stack.
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
        """Whether there is nothing to remove, apart from file systems."""
        return self.state is None and self.bucket is None


@dataclass(frozen=True)
class Leftover:
    """A leftover of a stack: its kind, its name, and the command that removes it."""

    kind: str
    name: str
    command: Command


class Destroyer:
    """The removal of one stack.

    Args:
        account: Account and Region.
        stack: Name of the stack.
        reporter: Receiver of the progress.
        clock: Clock for pauses.
    """

    def __init__(self, account: Account, stack: str, reporter: Reporter, clock: Clock | None = None) -> None:
        self._account, self._stack, self._reporter = account, stack, reporter
        self._client = account.client("cloudformation")
        self._stacks = Stacks(self._client, clock or SystemClock(), reporter.event)
        self._bucket = Bucket(bucket_name(stack, account.number(), account.region), account.client("s3"))

    def look(self) -> Standing:
        """The existing parts of the stack.

        Raises:
            EnvironmentProblem: The account cannot be reached, or somebody is changing the stack.
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
                for system in file_systems(self._account, self._stack)
            },
            deletes_data=parameters.get("DataPolicy") == "Delete" and not parameters.get("ExistingFileSystem"),
        )

    def carry_out(self, standing: Standing, *, delete_data: bool) -> None:
        """Remove the stack.

        Args:
            standing: The existing parts.
            delete_data: Whether to remove file systems, too, with all runs and data sets on them.

        Raises:
            EnvironmentProblem: A part could not be removed, and later ones were not tried; the call may be repeated.
        """
        if standing.state is not None:
            self._reporter.step(f"deleting the stack {self._stack}; its network interfaces may take 40 minutes to go")
        self._stacks.delete(self._stack)
        if self._bucket.exists():
            self._reporter.step(f"emptying the bucket {self._bucket.name}")
            self._bucket.remove("")
        self._stacks.delete(bucket_stack(self._stack))
        if delete_data:
            for system in file_systems(self._account, self._stack):
                self._reporter.step(f"deleting the file system {system['FileSystemId']}")
                with reaching("EFS"):
                    self._account.client("efs").delete_file_system(FileSystemId=system["FileSystemId"])

    def leftovers(self) -> list[Leftover]:
        """Parts that still exist, apart from file systems."""
        return [*self._left_stacks(), *self._left_interfaces(), *self._left_logs(), *self._left_bucket()]

    def kept(self) -> list[str]:
        """Ids of the file systems that stay."""
        return [str(system["FileSystemId"]) for system in file_systems(self._account, self._stack)]

    def _left_stacks(self) -> list[Leftover]:
        found = [name for name in (self._stack, bucket_stack(self._stack)) if describe_stack(self._client, name)]
        command = ("aws", "cloudformation", "delete-stack", "--stack-name")
        return [Leftover("stack", name, Command(*command, name)) for name in found]

    def _left_interfaces(self) -> list[Leftover]:
        """Network interfaces. Lambda names one after the function for which it was first made."""
        wanted = [{"Name": "description", "Values": [f"AWS Lambda VPC ENI-{self._stack}-{role}-*" for role in ROLES]}]
        with reaching("EC2"):
            pages = self._account.client("ec2").get_paginator("describe_network_interfaces").paginate(Filters=wanted)
            found = [interface["NetworkInterfaceId"] for page in pages for interface in page["NetworkInterfaces"]]
        command = ("aws", "ec2", "delete-network-interface", "--network-interface-id")
        return [Leftover("network interface", name, Command(*command, name)) for name in found]

    def _left_logs(self) -> list[Leftover]:
        """Log groups. A function that writes its last lines after the deletion of its group makes a new one."""
        ours = {f"/aws/lambda/{self._stack}-{role}" for role in ROLES}
        with reaching("CloudWatch Logs"):
            pages: Any = self._account.client("logs").get_paginator("describe_log_groups")
            found = [
                group["logGroupName"]
                for page in pages.paginate(logGroupNamePrefix=f"/aws/lambda/{self._stack}-")
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
