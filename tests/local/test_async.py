"""Asynchronous events: queue, retries, throttling, failure destination."""

import asyncio
import itertools
import json
import time
from pathlib import Path
from typing import cast

import pytest
from botocore.exceptions import ClientError

from estafeta.local.fault_log import FaultLog
from estafeta.local.faults import Faults, Injectors
from estafeta.local.template.config import AsyncConfig
from estafeta.local.template.reader import read_template
from estafeta.local.work import async_queue
from estafeta.local.work.async_queue import AsyncQueue
from estafeta.local.work.functions import FunctionVersion, Registry
from estafeta.local.work.invocation import Invocation
from estafeta.local.work.pool import Pool

from .conftest import TEMPLATE, LocalService, Start, eventually, notes


def records(service: LocalService, request_id: str) -> list[dict]:
    found = [line["record"] for line in notes(service.sink)]
    return [record for record in found if record["requestContext"]["requestId"] == request_id]


def test_an_event_is_accepted_at_once_and_run(service: LocalService, tmp_path: Path) -> None:
    raw = service.lambda_client.invoke(
        FunctionName="record", InvocationType="Event", Payload=f'{{"path": "{tmp_path / "notes"}"}}'
    )
    assert raw["StatusCode"] == 202
    assert raw["Payload"].read() == b""
    [line] = eventually(lambda: notes(tmp_path / "notes"))
    assert line["id"] == raw["ResponseMetadata"]["RequestId"]


def test_many_events_run_at_the_same_time(service: LocalService, tmp_path: Path) -> None:
    for _ in range(4):
        service.send("meet", {"path": str(tmp_path / "here"), "others": 4, "met": str(tmp_path / "met")})
    lines = eventually(lambda: len(notes(tmp_path / "met")) == 4 and notes(tmp_path / "met"))
    assert len({line["pid"] for line in lines}) == 4


def test_a_failed_event_is_tried_again_under_the_same_id(service: LocalService, tmp_path: Path) -> None:
    path = tmp_path / "notes"
    request_id = service.send("record", {"path": str(path), "failures": 2})
    lines = eventually(lambda: len(notes(path)) == 3 and notes(path))
    assert {line["id"] for line in lines} == {request_id}
    times = [line["time"] for line in lines]
    first, second = (later - earlier for earlier, later in itertools.pairwise(times))
    assert first >= 60 * 0.005
    assert second >= 120 * 0.005
    assert records(service, request_id) == []


def test_an_event_that_keeps_failing_goes_to_the_destination(service: LocalService, tmp_path: Path) -> None:
    path = tmp_path / "notes"
    event = {"path": str(path), "failures": 9}
    request_id = service.send("record", event)
    [record] = eventually(lambda: records(service, request_id))
    assert len(notes(path)) == 3
    assert record.pop("timestamp").endswith("Z")
    response = record.pop("responsePayload")
    assert record == {
        "version": "1.0",
        "requestContext": {
            "requestId": request_id,
            "functionArn": "arn:aws:lambda:us-east-1:000000000000:function:record:$LATEST",
            "condition": "RetriesExhausted",
            "approximateInvokeCount": 3,
        },
        "requestPayload": event,
        "responseContext": {"statusCode": 200, "executedVersion": "$LATEST", "functionError": "Unhandled"},
    }
    assert response["errorType"] == "RuntimeError"
    assert response["errorMessage"] == "attempt 3"


def test_retries_and_destination_can_be_set_per_version(start: Start, tmp_path: Path) -> None:
    service = start()
    client = service.lambda_client
    version = client.publish_version(FunctionName="record")["Version"]
    with pytest.raises(client.exceptions.ResourceNotFoundException):
        client.get_function_event_invoke_config(FunctionName="record", Qualifier=version)
    client.put_function_event_invoke_config(
        FunctionName="record",
        Qualifier=version,
        MaximumRetryAttempts=0,
        MaximumEventAgeInSeconds=120,
        DestinationConfig={"OnFailure": {"Destination": "arn:aws:lambda:us-east-1:000000000000:function:sink"}},
    )
    config = client.get_function_event_invoke_config(FunctionName="record", Qualifier=version)
    assert config["MaximumRetryAttempts"] == 0
    assert config["MaximumEventAgeInSeconds"] == 120
    assert config["DestinationConfig"]["OnFailure"]["Destination"].endswith(":function:sink")
    request_id = service.send("record", {"path": str(tmp_path / "notes"), "failures": 9}, Qualifier=version)
    [record] = eventually(lambda: records(service, request_id))
    assert record["requestContext"]["approximateInvokeCount"] == 1
    assert record["requestContext"]["functionArn"].endswith(f":function:record:{version}")
    assert len(notes(tmp_path / "notes")) == 1


