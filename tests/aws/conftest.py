"""An AWS account that moto's server imitates. Nothing here needs a real one."""

from __future__ import annotations

import logging
import secrets
from collections.abc import Callable, Iterator
from pathlib import Path

import pytest
from moto.server import ThreadedMotoServer

from estafeta.aws.account import patient_client
from estafeta.aws.bucket import Bucket, Progress
from estafeta.cli.main import main
from estafeta.data.importing.importer import import_dataset
from estafeta.data.manifest import Manifest
from estafeta.errors import EnvironmentProblem
from estafeta.protocol.invocation import Invocation
from estafeta.store.store import Store
from unit.data.test_catalog import WISHES, Numbers

from .account import point_at, stack_in

ROOT = Path(__file__).parents[2]
Command = Callable[..., str]


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


@pytest.fixture(scope="module")
def aws(moto: str, tmp_path_factory: pytest.TempPathFactory) -> Iterator[Path]:
    """A stack as it should be; gives the folder that stands for EFS."""
    with stack_in(tmp_path_factory.mktemp("aws"), moto) as root:
        yield root


@pytest.fixture
def command(tmp_path: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]) -> Command:
    """Carry out a command in a folder of the test's own; gives its standard output, of one that fails the error."""
    (tmp_path / "examples").symlink_to(ROOT / "examples")
    monkeypatch.chdir(tmp_path)

    def command(*arguments: str, code: int = 0) -> str:
        capsys.readouterr()
        with pytest.raises(SystemExit) as caught:
            main(arguments)
        out, err = capsys.readouterr()
        assert caught.value.code == code, err
        return out if code == 0 else err

    return command


@pytest.fixture
def estafeta(aws: Path, command: Command) -> Command:
    """Carry out a command where there is a stack."""
    return command


class Interrupted(Bucket):
    """A bucket to which the line breaks after so many uploads."""

    def __init__(self, bucket: Bucket, after: int) -> None:
        super().__init__(bucket.name, bucket._client)
        self.left, self.keys = after, list[str]()

    def upload(self, key: str, source: Path | bytes, progress: Progress | None = None) -> None:
        if len(self.keys) >= self.left:
            raise EnvironmentProblem("the line is broken")
        self.keys.append(key)
        super().upload(key, source, progress)


def imported(store: Store, name: str = "numbers") -> Manifest:
    """Import a small data set."""
    return import_dataset(store, name, Numbers(), ("numbers",), WISHES)


def invocation(store: Store, remaining_s: float = 300.0) -> Invocation:
    """One of `control`, which has that much time for ever."""
    return Invocation(
        store,
        lambda functions: pytest.fail("nothing is to be invoked"),
        secrets.token_hex(8),
        lambda: remaining_s,
        quiet=True,
    )
