"""Each call to Lambda and CloudWatch Logs, as botocore's models of these services have it.

The clients that Estafeta makes do not check parameters, since that takes a fifth of the time of a call; these do.
"""

from __future__ import annotations

import base64
import json
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import boto3
import pytest
from botocore.response import StreamingBody
from botocore.stub import Stubber

from conformance.clock import VirtualClock
from estafeta.aws.lambda_api import REFUSED, REFUSED_S, LambdaInvoker
from estafeta.client.backend import LambdaBackend
from estafeta.client.run import Run
from estafeta.errors import EnvironmentProblem, UsageError
from estafeta.protocol.spec import FunctionSettings, Role
from estafeta.protocol.verbs import RunsVerb

NAMES: dict[Role, str] = {"worker": "s-worker", "merge": "s-merge", "control": "s-control"}


@pytest.fixture
def clients() -> tuple[Any, Any]:
    keys = {"region_name": "eu-west-1", "aws_access_key_id": "k", "aws_secret_access_key": "s"}
    return boto3.client("lambda", **keys), boto3.client("logs", **keys)


@pytest.fixture
def functions(clients: tuple[Any, Any]) -> Iterator[Stubber]:
    with Stubber(clients[0]) as stub:
        yield stub
        stub.assert_no_pending_responses()


@pytest.fixture
def logs(clients: tuple[Any, Any]) -> Iterator[Stubber]:
    with Stubber(clients[1]) as stub:
        yield stub
        stub.assert_no_pending_responses()


@pytest.fixture
def backend(clients: tuple[Any, Any], functions: Stubber, logs: Stubber) -> LambdaBackend:
    for name in NAMES.values():
        functions.add_response("get_function_configuration", configuration(name), {"FunctionName": name})
    return LambdaBackend("aws", NAMES, *clients)


def configuration(name: str, **changes: Any) -> dict[str, Any]:
    return {
        "FunctionName": name,
        "MemorySize": 1769,
        "Timeout": 900,
        "State": "Active",
        "LastUpdateStatus": "Successful",
        **changes,
    }


def answer(functions: Stubber, verb: dict[str, Any], value: Any, **more: Any) -> None:
    """Expect a verb, and answer it."""
    content = json.dumps(value).encode()
    functions.add_response(
        "invoke",
        {"StatusCode": 200, "Payload": StreamingBody(_Stream(content), len(content)), **more},
        {"FunctionName": "s-control", "InvocationType": "RequestResponse", "Payload": _Json(verb)},
    )


class _Json:
    """Equal to each text of the same document, whatever the order of its keys."""

    def __init__(self, value: Any) -> None:
        self._value = value

    def __eq__(self, other: object) -> bool:
        return isinstance(other, bytes) and json.loads(other) == self._value

    __hash__ = None  # type: ignore[assignment]


class _Stream:
    def __init__(self, content: bytes) -> None:
        self._left = content

    def read(self, amount: int | None = None) -> bytes:
        found, self._left = self._left[:amount], self._left[amount:] if amount is not None else b""
        return found

    def close(self) -> None: ...


def refuse(functions: Stubber, code: str) -> None:
    functions.add_client_error("invoke", code, http_status_code=429)


@pytest.mark.parametrize(
    ("name", "verb"),
    [
        ("clean", {"verb": "clean", "run": "r", "keep_final": False}),
        ("stop", {"verb": "stop", "run": "r"}),
        ("resume", {"verb": "resume", "run": "r", "limits": {}}),
    ],
)
def test_the_verbs_of_a_run(name: str, verb: dict[str, Any], backend: LambdaBackend, functions: Stubber) -> None:
    answer(functions, verb, {"error": {"kind": "UsageError", "message": "not now", "hint": "h", "exit_code": 2}})
    with pytest.raises(UsageError, match="not now"):
        getattr(Run("r", backend), name)()


