"""Signatures: which requests pass, and which do not."""

import http.client
import json
import time
from dataclasses import replace
from urllib.parse import urlsplit

import pytest
from botocore.auth import SigV4Auth
from botocore.awsrequest import AWSRequest
from botocore.credentials import Credentials
from botocore.exceptions import ClientError

from estafeta.local.api.api_error import ApiError
from estafeta.local.api.http import Request
from estafeta.local.api.sigv4 import Verifier

from .conftest import LocalService, client

URL = "http://127.0.0.1:1/2015-03-31/functions/arn%3Aaws%3Alambda/invocations"


def signed(url: str, body: bytes, access: str = "AK", secret: str = "SK", region: str = "us-east-1") -> Request:
    """A request signed by botocore."""
    request = AWSRequest("POST", url, data=body, headers={"X-Amz-Invocation-Type": "Event"})
    SigV4Auth(Credentials(access, secret), "lambda", region).add_auth(request)
    parts = urlsplit(url)
    headers = {name.lower(): value for name, value in request.headers.items()} | {"host": parts.netloc}
    return Request("POST", parts.path, parts.query, headers, body)


@pytest.fixture
def verifier() -> Verifier:
    return Verifier("AK", "SK", "us-east-1")


@pytest.mark.parametrize("query", ["", "?Qualifier=%24LATEST", "?b=2&a=1&flag="])
def test_botocores_signatures_pass(verifier: Verifier, query: str) -> None:
    verifier.check(signed(URL + query, b"{}"))


@pytest.mark.parametrize(
    ("change", "code"),
    [
        (lambda r: replace(r, body=b"{ }"), "InvalidSignatureException"),
        (lambda r: replace(r, method="PUT"), "InvalidSignatureException"),
        (lambda r: replace(r, target=r.target + "x"), "InvalidSignatureException"),
        (lambda r: replace(r, query_string="Qualifier=2"), "InvalidSignatureException"),
        (lambda r: replace(r, headers=r.headers | {"host": "elsewhere"}), "InvalidSignatureException"),
        (lambda r: replace(r, headers=r.headers | {"x-amz-date": "20200101T000000Z"}), "InvalidSignatureException"),
        (lambda r: replace(r, headers=r.headers | {"x-amz-date": "yesterday"}), "InvalidSignatureException"),
        (lambda r: replace(r, headers={}), "MissingAuthenticationTokenException"),
        (lambda r: replace(r, headers=r.headers | {"authorization": "Basic x"}), "IncompleteSignatureException"),
        (
            lambda r: replace(r, headers=r.headers | {"authorization": r.headers["authorization"].rpartition(",")[0]}),
            "IncompleteSignatureException",
        ),
    ],
    ids=["body", "method", "path", "query", "header", "date", "date form", "unsigned", "other scheme", "cut off"],
)
def test_every_signed_part_counts(verifier: Verifier, change, code: str) -> None:
    with pytest.raises(ApiError) as caught:
        verifier.check(change(signed(URL, b"{}")))
    assert caught.value.status == 403
    assert caught.value.code == code


def test_a_request_is_judged_by_itself_whatever_passed_before(verifier: Verifier) -> None:
    first, second = signed(URL, b"1"), signed(URL, b"2")
    verifier.check(first)
    verifier.check(second)
    with pytest.raises(ApiError, match="does not match"):
        verifier.check(replace(second, headers=first.headers))


def test_old_signatures_are_refused(verifier: Verifier, monkeypatch: pytest.MonkeyPatch) -> None:
    request = signed(URL, b"{}")
    now = time.time()
    monkeypatch.setattr(time, "time", lambda: now + 301)
    with pytest.raises(ApiError, match="expired"):
        verifier.check(request)


@pytest.mark.parametrize(
    ("access", "secret", "region", "code"),
    [
        ("OTHER", "SK", "us-east-1", "UnrecognizedClientException"),
        ("AK", "OTHER", "us-east-1", "InvalidSignatureException"),
        ("AK", "SK", "eu-west-1", "InvalidSignatureException"),
    ],
)
def test_other_keys_are_refused(verifier: Verifier, access: str, secret: str, region: str, code: str) -> None:
    with pytest.raises(ApiError) as caught:
        verifier.check(signed(URL, b"{}", access, secret, region))
    assert caught.value.code == code


@pytest.mark.parametrize("service_name", ["lambda", "logs"])
@pytest.mark.parametrize(
    ("change", "code"),
    [({"access_key": "AKIA0"}, "UnrecognizedClientException"), ({"secret_key": "no"}, "InvalidSignatureException")],
)
def test_boto3_sees_awss_errors(service: LocalService, change: dict, code: str, service_name: str) -> None:
    other = client(replace(service.endpoint, **change), service_name)
    call = other.list_functions if service_name == "lambda" else other.describe_log_groups
    with pytest.raises(ClientError) as caught:
        call()
    assert caught.value.response["Error"]["Code"] == code
    assert caught.value.response["ResponseMetadata"]["HTTPStatusCode"] == 403


def test_an_unsigned_request_is_refused(service: LocalService) -> None:
    connection = http.client.HTTPConnection(urlsplit(service.endpoint.url).netloc)
    connection.request("POST", "/2015-03-31/functions/echo/invocations", b"{}")
    response = connection.getresponse()
    assert response.status == 403
    assert response.headers["x-amzn-ErrorType"] == "MissingAuthenticationTokenException"
    assert json.loads(response.read())["message"] == "Missing Authentication Token"
    connection.close()
