"""The names and tags of a stack's parts: its bucket, its functions' logs, its file systems."""

from collections.abc import Mapping
from typing import Any

from estafeta.aws.account import Account
from estafeta.aws.lambda_api import reaching
from estafeta.errors import UsageError

TAG = "estafeta:stack"
"""Tag on a stack's file system with the stack's name; the template sets it."""
MOST_LETTERS = 63
"""Letters of a bucket's name at most (S3 User Guide, "Bucket naming rules")."""


def bucket_name(stack: str, account: str, region: str) -> str:
    """Name of a stack's bucket: unique over all of AWS, and always the same.

    Raises:
        UsageError: The stack's name does not fit.
    """
    name = f"{stack}-{account}-{region}"
    letters = stack.replace("-", "")
    if len(name) > MOST_LETTERS or not (
        letters.isascii() and letters.isalnum() and letters.islower() and stack[0].isalpha()
    ):
        raise UsageError(
            f"{stack!r} cannot be the name of a stack",
            hint=f"lower-case letters, digits and '-', at most {MOST_LETTERS - len(name) + len(stack)}, a letter first",
        )
    return name


def bucket_stack(stack: str) -> str:
    """Name of the stack with the bucket."""
    return f"{stack}-bucket"


def file_systems(account: Account, stack: str) -> list[dict[str, Any]]:
    """File systems of the stacks of a name, the newest first, without deleted ones."""
    with reaching("EFS"):
        pages = account.client("efs").get_paginator("describe_file_systems").paginate()
        found = [dict(system) for page in pages for system in page["FileSystems"] if _is_of(system, stack)]
    return sorted(found, key=lambda system: system["CreationTime"], reverse=True)


def _is_of(system: Mapping[str, Any], stack: str) -> bool:
    mine = any(tag["Key"] == TAG and tag["Value"] == stack for tag in system.get("Tags", ()))
    return mine and system["LifeCycleState"] not in ("deleting", "deleted")
