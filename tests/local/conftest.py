"""One service for most tests of this folder, started as a user's client starts it."""

import json
import threading
import time
from collections.abc import Callable, Iterator
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import boto3
import pytest
from botocore.config import Config

from estafeta.local import Endpoint, Options, ensure, stop

HERE = Path(__file__).parent
TEMPLATE = HERE / "functions.yaml"
TASK_ROOT = HERE / "functions"


def eventually(condition: Callable[[], Any], within_s: float = 20.0) -> Any:
    """Wait until a condition gives a true value, and return the value."""
    deadline = time.monotonic() + within_s
    while not (value := condition()):
        if time.monotonic() > deadline:
            raise AssertionError(f"still not true after {within_s} s")
        threading.Event().wait(0.01)
    return value


def notes(path: Path) -> list[dict[str, Any]]:
    """The lines that handlers have noted."""
    return [json.loads(line) for line in path.read_text().splitlines()] if path.exists() else []


def client(endpoint: Endpoint, service: str = "lambda", **config: Any) -> Any:
    config = {"retries": {"total_max_attempts": 1}, "read_timeout": 60, **config}
    return boto3.client(service, config=Config(**config), **endpoint.client_options())


@dataclass(frozen=True)
class Answer:
    payload: Any
    failed: bool
    raw: dict[str, Any]


@dataclass(frozen=True)
class LocalService:
    home: Path
    endpoint: Endpoint
    sink: Path

    @property
    def lambda_client(self) -> Any:
        return client(self.endpoint)

    def call(self, function: str, event: Any = None, **options: Any) -> Answer:
        raw = self.lambda_client.invoke(FunctionName=function, Payload=json.dumps(event), **options)
        body = raw["Payload"].read()
        return Answer(json.loads(body) if body else None, "FunctionError" in raw, raw)

    def send(self, function: str, event: Any, **options: Any) -> str:
        raw = self.lambda_client.invoke(
            FunctionName=function, InvocationType="Event", Payload=json.dumps(event), **options
        )
        return str(raw["ResponseMetadata"]["RequestId"])


Start = Callable[..., LocalService]


def _options(home: Path, **changes: Any) -> Options:
    settings: dict[str, Any] = {
        "template": TEMPLATE,
        "root": home / "root",
        "task_root": TASK_ROOT,
        "parameters": {"SinkFile": str(home / "sink")},
        "retry_delay_scale": 0.005,
        "init_limit_s": 60.0,
    }
    return Options(**{**settings, **changes})


def launch(home: Path, **changes: Any) -> LocalService:
    """Start a service in a folder; the caller stops it."""
    return LocalService(home, ensure(home, _options(home, **changes)), home / "sink")


@pytest.fixture(scope="session")
def service(tmp_path_factory: pytest.TempPathFactory) -> Iterator[LocalService]:
    home = tmp_path_factory.mktemp("service")
    yield launch(home)
    stop(home)


@pytest.fixture
def options(tmp_path: Path) -> Callable[..., Options]:
    """Make options for a service of the test's own, in `tmp_path`."""
    return lambda **changes: _options(tmp_path, **changes)


@pytest.fixture
def start(tmp_path: Path) -> Iterator[Start]:
    """Start a service of the test's own; it is stopped afterwards."""
    yield lambda **changes: launch(tmp_path, **changes)
    stop(tmp_path)
