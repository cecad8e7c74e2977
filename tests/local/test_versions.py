"""Settings and versions of functions, through boto3."""

import json
from pathlib import Path

import pytest
from botocore.exceptions import ClientError

from estafeta.local import stop

from .conftest import LocalService, Start


def test_settings_can_be_read(service: LocalService) -> None:
    client = service.lambda_client
    config = client.get_function_configuration(FunctionName="describe")
    assert config["FunctionArn"] == "arn:aws:lambda:us-east-1:000000000000:function:describe"
    assert config["Version"] == "$LATEST"
    assert config["MemorySize"] == 3600
    assert config["Timeout"] == 20
    assert config["Handler"] == "handlers.describe"
    assert config["State"] == "Active"
    assert config["Environment"]["Variables"]["DATA"] == "/mnt/shared/datasets"
    assert config["FileSystemConfigs"][0]["LocalMountPath"] == "/mnt/shared"
    assert config["LoggingConfig"]["LogGroup"] == "/custom/describe"
    names = [function["FunctionName"] for function in client.list_functions()["Functions"]]
    assert {"echo", "describe", "sink"} <= set(names)


def test_limits_of_the_account_and_the_recursion_guard_can_be_read(start: Start) -> None:
    client = start(account_limit=50).lambda_client
    client.put_function_concurrency(FunctionName="echo", ReservedConcurrentExecutions=7)
    limits = client.get_account_settings()["AccountLimit"]
    assert (limits["ConcurrentExecutions"], limits["UnreservedConcurrentExecutions"]) == (50, 43)
    assert client.get_function_concurrency(FunctionName="echo")["ReservedConcurrentExecutions"] == 7
    assert "ReservedConcurrentExecutions" not in client.get_function_concurrency(FunctionName="loop")
    assert client.get_function_recursion_config(FunctionName="loop")["RecursiveLoop"] == "Terminate"
    assert client.get_function_recursion_config(FunctionName="allowed-loop")["RecursiveLoop"] == "Allow"


def test_a_published_version_keeps_its_settings(start: Start) -> None:
    service = start()
    client = service.lambda_client
    client.update_function_configuration(FunctionName="describe", Timeout=7, Environment={"Variables": {"RUN": "a"}})
    first = client.publish_version(FunctionName="describe")
    assert first["Version"] == "1"
    assert first["FunctionArn"].endswith(":function:describe:1")
    updated = client.update_function_configuration(FunctionName="describe", MemorySize=1769)
    assert updated["Timeout"] == 7, "what is not mentioned stays"
    second = client.publish_version(FunctionName="describe")
    assert second["Version"] == "2"

    one = service.call("describe", Qualifier="1")
    two = service.call("describe:2")
    assert one.raw["ExecutedVersion"] == "1"
    assert one.payload["environ"]["AWS_LAMBDA_FUNCTION_VERSION"] == "1"
    assert one.payload["environ"]["AWS_LAMBDA_FUNCTION_MEMORY_SIZE"] == "3600"
    assert one.payload["environ"]["RUN"] == "a"
    assert one.payload["arn"].endswith(":describe:1")
    assert one.payload["remaining_ms"] <= 7000
    assert two.payload["environ"]["AWS_LAMBDA_FUNCTION_MEMORY_SIZE"] == "1769"
    versions = client.list_versions_by_function(FunctionName="describe")["Versions"]
    assert [version["Version"] for version in versions] == ["$LATEST", "1", "2"]


def test_publishing_the_same_again_gives_the_same_version(service: LocalService) -> None:
    client = service.lambda_client
    numbers = [client.publish_version(FunctionName="fail")["Version"] for _ in range(2)]
    assert numbers == ["1", "1"]
    client.update_function_configuration(FunctionName="fail", Timeout=9)
    client.update_function_configuration(FunctionName="fail", Timeout=20)
    assert client.publish_version(FunctionName="fail")["Version"] == "1", "only the difference counts, not the history"


def test_a_change_gives_up_the_environments_with_the_old_settings(service: LocalService) -> None:
    before = service.call("count").payload
    service.lambda_client.update_function_configuration(FunctionName="count", Timeout=11)
    after = service.call("count").payload
    assert after["count"] == 1
    assert after["pid"] != before["pid"]


def test_versions_have_environments_of_their_own(service: LocalService) -> None:
    service.lambda_client.publish_version(FunctionName="count")
    pids = {service.call("count", Qualifier=qualifier).payload["pid"] for qualifier in ("$LATEST", "1", "$LATEST", "1")}
    assert len(pids) == 2


def test_versions_survive_the_service(start: Start, tmp_path: Path) -> None:
    client = start().lambda_client
    client.update_function_configuration(FunctionName="count", Timeout=11)
    client.publish_version(FunctionName="count")
    client.put_function_event_invoke_config(FunctionName="count", Qualifier="1", MaximumRetryAttempts=1)
    stop(tmp_path)
    client = start().lambda_client
    assert client.get_function_configuration(FunctionName="count")["Timeout"] == 20, "as deployed"
    assert client.get_function_configuration(FunctionName="count", Qualifier="1")["Timeout"] == 11
    config = client.get_function_event_invoke_config(FunctionName="count", Qualifier="1")
    assert config["MaximumRetryAttempts"] == 1
    assert client.publish_version(FunctionName="count")["Version"] == "2"


@pytest.mark.parametrize(
    "change",
    [
        {"Timeout": 901},
        {"MemorySize": 20_000},
        {"Environment": {"Variables": {"AWS_REGION": "x"}}},
        {"Handler": "other.handler"},
    ],
    ids=["timeout", "memory", "reserved name", "not offered"],
)
def test_bad_changes_are_refused_and_have_no_effect(service: LocalService, change: dict) -> None:
    client = service.lambda_client
    before = client.get_function_configuration(FunctionName="echo")["RevisionId"]
    with pytest.raises(ClientError, match="InvalidParameterValueException"):
        client.update_function_configuration(FunctionName="echo", **change)
    assert client.get_function_configuration(FunctionName="echo")["RevisionId"] == before


def test_contradicting_qualifiers_are_refused(service: LocalService) -> None:
    with pytest.raises(ClientError, match="qualifier"):
        service.lambda_client.invoke(FunctionName="echo:$LATEST", Qualifier="1", Payload=json.dumps(1))


def test_an_operation_that_is_not_offered_says_so(service: LocalService) -> None:
    with pytest.raises(ClientError, match="UnknownOperationException"):
        service.lambda_client.list_layers()
