"""Where a service answers and with which keys: the file `service.json`, and the first question a client asks.

Knows files, processes and one private route of the service. Invariant: an endpoint that `read`
returns belongs to a living process; a file left behind by a dead one counts as absent, even if its
process id has been given to another process.
"""

from __future__ import annotations

import http.client
import json
import os
from dataclasses import asdict, dataclass
from pathlib import Path
from typing import Any, TypedDict
from urllib.parse import urlsplit

from estafeta.errors import EnvironmentProblem
from estafeta.local.api.http import Request
from estafeta.local.api.sigv4 import sign

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
        url: For `endpoint_url` of boto3 clients of `lambda` and `logs`.
        access_key: Made up by the service when it started.
        secret_key: Likewise.
        region: For boto3; any signature for another Region is refused.
        pid: Of the service.
        started: Start time of the process in kernel ticks; with the pid it names the process for ever.
        digest: Of the template, the options and Estafeta's own source at the time the service started.
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
    except (FileNotFoundError, ValueError, TypeError):  # absent, or written by another version of this program
        return None
    return endpoint if start_time(endpoint.pid) == endpoint.started else None


def remove(home: Path) -> None:
    """Take an endpoint back."""
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
        EnvironmentProblem: It does not answer.
    """
    address = urlsplit(endpoint.url)
    request = Request(method, STATUS_PATH, "", {"host": address.netloc}, b"")
    sign(request, endpoint.access_key, endpoint.secret_key, endpoint.region, "lambda")
    connection = http.client.HTTPConnection(address.netloc, timeout=ANSWER_LIMIT_S)
    try:
        connection.request(method, STATUS_PATH, headers=request.headers)
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
            hint="look into service.log in its folder",
        )
    return dict(json.loads(body))


def _path(home: Path) -> Path:
    return home / "service.json"