def test_a_timeout_is_retried_too(start: Start, tmp_path: Path) -> None:
    service = start()
    path = tmp_path / "notes"
    service.send("short", {"seconds": 60, "path": str(path)})
    lines = eventually(lambda: len(notes(path)) == 3 and notes(path))
    assert len({line["pid"] for line in lines}) == 3


def test_over_the_account_limit_calls_are_refused_and_events_wait(start: Start, tmp_path: Path) -> None:
    service = start(account_limit=1)
    path, until = tmp_path / "notes", tmp_path / "until"
    ids = [service.send("hold", {"path": str(path), "until": str(until)})]
    eventually(lambda: notes(path))
    with pytest.raises(ClientError) as caught:
        service.call("echo")
    response = caught.value.response
    assert response["Error"]["Code"] == "TooManyRequestsException"
    assert response["Reason"] == "ConcurrentInvocationLimitExceeded"
    assert response["ResponseMetadata"]["HTTPStatusCode"] == 429
    ids.append(service.send("hold", {"path": str(path), "until": str(until)}))
    assert len(notes(path)) == 1
    until.touch()
    eventually(lambda: [line["id"] for line in notes(path)] == ids)


def test_reserved_concurrency_bounds_one_function_only(start: Start, tmp_path: Path) -> None:
    service = start()
    service.lambda_client.put_function_concurrency(FunctionName="hold", ReservedConcurrentExecutions=1)
    path, until = tmp_path / "notes", tmp_path / "until"
    service.send("hold", {"path": str(path), "until": str(until)})
    eventually(lambda: notes(path))
    with pytest.raises(service.lambda_client.exceptions.TooManyRequestsException) as caught:
        service.call("hold", {})
    assert caught.value.response["Reason"] == "ReservedFunctionConcurrentInvocationLimitExceeded"
    assert service.call("echo", 1).payload == 1


class FullPool:
    """A pool without room for one function, which keeps the invocations of others."""

    def __init__(self) -> None:
        self.refused = 0
        self.taken: list[Invocation] = []

    def throttle(self, function: FunctionVersion) -> str | None:
        full = function.config.name == "echo"
        self.refused += full
        return "full" if full else None

    def submit(self, invocation: Invocation) -> None:
        self.taken.append(invocation)


def test_an_event_that_is_too_old_is_given_up(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    registry = Registry(read_template(TEMPLATE, region="us-east-1"), "us-east-1", tmp_path / "versions.json")
    registry.set_event_config(registry.function("echo"), "$LATEST", AsyncConfig(max_event_age_s=60, on_failure="sink"))
    pool = FullPool()

    async def scenario() -> str:
        queue = AsyncQueue(registry, cast(Pool, pool), Injectors(Faults()), FaultLog(tmp_path), delay_scale=0.0)
        began_s, loop_time = time.monotonic(), asyncio.get_running_loop().time
        with monkeypatch.context() as patched:
            patched.setattr(async_queue, "monotonic", lambda: began_s)
            request_id = queue.accept(registry.resolve("echo"), "arn", b"1")
            patched.setattr(async_queue, "monotonic", lambda: began_s + 59)
            deadline_s = loop_time() + 10
            while pool.refused < 5 and loop_time() < deadline_s:
                await asyncio.sleep(0)
            assert not pool.taken, "not too old yet"
            patched.setattr(async_queue, "monotonic", lambda: began_s + 61)
            while not pool.taken and loop_time() < deadline_s:
                await asyncio.sleep(0)
        return request_id

    request_id = asyncio.run(scenario())
    [invocation] = pool.taken
    assert invocation.function.config.name == "sink"
    context = json.loads(invocation.payload)["requestContext"]
    assert context["condition"] == "EventAgeExceeded"
    assert context["requestId"] == request_id
    assert context["approximateInvokeCount"] == 0


def test_reserved_concurrency_zero_sends_events_straight_to_the_destination(start: Start, tmp_path: Path) -> None:
    service = start()
    service.lambda_client.put_function_concurrency(FunctionName="record", ReservedConcurrentExecutions=0)
    request_id = service.send("record", {"path": str(tmp_path / "notes")})
    [record] = eventually(lambda: records(service, request_id))
    assert record["requestContext"]["approximateInvokeCount"] == 0
    assert "responseContext" not in record
    assert not (tmp_path / "notes").exists()
