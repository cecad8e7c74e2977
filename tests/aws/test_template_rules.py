"""The template by the rules that a stack needs to live, each with a mutation that breaks it."""

from __future__ import annotations

import copy
from collections.abc import Callable, Iterator
from typing import Any

import pytest

from estafeta.client.connect import TEMPLATE
from estafeta.deploy.plan import BUCKET_TEMPLATE
from estafeta.local.template.reader import open_template

Resources = dict[str, dict[str, Any]]

FUNCTION, LOG_GROUP = "AWS::Lambda::Function", "AWS::Logs::LogGroup"
MOUNT_TARGET, ROLE, POLICY = "AWS::EFS::MountTarget", "AWS::IAM::Role", "AWS::IAM::ManagedPolicy"

LARGEST_BODY_BYTES = 51_200
"""Size limit of a template that is sent in the call itself (CloudFormation User Guide, "Quotas")."""

NOT_NARROWER = {
    "ec2:AssignPrivateIpAddresses",
    "ec2:CreateNetworkInterface",
    "ec2:DeleteNetworkInterface",
    "ec2:DescribeNetworkInterfaces",
    "ec2:DescribeSubnets",
    "ec2:UnassignPrivateIpAddresses",
}
"""Actions on `*` that attach a function to a VPC (Lambda Developer Guide, "Giving Lambda functions access")."""


def resources() -> Resources:
    return copy.deepcopy(open_template(TEMPLATE, "us-east-1", {}).resources)


def of(found: Resources, kind: str) -> dict[str, dict[str, Any]]:
    return {name: resource["Properties"] for name, resource in found.items() if resource["Type"] == kind}


def complaints(found: Resources) -> list[str]:
    """What is wrong with the resources of a template; nothing, if all rules are kept."""
    return [*of_functions(found), *of_failures(found), *of_permissions(found)]


def of_functions(found: Resources) -> Iterator[str]:
    targets, groups = set(of(found, MOUNT_TARGET)), of(found, LOG_GROUP)
    if len(targets) < 2:
        yield "fewer than two mount targets"
    for name, function in of(found, FUNCTION).items():
        if function.get("RecursiveLoop") != "Allow":
            yield f"{name} is stopped after 16 rounds"
        if not targets <= set(found[name].get("DependsOn", ())):
            yield f"{name} may be made before a mount target"
        group = function.get("LoggingConfig", {}).get("LogGroup", {}).get("Ref")
        if group not in groups or "RetentionInDays" not in groups[group]:
            yield f"{name} has no log group that expires"
        if not function.get("FileSystemConfigs"):
            yield f"{name} mounts nothing"
        if not function["VpcConfig"].get("Ipv6AllowedForDualStack"):
            yield f"{name} reaches no API"
        role = function["Role"]["Fn::GetAtt"].partition(".")[0]
        groups_ = [group["Ref"] for group in function["VpcConfig"]["SecurityGroupIds"]]
        if not all(role in found[group].get("DependsOn", ()) for group in groups_):
            yield f"{name} may lose its role before its network interfaces are removed"


def of_failures(found: Resources) -> Iterator[str]:
    heard = {
        config["FunctionName"]["Ref"]
        for config in of(found, "AWS::Lambda::EventInvokeConfig").values()
        if config["DestinationConfig"]["OnFailure"]["Destination"] == {"Fn::GetAtt": "Control.Arn"}
        and config["MaximumRetryAttempts"] == 2
    }
    rules = of(found, "AWS::Events::Rule")
    watched = [name for name, rule in rules.items() if rule["Targets"][0]["Arn"] == {"Fn::GetAtt": "Control.Arn"}]
    allowed = [permission["SourceArn"] for permission in of(found, "AWS::Lambda::Permission").values()]
    if not any({"Fn::GetAtt": f"{name}.Arn"} in allowed for name in watched):
        yield "nobody looks after runs that stand still"
    yield from (f"{name} fails unheard" for name in sorted(set(of(found, FUNCTION)) - {"Control"} - heard))


def of_permissions(found: Resources) -> Iterator[str]:
    for name, statement in statements(found):
        if statement["Effect"] != "Allow":
            continue
        actions, targets = as_list(statement["Action"]), as_list(statement["Resource"])
        yield from (f"{name} allows {action}" for action in actions if "*" in action)
        if "*" in targets and not set(actions) <= NOT_NARROWER:
            yield f"{name} allows {', '.join(sorted(set(actions) - NOT_NARROWER))} on everything"
        if any(action.startswith("lambda:") for action in actions):
            foreign = [target for target in targets if ":function:${AWS::StackName}-" not in str(target)]
            yield from (f"{name} may invoke {target}" for target in foreign)
        if any(action.startswith("elasticfilesystem:") for action in actions) and "AccessPointArn" not in str(
            statement.get("Condition")
        ):
            yield f"{name} may mount by another access point"


