"""Starting functions: the one seam between the protocol and whatever runs it.

`LambdaInvoker` speaks to AWS Lambda, or to the local service, which answers the same API: only the endpoint differs.
`estafeta.inline` has the third way, in one process.
"""

from __future__ import annotations

import json
from collections.abc import Iterator, Mapping
from contextlib import contextmanager
from functools import lru_cache
from typing import TYPE_CHECKING, Any, Protocol

from estafeta.errors import EnvironmentProblem, EstafetaError
from estafeta.spec import FunctionSettings, Role

if TYPE_CHECKING:
    import boto3.session
    from mypy_boto3_lambda.client import LambdaClient

READ_TIMEOUT_S = 960
"""Longer than any function may run (900 s): a synchronous call that timed out would be carried out twice."""

CONNECT_TIMEOUT_S = 5


class Invoker(Protocol):
    """Starts a function of the run."""

    def send(self, role: Role, event: Mapping[str, Any]) -> None:
        """Queue one event for a function and return at once; it is delivered at least once, in any order."""

    def call(self, role: Role, event: Mapping[str, Any]) -> Any:
        """Invoke a function, wait, and return what it returned.

        Raises:
            FunctionError: The function raised or was killed.
        """


class FunctionError(EstafetaError):
    """A function that was called failed: its error type and message."""

    def __init__(self, kind: str, message: str) -> None:
        super().__init__(f"{kind}: {message}" if message else kind)
        self.kind = kind


class LambdaInvoker:
    """`Invoker` over the Lambda Invoke API.

    Args:
        functions: Name, qualifier of each function.
        client: A boto3 Lambda client; by default one for the environment's own region, credentials and endpoint.
    """

    def __init__(self, functions: Mapping[Role, FunctionSettings], client: LambdaClient | None = None) -> None:
        self._functions = functions
        self._client = client or lambda_client()

    def send(self, role: Role, event: Mapping[str, Any]) -> None:
        """See `Invoker.send`."""
        answer = self._client.invoke(**self._target(role), InvocationType="Event", Payload=json.dumps(event).encode())
        answer["Payload"].read()  # empty; but until it has been read, the connection cannot be used again

    def call(self, role: Role, event: Mapping[str, Any]) -> Any:
        """See `Invoker.call`."""
        answer = self._client.invoke(
            **self._target(role), InvocationType="RequestResponse", Payload=json.dumps(event).encode()
        )
        body = json.loads(answer["Payload"].read() or b"null")
        if "FunctionError" in answer:
            raise FunctionError(body.get("errorType", "Unhandled"), body.get("errorMessage", ""))
        return body

    def _target(self, role: Role) -> Any:
        function = self._functions[role]
        qualifier = {"Qualifier": function.qualifier} if function.qualifier else {}
        return {"FunctionName": function.name, **qualifier}


@lru_cache(maxsize=1)
def lambda_client() -> LambdaClient:
    """The boto3 Lambda client of this process, from its environment variables.

    It never repeats a call by itself: a repeated Event is a second event, and the protocol has its own retries.
    """
    client: LambdaClient = make_client("lambda")
    return client


def make_client(service: str, session: boto3.session.Session | None = None, **options: Any) -> Any:
    """A boto3 client that makes one attempt and outwaits the longest function.

    Args:
        service: Its name.
        session: Where region and credentials come from; by default the environment.
        options: Keyword arguments of the client: endpoint, region, credentials.
    """
    import boto3.session
    from botocore.config import Config

    config = Config(
        retries={"total_max_attempts": 1}, connect_timeout=CONNECT_TIMEOUT_S, read_timeout=READ_TIMEOUT_S,
        max_pool_connections=64, tcp_keepalive=True,
        user_agent="estafeta", parameter_validation=False,  # putting these together anew costs a fifth of each call
    )  # fmt: skip
    with reaching("AWS"):
        return (session or boto3.session.Session()).client(service, config=config, **options)  # type: ignore[call-overload]


@contextmanager
def reaching(what: str) -> Iterator[None]:
    """Around the calls of a client of ours: what AWS or the network says becomes `EnvironmentProblem`.

    Functions do not use it: there such an error is raised as it is, and Lambda tries again.
    """
    from botocore.exceptions import BotoCoreError, ClientError

    try:
        yield
    except (BotoCoreError, ClientError) as error:
        raise EnvironmentProblem(
            f"{what} cannot be reached: {error}", hint="check region, credentials, and that the stack is deployed"
        ) from error
