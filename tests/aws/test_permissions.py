"""The policies in `deploy/` allow what the client calls, and what CloudFormation does in its caller's name.

What CloudFormation does is taken from the handlers of the resource types' own schemas, as cfn-lint ships them.
"""

from __future__ import annotations

import ast
import json
from collections.abc import Iterator
from fnmatch import fnmatchcase
from functools import cache
from pathlib import Path
from typing import Any

import botocore.session
import pytest
from botocore import xform_name

import estafeta
from estafeta.client.connect import TEMPLATE
from estafeta.deploy.plan import BUCKET_TEMPLATE
from estafeta.local.template.reader import open_template

SOURCE, POLICIES = Path(estafeta.__file__).parent, Path(__file__).parents[2] / "deploy"
SERVICES = ("cloudformation", "ec2", "efs", "lambda", "logs", "s3", "sts")
LARGEST_POLICY = 6144
"""Characters of a managed policy, white space left out (IAM User Guide, "IAM and AWS STS quotas")."""

CALLS = {
    "abort_multipart_upload": ("s3:AbortMultipartUpload", "use"),
    "create_change_set": ("cloudformation:CreateChangeSet", "deploy"),
    "delete_change_set": ("cloudformation:DeleteChangeSet", "deploy"),
    "delete_file_system": ("elasticfilesystem:DeleteFileSystem", "deploy"),
    "delete_objects": ("s3:DeleteObject", "use"),
    "delete_stack": ("cloudformation:DeleteStack", "deploy"),
    "describe_change_set": ("cloudformation:DescribeChangeSet", "deploy"),
    "describe_events": ("cloudformation:DescribeEvents", "deploy"),
    "describe_file_systems": ("elasticfilesystem:DescribeFileSystems", "deploy"),
    "describe_log_groups": ("logs:DescribeLogGroups", "deploy"),
    "describe_network_interfaces": ("ec2:DescribeNetworkInterfaces", "deploy"),
    "describe_stack_events": ("cloudformation:DescribeStackEvents", "deploy"),
    "describe_stacks": ("cloudformation:DescribeStacks", "use"),
    "execute_change_set": ("cloudformation:ExecuteChangeSet", "deploy"),
    "filter_log_events": ("logs:FilterLogEvents", "use"),
    "get_account_settings": ("lambda:GetAccountSettings", "use"),
    "get_caller_identity": (None, "use"),  # nobody needs permission for it
    "get_function_concurrency": ("lambda:GetFunctionConcurrency", "use"),
    "get_function_configuration": ("lambda:GetFunctionConfiguration", "use"),
    "get_function_event_invoke_config": ("lambda:GetFunctionEventInvokeConfig", "use"),
    "get_function_recursion_config": ("lambda:GetFunctionRecursionConfig", "use"),
    "get_object": ("s3:GetObject", "use"),
    "head_bucket": ("s3:ListBucket", "use"),
    "head_object": ("s3:GetObject", "use"),
    "invoke": ("lambda:InvokeFunction", "use"),
    "list_multipart_uploads": ("s3:ListBucketMultipartUploads", "use"),
    "list_objects_v2": ("s3:ListBucket", "use"),
    "publish_version": ("lambda:PublishVersion", "use"),
    "put_function_event_invoke_config": ("lambda:PutFunctionEventInvokeConfig", "use"),
    "update_function_configuration": ("lambda:UpdateFunctionConfiguration", "use"),
    "upload_fileobj": ("s3:PutObject", "use"),
}
"""Each call in the source, the action that it needs, and the policy that has to allow it."""

NOT_DONE = (
    "*:*Replication*",
    "kms:*",
    "s3tables:*",
    "s3files:*",
    "vpc-lattice:*",
    "vpce:*",
    "firehose:*",
    "ec2:*Ipam*",
    "ec2:CreateVpcEncryptionControl",
    "ec2:ModifyVpcTenancy",
    "iam:*Group*",
    "iam:*User*",
    "iam:*PermissionsBoundary",
    "lambda:*CapacityProvider",
    "lambda:GetLayerVersion",
    "lambda:GetCodeSigningConfig",
)
"""Patterns of actions that handlers do for properties that the templates do not have."""


@cache
def allowed(policy: str) -> tuple[str, ...]:
    """Patterns of the actions that a policy allows."""
    document = json.loads((POLICIES / f"iam-{policy}.json").read_text())
    return tuple(action for statement in document["Statement"] for action in as_list(statement["Action"]))


def allows(policy: str, action: str) -> bool:
    return any(fnmatchcase(action, pattern) for pattern in allowed(policy))


def as_list(value: Any) -> list[Any]:
    return value if isinstance(value, list) else [value]


def calls() -> Iterator[str]:
    """The calls of AWS's APIs in the source, and the calls that paginators make."""
    session = botocore.session.get_session()
    known = {xform_name(name) for service in SERVICES for name in session.get_service_model(service).operation_names}
    for path in SOURCE.rglob("*.py"):
        if "local" in path.relative_to(SOURCE).parts:
            continue
        for node in ast.walk(ast.parse(path.read_text())):
            if isinstance(node, ast.Call) and isinstance(node.func, ast.Attribute):
                name = node.func.attr
                if name == "get_paginator" and isinstance(node.args[0], ast.Constant):
                    yield str(node.args[0].value)
                elif name in known or name == "upload_fileobj":
                    yield name


def test_policies_allow_each_call_of_the_client() -> None:
    assert set(calls()) == set(CALLS)
    missing = [(policy, action) for action, policy in CALLS.values() if action and not allows(policy, action)]
    assert missing == []


def test_no_action_is_allowed_without_a_call_that_needs_it() -> None:
    assert set(allowed("use")) == {action for action, policy in CALLS.values() if policy == "use" and action}


def test_deploy_policy_allows_what_cloudformation_does_for_each_resource() -> None:
    manager = pytest.importorskip("cfnlint.schema").PROVIDER_SCHEMA_MANAGER
    bucket = open_template(BUCKET_TEMPLATE, "us-east-1", {"BucketName": "name"})
    resources = [*open_template(TEMPLATE, "us-east-1", {}).resources.values(), *bucket.resources.values()]
    missing = {
        action
        for kind in {resource["Type"] for resource in resources}
        for name, handler in manager.get_resource_schema("us-east-1", kind).schema["handlers"].items()
        if name != "list"
        for action in handler["permissions"]
        if not allows("deploy", action) and not any(fnmatchcase(action, pattern) for pattern in NOT_DONE)
    }
    assert missing == set()


@pytest.mark.parametrize("policy", ["use", "deploy"])
def test_the_policies_are_not_too_long(policy: str) -> None:
    assert len("".join((POLICIES / f"iam-{policy}.json").read_text().split())) <= LARGEST_POLICY
