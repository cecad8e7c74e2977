"""The AWS account of the user: a Region and a profile, and the parts of a deployed stack."""

from __future__ import annotations

import os
from dataclasses import dataclass
from typing import TYPE_CHECKING, Any

from estafeta.aws.lambda_api import CONNECT_TIMEOUT_S, reaching
from estafeta.errors import Command, EnvironmentProblem
from estafeta.protocol.spec import Role

if TYPE_CHECKING:
    import boto3

STACK = "estafeta"
"""Default name of the CloudFormation stack; its functions are `estafeta-worker` and so on."""
ATTEMPTS = 5
"""Number of attempts at a call of a client from `Account.client`, with growing pauses between them."""
READ_TIMEOUT_S = 60


class Account:
    """An account and a Region, found where every AWS tool looks for them.

    Args:
        region: Name of the Region; by default `AWS_REGION`, `AWS_DEFAULT_REGION`, or the profile's.
        profile: Profile of the AWS configuration files; by default `AWS_PROFILE`.

    Attributes:
        boto: boto3 session, for `lambda_api.make_client`: Lambda's clients never repeat a call by themselves.

    Raises:
        EnvironmentProblem: There is no such profile, or no Region is chosen.
    """

    def __init__(self, region: str | None = None, profile: str | None = None) -> None:
        import boto3

        self._clients: dict[str, Any] = {}
        with reaching("AWS"):
            self.boto: boto3.session.Session = boto3.session.Session(
                region_name=region or os.environ.get("AWS_REGION"), profile_name=profile
            )
        if not self.boto.region_name:
            raise EnvironmentProblem("No AWS Region is chosen", hint="--region eu-west-1, or set AWS_REGION")

    @property
    def region(self) -> str:
        """The Region's name."""
        return self.boto.region_name

    def client(self, service: str) -> Any:
        """A client for calls that may be repeated: they read, or carry a token."""
        if service not in self._clients:  # making one takes longer than most calls
            self._clients[service] = patient_client(service, self.boto)
        return self._clients[service]

    def number(self) -> str:
        """The account's number: the first call that needs credentials.

        Raises:
            EnvironmentProblem: There are no credentials, or they are not valid.
        """
        with reaching("AWS"):
            return str(self.client("sts").get_caller_identity()["Account"])


@dataclass(frozen=True)
class Deployment:
    """The parts of a deployed stack, from its outputs.

    Attributes:
        functions: Names of the functions.
        bucket: Name of the bucket through which files come and go.
        file_system: Id of the file system.
    """

    stack: str
    functions: dict[Role, str]
    bucket: str
    file_system: str


def deployment(account: Account, stack: str = STACK) -> Deployment:
    """Look up a deployed stack.

    Raises:
        EnvironmentProblem: The Region has no such stack, or the stack was never completed.
    """
    outputs = stack_outputs(account.client("cloudformation"), stack)
    cure = str(Command("estafeta", "deploy", "--stack", stack, "--region", account.region))
    if outputs is None:
        raise EnvironmentProblem(f"There is no stack {stack!r} in {account.region}", hint=cure)
    try:
        return Deployment(
            stack=stack,
            functions={
                "worker": outputs["WorkerFunction"],
                "merge": outputs["MergeFunction"],
                "control": outputs["ControlFunction"],
            },
            bucket=outputs["Bucket"],
            file_system=outputs["FileSystemId"],
        )
    except KeyError as missing:
        raise EnvironmentProblem(
            f"The stack {stack!r} is not complete: it has no {missing.args[0]}", hint=cure
        ) from None


def stack_outputs(client: Any, stack: str) -> dict[str, str] | None:
    """The outputs of a stack by name, or None if there is no such stack."""
    found = describe_stack(client, stack)
    return None if found is None else {item["OutputKey"]: item["OutputValue"] for item in found.get("Outputs", ())}


def describe_stack(client: Any, stack: str) -> dict[str, Any] | None:
    """A stack as CloudFormation describes it, or None if there is none of that name."""
    from botocore.exceptions import ClientError

    with reaching("CloudFormation"):
        try:
            return dict(client.describe_stacks(StackName=stack)["Stacks"][0])
        except ClientError as error:
            if "does not exist" in error.response["Error"]["Message"]:  # the code is but "ValidationError"
                return None
            raise


def patient_client(service: str, boto: boto3.session.Session | None = None) -> Any:
    """A boto3 client that retries calls; by default from the environment's own settings."""
    import boto3
    from botocore.config import Config

    config = Config(
        retries={"mode": "standard", "total_max_attempts": ATTEMPTS},
        connect_timeout=CONNECT_TIMEOUT_S,
        read_timeout=READ_TIMEOUT_S,
        tcp_keepalive=True,
        user_agent_extra="estafeta",
        signature_version="s3v4" if service == "s3" else None,  # for presigned addresses, too
    )
    with reaching("AWS"):
        return (boto or boto3.session.Session()).client(service, config=config)  # type: ignore[call-overload]
