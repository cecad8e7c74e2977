"""Synchronous invocation, as boto3 and the AWS command line see it."""

import base64
import json
import os
import re
import subprocess
import sys
from pathlib import Path

import pytest
from botocore.exceptions import ClientError

from .conftest import LocalService


def test_the_answer_is_what_the_handler_returns(service: LocalService) -> None:
    answer = service.call("echo", {"text": "é", "numbers": [1, 2.5, None]})
    assert answer.payload == {"text": "é", "numbers": [1, 2.5, None]}
    assert not answer.failed
    assert answer.raw["StatusCode"] == 200
    assert answer.raw["ExecutedVersion"] == "$LATEST"


@pytest.mark.parametrize(
    "reference",
    [
        "echo",
        "echo:$LATEST",
        "000000000000:function:echo",
        "arn:aws:lambda:us-east-1:000000000000:function:echo",
        "arn:aws:lambda:us-east-1:000000000000:function:echo:$LATEST",
    ],
)
def test_every_form_of_a_function_name_is_understood(service: LocalService, reference: str) -> None:
    assert service.call(reference, 7).payload == 7


def test_an_unknown_function_is_not_found(service: LocalService) -> None:
    with pytest.raises(service.lambda_client.exceptions.ResourceNotFoundException) as caught:
        service.call("nobody")
    assert caught.value.response["ResponseMetadata"]["HTTPStatusCode"] == 404
    with pytest.raises(service.lambda_client.exceptions.ResourceNotFoundException):
        service.call("echo", Qualifier="99")


def test_an_environment_is_used_again(service: LocalService) -> None:
    first, second = service.call("count").payload, service.call("count").payload
    assert second["pid"] == first["pid"]
    assert second["count"] == first["count"] + 1


def test_an_exception_reaches_the_caller_as_an_unhandled_error(service: LocalService) -> None:
    answer = service.call("fail")
    assert answer.raw["StatusCode"] == 200
    assert answer.raw["FunctionError"] == "Unhandled"
    assert answer.payload["errorType"] == "ValueError"
    assert answer.payload["errorMessage"] == "no good"
    assert "handlers.py" in answer.payload["stackTrace"][0]


def test_a_dry_run_runs_nothing(service: LocalService) -> None:
    before = service.call("count").payload["count"]
    raw = service.lambda_client.invoke(FunctionName="count", InvocationType="DryRun")
    assert raw["StatusCode"] == 204
    assert service.call("count").payload["count"] == before + 1


def test_payload_limits(service: LocalService) -> None:
    text = "x" * (6 * 2**20 - 100)
    assert service.call("echo", {"text": text[: 3 * 2**20]}).payload == {"text": text[: 3 * 2**20]}
    exceptions = service.lambda_client.exceptions
    with pytest.raises(exceptions.RequestTooLargeException):
        service.call("echo", text + "y" * 200)
    assert service.call("echo", text[: 2**20 - 2], InvocationType="Event").raw["StatusCode"] == 202
    with pytest.raises(exceptions.RequestTooLargeException):
        service.send("echo", text[: 2**20])


def test_an_oversized_answer_is_an_error_and_the_next_call_works(service: LocalService) -> None:
    answer = service.call("large", {"bytes": 6 * 2**20 + 200})
    assert answer.failed
    assert answer.payload["errorType"] == "Function.ResponseSizeTooLarge"
    assert service.call("large", {"bytes": 6 * 2**20 - 2}).payload == "x" * (6 * 2**20 - 2)


def test_a_payload_that_is_not_json_is_refused(service: LocalService) -> None:
    with pytest.raises(service.lambda_client.exceptions.InvalidRequestContentException):
        service.lambda_client.invoke(FunctionName="echo", Payload=b"{nothing")


def test_an_invocation_without_payload_gets_an_empty_object(service: LocalService) -> None:
    assert json.loads(service.lambda_client.invoke(FunctionName="echo")["Payload"].read()) == {}


def test_the_client_context_reaches_the_handler(service: LocalService) -> None:
    context = base64.b64encode(json.dumps({"custom": {"k": "ü"}}).encode()).decode()
    assert service.call("describe", ClientContext=context).payload["client_context"] == {"k": "ü"}
    with pytest.raises(ClientError, match="Client context"):
        service.call("describe", ClientContext="!")


def test_the_log_tail_holds_what_was_printed_and_the_report(service: LocalService) -> None:
    answer = service.call("talk", {"lines": ["hello", "world"]}, LogType="Tail")
    tail = base64.b64decode(answer.raw["LogResult"]).decode()
    request_id = re.escape(answer.raw["ResponseMetadata"]["RequestId"])
    assert re.fullmatch(
        rf"START RequestId: {request_id} Version: \$LATEST\n"
        r"hello\nworld\n"
        rf"END RequestId: {request_id}\n"
        rf"REPORT RequestId: {request_id}\tDuration: \d+\.\d\d ms\tBilled Duration: \d+ ms\t"
        r"Memory Size: 512 MB\tMax Memory Used: \d+ MB\t(Init Duration: \d+\.\d\d ms\t)?\n",
        tail,
    )
    assert "LogResult" not in service.call("talk", {"lines": []}).raw


def test_a_long_log_is_cut_to_its_last_four_kilobytes(service: LocalService) -> None:
    answer = service.call("talk", {"lines": [f"line {number:04d}" for number in range(2000)]}, LogType="Tail")
    tail = base64.b64decode(answer.raw["LogResult"])
    assert len(tail) == 4096
    assert b"line 1999\nEND " in tail


def test_the_aws_command_line_works(service: LocalService, tmp_path: Path) -> None:
    answer = tmp_path / "answer.json"
    command = [Path(sys.executable).with_name("aws"), "lambda", "invoke", "--function-name", "echo"]
    endpoint = service.endpoint
    done = subprocess.run(
        [*command, "--endpoint-url", endpoint.url, "--payload", '{"from": "cli"}', str(answer)],
        env={
            "PATH": os.environ["PATH"],
            "AWS_ACCESS_KEY_ID": endpoint.access_key,
            "AWS_SECRET_ACCESS_KEY": endpoint.secret_key,
            "AWS_DEFAULT_REGION": endpoint.region,
        },
        capture_output=True,
        text=True,
        check=False,
    )
    assert done.returncode == 0, done.stderr
    assert json.loads(done.stdout)["StatusCode"] == 200
    assert json.loads(answer.read_text()) == {"from": "cli"}