def test_a_file_is_fetched(backend: LambdaBackend, functions: Stubber, tmp_path: Any) -> None:
    state = json.dumps({"has_optimizer_state": False}).encode()
    for file, content in (("model.safetensors", b"weights"), ("state.json", state)):
        verb = {"verb": "fetch", "run": "r", "which": "final", "file": file, "offset": 0, "bucket": None}
        answer(functions, verb, {"data": base64.b64encode(content).decode(), "size": len(content)})
    assert Run("r", backend).export(tmp_path).read_bytes() == b"weights"


def test_failed_fetch_leaves_no_file(backend: LambdaBackend, functions: Stubber, tmp_path: Path) -> None:
    error = {"kind": "UsageError", "message": "has not ended", "hint": "h", "exit_code": 2}
    verb = {"verb": "fetch", "run": "r", "which": "final", "file": "model.safetensors", "offset": 0, "bucket": None}
    answer(functions, verb, {"error": error})
    with pytest.raises(UsageError, match="has not ended"):
        Run("r", backend).export(tmp_path)
    assert not list(tmp_path.iterdir())


@pytest.mark.parametrize("code", sorted(REFUSED))
def test_a_call_that_was_refused_is_repeated(code: str, clients: tuple[Any, Any], functions: Stubber) -> None:
    """GIVEN an error that says that nothing has been run, and is one of Invoke THEN the call is made again."""
    operation = clients[0].meta.service_model.operation_model("Invoke")
    assert code in {shape.name for shape in operation.error_shapes}
    for _ in range(3):
        refuse(functions, code)
    answer(functions, {}, {"run": "r"})
    clock = VirtualClock()
    assert LambdaInvoker(of(NAMES), clients[0], clock).call("control", {}) == {"run": "r"}
    assert clock.monotonic() == 0.5 + 1 + 2


@pytest.mark.parametrize("code", sorted(REFUSED))
def test_an_event_that_was_refused_is_sent_again(code: str, clients: tuple[Any, Any], functions: Stubber) -> None:
    """A function that has been idle for two weeks refuses what comes first; nobody repeats what a client has called."""
    refuse(functions, code)
    functions.add_response(
        "invoke",
        {"StatusCode": 202, "Payload": StreamingBody(_Stream(b""), 0)},
        {"FunctionName": "s-worker", "InvocationType": "Event", "Payload": b"{}"},
    )
    clock = VirtualClock()
    LambdaInvoker(of(NAMES), clients[0], clock).send("worker", {})
    assert clock.monotonic() == 0.5


def test_it_is_not_repeated_for_ever(clients: tuple[Any, Any], functions: Stubber) -> None:
    class Refused(VirtualClock):
        """Time in which the next call is refused, too."""

        def sleep(self, seconds: float) -> None:
            super().sleep(seconds)
            refuse(functions, "TooManyRequestsException")

    clock = Refused()
    refuse(functions, "TooManyRequestsException")
    with pytest.raises(clients[0].exceptions.TooManyRequestsException):
        LambdaInvoker(of(NAMES), clients[0], clock).send("worker", {})
    assert REFUSED_S <= clock.monotonic() < REFUSED_S + 8


@pytest.mark.parametrize("code", ["ServiceException", "EFSIOException", "InvalidParameterValueException"])
def test_any_other_error_is_the_last_word(code: str, backend: LambdaBackend, functions: Stubber) -> None:
    """The function may have run: whoever repeats that must mean it."""
    functions.add_client_error("invoke", code, "says Lambda", http_status_code=500)
    with pytest.raises(EnvironmentProblem, match="says Lambda"):
        backend.call(RunsVerb())


def test_a_function_that_was_killed(backend: LambdaBackend, functions: Stubber) -> None:
    answer(
        functions,
        {"verb": "runs", "after": ""},
        {"errorType": "Sandbox.Timedout", "errorMessage": "Task timed out"},
        FunctionError="Unhandled",
    )
    with pytest.raises(EnvironmentProblem, match=r"s-control failed: Sandbox.Timedout: Task timed out"):
        backend.call(RunsVerb())


