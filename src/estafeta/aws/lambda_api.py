"""Lambda's Invoke API: `LambdaInvoker` starts functions on AWS, or on the local service, which answers the same API.

Only the endpoint differs. `estafeta.client.inline` has the other `Invoker`, which stays in one process.
"""

from __future__ import annotations

import json
from collections.abc import Iterator, Mapping
from contextlib import contextmanager
from functools import lru_cache
from typing import TYPE_CHECKING, Any

from estafeta.errors import EnvironmentProblem, FunctionError
from estafeta.protocol.spec import FunctionSettings, Role
from estafeta.store.files import Clock, SystemClock
from estafeta.store.store import Backoff

if TYPE_CHECKING:
    import boto3
    from mypy_boto3_lambda.client import LambdaClient

READ_TIMEOUT_S = 960
"""Read timeout. It is longer than Lambda's 900 s, because a retry would run the function twice."""
CONNECT_TIMEOUT_S = 5

REFUSED = frozenset(
    "TooManyRequestsException ResourceConflictException ResourceNotReadyException ENINotReadyException "
    "EC2ThrottledException EFSMountConnectivityException EFSMountFailureException EFSMountTimeoutException".split()
)
"""Errors that say that the function has not run: it is throttled, being made or changed, or its network or file system
is not ready yet (Lambda API reference, "Invoke"). A call is retried only after one of these."""
REFUSED_S = 120.0
"""Seconds for which a refused call is retried: a function that has been idle for weeks may need a minute and a half to
get its network interfaces back."""
REFUSED_PAUSE = Backoff(first_s=0.5, factor=2.0, longest_s=8.0)


DENIED = frozenset({"AccessDenied", "AccessDeniedException", "UnauthorizedOperation", "403"})
"""Error codes of calls that AWS does not allow: most services, Lambda and EFS, EC2, and S3 without a body."""
DENIED_HINT = "these credentials may not do that: docs/aws.md has what a user must be allowed"


class LambdaInvoker:
    """`Invoker` over the Lambda Invoke API.

    Args:
        functions: Name and qualifier of each function.
        client: A boto3 Lambda client; by default one for the environment's own Region, credentials and endpoint.
        clock: Clock for the pauses after a refused call; the system's by default.
    """

    def __init__(
        self, functions: Mapping[Role, FunctionSettings], client: LambdaClient | None = None, clock: Clock | None = None
    ) -> None:
        self._functions = functions
        self._client = client or lambda_client()
        self._clock = clock or SystemClock()

    def send(self, role: Role, event: Mapping[str, Any]) -> None:
        """See `Invoker.send`. The invoker sends the event again only if Lambda says that it has not taken it.

        The retry is needed: the sender may be a function that the client has called, and Lambda does not retry that.
        """
        answer = self._when_ready(**self._target(role), InvocationType="Event", Payload=json.dumps(event).encode())
        answer["Payload"].read()  # empty, but the connection cannot be used again before it is read

    def call(self, role: Role, event: Mapping[str, Any]) -> Any:
        """See `Invoker.call`. The invoker calls again only if Lambda says that the function has not run."""
        answer = self._when_ready(
            **self._target(role), InvocationType="RequestResponse", Payload=json.dumps(event).encode()
        )
        body = json.loads(answer["Payload"].read() or b"null")
        if "FunctionError" in answer:
            kind, message = body.get("errorType", "Unhandled"), body.get("errorMessage", "")
            hint = f"its log says more: {self._functions[role].log_group}"
            raise FunctionError(f"{kind}: {message}" if message else kind, hint=hint, kind=kind)
        return body

    def _when_ready(self, **parameters: Any) -> Any:
        from botocore.exceptions import ClientError

        deadline, pause = self._clock.monotonic() + REFUSED_S, REFUSED_PAUSE.first_s
        while True:
            try:
                return self._client.invoke(**parameters)
            except ClientError as error:
                if error.response["Error"]["Code"] not in REFUSED or self._clock.monotonic() >= deadline:
                    raise
            self._clock.sleep(pause)
            pause = min(pause * REFUSED_PAUSE.factor, REFUSED_PAUSE.longest_s)

    def _target(self, role: Role) -> Any:
        function = self._functions[role]
        qualifier = {"Qualifier": function.qualifier} if function.qualifier else {}
        return {"FunctionName": function.name, **qualifier}


@lru_cache(maxsize=1)
def lambda_client() -> LambdaClient:
    """The boto3 Lambda client of this process, from its environment variables.

    It never repeats a call by itself: a repeated Event is a second event, and the protocol has its own retries.
    `LambdaInvoker` repeats calls that Lambda has refused.
    """
    client: LambdaClient = make_client("lambda")
    return client


def make_client(service: str, boto: boto3.session.Session | None = None, **options: Any) -> Any:
    """A boto3 client that makes one attempt and outwaits the longest function.

    Args:
        service: Name of the service in boto3.
        boto: Session with Region and credentials; by default those of the environment.
        options: Further keyword arguments for the client.
    """
    import boto3
    from botocore.config import Config

    config = Config(
        retries={"total_max_attempts": 1},
        connect_timeout=CONNECT_TIMEOUT_S,
        read_timeout=READ_TIMEOUT_S,
        max_pool_connections=64,
        tcp_keepalive=True,
        user_agent="estafeta",
        parameter_validation=False,  # it costs a fifth of each call
    )
    with reaching("AWS"):
        session = boto or boto3.session.Session()
        return session.client(service, config=config, **options)  # type: ignore[call-overload]


@contextmanager
def reaching(what: str, hint: str = "check region, credentials, and that the stack is deployed") -> Iterator[None]:
    """Turn the errors of AWS and of the network into `EnvironmentProblem`.

    Functions do not use it: they raise such an error as it is, and Lambda retries.

    Args:
        what: Name of the called service, for the message.
        hint: Hint if it does not answer.
    """
    from botocore.exceptions import BotoCoreError, ClientError

    try:
        yield
    except (BotoCoreError, ClientError) as error:
        is_denied = isinstance(error, ClientError) and error.response["Error"].get("Code") in DENIED
        raise EnvironmentProblem(
            f"{what} cannot be reached: {error}", hint=DENIED_HINT if is_denied else hint
        ) from error