def statements(found: Resources) -> Iterator[tuple[str, dict[str, Any]]]:
    for name, policy in of(found, POLICY).items():
        yield from ((name, statement) for statement in policy["PolicyDocument"]["Statement"])
    for name, role in of(found, ROLE).items():
        for policy in role["Policies"]:
            yield from ((name, statement) for statement in policy["PolicyDocument"]["Statement"])


def as_list(value: Any) -> list[Any]:
    return value if isinstance(value, list) else [value]


def test_the_rules_are_kept() -> None:
    assert complaints(resources()) == []
    assert len(of(resources(), FUNCTION)) == 3


def without(name: str, key: str) -> Callable[[Resources], Any]:
    return lambda found: found[name]["Properties"].pop(key)


def statement(found: Resources, name: str, sid: str) -> dict[str, Any]:
    return next(s for owner, s in statements(found) if owner == name and s["Sid"] == sid)


MUTATIONS: dict[str, Callable[[Resources], Any]] = {
    "Worker is stopped": without("Worker", "RecursiveLoop"),
    "Merge is stopped": lambda found: found["Merge"]["Properties"].update(RecursiveLoop="Terminate"),
    "Control may be made before": lambda found: found["Control"]["DependsOn"].remove("MountTargetB"),
    "fewer than two": lambda found: found.pop("MountTargetA"),
    "Merge has no log group": without("Merge", "LoggingConfig"),
    "Control has no log group": without("ControlLogs", "RetentionInDays"),
    "Worker mounts nothing": without("Worker", "FileSystemConfigs"),
    "Merge reaches no API": lambda found: found["Merge"]["Properties"]["VpcConfig"].pop("Ipv6AllowedForDualStack"),
    "Merge may lose its role": lambda found: found["FunctionSecurityGroup"]["DependsOn"].remove("MergeRole"),
    "Worker fails unheard": lambda found: found.pop("WorkerEvents"),
    "nobody looks after runs": lambda found: found.pop("WatchdogPermission"),
    "ControlRole allows s3:GetObject on everything": lambda found: statement(
        found, "ControlRole", "TakeFromBucket"
    ).update(Resource="*"),
    "ControlRole allows s3:*": lambda found: statement(found, "ControlRole", "TakeFromBucket").update(Action="s3:*"),
    "FunctionPolicy may invoke *": lambda found: statement(found, "FunctionPolicy", "InvokeEachOther")[
        "Resource"
    ].append("*"),
    "another access point": lambda found: statement(found, "FunctionPolicy", "MountFileSystem").pop("Condition"),
}


@pytest.mark.parametrize("expected", MUTATIONS)
def test_each_rule_can_be_broken(expected: str) -> None:
    found = resources()
    MUTATIONS[expected](found)
    assert any(expected in complaint for complaint in complaints(found)), complaints(found)


def test_a_change_of_the_deletion_policy_is_a_change_of_metadata_too() -> None:
    """By itself CloudFormation says of it that there are no updates to be performed."""
    file_system = resources()["FileSystem"]
    assert file_system["DeletionPolicy"] == {"Ref": "DataPolicy"} == file_system["Metadata"]["Estafeta"]["DataPolicy"]


def test_the_zones_can_be_chosen() -> None:
    """Some have no functions in a VPC, and which is called the first differs from account to account."""
    template = open_template(TEMPLATE, "us-east-1", {"ZoneB": "us-east-1f"})
    zones = [template.resources[f"Subnet{which}"]["Properties"]["AvailabilityZone"] for which in "AB"]
    assert [template.condition(f"AnyZone{which}", which) for which in "AB"] == [True, False]
    assert [zone["Fn::If"][2] for zone in zones] == [{"Ref": "ZoneA"}, {"Ref": "ZoneB"}]


def test_the_templates_fit_into_the_call() -> None:
    for template in (TEMPLATE, BUCKET_TEMPLATE):
        assert len(template.read_bytes()) < LARGEST_BODY_BYTES


def test_the_local_service_reads_it_with_either_way_out_and_with_an_image() -> None:
    found = open_template(TEMPLATE, "us-east-1", {"Egress": "interface-endpoint", "ImageUri": "image"})
    kinds = {resource["Type"] for _, resource in found.of_type("AWS::EC2::VPCEndpoint")}
    assert kinds == {"AWS::EC2::VPCEndpoint"}
    assert len(list(found.of_type("AWS::EC2::VPCEndpoint"))) == 2
    assert not list(found.of_type("AWS::EC2::EgressOnlyInternetGateway"))
    worker = found.value(found.resources["Worker"]["Properties"]["Code"], "Worker")
    assert worker == {"ImageUri": "image"}
    variables = found.value(found.resources["Worker"]["Properties"]["Environment"], "Worker")["Variables"]
    assert variables["AWS_USE_DUALSTACK_ENDPOINT"] == "false"
    assert "ESTAFETA_LIBRARY" not in variables
