"""An account with a stack in it: the local service stands for Lambda and CloudWatch Logs, moto for all else.

boto3 is told by the environment variables that every AWS SDK knows. That functions find moto's S3 is said in their
template.
"""

from __future__ import annotations

import json
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import Any

import pytest

from estafeta import local
from estafeta.aws.account import patient_client
from estafeta.aws.bucket import Bucket
from estafeta.client.connect import TEMPLATE

REGION = "us-east-1"
OUTPUTS = {
    "WorkerFunction": "estafeta-worker",
    "MergeFunction": "estafeta-merge",
    "ControlFunction": "estafeta-control",
    "FileSystemId": "fs-0123456789abcdef0",
}

VARIABLES = "Variables:\n"
"""The line of the template below which a function's variables stand."""


def point_at(moto: str, patch: pytest.MonkeyPatch) -> None:
    """Have boto3 find the account in environment variables, and nothing of this machine's user."""
    for service in ("S3", "CLOUDFORMATION", "STS", "EC2", "EFS"):
        patch.setenv(f"AWS_ENDPOINT_URL_{service}", moto)
    settings = {
        "AWS_ACCESS_KEY_ID": "k",
        "AWS_SECRET_ACCESS_KEY": "s",
        "AWS_REGION": REGION,
        "AWS_DEFAULT_REGION": REGION,
        "AWS_CONFIG_FILE": "/dev/null",
        "AWS_SHARED_CREDENTIALS_FILE": "/dev/null",
    }
    for name, value in settings.items():
        patch.setenv(name, value)


def functions_at(url: str, patch: pytest.MonkeyPatch) -> None:
    """Have boto3 find functions and their logs there."""
    for name in ("LAMBDA", "CLOUDWATCH_LOGS"):
        patch.setenv(f"AWS_ENDPOINT_URL_{name}", url)


def with_moto(text: str, moto: str) -> str:
    """A template whose functions find S3 there."""
    return text.replace(VARIABLES, f"{VARIABLES}          AWS_ENDPOINT_URL_S3: {moto}\n")


@contextmanager
def stack_in(
    home: Path, moto: str, stack: str = "estafeta", change: tuple[str, str] = ("", ""), **options: Any
) -> Iterator[Path]:
    """Let there be a stack, and the environment point at it; gives the folder that stands for EFS.

    Args:
        home: Folder of all its files, and the store of "this machine".
        moto: Address of the server.
        stack: Its name; its bucket is called so, too.
        change: A text of the template, and what shall stand there instead.
        options: Options of the local service.
    """
    template, root = home / "template.yaml", home / "efs"
    template.write_text(with_moto(TEMPLATE.read_text(), moto).replace(*change))
    service = local.ensure(home / "service", local.Options(template=template, root=root, **options))
    with pytest.MonkeyPatch.context() as patch:
        point_at(moto, patch)
        functions_at(service.url, patch)
        patch.setenv("AWS_ACCESS_KEY_ID", service.access_key)
        patch.setenv("AWS_SECRET_ACCESS_KEY", service.secret_key)
        patch.setenv("ESTAFETA_HOME", str(home / "here"))
        resources = {"Bucket": {"Type": "AWS::S3::Bucket", "Properties": {"BucketName": stack}}}
        outputs = {name: {"Value": value} for name, value in {**OUTPUTS, "Bucket": stack}.items()}
        stacks = patient_client("cloudformation")
        stacks.create_stack(StackName=stack, TemplateBody=json.dumps({"Resources": resources, "Outputs": outputs}))
        try:
            yield root
        finally:
            Bucket(stack, patient_client("s3")).remove("")
            stacks.delete_stack(StackName=stack)
            local.stop(home / "service")
