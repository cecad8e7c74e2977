"""The Lambda Invoke API as the protocol uses it. The client is a stub; `tests/local` has a real one."""

from __future__ import annotations

import io
import json
from typing import Any

import pytest
from botocore.exceptions import ClientError, NoRegionError

from core.specs import FUNCTIONS
from estafeta.aws.lambda_api import READ_TIMEOUT_S, LambdaInvoker, make_client, reaching
from estafeta.errors import EnvironmentProblem, FunctionError
from estafeta.protocol.spec import FunctionSettings, Role


class Client:
    """A client that gives each call the same answer."""

    def __init__(self, payload: bytes = b"", **answer: Any) -> None:
        self.calls: list[dict[str, Any]] = []
        self.payload = io.BytesIO(payload)
        self._answer = answer

    def invoke(self, **parameters: Any) -> dict[str, Any]:
        self.calls.append(parameters)
        return {"StatusCode": 200, "Payload": self.payload, **self._answer}


def invoker(client: Client, **functions: FunctionSettings) -> LambdaInvoker:
    return LambdaInvoker({**FUNCTIONS, **functions}, client)  # type: ignore[arg-type,dict-item]


def test_an_event_is_queued() -> None:
    client = Client()
    invoker(client).send("worker", {"run": "r"})
    assert client.calls == [{"FunctionName": "estafeta-worker", "InvocationType": "Event", "Payload": b'{"run": "r"}'}]


def test_the_answer_to_an_event_is_read() -> None:
    """An unread payload would keep the connection from being used again."""
    client = Client(b"left over")
    invoker(client).send("worker", {})
    assert client.payload.read() == b""


@pytest.mark.parametrize(("payload", "answer"), [(b'{"run": "r"}', {"run": "r"}), (b"null", None), (b"", None)])
def test_a_call_returns_what_the_function_returned(payload: bytes, answer: Any) -> None:
    client = Client(payload)
    assert invoker(client).call("control", {"verb": "runs"}) == answer
    assert client.calls[0]["InvocationType"] == "RequestResponse"
    assert json.loads(client.calls[0]["Payload"]) == {"verb": "runs"}


def test_a_version_of_a_function_is_named() -> None:
    client = Client()
    versioned = FunctionSettings(name="estafeta-merge", qualifier="7", memory_mb=512, timeout_s=3)
    invoker(client, merge=versioned).send("merge", {})
    assert client.calls[0]["Qualifier"] == "7"
    assert client.calls[0]["FunctionName"] == "estafeta-merge"


@pytest.mark.parametrize(
    ("body", "kind", "text"),
    [
        ({"errorType": "KeyError", "errorMessage": "'w'"}, "KeyError", "KeyError: 'w'"),
        ({"errorType": "Runtime.ExitError"}, "Runtime.ExitError", "Runtime.ExitError"),
        ({}, "Unhandled", "Unhandled"),
    ],
)
def test_a_function_that_failed(body: dict[str, str], kind: str, text: str) -> None:
    client = Client(json.dumps(body).encode(), FunctionError="Unhandled")
    with pytest.raises(FunctionError) as caught:
        invoker(client).call("control", {})
    assert caught.value.kind == kind
    assert str(caught.value) == text


def test_a_client_never_repeats_a_call() -> None:
    role: Role = "worker"
    client = make_client("lambda", region_name="eu-central-1", aws_access_key_id="a", aws_secret_access_key="s")
    assert client.meta.config.retries["total_max_attempts"] == 1
    assert client.meta.config.read_timeout == READ_TIMEOUT_S > FUNCTIONS[role].timeout_s


@pytest.mark.parametrize(
    ("error", "hint"),
    [
        (NoRegionError(), "check region"),
        (ClientError({"Error": {"Code": "ExpiredTokenException"}}, "Invoke"), "check region, credentials"),
        (ClientError({"Error": {"Code": "AccessDeniedException"}}, "Invoke"), "docs/aws.md"),
        (ClientError({"Error": {"Code": "403"}}, "HeadBucket"), "docs/aws.md"),
    ],
)
def test_network_errors_become_environment_problems(error: Exception, hint: str) -> None:
    with pytest.raises(EnvironmentProblem, match="the service cannot be reached") as caught, reaching("the service"):
        raise error
    assert caught.value.exit_code == 3
    assert hint in caught.value.hint
