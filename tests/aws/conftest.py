"""An AWS account that moto's server imitates: S3, CloudFormation, STS. Nothing here needs a real one."""

from __future__ import annotations

import logging
import secrets
from collections.abc import Iterator
from pathlib import Path

import pytest
from moto.server import ThreadedMotoServer

from estafeta.importing.importer import import_dataset
from estafeta.invocation import Invocation
from estafeta.manifest import Manifest
from estafeta.s3 import Bucket
from estafeta.stack import patient_client
from estafeta.store import Store
from unit.test_catalog import WISHES, Numbers

REGION = "us-east-1"


@pytest.fixture(scope="session")
def moto() -> Iterator[str]:
    """Address of the server."""
    logging.getLogger("werkzeug").setLevel(logging.ERROR)
    server = ThreadedMotoServer(ip_address="127.0.0.1", port=0)
    server.start()
    host, port = server.get_host_and_port()
    yield f"http://{host}:{port}"
    server.stop()


@pytest.fixture
def account(moto: str, monkeypatch: pytest.MonkeyPatch) -> None:
    """Let boto3 find that account, and nothing of this machine's user."""
    point_at(moto, monkeypatch)


@pytest.fixture(scope="session")
def _kept_bucket(moto: str) -> Bucket:
    """Making a client takes longer than most tests do."""
    with pytest.MonkeyPatch.context() as patch:
        point_at(moto, patch)
        client = patient_client("s3")
    client.create_bucket(Bucket="bucket")
    return Bucket("bucket", client)


@pytest.fixture
def bucket(account: None, _kept_bucket: Bucket) -> Bucket:
    """An empty bucket."""
    _kept_bucket.remove("")
    return _kept_bucket


@pytest.fixture
def here(tmp_path: Path) -> Store:
    """The store of this machine, with the data set `numbers` of ten blocks."""
    (tmp_path / "here").mkdir()
    store = Store(tmp_path / "here")
    imported(store)
    return store


@pytest.fixture
def there(tmp_path: Path) -> Store:
    """The store of the stack, empty."""
    (tmp_path / "there").mkdir()
    return Store(tmp_path / "there")


def imported(store: Store, name: str = "numbers") -> Manifest:
    """Import a small data set."""
    return import_dataset(store, name, Numbers(), ("numbers",), WISHES)


def invocation(store: Store, remaining_s: float = 300.0) -> Invocation:
    """One of `control`, which has that much time for ever."""
    return Invocation(store, lambda functions: pytest.fail("nothing is to be invoked"), secrets.token_hex(8),
                      lambda: remaining_s, quiet=True)  # fmt: skip


def point_at(moto: str, patch: pytest.MonkeyPatch) -> None:
    """Have boto3 find the account in environment variables, and nothing of this machine's user."""
    for service in ("S3", "CLOUDFORMATION", "STS"):
        patch.setenv(f"AWS_ENDPOINT_URL_{service}", moto)
    settings = {"AWS_ACCESS_KEY_ID": "k", "AWS_SECRET_ACCESS_KEY": "s", "AWS_REGION": REGION,
                "AWS_DEFAULT_REGION": REGION, "AWS_CONFIG_FILE": "/dev/null",
                "AWS_SHARED_CREDENTIALS_FILE": "/dev/null"}  # fmt: skip
    for name, value in settings.items():
        patch.setenv(name, value)