def test_an_event(clients: tuple[Any, Any], functions: Stubber) -> None:
    functions.add_response(
        "invoke",
        {"StatusCode": 202, "Payload": StreamingBody(_Stream(b""), 0)},
        {"FunctionName": "s-worker", "Qualifier": "3", "InvocationType": "Event", "Payload": b'{"run": "r"}'},
    )
    settings = {**of(NAMES), "worker": of(NAMES)["worker"].model_copy(update={"qualifier": "3"})}
    LambdaInvoker(settings, clients[0]).send("worker", {"run": "r"})


def test_settings_for_one_run(backend: LambdaBackend, functions: Stubber) -> None:
    """A version is published with them, waited for, given the failure destination; the function gets its own back."""
    name, destination = "s-worker", {"OnFailure": {"Destination": "arn:aws:lambda:eu-west-1:1:function:s-control"}}
    for deployed in NAMES.values():  # another client may have had settings of its own there when this one began
        functions.add_response("get_function_configuration", configuration(deployed), {"FunctionName": deployed})
    functions.add_response("get_function_configuration", configuration(name), {"FunctionName": name})
    functions.add_response(
        "update_function_configuration",
        configuration(name, MemorySize=2000),
        {"FunctionName": name, "MemorySize": 2000, "Timeout": 900},
    )
    pending = configuration(name, LastUpdateStatus="InProgress")
    for state in (pending, configuration(name)):
        functions.add_response("get_function_configuration", state, {"FunctionName": name})
    functions.add_response(
        "publish_version", configuration(name, MemorySize=2000, Version="7", State="Pending"), {"FunctionName": name}
    )
    functions.add_response("get_function_configuration", configuration(name), {"FunctionName": name})
    functions.add_response(
        "update_function_configuration", configuration(name), {"FunctionName": name, "MemorySize": 1769, "Timeout": 900}
    )
    functions.add_response("get_function_configuration", configuration(name), {"FunctionName": name})
    for state_ in ("Pending", "Active"):
        functions.add_response(
            "get_function_configuration", configuration(name, State=state_), {"FunctionName": name, "Qualifier": "7"}
        )
    functions.add_response(
        "get_function_event_invoke_config",
        {"MaximumRetryAttempts": 2, "FunctionArn": "a", "DestinationConfig": destination},
        {"FunctionName": name},
    )
    functions.add_response(
        "put_function_event_invoke_config",
        {},
        {"FunctionName": name, "Qualifier": "7", "MaximumRetryAttempts": 2, "DestinationConfig": destination},
    )
    changed = backend.with_settings({"worker": {"memory_mb": 2000}})
    assert changed["worker"] == FunctionSettings(name=name, qualifier="7", memory_mb=2000, timeout_s=900)
    assert changed["merge"].qualifier is None


def test_the_logs(backend: LambdaBackend, logs: Stubber) -> None:
    lines = [
        "START RequestId: q Version: 1\n",
        '{"run": "r", "request_id": "q", "task": "train"}\n',
        "END RequestId: q\n",
        "REPORT RequestId: q\tDuration: 1.00 ms\tBilled Duration: 2000 ms\tMemory Size: 1024 MB\t\n",
    ]
    for name in NAMES.values():
        expected = {"logGroupName": f"/aws/lambda/{name}", "startTime": 5000}
        if name != "s-worker":
            logs.add_client_error("filter_log_events", "ResourceNotFoundException", expected_params=expected)
            continue
        events = [{"logStreamName": "x", "timestamp": 6000 + i, "message": text} for i, text in enumerate(lines)]
        logs.add_response("filter_log_events", {"events": events[:2], "nextToken": "t"}, expected)
        logs.add_response("filter_log_events", {"events": events[2:]}, {**expected, "nextToken": "t"})
    usage = backend.usage("r", backend.functions, 5.0, ended=True)
    assert (usage.invocations, usage.legs, usage.billed_gb_seconds) == ({"worker": 1}, 1, 2.0)


def of(names: dict[Role, str]) -> dict[Role, FunctionSettings]:
    return {role: FunctionSettings(name=name, memory_mb=512, timeout_s=60) for role, name in names.items()}
