"""The address and keys of a service: the file `service.json`, and the first question that a client asks.

This module knows files, processes and one private route of the service. Invariant: an endpoint that `read` returns
belongs to a living process. A dead service's file counts as absent, even if another process has its process id.
"""

import http.client
import json
import os
from dataclasses import asdict, dataclass
from pathlib import Path
from typing import Any, TypedDict
from urllib.parse import urlsplit

from estafeta.errors import Command, EnvironmentProblem

STATUS_PATH = "/estafeta/service"
ANSWER_LIMIT_S = 10.0  # the service is one process and may be starved of processor time by its own functions


class ClientOptions(TypedDict):
    """The arguments of `boto3.client` that point it at a service."""

    endpoint_url: str
    aws_access_key_id: str
    aws_secret_access_key: str
    region_name: str


@dataclass(frozen=True, slots=True)
class Endpoint:
    """A running service.

    Attributes:
        url: Value of `endpoint_url` for boto3 clients of `lambda` and `logs`.
        access_key: Access key that the service made up when it started.
        secret_key: Secret of the access key.
        region: Region for boto3; the service refuses signatures for any other.
        pid: Process id of the service.
        started: Start time of the process in kernel ticks; together with the pid it is unique.
        digest: Digest of the template, the options and Estafeta's own source when the service started.
    """

    url: str
    access_key: str
    secret_key: str
    region: str
    pid: int
    started: int
    digest: str

    def client_options(self) -> ClientOptions:
        """Keyword arguments for `boto3.client(name, **options)`."""
        return {
            "endpoint_url": self.url,
            "aws_access_key_id": self.access_key,
            "aws_secret_access_key": self.secret_key,
            "region_name": self.region,
        }

    def exports(self) -> str:
        """Shell lines that point the AWS command line and SDKs at the service."""
        values = {
            "AWS_ENDPOINT_URL": self.url,
            "AWS_ACCESS_KEY_ID": self.access_key,
            "AWS_SECRET_ACCESS_KEY": self.secret_key,
            "AWS_DEFAULT_REGION": self.region,
        }
        return "\n".join(f"export {name}={value}" for name, value in values.items())


def write(home: Path, endpoint: Endpoint) -> None:
    """Publish an endpoint, readable by its owner alone."""
    temporary = home / f"service.json.{os.getpid()}"
    with open(os.open(temporary, os.O_WRONLY | os.O_CREAT | os.O_TRUNC, 0o600), "w") as file:
        json.dump(asdict(endpoint), file)
    temporary.replace(_path(home))


def read(home: Path) -> Endpoint | None:
    """Give the endpoint of the service that lives in a folder, if one does."""
    try:
        endpoint = Endpoint(**json.loads(_path(home).read_text()))
    except (FileNotFoundError, ValueError, TypeError):  # absent, or another version of this program wrote it
        return None
    return endpoint if start_time(endpoint.pid) == endpoint.started else None


def remove(home: Path) -> None:
    """Remove the endpoint's file."""
    _path(home).unlink(missing_ok=True)


def start_time(pid: int) -> int | None:
    """Start time of a process in kernel ticks since boot, or None if it has ended (proc_pid_stat(5))."""
    try:
        text = Path(f"/proc/{pid}/stat").read_text()
    except (FileNotFoundError, ProcessLookupError):
        return None
    fields = text[text.rindex(")") + 2 :].split()  # the command name before may hold anything
    return None if fields[0] in "ZX" else int(fields[19])


def ask(endpoint: Endpoint, method: str) -> dict[str, Any]:
    """Speak to the service itself: `GET` asks how busy it is, `DELETE` that it end if it is idle.

    Returns:
        `pid`, `digest`, `running` and `waiting` (numbers of invocations and of events), and `ending`.

    Raises:
        EnvironmentProblem: The service does not answer, or refuses.
    """
    from botocore.auth import SigV4Auth
    from botocore.awsrequest import AWSRequest
    from botocore.credentials import Credentials

    request = AWSRequest(method, endpoint.url + STATUS_PATH)
    SigV4Auth(Credentials(endpoint.access_key, endpoint.secret_key), "lambda", endpoint.region).add_auth(request)
    connection = http.client.HTTPConnection(urlsplit(endpoint.url).netloc, timeout=ANSWER_LIMIT_S)
    try:
        connection.request(method, STATUS_PATH, headers=dict(request.headers))
        response = connection.getresponse()
        body = response.read()
    except (OSError, http.client.HTTPException) as error:
        raise EnvironmentProblem(
            f"The local Lambda service (process {endpoint.pid}) does not answer at {endpoint.url}: {error}",
            hint=f"End it with `kill {endpoint.pid}` and try again.",
        ) from error
    finally:
        connection.close()
    if response.status != 200:
        raise EnvironmentProblem(
            f"The local Lambda service at {endpoint.url} answered {response.status}: {body.decode()}",
            hint=f"Stop it with {Command('estafeta', 'local', 'stop')} and try again.",
        )
    return dict(json.loads(body))


def _path(home: Path) -> Path:
    return home / "service.json"
